"""The evidence beside the rule: which outcomes are compared with which, and what they say."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from errors import InputError
from files import names
from files.outcomes import CLEAN, PGD, RESTARTS, BoolArray, Outcomes, read_outcomes
from files.results import RunResult
from report.evidence import (
    ROUNDING,
    Compared,
    Difference,
    chance_of_images,
    contrast,
    contrast_of_accuracies,
    difference_of_accuracies,
    double_win_evidence,
    judge,
    paired_difference,
)
from report.judged import (
    MEASURES,
    WORST_FIRST,
    Contrast,
    GroupVerdict,
    Measure,
    TicketRow,
    compared_seeds,
)
from report.recipes import Recipes, recipes_apart, rows_apart


class Tested(NamedTuple):
    """The images of a test split that a network got right; `attack` in words, "" on clean ones."""

    split: str
    attack: str
    bits: BoolArray


class Beside(NamedTuple):
    """Two pre-trainings that are contrasted, and their tickets of each state."""

    a: GroupVerdict
    b: GroupVerdict
    rows: Mapping[int, tuple[TicketRow, TicketRow]]


AllTested = Mapping[Path, Mapping[str, Tested]]  # by the path of results.json and the measure


# --- reading --------------------------------------------------------------------------------------


class OfAnotherTest(Exception):
    """Outcomes that contradict the results beside them; the text says how."""


def read_tested(
    results: Iterable[RunResult],
) -> tuple[list[RunResult], dict[Path, dict[str, Tested]], list[str]]:
    """Read the outcomes that lie beside results, as far as they are judged.

    A file that is damaged is a line, and its run counts as one without. Where the two contradict
    each other, which of them is the run's is not known: a line, and the run is left out. Returns
    the other runs, their outcomes and the lines.
    """
    kept, found, problems = [], {}, []
    for run in results:
        path = run.path.with_name(names.OUTCOMES)
        try:
            if path.exists():
                found[run.path] = _tested(run, read_outcomes(path))
        except InputError as error:
            problems.append(f"{error}; the run counts as one without outcomes")
        except OfAnotherTest as error:
            problems.append(
                f"{run.path} is left out: {path.name} beside it {error}; one of the two is of "
                "another test: restore it, or delete the folder and run it again"
            )
            continue
        kept.append(run)
    return kept, found, problems


def _tested(run: RunResult, outcomes: Outcomes) -> dict[str, Tested]:
    if outcomes.seed != run.seed:
        raise OfAnotherTest(f"is of seed {outcomes.seed}, not {run.seed}")
    if run.group.test_split not in (None, outcomes.split):
        raise OfAnotherTest("is of another test split")
    said = {
        "mode": run.mode,
        "ticket_sha256": run.ticket_sha256,
        "init_sha256": run.group.init_sha256,
    }
    for key, told in outcomes.run.items():
        if said.get(key) not in (None, told):
            raise OfAnotherTest(f"is of a run of {key} {told}, not {said[key]}")
    found = {}
    for measure in MEASURES:
        value = measure.value(run)
        if measure.mode != run.mode or value is None:
            continue
        for kind in (RESTARTS, PGD) if measure.attacked else (CLEAN,):
            own = outcomes.accuracy(measure.network, kind)
            if own is None:
                continue
            if abs(own - value) > ROUNDING:
                raise OfAnotherTest(f"has {measure.title} of {own:.4f} %, not {value:.4f} %")
            bits = outcomes.bits[measure.network, kind]
            attack = outcomes.attacks.get(kind, "") if measure.attacked else ""
            if attack and run.attack not in (None, attack):
                raise OfAnotherTest(f"has RA by {attack}, not by {run.attack}")
            found[measure.name] = Tested(outcomes.split, attack, bits)
            break
    return found


# --- comparing ------------------------------------------------------------------------------------


class _Side(NamedTuple):
    """One ticket's runs on one measure: `{seed: percent}`, and the outcomes of those with any."""

    accuracies: Mapping[int, float]
    tested: Mapping[int, Tested]

    def of(self, seeds: Collection[int]) -> _Side:
        """The runs of these seeds alone."""
        return _Side(
            {seed: value for seed, value in self.accuracies.items() if seed in seeds},
            {seed: tested for seed, tested in self.tested.items() if seed in seeds},
        )

    @property
    def bits(self) -> dict[int, BoolArray]:
        return {seed: tested.bits for seed, tested in self.tested.items()}


def _side(row: TicketRow | None, measure: Measure, tested: AllTested) -> _Side:
    accuracies, outcomes = {}, {}
    for run in row.runs if row else ():
        value = measure.value(run)
        if run.mode == measure.mode and value is not None:
            accuracies[run.seed] = value
            if measure.name in tested.get(run.path, {}):
                outcomes[run.seed] = tested[run.path][measure.name]
    return _Side(accuracies, outcomes)


def _partners(
    dense: TicketRow | None, row: TicketRow, measure: Measure, tested: AllTested
) -> tuple[_Side, _Side]:
    """The dense network and a ticket, over the seeds by which they are compared."""
    one, other = _side(dense, measure, tested), _side(row, measure, tested)
    seeds, others = compared_seeds(one.accuracies, other.accuracies)
    return one.of(seeds), other.of(others)


def _same_images(sides: Sequence[_Side]) -> bool:
    """Whether all runs have outcomes, on the same images."""
    if any(side.accuracies.keys() != side.tested.keys() for side in sides):
        return False
    return len(_images(sides)) == 1


def _images(sides: Iterable[_Side]) -> set[tuple[str, int]]:
    """The sets of test images on which runs were tested, as far as outcomes tell."""
    return {(t.split, len(t.bits)) for side in sides for t in side.tested.values()}


def compare(
    dense: TicketRow | None,
    ticket: TicketRow,
    measure: Measure,
    tested: AllTested,
    recipes: Recipes,
) -> Difference | None:
    """A ticket's difference to the dense network; from seeds alone if a run lacks outcomes."""
    if dense is None:
        return None
    sides = _partners(dense, ticket, measure, tested)
    if _same_images(sides):
        found = paired_difference(*(side.bits for side in sides))
    else:
        found = difference_of_accuracies(*(side.accuracies for side in sides))
    rows = dense, ticket
    if found and (
        rows_apart(rows, measure.mode, recipes)
        or len(_attacks(rows, measure, tested)) > 1
        or len(_images(sides)) > 1
    ):
        return dataclasses.replace(found, kind="unlike")
    return found


def _chance(row: TicketRow, measure: Measure, tested: AllTested) -> float | None:
    side = _side(row, measure, tested)
    return chance_of_images(side.bits) if _same_images([side]) else None


def weigh(
    group: GroupVerdict,
    tested: AllTested,
    recipes: Recipes,
    evidence_margin: float | None = None,
) -> GroupVerdict:
    """Add the evidence to a group that the rule has judged; without a margin, by its tolerance.

    What the evidence cannot compare, as it was trained or tested otherwise, the rule cannot
    either: it is open.
    """
    margins = {
        measure.name: group.tolerance[measure.name] if evidence_margin is None else evidence_margin
        for measure in MEASURES
    }

    def weighed(row: TicketRow) -> TicketRow:
        chance = {measure.name: _chance(row, measure, tested) for measure in MEASURES}
        if row is group.dense:
            return dataclasses.replace(row, chance=chance)
        found = {m.name: compare(group.dense, row, m, tested, recipes) for m in MEASURES}
        row = dataclasses.replace(row, differences=found)
        return dataclasses.replace(
            row,
            wins=row.wins | {measure.name: None for measure in row.unlike},
            chance=chance,
            evidence={name: judge(found[name], margins[name]) for name in margins},
            double_win_evidence=double_win_evidence(found, margins),
        )

    return dataclasses.replace(
        group,
        dense=group.dense and weighed(group.dense),
        rows=tuple(map(weighed, group.rows)),
        margins=margins,
        evidence_margin=evidence_margin,
    )


def comparable(groups: Sequence[GroupVerdict], recipes: Recipes) -> tuple[list[Beside], list[str]]:
    """Find the pre-trainings that may be contrasted: the same test split, network and recipe.

    Only those states are contrasted that both have at one density, and of which each has one
    ticket; but one figure shows any two of the same data, so what differs between these is told
    even if they share no state. Returns the pairs, and a line for whatever is left out.
    """
    pairs, lines = [], []
    for a, b in itertools.combinations(groups, 2):
        if a.group.place != b.group.place or a.group.test_split != b.group.test_split:
            continue
        where = f"{a.group} and {b.group.name}"
        if apart := recipes_apart(a, b, recipes):
            lines.append(f"{where}: not contrasted, as they differ: {'; '.join(apart)}")
            continue
        rows_a, rows_b = (
            {row.state: row for row in group.found if not row.which and row.state is not None}
            for group in (a, b)
        )
        states = [state for state in rows_a if state in rows_b]
        same = [state for state in states if _same_density(rows_a[state], rows_b[state])]
        lines += [
            f"{where}: {rows_a[state].name} is not contrasted: its density is "
            f"{rows_a[state].density:.4g} and {rows_b[state].density:.4g}"
            for state in states
            if state not in same
        ]
        pairs.append(Beside(a, b, {state: (rows_a[state], rows_b[state]) for state in same}))
    return pairs, lines


def _same_density(one: TicketRow, other: TicketRow) -> bool:
    return math.isclose(one.density, other.density, rel_tol=0.005)  # counts may round it


def contrasts(pairs: Iterable[Beside], tested: AllTested) -> tuple[Contrast, ...]:
    """Compare what IMP's tickets of each two pre-trainings lack."""
    return tuple(contrast for pair in pairs for contrast in _contrasts_of(pair, tested))


def _attacks(rows: Iterable[TicketRow], measure: Measure, tested: AllTested) -> list[str]:
    """The attacks by which these rows were measured, as far as outcomes or results tell."""
    found = set()
    for run in (run for row in rows for run in row.runs if run.mode == measure.mode):
        outcomes = tested.get(run.path, {}).get(measure.name)
        attack = outcomes.attack if outcomes else run.attack
        if measure.attacked and attack is not None:
            found.add(attack)
    return sorted(found)


def _contrasts_of(beside: Beside, tested: AllTested) -> Iterator[Contrast]:
    a, b = beside.a, beside.b
    for (state, rows), measure in itertools.product(beside.rows.items(), MEASURES):
        if len(_attacks(a.all_rows + b.all_rows, measure, tested)) > 1:
            continue
        pairs = [
            _partners(group.dense, row, measure, tested)
            for group, row in zip((a, b), rows, strict=True)
        ]
        sides = [side for pair in pairs for side in pair]
        if len(_images(sides)) > 1:
            continue
        if _same_images(sides):
            found = contrast(*(Compared(dense.bits, own.bits) for dense, own in pairs))
        else:
            found = contrast_of_accuracies(
                *(Compared(dense.accuracies, own.accuracies) for dense, own in pairs)
            )
        if found is not None:
            look = min(a.look_at(rows[0]), b.look_at(rows[1]), key=WORST_FIRST.index)
            yield Contrast(a.group, b.group, state, measure.name, found, look)


def without_outcomes(
    groups: Sequence[GroupVerdict], beside: Sequence[Beside], tested: AllTested
) -> list[str]:
    """Name what the evidence had to do without, and tests that differ: a line each."""
    lines = []
    for group, measure in itertools.product(groups, MEASURES):
        sides = [_side(row, measure, tested) for row in group.all_rows]
        runs = sum(len(side.accuracies) for side in sides)
        having = sum(len(side.tested) for side in sides)
        where = f"{group.group}: {measure.title}"
        if 0 < having < runs:
            lines.append(
                f"{where}: {runs - having} of {runs} runs have no usable outcomes; intervals "
                "that need them are from seeds alone, and decide nothing"
            )
        if len(_images(sides)) > 1:
            lines.append(f"{where}: tested on different images, which are not compared")
        attacks = _attacks(group.all_rows, measure, tested)
        if len(attacks) > 1:
            lines.append(f"{where}: measured by different attacks: {'; '.join(attacks)}")
    for pair, measure in itertools.product(beside, MEASURES):
        attacks = _attacks(pair.a.all_rows + pair.b.all_rows, measure, tested)
        if len(attacks) > 1:
            lines.append(
                f"{pair.a.group} and {pair.b.group.name}: {measure.title}: measured by different "
                f"attacks, so they are not contrasted: {'; '.join(attacks)}"
            )
        a, b = (
            _images(_side(row, measure, tested) for row in group.all_rows)
            for group in (pair.a, pair.b)
        )
        if a and b and a != b:
            lines.append(
                f"{pair.a.group} and {pair.b.group.name}: {measure.title}: tested on different "
                "images, so they are not contrasted"
            )
    return lines
