"""Find tickets: iterative magnitude pruning on the pre-training task (paper section 3).

State k = 1, 2, … trains under density (1 - rate)^k. Each state starts from the initial weights:
prune the trained weights by global magnitude, rewind everything, train again. State 0 is the dense
network, trained only with --pretrain_epochs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

import pruning_utils as pruning
from attack_utils import CHECKED_EVERY, PGDConfig, checked, make_pgd
from cli import parsing
from cli.flags import build_imp_parser
from cli.plan import plan_imp, states_of
from dataset import DataSpec, Loader, build_loaders, mean_std
from engine.distributed import (
    Launch,
    Runtime,
    barrier,
    broadcast_from_main,
    is_main,
    launch,
    main_first,
    seed_everything,
    synchronised,
)
from engine.log import Progress, RunLog, plot_curves, say, warn
from engine.run_folder import StopSignals, Training, check_same_run, load_init, running, taking_up
from engine.schedules import Schedule
from engine.steps import Execution, Metrics, Perturb, evaluate, make_sgd
from errors import InputError
from files import checkpoints as files
from files.atomic import previous, sha256_of, write_json
from models import ARCHS, build_model, fold_for_evaluation
from one_shot import prune_without_training


class TicketSearch:
    """One IMP run: the network, its initial weights, and how far it is."""

    def __init__(self, args: argparse.Namespace, runtime: Runtime, stop: StopSignals) -> None:
        self.args, self.runtime = args, runtime
        self.save_dir = Path(args.save_dir)
        self.states = states_of(args)
        self.execution = Execution(runtime.device, **parsing.execution_options(args))
        self.train, self.val = self._loaders()
        self.model = self._network()
        self.training = Training(
            self.model,
            self._new_optimizer(),
            self.train,
            self.execution,
            runtime,
            self._attack(),
            stop=stop,
            save=self.save,
            save_every=args.save_every_steps,
            print_freq=args.print_freq,
        )
        self.state = 0
        self.init: dict[str, Tensor] = {}
        self.init_origin: dict[str, str] = {}
        self.best_acc1 = 0.0
        self.history: list[list[float]] = []  # [state, validation accuracy] of every epoch

    def _loaders(self) -> tuple[Loader, Loader]:
        args = self.args
        with main_first():
            train, val, _ = build_loaders(
                DataSpec("imagenet", args.data, args.input_size, args.augment, args.hflip,
                         classes=args.classes, skip_bad=args.skip_bad),
                batch_size=args.batch_size * self.runtime.nodes,
                eval_batch_size=min(args.batch_size, 256),
                workers=args.workers,
                seed=args.seed,
                pin_memory=self.runtime.device.type == "cuda",
            )  # fmt: skip
        say(
            f"data: {train.num_images} training and {val.num_images} validation images, "
            f"{train.num_classes} classes"
        )
        return train, val

    def _network(self) -> nn.Module:
        args = self.args
        mean, std = (args.mean, args.std) if args.mean else mean_std("imagenet")
        model = build_model(args.arch, self.train.num_classes, mean, std, args.stem, args.width)
        if args.init:
            loaded = load_init(
                model,
                args.init,
                args.arch,
                args.init_key,
                fc="drop" if args.reset_fc else "strict",
            )
            if loaded.trunk_only:
                raise InputError(
                    f"--init {args.init}: {loaded.layout} can only be transferred, not pruned"
                )
        elif not args.pretrain_epochs:
            warn(f"no --init: starting from random weights (seed {args.seed})")
        self.execution.place(synchronised(model) if args.sync_bn else model)
        if args.compile:
            model.compile()
        return model

    def _attack(self) -> Perturb | None:
        args = self.args
        if args.mode == "std":
            return None
        attack = PGDConfig(args.train_eps, args.train_step, args.train_gamma, args.train_randinit)
        say(f"attack: {attack}")
        perturb = make_pgd(self.model, attack, self.execution.loss_scale)
        return checked(perturb, attack.eps, every=CHECKED_EVERY)

    def _new_optimizer(self) -> Optimizer:
        args = self.args
        return make_sgd(self.model, args.lr, args.momentum, args.weight_decay)

    # --- the algorithm ---

    def run(self) -> None:
        training = self.training
        with RunLog(self.save_dir, training.epoch) as self.log:
            for epoch in range(training.epoch, self.states.total_epochs):
                self.state = self.states.of(epoch)
                if epoch == self.states.first_epoch(self.state) and training.step == 0:
                    self.begin(self.state)
                trained = training.one_epoch(self.learning_rate(epoch), self.label(epoch))
                validated = self.validate()
                self.finish_epoch(epoch, trained, validated)
            # Deviation: the mask after the last state is a ticket too, not thrown away.
            self.prune(self.states.last + 1)
        if is_main() and self.args.keep != "all":
            self.drop_checkpoints(self.states.last - (self.args.keep == "last"))

    def begin(self, state: int) -> None:
        """Enter a state: its mask, the initial weights, a new optimizer."""
        if state == 0:
            say(f"state 0: dense training for {self.states.pretrain_epochs} epochs")
        else:
            self.prune(state)
        self.training.optimizer = self._new_optimizer()
        self.best_acc1 = 0.0

    def prune(self, state: int) -> None:
        """Prune the trained weights, rewind everything else, write the ticket."""
        if state == 1:
            self.fix_initial_weights()
        pruning.pruning_model(self.model, self.args.rate)
        broadcast_from_main(pruning.masks(self.model).values())
        pruning.rewind(self.model, self.init)
        density = pruning.check_sparsity(self.model) / 100
        say(f"state {state}: density {100 * density:.2f} %")
        if is_main():
            pruning.print_remaining(self.model)
        self.write_ticket(state, density)

    def fix_initial_weights(self) -> None:
        """What every state is rewound to: the network as it is before the first prune."""
        self.init = {name: value.clone() for name, value in self.model.state_dict().items()}
        path = self.save_dir / files.INIT_FILE
        if is_main():
            files.save_checkpoint(path, files.to_cpu(self.init))
        barrier()
        self.init_origin = {"file": files.INIT_FILE, "sha256": sha256_of(path)}
        self.write_ticket(0, 1.0)

    def learning_rate(self, epoch: int) -> Callable[[int], float]:
        args, states = self.args, self.states
        if self.state == 0:
            schedule = Schedule("cosine", args.pretrain_lr, states.pretrain_epochs)
        else:
            schedule = Schedule(
                args.lr_schedule, args.lr, states.prune_epoch, args.decreasing_lr, args.warmup
            )
        within = epoch - states.first_epoch(self.state)
        return lambda step: schedule.at(within, step, len(self.train))

    def validate(self) -> Metrics:
        """Clean accuracy, top-1 and top-5, in percent."""
        batches = self.val.epoch(0, 0, self.runtime.rank, self.runtime.world_size)
        network = self.execution.place(fold_for_evaluation(self.model))
        own = len(range(self.runtime.rank, len(self.val), self.runtime.world_size))
        with Progress(own, f"[state {self.state}] validation", self.args.print_freq) as bar:
            report = self.training.watch(bar)
            metrics = evaluate(network, batches, execution=self.execution, report=report)
        say(f" * Acc@1 {metrics.top1:.3f} Acc@5 {metrics.top5:.3f}")
        return metrics

    def density(self, state: int) -> float:
        return (1 - self.args.rate) ** state

    def label(self, epoch: int) -> str:
        return (
            f"[state {self.state}/{self.states.last}, "
            f"density {100 * self.density(self.state):.2f} %] "
            f"epoch {epoch + 1}/{self.states.total_epochs}"
        )

    # --- files ---

    def finish_epoch(self, epoch: int, trained: Metrics, validated: Metrics) -> None:
        first = epoch == self.states.first_epoch(self.state)  # the best so far, even with 0 %
        is_best = first or validated.top1 > self.best_acc1
        self.best_acc1 = max(validated.top1, self.best_acc1)
        self.training.end_epoch()
        self.history.append([self.state, validated.top1])
        values = {
            "state": self.state,
            "density": self.density(self.state),
            "lr": self.training.optimizer.param_groups[0]["lr"],
            "train_loss": trained.loss,
            "train_acc": trained.top1,
            "val_loss": validated.loss,
            "val_sa": validated.top1,
            "val_top5": validated.top5,
        }
        self.log.metrics(epoch, values)
        say(
            f"{self.label(epoch)}: train loss {trained.loss:.3f} acc {trained.top1:.2f} %, "
            f"val SA {validated.top1:.2f} % (best {self.best_acc1:.2f} %), "
            f"{self.log.pace(epoch + 1, self.states.total_epochs)}"
        )
        if is_main():
            self.plot()
        self.save(is_best)

    def save(self, is_best: bool = False) -> None:
        """Write the state's checkpoint; every process takes part, rank 0 writes."""
        training = self.training.state()
        if is_main():
            network = {
                "epoch": self.training.epoch,
                "arch": self.args.arch,
                "state_dict": files.to_cpu(self.model.state_dict()),
                "best_acc1": self.best_acc1,
                "state_prune": self.state,
                "init": self.init_origin,
            }
            if is_best:
                files.save_checkpoint(self.save_dir / files.imp_best_name(self.state), network)
            path = self.save_dir / files.imp_checkpoint_name(self.state)
            payload = {**network, **training, "history": self.history}
            files.save_checkpoint(path, payload, keep_previous=True)
            if previous(path).exists():  # now there are two to resume from
                last = self.state - 1
                previous(self.save_dir / files.imp_checkpoint_name(last)).unlink(missing_ok=True)
                if self.args.keep != "all":
                    self.drop_checkpoints(last)
        barrier()

    def drop_checkpoints(self, last: int) -> None:
        for state in range(last + 1):
            for name in (files.imp_checkpoint_name(state), files.imp_best_name(state)):
                (self.save_dir / name).unlink(missing_ok=True)
                previous(self.save_dir / name).unlink(missing_ok=True)

    def write_ticket(self, state: int, density: float) -> None:
        if is_main():
            files.save_ticket(
                self.save_dir / files.ticket_name(state),
                pruning.masks(self.model),
                arch=self.args.arch,
                state=state,
                density=density,
                init_sha256=self.init_origin["sha256"],
            )

    def plot(self) -> None:
        """Accuracy against density, one point per state: its best so far."""
        best: dict[float, float] = {}
        for state, accuracy in self.history:
            best[state] = max(accuracy, best.get(state, 0.0))
        plot_curves(
            self.save_dir / "accuracy_vs_density.png",
            [100 * self.density(int(state)) for state in best],
            {"best validation SA": list(best.values())},
            "density (% of the convolution weights)",
            f"{self.args.arch}, {self.args.mode} IMP",
            log_x=True,
        )

    def resume(self, path: Path, *, weights_only: bool = False) -> None:
        """Take up a checkpoint; the run goes on as if it had been left alone."""
        checkpoint = files.load_newest(path)
        with taking_up(path):
            weights, self.state = checkpoint["state_dict"], checkpoint["state_prune"]
            if self.state > 0:
                pruning.prune_model_custom(self.model, pruning.extract_mask(weights))
            self.model.load_state_dict(weights)
            self.execution.place(self.model)
            if not weights_only:
                self.best_acc1, self.init_origin = checkpoint["best_acc1"], checkpoint["init"]
                self.history = checkpoint["history"]
                self.training.optimizer = self._new_optimizer()
                self.training.restore(checkpoint)
            if self.state > 0 and not weights_only:
                init = files.load_initial_weights(path, self.init_origin)
                self.init = {name: value.to(self.runtime.device) for name, value in init.items()}
        say(
            f"resumed {path}: state {self.state}, {checkpoint['epoch']} of "
            f"{self.states.total_epochs} epochs done"
        )


def work(runtime: Runtime, args: argparse.Namespace) -> None:
    """What every process of the run does."""
    parsing.configure_torch(args)
    seed_everything(args.seed)
    save_dir = Path(args.save_dir)
    wanted = "auto" if args.evaluate and args.resume is None else args.resume
    checkpoint = files.find_checkpoint(save_dir, wanted, files.newest_imp_checkpoint)
    last = states_of(args).last
    if args.resume and not args.evaluate and (save_dir / files.ticket_name(last + 1)).is_file():
        return say(f"{save_dir}: this run is finished; nothing to do")
    if args.evaluate:
        if checkpoint is None:
            raise InputError(f"--evaluate: no checkpoint in {save_dir}; name one by --resume PATH")
        not_heeded = StopSignals()  # a signal ends an evaluation at once
        return evaluate_only(TicketSearch(args, runtime, not_heeded), checkpoint)
    check_same_run(save_dir, vars(args), resume=args.resume is not None)
    with StopSignals() as stop:
        search = TicketSearch(args, runtime, stop)
        if checkpoint:
            search.resume(checkpoint)  # before the folder is claimed: it may be refused
        with (
            running(search.training, save_dir, vars(args), resume=args.resume is not None),
            parsing.memory_advice(args.micro_batch or args.batch_size),
        ):
            search.run()
    return say(f"done: {last + 2} tickets and accuracy_vs_density.png in {save_dir}")


def evaluate_only(search: TicketSearch, checkpoint: Path) -> None:
    search.resume(checkpoint, weights_only=True)
    metrics = search.validate()
    if is_main():
        result = {"checkpoint": str(checkpoint), "acc1": metrics.top1, "acc5": metrics.top5}
        write_json(search.save_dir / "eval.json", result)


def main(argv: Sequence[str] | None = None) -> None:
    args = build_imp_parser(ARCHS).parse_args(argv)
    parsing.apply_recipe(args, "imp")
    if args.ticket == "imp" and args.data is None and args.export_released is None:
        raise InputError("DATA is missing: the folder with train/CLASS/* and val/CLASS/*")
    if args.export_released is not None:
        path = files.export_released(Path(args.save_dir), args.export_released, args.mode)
        say(f"wrote {path}")
    elif args.dry_run:
        say(plan_imp(args))
    elif args.ticket != "imp":
        prune_without_training(args)
    else:
        launch(work, args, Launch(**parsing.launch_options(args)))


if __name__ == "__main__":
    parsing.run_main(main)
