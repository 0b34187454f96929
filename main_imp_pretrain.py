"""Find tickets: iterative magnitude pruning on the pre-training task (paper section 3).

State k = 1, 2, … trains under density (1 - rate)^k. Each state starts from the initial weights:
prune the trained weights by global magnitude, rewind everything, train again. State 0 is the dense
network, trained only with --pretrain_epochs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

import pruning_utils as pruning
from cli import build, folders, networks, salvage, settle
from cli.flags import build_imp_parser
from cli.plan import plan_imp
from cli.recipes import apply_recipe
from cli.recorded import recorded_mode, take_recorded
from dataset import mean_std
from engine.data_warnings import compare_classes, warn_of_skipped
from engine.distributed import Runtime, broadcast_from_main, is_main, on_main, own_random_starts
from engine.launching import launch
from engine.log import Warnings, plot_curves, say, say_for_scripts, warn
from engine.schedules import Schedule
from engine.steps import Metrics
from engine.supervision import supervise
from engine.training import StopSignals
from errors import InputError, run_main
from evaluation.validation import validate, validate_file
from files import imp_run, names
from files.atomic import check_writable
from files.checkpoints import to_cpu
from files.class_names import class_names_in
from files.imp_run import SearchRecord
from files.results import IMP
from files.salvage import Salvaged, check_density, read_history
from files.tickets import WEIGHTS, save_ticket
from models import ARCHS
from one_shot import prune_without_training


class TicketSearch:
    """One IMP run: the network, its initial weights, and how far it is."""

    def __init__(self, args: argparse.Namespace, runtime: Runtime, stop: StopSignals) -> None:
        self.args, self.save_dir = args, Path(args.save_dir)
        self.states = build.states(args)
        self.execution = build.execution(args, runtime.device)
        self.warnings = Warnings(args.notes)
        self.train, self.val = build.source_loaders(args, runtime, self.warnings)
        self.model, self.init_sha256 = networks.source_network(
            args, self.train, self.execution, self.warnings
        )
        networks.refuse_too_many_prunes(self.model, args.rate, self.states.last + 1)
        self.init: dict[str, Tensor] = {}  # what every state is rewound to
        self.salvaged = salvage.find(args, runtime, self.warnings)
        if self.salvaged is not None and self.salvaged.state > 0:
            self.init = self.weights()
            networks.apply_ticket(self.model, self.salvaged.ticket, self.warnings)
        if args.mode == "adv":
            say(f"attack: {build.train_attack_config(args)}")
        if self.states.pretrain_epochs:
            say(f"learning rate in state 0: {self.schedule(0)}")
        say(f"learning rate in every state from 1 on: {self.schedule(1)}")
        self.training = build.training(
            args, runtime, self.execution, self.model, self.train, stop=stop, save=self.save
        )
        say(build.device_line(runtime, self.execution, self.train.batch_size))
        own_random_starts(runtime)
        self.evaluator = build.source_evaluator(args, runtime, self.training.watch)
        self.record = SearchRecord()

    # --- the algorithm ---

    def run(self) -> None:
        training, states = self.training, self.states
        if self.salvaged is not None:
            self.take_over(self.salvaged)
        with training.open_log(self.save_dir) as self.log:
            for epoch in range(training.epoch, states.total_epochs):
                self.record.state = states.of(epoch)
                if epoch == states.first_epoch(self.record.state) and training.step == 0:
                    self.begin(self.record.state)
                rate = self.learning_rate(epoch)
                trained = training.one_epoch(rate, self.label(epoch))
                say_for_scripts(str(rate(0)))
                self.finish_epoch(epoch, trained, self.validate())
            # Deviation: the mask after the last state is a ticket too, not thrown away; so is that
            # of a state that ends early, of which `check_states` warns.
            self.prune(states.last + 1)
        warn_of_skipped(self.warnings, self.train, self.val)
        on_main(lambda: imp_run.drop_at_the_end(self.save_dir, states.last, self.args.keep))
        say(f"done: {states.last + 2} tickets and {names.ACCURACY_PLOT} in {self.save_dir}")

    def begin(self, state: int) -> None:
        """Enter a state: its mask, the initial weights, a new optimizer."""
        if state == 0:
            say(f"state 0: dense training for {self.states.pretrain_epochs} epochs")
        elif self.salvaged is None or state > self.salvaged.state:
            self.prune(state)
        self.training.optimizer = build.optimizer(self.args, self.model, self.execution)
        self.record.best_acc1 = 0.0

    def prune(self, state: int) -> None:
        """Prune the trained weights, rewind everything else, write the ticket."""
        if state == 1:
            self.fix_initial_weights()
        pruning.prune_by_magnitude(self.model, self.args.rate)
        broadcast_from_main(pruning.masks(self.model).values())
        pruning.rewind(self.model, self.init)
        networks.warn_of_empty_layers(self.model, state, self.warnings)
        self.write_masks(state)

    def write_masks(self, state: int) -> None:
        """Say what is left, and write it as the state's ticket."""
        density = pruning.percent_left(self.model) / 100
        say(f"state {state}: density {100 * density:.2f} %")
        say(pruning.remain_line(self.model))
        self.write_ticket(state, density)

    def validate(self) -> Metrics:
        label = f"[state {self.record.state}] validation"
        return validate(self.evaluator, self.model, self.val, label)

    def finish_epoch(self, epoch: int, trained: Metrics, validated: Metrics) -> None:
        """Record what an epoch gave, and save."""
        record, total = self.record, self.states.total_epochs
        first = epoch == self.states.first_epoch(record.state)  # the best so far, even with 0 %
        is_best = first or validated.top1 > record.best_acc1
        if is_best:
            record.best_acc1 = validated.top1
        record.history.append([record.state, validated.top1])
        self.training.end_epoch()
        self.log.metrics(
            epoch,
            {
                "state": record.state,
                "density": self.density(record.state),
                "lr": self.training.optimizer.param_groups[0]["lr"],
                "train_loss": trained.loss,
                "train_acc": trained.top1,
                "val_loss": validated.loss,
                "val_sa": validated.top1,
                "val_top5": validated.top5,
            },
        )
        say(
            f"{self.label(epoch)}: train loss {trained.loss:.3f} acc {trained.top1:.2f} %, "
            f"val SA {validated.top1:.2f} % (best {record.best_acc1:.2f} %), "
            f"{self.log.pace(epoch + 1, total)}"
        )
        self.plot()
        self.save(is_best)

    # --- what the algorithm stands on ---

    def learning_rate(self, epoch: int) -> Callable[[int], float]:
        """The rate by step within an epoch."""
        schedule = self.schedule(self.record.state)
        within = epoch - self.states.first_epoch(self.record.state)
        return lambda step: schedule.at(within, step, self.training.steps)

    def schedule(self, state: int) -> Schedule:
        if state == 0:
            return Schedule("cosine", self.args.pretrain_lr, self.states.pretrain_epochs)
        return build.schedule(self.args, self.states.prune_epoch)

    def density(self, state: int) -> float:
        return (1 - self.args.rate) ** state

    def label(self, epoch: int) -> str:
        state = self.record.state
        return (
            f"[state {state}/{self.states.last}, density {100 * self.density(state):.2f} %] "
            f"epoch {epoch + 1}/{self.states.total_epochs}"
        )

    def plot(self) -> None:
        """Accuracy against density, one point per state: its best so far."""
        best = self.record.best_by_state()
        plot_curves(
            self.save_dir / names.ACCURACY_PLOT,
            [100 * self.density(state) for state in best],
            {"best validation SA": list(best.values())},
            "density (% of the convolution weights)",
            f"{self.args.arch}, {self.args.mode} IMP",
            log_x=True,
        )

    # --- files ---

    def contents(self) -> dict[str, str]:
        return folders.contents(self.args, (self.train, self.val), salvaged=self.salvaged)

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def fix_initial_weights(self) -> None:
        """Every state is rewound to the network as it is before the first prune."""
        self.init = self.weights()
        on_main(lambda: imp_run.save_initial_weights(self.save_dir, to_cpu(self.init)))
        self.remember_initial_weights()
        self.write_ticket(0, 1.0)

    def remember_initial_weights(self) -> None:
        sha256 = networks.initial_sha256(self.model, self.init)
        self.record.init = imp_run.origin_of(self.save_dir / names.INIT) | {WEIGHTS: sha256}

    def write_ticket(self, state: int, density: float) -> None:
        on_main(
            lambda: save_ticket(
                self.save_dir / names.ticket(state),
                pruning.masks(self.model),
                arch=self.args.arch,
                state=state,
                density=density,
                init_sha256=self.record.init["sha256"],
                weights_sha256=self.record.init.get(WEIGHTS, ""),
            )
        )

    def save(self, is_best: bool = False) -> None:
        """Write the state's checkpoint; every process takes part, rank 0 writes."""
        training = self.training.state()
        on_main(
            lambda: imp_run.save_state(
                self.save_dir,
                self.record,
                epoch=self.training.epoch,
                arch=self.args.arch,
                classes=self.train.classes,
                weights=to_cpu(self.model.state_dict()),
                training=training,
                is_best=is_best,
                keep=self.args.keep,
            )
        )

    def take_over(self, found: Salvaged) -> None:
        """Stand where the ticket's run began its state: weights and masks are there already."""
        epochs = salvage.first_epoch(self.args, found)
        say(f"{found.path}: going on with state {found.state}, after {epochs} epochs")
        on_main(lambda: found.copy_files(self.save_dir))
        if found.state > 0:
            if found.origin is None:
                on_main(lambda: imp_run.save_initial_weights(self.save_dir, to_cpu(self.init)))
            self.remember_initial_weights()
            self.write_masks(found.state)
        self.record.history = read_history(self.save_dir / names.METRICS, epochs)
        if lacking := epochs - len(self.record.history):
            self.warnings.add(
                f"{found.path}: the figures of {lacking} of the {epochs} epochs before it are not "
                f"known; the {names.METRICS} of its run has what it trained of them"
            )
        self.training.epoch = epochs
        salvage.draw_random_starts(self.args, self.training, epochs, self.warnings)

    def belongings(self) -> list[str]:
        tickets = [names.ticket(state) for state in range(self.record.state + 1)]
        return [names.INIT, names.METRICS, *tickets, names.imp_best(self.record.state)]

    def resume(self, path: Path) -> None:
        """Take up a checkpoint; the run goes on as if it had been left alone."""
        checkpoint = imp_run.load_newest(path, self.warnings.add)
        theirs = class_names_in(checkpoint)
        compare_classes(theirs, self.train, f"--resume {path}", self.warnings)
        weights, self.record.state = checkpoint["state_dict"], checkpoint["state_prune"]
        if self.record.state > 0:
            masks = pruning.masks_in(weights)
            check_density(f"--resume {path}", masks, self.record.state, self.args.rate)
            pruning.apply_masks(self.model, masks)
            networks.warn_of_empty_layers(self.model, self.record.state, self.warnings)
        self.model.load_state_dict(weights)
        self.execution.place(self.model)
        self.record = imp_run.read_record(checkpoint)
        imp_run.recall_best(self.save_dir, path.parent, self.record, checkpoint["epoch"])
        self.training.optimizer = build.optimizer(self.args, self.model, self.execution)
        self.training.restore(checkpoint, self.warnings.add)
        if self.record.state > 0:
            init = imp_run.load_initial_weights(path, self.record.init)
            device = self.execution.device
            self.init = {name: value.to(device) for name, value in init.items()}
        say(
            f"resumed {path}: state {self.record.state}, {checkpoint['epoch']} of "
            f"{self.states.total_epochs} epochs done"
        )


def work(runtime: Runtime, args: argparse.Namespace) -> None:
    """What every process of the run does."""
    build.set_up_process(args)
    folder = folders.search_folder(args)
    if args.evaluate:
        validate_file(
            networks.file_to_validate(args, folder),
            Warnings(args.notes),
            build.source_evaluator(args, runtime),
            build.data_spec(args),
            folder.path,
        )
    else:
        images = build.images_per_pass(args, runtime.processes_here)
        supervise(lambda stop: TicketSearch(args, runtime, stop), folder, images)


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_imp_parser(ARCHS)
    args = parser.parse_args(argv)
    settle.settle_pretrained(args)
    take_recorded(args, parser)
    for note in apply_recipe(args, "imp"):
        warn(note)
    settle.settle_micro_batch(args)
    salvage.name_initial_weights(args)
    if args.ticket == IMP and args.data is None and args.export_released is None:
        raise InputError("DATA is missing: the folder with train/CLASS/* and val/CLASS/*")
    if args.export_released is not None:
        save_dir, mode = Path(args.save_dir), recorded_mode(args, parser)
        theirs = mean_std("imagenet")
        path = imp_run.export_released(save_dir, args.export_released, mode, theirs, warn)
        say(f"wrote {path}")
    elif args.dry_run:
        say(plan_imp(args).shown(as_json=args.json))
    elif args.ticket != IMP:
        if is_main():  # of torchrun's processes one
            prune_without_training(args)
    else:
        if args.evaluate:
            check_writable(Path(args.save_dir) / names.EVALUATION, f"--save_dir {args.save_dir}")
        launch(work, args, build.launch_options(args))


if __name__ == "__main__":
    run_main(main)
