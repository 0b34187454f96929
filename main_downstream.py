"""Transfer one ticket to one data set, by standard or adversarial training (paper section 3).

Load the pre-trained weights, give the network a fresh classifier, apply the ticket's masks, train,
keep the best networks by validation, and test them: SA, and under adversarial training RA too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import pruning_utils as pruning
from attack_utils import CHECKED_EVERY, Perturb, PGDConfig, checked, make_pgd
from cli import parsing, plan
from cli.flags import build_transfer_parser
from dataset import DATASETS, DataSpec, Loader, build_loaders, mean_std
from engine.distributed import (
    Launch,
    Runtime,
    barrier,
    is_main,
    launch,
    main_first,
    seed_everything,
    synchronised,
)
from engine.log import RunLog, plot_curves, provenance, say, warn
from engine.run_folder import StopSignals, Training, check_same_run, load_init, running, taking_up
from engine.schedules import Schedule
from engine.steps import Execution, Metrics, make_sgd
from errors import InputError
from evaluation.checkpoint import Request, evaluate_checkpoint, further_tests, sa_and_ra
from evaluation.evaluator import Bench, Watch, forget_progress
from files import checkpoints as files
from files.atomic import write_json
from models import ARCHS, build_model, fit_masks

RESULTS_FILE = "results.json"
KEPT = {"sa_best": files.SA_BEST_FILE, "ra_best": files.RA_BEST_FILE, "last": files.TRANSFER_FILE}
CURVES = ("train", "ta", "ra", "test_ta", "test_ra")  # the released code's names
SHOWN_AS = {"ta": "val SA", "ra": "val RA", "test_ta": "test SA", "test_ra": "test RA"}
TRANSFER_DATASETS = tuple(name for name in DATASETS if name != "imagenet")
Scores = dict[str, dict[str, float | None]]


class Transfer:
    """One transfer run: the network, what it scored, and how far it is."""

    def __init__(self, args: argparse.Namespace, runtime: Runtime, stop: StopSignals) -> None:
        self.args, self.runtime = args, runtime
        self.adversarial = args.mode == "adv"
        self.save_dir = Path(args.save_dir)
        self.execution = Execution(runtime.device, **parsing.execution_options(args))
        self.train, self.val, self.test = self._loaders()
        self.model = self._network()
        self.density = pruning.check_sparsity(self.model) / 100
        if is_main():
            pruning.print_remaining(self.model)
        attack = PGDConfig(args.train_eps, args.train_step, args.train_gamma, args.train_randinit)
        self.training = Training(
            self.model,
            make_sgd(self.model, args.lr, args.momentum, args.weight_decay),
            self.train,
            self.execution,
            runtime,
            self._attack(attack) if self.adversarial else None,
            stop=stop,
            save=self.save,
            save_every=args.save_every_steps,
            print_freq=args.print_freq,
        )
        self.bench = build_bench(args, runtime, self.training.watch)
        self.request = Request(**parsing.evaluation_options(args))
        if self.adversarial:
            say(f"training attack: {attack}; test attack: {self.bench.attack}")
        self.schedule = Schedule(
            args.lr_schedule, args.lr, args.epochs, args.decreasing_lr, args.warmup
        )
        self.best_sa: float | None = None
        self.best_ra: float | None = None
        self.result: dict[str, list[float | None]] = {name: [] for name in CURVES}

    def _loaders(self) -> tuple[Loader, Loader, Loader]:
        args = self.args
        with main_first():
            train, val, test = build_loaders(
                data_spec(args),
                batch_size=args.batch_size * self.runtime.nodes,
                eval_batch_size=args.eval_batch_size,
                workers=args.workers,
                seed=args.seed,
                pin_memory=self.runtime.device.type == "cuda",
            )
        assert test is not None  # only an ImageNet layout has none
        say(
            f"data: {args.dataset}, {train.num_images} training, {val.num_images} validation and "
            f"{test.num_images} test images, {train.num_classes} classes"
        )
        return train, val, test

    def _network(self) -> nn.Module:
        """The pre-trained network with a fresh classifier, under the ticket's masks."""
        args = self.args
        mean, std = (args.mean, args.std) if args.mean else mean_std(args.dataset)
        model = build_model(args.arch, self.train.num_classes, mean, std, args.stem, args.width)
        if args.reinit:
            say(f"re-initialised weights (seed {args.seed}); --init is not used")
        elif args.init:
            how = {"fc": "drop", "stem": "fresh", "normalization": "keep"}
            load_init(model, args.init, args.arch, args.init_key, **how)
        else:
            warn(f"no --init: starting from random weights (seed {args.seed})")
        if args.tickets_file:
            masks = fit_masks(model, files.load_ticket(args.tickets_file))
            for note in pruning.prune_model_custom(model, masks):
                warn(f"ticket: {note}")
        self.execution.place(synchronised(model) if args.sync_bn else model)
        if args.compile:
            model.compile()
        return model

    def _attack(self, config: PGDConfig) -> Perturb:
        perturb = make_pgd(self.model, config, self.execution.loss_scale)
        return checked(perturb, config.eps, every=CHECKED_EVERY)

    # --- the algorithm ---

    def run(self) -> None:
        training = self.training
        with RunLog(self.save_dir, training.epoch) as self.log:
            for epoch in range(training.epoch, self.args.epochs):
                trained = training.one_epoch(self.learning_rate(epoch), self.label(epoch))
                scores = self.validate(epoch) if self.is_evaluated(epoch) else {}
                self.finish_epoch(epoch, trained, scores)
        self.finish(self.final_test(), self.further_tests())

    def is_evaluated(self, epoch: int) -> bool:
        # Deviation: before `eval_from` the released code makes an accuracy of 1 % up.
        return epoch >= self.args.eval_from or epoch == self.args.epochs - 1

    def validate(self, epoch: int) -> dict[str, float]:
        """Accuracies after an epoch, in percent, by the released code's names."""
        network = self.bench.network(self.model)
        scores = {"ta": self.bench.accuracy(network, self.val, "validation SA")}
        if self.adversarial:
            attack = self.bench.pgd(network)
            scores["ra"] = self.bench.accuracy(network, self.val, "validation RA", attack)
        elif self.test is self.val:
            scores["test_ta"] = scores["ta"]
        else:
            scores["test_ta"] = self.bench.accuracy(network, self.test, "test SA")
        return scores

    def final_test(self) -> Scores:
        """Test SA and RA, in percent, of the networks kept: best by SA, best by RA, last."""
        scores: Scores = {"ra_best": {"sa": None, "ra": None}}
        by_epoch: dict[int, dict[str, float | None]] = {}
        for role in KEPT if self.adversarial else ("sa_best", "last"):
            checkpoint = files.load_checkpoint(self.save_dir / KEPT[role])
            epoch = checkpoint["epoch"]
            if epoch not in by_epoch:
                self.load_weights(checkpoint["state_dict"])
                by_epoch[epoch] = sa_and_ra(self.bench, self.model, self.test, role, self.request)
            scores[role] = by_epoch[epoch]
        return scores

    def further_tests(self) -> dict[str, Any]:
        """The tests beyond SA and RA, if any, of the network that this regime is judged by."""
        role = "ra_best" if self.adversarial else "sa_best"
        self.load_weights(files.load_checkpoint(self.save_dir / KEPT[role])["state_dict"])
        return further_tests(self.bench, self.model, self.test, role, self.request, self.save_dir)

    def learning_rate(self, epoch: int) -> Callable[[int], float]:
        return lambda step: self.schedule.at(epoch, step, len(self.train))

    def label(self, epoch: int) -> str:
        args = self.args
        return (
            f"[{args.dataset} {args.mode}, density {100 * self.density:.2f} %] "
            f"epoch {epoch + 1}/{args.epochs}"
        )

    # --- files ---

    def finish_epoch(self, epoch: int, trained: Metrics, scores: dict[str, float]) -> None:
        self.training.end_epoch()
        best_sa = _improved(scores.get("ta"), self.best_sa)
        best_ra = _improved(scores.get("ra"), self.best_ra)
        self.best_sa = scores["ta"] if best_sa else self.best_sa
        self.best_ra = scores["ra"] if best_ra else self.best_ra
        for name in CURVES:
            self.result[name].append(trained.top1 if name == "train" else scores.get(name))
        values = {
            "lr": self.training.optimizer.param_groups[0]["lr"],
            "train_loss": trained.loss,
            "train_acc": trained.top1,
            "val_sa": scores.get("ta"),
            "val_ra": scores.get("ra"),
            "test_sa": scores.get("test_ta"),
        }
        self.log.metrics(epoch, values)
        measured = ", ".join(
            f"{SHOWN_AS.get(name, name)} {value:.2f} %" for name, value in scores.items()
        )
        say(
            f"{self.label(epoch)}: train loss {trained.loss:.3f} acc {trained.top1:.2f} %, "
            f"{measured + ', ' if measured else ''}{self.log.pace(epoch + 1, self.args.epochs)}"
        )
        if is_main():
            self.plot()
        best = {files.SA_BEST_FILE: best_sa, files.RA_BEST_FILE: best_ra}
        self.save([name for name, is_best in best.items() if is_best])

    def save(self, best_files: Sequence[str] = ()) -> None:
        """Write the run's checkpoint; every process takes part, rank 0 writes."""
        training, epoch = self.training.state(), self.training.epoch
        if is_main():
            network = {
                "best_sa": self.best_sa,
                "best_ra": self.best_ra,
                "result": self.result,
                "epoch": epoch,
                "arch": self.args.arch,
                "state_dict": files.transfer_keys(files.to_cpu(self.model.state_dict())),
            }
            for name in best_files:
                files.save_checkpoint(self.save_dir / name, network)
            if self.args.save_all and self.training.step == 0:
                path = self.save_dir / files.epoch_checkpoint_name(epoch)
                files.save_checkpoint(path, network["state_dict"])
            schedule = {"kind": self.args.lr_schedule, "last_epoch": epoch}
            path = self.save_dir / files.TRANSFER_FILE
            payload = {**network, "scheduler": schedule, **training}
            files.save_checkpoint(path, payload, keep_previous=True)
        barrier()

    def plot(self) -> None:
        plot_curves(
            self.save_dir / "net_train.png",
            range(1, len(self.result["train"]) + 1),
            {SHOWN_AS.get(name, name): values for name, values in self.result.items()},
            "epoch",
            f"{self.args.dataset}, {self.args.mode}, density {100 * self.density:.2f} %",
        )

    def load_weights(self, state_dict: dict[str, Tensor]) -> None:
        weights = files.bare_keys(state_dict)
        pruning.prune_model_custom(self.model, pruning.extract_mask(weights))
        self.model.load_state_dict(weights)

    def resume(self, path: Path) -> None:
        """Take up a checkpoint; the run goes on as if it had been left alone."""
        checkpoint = files.load_newest(path)
        with taking_up(path):
            self.load_weights(checkpoint["state_dict"])
            self.best_sa, self.best_ra = checkpoint["best_sa"], checkpoint["best_ra"]
            self.result = checkpoint["result"]
            self.training.restore(checkpoint)
        say(f"resumed {path}: {checkpoint['epoch']} of {self.args.epochs} epochs done")

    def finish(self, scores: Scores, further: dict[str, Any]) -> None:
        """Print the lines that people's scripts read, and write results.json, the last file."""
        args = self.args
        if self.adversarial:
            say(f"* TA best SA={scores['sa_best']['sa']:.2f}")
            say(f"* TA best RA={scores['sa_best']['ra']:.2f}")
            say(f"* RA best SA={scores['ra_best']['sa']:.2f}")
            say(f"* RA best RA={scores['ra_best']['ra']:.2f}")
        else:
            say(f"* last SA={scores['last']['sa']:.2f}")
            say(f"* best SA={scores['sa_best']['sa']:.2f}")
        if is_main():
            pruning.print_remaining(self.model)
            results = {
                "pretraining": args.tag or "unnamed",
                **files.ticket_origin(args.tickets_file, self.density),
                **({"ticket": "reinit"} if args.reinit else {}),
                "dataset": args.dataset,
                "mode": args.mode,
                "data_number": args.data_number,
                "seed": args.seed,
                "arch": args.arch,
                **scores,
                **further,
                **provenance(),
            }
            write_json(self.save_dir / RESULTS_FILE, results)
        forget_progress(self.save_dir)
        say(f"done: {RESULTS_FILE} and net_train.png in {self.save_dir}")


def _improved(score: float | None, best: float | None) -> bool:
    return score is not None and (best is None or score > best)


def data_spec(args: argparse.Namespace) -> DataSpec:
    return DataSpec(
        args.dataset, args.data, args.input_size, args.augment, args.hflip,
        args.data_number, args.classes, skip_bad=args.skip_bad,
    )  # fmt: skip


def build_bench(args: argparse.Namespace, runtime: Runtime, watch: Watch | None = None) -> Bench:
    execution = Execution(runtime.device, **parsing.execution_options(args))
    attack = PGDConfig(args.test_eps, args.test_step, args.test_gamma, args.test_randinit)
    loading = (args.eval_batch_size, args.workers)
    return Bench(runtime, execution, attack, args.seed, *loading, args.print_freq, watch)


def work(runtime: Runtime, args: argparse.Namespace) -> None:
    """What every process of the run does."""
    parsing.configure_torch(args)
    seed_everything(args.seed)
    save_dir = Path(args.save_dir)
    wanted = "auto" if args.evaluate and args.resume is None else args.resume
    checkpoint = files.find_checkpoint(save_dir, wanted, files.newest_transfer_checkpoint)
    if args.resume and not args.evaluate and (save_dir / RESULTS_FILE).is_file():
        return say(f"{save_dir}: this run is finished; nothing to do")
    if args.evaluate:
        if checkpoint is None:
            raise InputError(f"--evaluate: no checkpoint in {save_dir}; name one by --resume PATH")
        bench, request = build_bench(args, runtime), Request(**parsing.evaluation_options(args))
        return evaluate_checkpoint(
            checkpoint, bench, request, data_spec(args), save_dir, args.mean, args.std
        )
    check_same_run(save_dir, vars(args), resume=args.resume is not None)
    with StopSignals() as stop:
        transfer = Transfer(args, runtime, stop)
        if checkpoint:
            transfer.resume(checkpoint)  # before the folder is claimed: it may be refused
        with (
            running(transfer.training, save_dir, vars(args), resume=args.resume is not None),
            parsing.memory_advice(args.micro_batch or args.batch_size),
        ):
            transfer.run()
    return None


def main(argv: Sequence[str] | None = None) -> None:
    args = build_transfer_parser(ARCHS, TRANSFER_DATASETS).parse_args(argv)
    parsing.apply_recipe(args, "transfer")
    request = Request(**parsing.evaluation_options(args))
    request.check_flags()
    if args.dry_run:
        say(plan.plan_transfer(args))
    else:
        request.check_inputs()
        launch(work, args, Launch(**parsing.launch_options(args)))


if __name__ == "__main__":
    parsing.run_main(main)
