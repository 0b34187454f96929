"""Transfer one ticket to one data set, by standard or adversarial training (paper section 3).

Load the pre-trained weights, give the network a fresh classifier, apply the ticket's masks, train,
keep the best networks by validation, and test them: SA, and under adversarial training RA too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

import pruning_utils as pruning
from cli import build, folders, networks, settle
from cli.flags import build_transfer_parser
from cli.plan import plan_transfer
from cli.recipes import apply_recipe
from cli.recorded import take_recorded
from dataset import DATASETS
from engine.data_warnings import compare_classes, warn_of_skipped
from engine.distributed import Runtime, on_main, own_random_starts, same_on_all
from engine.launching import launch
from engine.log import (
    Warnings,
    plot_curves,
    provenance,
    say,
    say_for_scripts,
    warn,
)
from engine.steps import Metrics
from engine.supervision import supervise
from engine.training import StopSignals
from errors import InputError, run_main
from evaluation.autoattack import forget_progress
from evaluation.checkpoint import evaluate_checkpoint
from evaluation.classes import check_source_classes
from evaluation.split_test import SplitTest
from files import names, transfer_run
from files.checkpoints import to_cpu
from files.class_names import class_names_in
from files.fingerprints import weights_sha256
from files.results import IMP, REINIT, Accuracy, build_results, name_of_init, write_results
from files.tickets import read_ticket
from files.transfer_run import KEPT, TransferRecord
from models import ARCHS

SHOWN_AS = {
    "train_acc": "train", "val_sa": "val SA", "val_ra": "val RA",
    "test_sa": "test SA", "test_ra": "test RA",
}  # fmt: skip
TRANSFER_DATASETS = tuple(name for name in DATASETS if name != "imagenet")


class Transfer:
    """One transfer run: the network, what it scored, and how far it is."""

    def __init__(self, args: argparse.Namespace, runtime: Runtime, stop: StopSignals) -> None:
        self.args, self.save_dir = args, Path(args.save_dir)
        self.adversarial = args.mode == "adv"
        # Read once: what becomes of the file while the run trains does not matter.
        self.ticket = read_ticket(args.tickets_file) if args.tickets_file else None
        self.execution = build.execution(args, runtime.device)
        self.warnings = Warnings(args.notes)
        self.train, self.val, self.test = build.target_loaders(args, runtime, self.warnings)
        self.model, self.init_sha256 = networks.target_network(
            args, self.train.num_classes, self.execution, self.ticket, self.warnings
        )
        # Without a ticket zeros among the weights are trained like the others.
        self.density = pruning.percent_left(self.model) / 100 if self.ticket else 1.0
        say(pruning.remain_line(self.model))
        self.training = build.training(
            args, runtime, self.execution, self.model, self.train, stop=stop, save=self.save
        )
        say(build.device_line(runtime, self.execution, self.train.batch_size))
        own_random_starts(runtime)
        self.evaluator = build.target_evaluator(args, runtime, self.training.watch)
        self.request = build.request(args)
        check_source_classes(self.request, self.train, self.warnings)
        if self.adversarial:
            attack = build.train_attack_config(args)
            say(f"training attack: {attack}; test attack: {self.evaluator.attack}")
        self.schedule = build.schedule(args, args.epochs)
        say(f"learning rate: {self.schedule}")
        self.record = TransferRecord()

    # --- the algorithm ---

    def run(self) -> None:
        training = self.training
        with training.open_log(self.save_dir) as self.log:
            if training.epoch == self.args.epochs:  # resumed, from another folder perhaps
                self.save()
            for epoch in range(training.epoch, self.args.epochs):
                trained = training.one_epoch(self.learning_rate(epoch), self.label(epoch))
                scores = self.validate() if self.is_evaluated(epoch) else {}
                self.finish_epoch(epoch, trained, scores)
        self.finish(*self.final_test())

    def is_evaluated(self, epoch: int) -> bool:
        # Deviation: before `eval_from` the released code makes an accuracy of 1 % up.
        return epoch >= self.args.eval_from or epoch == self.args.epochs - 1

    def validate(self) -> dict[str, float]:
        """What is measured after an epoch: val_sa, val_ra, test_sa in percent; val losses."""
        evaluator = self.evaluator
        network = evaluator.network(self.model)
        clean = evaluator.measure(network, self.val, "validation SA")
        scores = {"val_sa": clean.top1, "val_loss": clean.loss}
        if self.adversarial:
            attack = evaluator.pgd(network)
            attacked = evaluator.measure(network, self.val, "validation RA", attack)
            scores |= {"val_ra": attacked.top1, "val_adv_loss": attacked.loss}
        elif self.test is self.val:
            scores["test_sa"] = scores["val_sa"]
        else:
            scores["test_sa"] = evaluator.accuracy(network, self.test, "test SA")
        return scores

    def finish_epoch(self, epoch: int, trained: Metrics, scores: Mapping[str, float]) -> None:
        """Record what an epoch gave, and save."""
        measured = {"train_loss": trained.loss, "train_acc": trained.top1, **scores}
        best = self.record.add(measured)
        self.training.end_epoch()
        self.log.metrics(epoch, {"lr": self.training.optimizer.param_groups[0]["lr"], **measured})
        self.say_epoch(epoch, trained, scores)
        self.plot()
        self.save(best)

    def say_epoch(self, epoch: int, trained: Metrics, scores: Mapping[str, float]) -> None:
        """Print the epoch's lines of the released code, where scripts read them, and its own."""
        accuracies = {name: value for name, value in scores.items() if name in SHOWN_AS}
        say_for_scripts(str(self.learning_rate(epoch)(0)))
        say_for_scripts(f"train_accuracy {trained.top1:.3f}")
        same = ("test_sa",) if self.test is self.val else ()  # measured once, and told once
        _say_accuracies(value for name, value in accuracies.items() if name not in same)
        say_for_scripts(f"* Time = {self.log.lap()}")
        shown = [f"{SHOWN_AS[name]} {value:.2f} %" for name, value in accuracies.items()]
        line = f"train loss {trained.loss:.3f} acc {trained.top1:.2f} %"
        pace = self.log.pace(epoch + 1, self.args.epochs)
        say(f"{self.label(epoch)}: {', '.join([line, *shown, pace])}")

    def final_test(self) -> tuple[dict[str, Accuracy], dict[str, Any]]:
        """Test the networks kept: best by SA, best by RA, last; then what else was asked for.

        Returns SA and RA of each in percent, and the tests beyond them of the network that this
        regime is judged by.
        """
        for line in transfer_run.beyond_curves(self.record):
            self.warnings.add(line)
        test = SplitTest(self.evaluator, self.test, self.request, self.save_dir, self.warnings)
        roles = tuple(KEPT) if self.adversarial else ("sa_best", "last")
        tested: dict[str, str] = {}  # one network may have several roles
        for role in roles:
            weights = transfer_run.load_kept(self.save_dir, role)
            network = same_on_all(weights_sha256(weights), f"weights of {role}")
            if network in tested:
                test.same_network(role, tested[network])
            else:
                self.load_weights(weights)
                test.sa_and_ra(self.model, role)
                tested[network] = role
        judged_by = "ra_best" if self.adversarial else "sa_best"
        self.load_weights(transfer_run.load_kept(self.save_dir, judged_by))
        further = test.further(self.model, judged_by)
        test.save(
            names.OUTCOMES,
            mode=self.args.mode,
            ticket_sha256=self.ticket.sha256 if self.ticket else None,
            init_sha256=self.init_sha256,
        )
        return {role: test.accuracy(role) for role in roles}, further

    def finish(self, scores: Mapping[str, Accuracy], further: Mapping[str, Any]) -> None:
        """Print the lines that people's scripts read, and write results.json, the last file."""
        if self.adversarial:
            for word, role in (("TA", "sa_best"), ("RA", "ra_best")):
                sa, ra = scores[role].sa, scores[role].ra
                _say_accuracies((sa, ra))
                say(f"* {word} best SA={sa}")
                say(f"* {word} best RA={ra}")
        else:
            say(f"* last SA={scores['last'].sa}")
            say(f"* best SA={scores['sa_best'].sa}")
        say(pruning.remain_line(self.model))
        warn_of_skipped(self.warnings, self.train, self.val, self.test)
        on_main(lambda: self.write_results(scores, further))
        forget_progress(self.save_dir)
        say(f"done: {names.RESULTS} and {names.CURVES_PLOT} in {self.save_dir}")

    # --- what the algorithm stands on ---

    def learning_rate(self, epoch: int) -> Callable[[int], float]:
        return lambda step: self.schedule.at(epoch, step, self.training.steps)

    def label(self, epoch: int) -> str:
        args = self.args
        return (
            f"[{args.dataset} {args.mode}, density {100 * self.density:.2f} %] "
            f"epoch {epoch + 1}/{args.epochs}"
        )

    def plot(self) -> None:
        curves = self.record.curves
        plot_curves(
            self.save_dir / names.CURVES_PLOT,
            range(1, len(curves["train_acc"]) + 1),
            {SHOWN_AS[name]: values for name, values in curves.items()},
            "epoch",
            f"{self.args.dataset}, {self.args.mode}, density {100 * self.density:.2f} %",
        )

    # --- files ---

    def contents(self) -> dict[str, str]:
        return folders.contents(self.args, (self.train, self.val, self.test), self.ticket)

    def save(self, best: Sequence[str] = ()) -> None:
        """Write the run's checkpoint; every process takes part, rank 0 writes."""
        training = self.training.state()
        on_main(
            lambda: transfer_run.save_transfer(
                self.save_dir,
                self.record,
                epoch=self.training.epoch,
                arch=self.args.arch,
                classes=self.train.classes,
                weights=to_cpu(self.model.state_dict()),
                training=training,
                lr_schedule=self.args.lr_schedule,
                ticket_kind=self.ticket.kind if self.ticket else IMP,
                best=best,
                keep_epoch=self.args.save_all and self.training.step == 0,
            )
        )

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        pruning.apply_masks(self.model, pruning.masks_in(weights))
        self.model.load_state_dict(weights)

    def belongings(self) -> list[str]:
        return [names.METRICS, names.SA_BEST, names.RA_BEST]

    def resume(self, path: Path) -> None:
        """Take up a checkpoint; the run goes on as if it had been left alone."""
        checkpoint = transfer_run.load_newest(path, self.warnings.add)
        theirs = class_names_in(checkpoint)
        compare_classes(theirs, self.train, f"--resume {path}", self.warnings)
        weights = transfer_run.read_weights(checkpoint)
        if pruning.has_other_masks(self.model, weights):
            raise InputError(f"--resume {path}: has other masks than the ticket of the flags")
        self.load_weights(weights)
        self.record = transfer_run.read_record(checkpoint)
        transfer_run.recall_best(self.save_dir, self.record, checkpoint["epoch"])
        if path.parent != self.save_dir:
            transfer_run.check_kept(self.save_dir, path.parent, self.record)
        self.training.restore(checkpoint, self.warnings.add)
        say(f"resumed {path}: {checkpoint['epoch']} of {self.args.epochs} epochs done")

    def write_results(self, scores: Mapping[str, Accuracy], further: Mapping[str, Any]) -> None:
        args, ticket = self.args, self.ticket
        found = ticket.kind if ticket else IMP  # the dense network is IMP's state 0
        results = build_results(
            pretraining=args.tag,
            ticket=REINIT if args.reinit else found,
            state=ticket.state_at(self.density) if ticket else 0,
            density=self.density,
            ticket_sha256=ticket.sha256 if ticket else None,
            dataset=args.dataset,
            mode=args.mode,
            data_number=args.data_number,
            seed=args.seed,
            arch=args.arch,
            scores=scores,
            attack=self.request.ra_by(self.evaluator.attack),
            further=further,
            init=name_of_init(args.init),
            init_sha256=self.init_sha256,
            test_split=self.test.fingerprint(),
            class_names=self.train.classes,
            warnings=self.warnings.lines,
            provenance=provenance(),
        )
        write_results(self.save_dir, results)


def _say_accuracies(accuracies: Iterable[float | None]) -> None:
    for accuracy in accuracies:
        say_for_scripts(f"valid_accuracy {accuracy:.3f}")


def work(runtime: Runtime, args: argparse.Namespace) -> None:
    """What every process of the run does."""
    build.set_up_process(args)
    folder = folders.transfer_folder(args)
    if args.evaluate:
        evaluate_checkpoint(
            networks.file_to_test(args, folder),
            Warnings(args.notes),
            build.target_evaluator(args, runtime),
            build.request(args),
            build.data_spec(args),
            folder.path,
        )
    else:
        images = build.images_per_pass(args, runtime.processes_here)
        supervise(lambda stop: Transfer(args, runtime, stop), folder, images)


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_transfer_parser(ARCHS, TRANSFER_DATASETS)
    args = parser.parse_args(argv)
    take_recorded(args, parser)
    for note in apply_recipe(args, "transfer"):
        warn(note)
    request = build.request(args)
    request.check_flags()
    settle.settle_data(args)
    if args.export_released:
        folder = folders.transfer_folder(args)
        checkpoint = folder.checkpoint_to_test("--export_released")
        say(f"wrote {transfer_run.export_released(checkpoint, folder.path)}")
    elif args.dry_run:
        say(plan_transfer(args).shown(as_json=args.json))
    else:
        request.check_inputs()
        if args.evaluate:
            request.check_places(Path(args.save_dir))
        launch(work, args, build.launch_options(args))


if __name__ == "__main__":
    run_main(main)
