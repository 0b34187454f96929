"""Transfer one ticket to one data set, by standard or adversarial training (paper section 3).

Load the pre-trained weights, give the network a fresh classifier, apply the ticket's masks, train,
keep the best networks by validation, and test them: SA, and under adversarial training RA too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

import checkpoint_utils as files
import cli_utils
import plan_utils
import pruning_utils as pruning
from attack_utils import PGDConfig, make_pgd
from dataset import DATASETS, DataSpec, Loader, build_loaders, mean_std
from dist_utils import (
    Launch,
    Runtime,
    barrier,
    is_main,
    launch,
    seed_everything,
    synchronised,
)
from errors import InputError
from flags import build_transfer_parser
from log_utils import Progress, RunLog, plot_curves, provenance, say, warn
from models import ARCHS, build_model, fold_for_evaluation
from run_utils import Training, load_init, running
from train_utils import Execution, Metrics, Perturb, Schedule, evaluate, make_sgd

RESULTS_FILE = "results.json"
CURVES = ("train", "ta", "ra", "test_ta", "test_ra")  # the released code's names
SHOWN_AS = {"ta": "val SA", "ra": "val RA", "test_ta": "test SA", "test_ra": "test RA"}
TRANSFER_DATASETS = tuple(name for name in DATASETS if name != "imagenet")
Scores = dict[str, dict[str, float | None]]


class Transfer:
    """One transfer run: the network, what it scored, and how far it is."""

    def __init__(self, args: argparse.Namespace, runtime: Runtime) -> None:
        self.args, self.runtime = args, runtime
        self.adversarial = args.mode == "adv"
        self.save_dir = Path(args.save_dir)
        self.execution = Execution(runtime.device, **cli_utils.execution_options(args))
        self.train, self.val, self.test = self._loaders()
        self.model = self._network()
        self.density = pruning.check_sparsity(self.model) / 100
        if is_main():
            pruning.print_remaining(self.model)
        attack = PGDConfig(args.train_eps, args.train_step, args.train_gamma, args.train_randinit)
        self.test_attack = PGDConfig(
            args.test_eps, args.test_step, args.test_gamma, args.test_randinit
        )
        if self.adversarial:
            say(f"training attack: {attack}; test attack: {self.test_attack}")
        self.training = Training(
            self.model,
            make_sgd(self.model, args.lr, args.momentum, args.weight_decay),
            self.train,
            self.execution,
            runtime,
            self.attack_on(self.model, attack) if self.adversarial else None,
            save=self.save,
            save_every=args.save_every_steps,
            print_freq=args.print_freq,
        )
        self.schedule = Schedule(
            args.lr_schedule, args.lr, args.epochs, args.decreasing_lr, args.warmup
        )
        self.best_sa: float | None = None
        self.best_ra: float | None = None
        self.result: dict[str, list[float | None]] = {name: [] for name in CURVES}

    def _loaders(self) -> tuple[Loader, Loader, Loader]:
        args = self.args
        train, val, test = build_loaders(
            DataSpec(args.dataset, args.data, args.input_size, args.augment, args.hflip,
                     args.data_number, args.classes, skip_bad=args.skip_bad),
            batch_size=args.batch_size * self.runtime.nodes,
            eval_batch_size=args.eval_batch_size,
            workers=args.workers,
            seed=args.seed,
            pin_memory=self.runtime.device.type == "cuda",
        )  # fmt: skip
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
            load_init(model, args.init, args.arch, fc="drop", stem="fresh", normalization="keep")
        else:
            warn(f"no --init: starting from random weights (seed {args.seed})")
        if args.tickets_file:
            for note in pruning.prune_model_custom(model, files.load_ticket(args.tickets_file)):
                warn(f"ticket: {note}")
        self.execution.place(synchronised(model) if args.sync_bn else model)
        if args.compile:
            model.compile()
        return model

    # --- the algorithm ---

    def run(self) -> None:
        training = self.training
        with RunLog(self.save_dir, training.epoch) as self.log:
            for epoch in range(training.epoch, self.args.epochs):
                trained = training.one_epoch(self.learning_rate(epoch), self.label(epoch))
                scores = self.validate(epoch) if self.is_evaluated(epoch) else {}
                self.finish_epoch(epoch, trained, scores)
        self.finish(self.final_test())

    def is_evaluated(self, epoch: int) -> bool:
        # Deviation: before `eval_from` the released code makes an accuracy of 1 % up.
        return epoch >= self.args.eval_from or epoch == self.args.epochs - 1

    def validate(self, epoch: int) -> dict[str, float]:
        """Accuracies after an epoch, in percent, by the released code's names."""
        scores = {"ta": self.accuracy(self.val, "validation SA")}
        if self.adversarial:
            scores["ra"] = self.accuracy(self.val, "validation RA", attacked=True)
        elif self.test is self.val:
            scores["test_ta"] = scores["ta"]
        else:
            scores["test_ta"] = self.accuracy(self.test, "test SA")
        return scores

    def attack_on(self, network: nn.Module, config: PGDConfig) -> Perturb:
        return make_pgd(network, config, self.execution.loss_scale)

    def accuracy(self, loader: Loader, label: str, *, attacked: bool = False) -> float:
        """SA of the network on a split, or RA, in percent."""
        network = self.execution.place(fold_for_evaluation(self.model))
        with Progress(len(loader), label, self.args.print_freq) as bar:
            metrics = evaluate(
                network,
                loader.epoch(0, 0, self.runtime.rank, self.runtime.world_size),
                execution=self.execution,
                perturb=self.attack_on(network, self.test_attack) if attacked else None,
                report=self.training.watch(bar),
            )
        return metrics.top1

    def final_test(self) -> Scores:
        """Test SA and RA, in percent, of the networks kept: best by SA, best by RA, last."""
        kept = {"sa_best": files.SA_BEST_FILE, "last": files.TRANSFER_FILE}
        if self.adversarial:
            kept = {**kept, "ra_best": files.RA_BEST_FILE}
        scores: Scores = {"ra_best": {"sa": None, "ra": None}}
        by_epoch: dict[int, dict[str, float | None]] = {}
        for role, name in kept.items():
            checkpoint = files.load_checkpoint(self.save_dir / name)
            epoch = checkpoint["epoch"]
            if epoch not in by_epoch:
                self.load_weights(checkpoint["state_dict"])
                by_epoch[epoch] = self.test_scores(role)
            scores[role] = by_epoch[epoch]
        return scores

    def test_scores(self, role: str) -> dict[str, float | None]:
        # Deviation: random starts from the run's seed, so that `--evaluate` gives the same figures.
        seed_everything(self.args.seed)
        sa, ra = self.accuracy(self.test, f"test SA ({role})"), None
        if self.adversarial:
            ra = self.accuracy(self.test, f"test RA ({role})", attacked=True)
        return {"sa": sa, "ra": ra}

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
            files.save_checkpoint(path, {**network, "scheduler": schedule, **training})
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

    def resume(self, path: Path, *, weights_only: bool = False) -> None:
        """Take up a checkpoint; the run goes on as if it had been left alone."""
        checkpoint = files.load_checkpoint(path)
        try:
            self.load_weights(checkpoint["state_dict"])
            done = checkpoint["epoch"]
            if not weights_only:
                self.best_sa, self.best_ra = checkpoint["best_sa"], checkpoint["best_ra"]
                self.result = checkpoint["result"]
                self.training.restore(checkpoint)
        except KeyError as error:
            raise InputError(f"{path}: no checkpoint to resume from, it lacks {error}") from error
        except RuntimeError as error:
            raise InputError(f"{path}: another network than the flags ask for") from error
        say(f"resumed {path}: {done} of {self.args.epochs} epochs done")

    def finish(self, scores: Scores) -> None:
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
                **provenance(),
            }
            files.write_json(self.save_dir / RESULTS_FILE, results)
        say(f"done: {RESULTS_FILE} and net_train.png in {self.save_dir}")


def _improved(score: float | None, best: float | None) -> bool:
    return score is not None and (best is None or score > best)


def work(runtime: Runtime, args: argparse.Namespace) -> None:
    """What every process of the run does."""
    cli_utils.configure_torch(args)
    seed_everything(args.seed)
    save_dir = Path(args.save_dir)
    wanted = "auto" if args.evaluate and args.resume is None else args.resume
    checkpoint = files.find_checkpoint(save_dir, wanted, files.newest_transfer_checkpoint)
    if args.resume and not args.evaluate and (save_dir / RESULTS_FILE).is_file():
        return say(f"{save_dir}: this run is finished; nothing to do")
    if args.evaluate and checkpoint is None:
        raise InputError(f"--evaluate: no checkpoint in {save_dir}; name one by --resume PATH")
    transfer = Transfer(args, runtime)
    if args.evaluate and checkpoint:
        return evaluate_only(transfer, checkpoint)
    with (
        running(transfer.training, save_dir, vars(args), resume=args.resume is not None),
        cli_utils.memory_advice(args.micro_batch or args.batch_size),
    ):
        if checkpoint:
            transfer.resume(checkpoint)
        transfer.run()
    return None


def evaluate_only(transfer: Transfer, checkpoint: Path) -> None:
    transfer.resume(checkpoint, weights_only=True)
    scores = transfer.test_scores(checkpoint.name)
    say(", ".join(f"test {name.upper()} {v:.2f} %" for name, v in scores.items() if v is not None))
    if is_main():
        files.write_json(transfer.save_dir / "eval.json", {"checkpoint": str(checkpoint), **scores})


def main(argv: Sequence[str] | None = None) -> None:
    args = build_transfer_parser(ARCHS, TRANSFER_DATASETS).parse_args(argv)
    cli_utils.apply_recipe(args, "transfer")
    if args.dry_run:
        say(plan_utils.plan_transfer(args))
    else:
        launch(work, args, Launch(**cli_utils.launch_options(args)))


if __name__ == "__main__":
    cli_utils.run_main(main)
