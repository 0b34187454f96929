"""Which runs belong together: by what their files held, since names alone may lie.

Two runs are of one pre-training if they have the same network and their initial weights have the
same hash, and of one data set if their test splits have the same fingerprint. Results of earlier
versions have neither hash nor fingerprint: they count by their names, where these do not mean two
things. Of class folders the name says nothing: to readers they are what the folder of the data is
called.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from files.results import NO_INIT, UNNAMED, RunResult
from report.recipes import Recipes
from report.runs import natural_order

SHOWN = 8  # characters of a hash
FOLDER = "folder"  # the --dataset of images in a folder for each class
Settle = Callable[[Sequence[RunResult]], tuple[list[RunResult], list[str]]]


def group_runs(results: Iterable[RunResult], recipes: Recipes) -> tuple[list[RunResult], list[str]]:
    """Give every run the group that it belongs to, under a name that no other group has.

    `recipes` say where the data lay. Returns the runs in their order, and a line for each name or
    hash that means two things, and for what is unknown.
    """
    runs = list(results)
    notes = _unknown(runs)
    by_test_split = partial(_by_test_split, titles=_titles(runs, recipes))
    by_dataset: dict[str, list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        by_dataset[run.group.dataset].append(index)
    for same in by_dataset.values():
        _settle(runs, same, by_test_split, notes)
    by_place: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        by_place[run.group.place, run.group.test_split].append(index)
    for same in by_place.values():
        _settle(runs, same, _by_weights, notes)
    return runs, list(dict.fromkeys(notes))


def _settle(runs: list[RunResult], indices: list[int], by: Settle, notes: list[str]) -> None:
    settled, more = by([runs[index] for index in indices])
    notes += more
    for index, run in zip(indices, settled, strict=True):
        runs[index] = run


def _unknown(runs: Sequence[RunResult]) -> list[str]:
    old = [run for run in runs if None in (run.group.init_sha256, run.group.test_split)]
    if not old:
        return []
    return [
        f"{len(old)} of {len(runs)} results do not tell their initial weights or their test split "
        f"(an earlier version wrote them; the first is {old[0].path}): their names count alone"
    ]


def _in_group(run: RunResult, **changes: Any) -> RunResult:
    return dataclasses.replace(run, group=run.group._replace(**changes))


# --- test splits --------------------------------------------------------------------------------


def _titles(runs: Iterable[RunResult], recipes: Recipes) -> dict[str, str]:
    """What the test splits of class folders are called, by their fingerprints."""
    found: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        name = Path(str(recipes.get(run.path, {}).get("data") or "")).name
        if run.group.dataset == FOLDER and run.group.test_split and name.isprintable() and name:
            found[run.group.test_split].add(name)
    titles = {split: min(several, key=natural_order) for split, several in found.items()}
    used = Counter(titles.values())
    return {
        split: title if used[title] == 1 else f"{title}, {_split(split)}"
        for split, title in titles.items()
    }


def _by_test_split(
    runs: Sequence[RunResult], titles: Mapping[str, str]
) -> tuple[list[RunResult], list[str]]:
    """Settle the test splits of the runs on one data set."""
    known = sorted({run.group.test_split for run in runs if run.group.test_split is not None})
    if len(known) == 1:
        title = titles.get(known[0], "")
        return [_in_group(run, test_split=known[0], which_split=title) for run in runs], []
    if not known:
        return list(runs), []

    def told(split: str | None) -> str:
        return titles.get(split or "") or _split(split)

    apart = [_in_group(run, which_split=told(run.group.test_split)) for run in runs]
    there = ", ".join(sorted({run.group.which_split for run in apart}))
    dataset = runs[0].group.dataset
    return apart, [f"{dataset}: tested on images of different content, judged apart: {there}"]


def _split(fingerprint: str | None) -> str:
    return "test split unknown" if fingerprint is None else f"test split {_short(fingerprint)}"


# --- initial weights ----------------------------------------------------------------------------


def _by_weights(runs: Sequence[RunResult]) -> tuple[list[RunResult], list[str]]:
    """Settle the pre-trainings of the runs on one data set and share of its data."""
    tags: dict[str, set[str]] = defaultdict(set)  # by hash
    hashes: dict[str, set[str]] = defaultdict(set)  # by tag
    names: dict[str, set[str]] = defaultdict(set)  # of files, by hash
    for run in runs:
        tag, sha256 = run.group.pretraining, run.group.init_sha256
        if sha256 is not None and tag != UNNAMED:
            tags[sha256].add(tag)
            hashes[tag].add(sha256)
        elif sha256 is not None:
            names[sha256].add(run.init or sha256)

    def settled(run: RunResult) -> RunResult:
        tag, sha256 = run.group.pretraining, run.group.init_sha256
        if tag != UNNAMED and sha256 is None and len(hashes[tag]) == 1:
            return _in_group(run, init_sha256=next(iter(hashes[tag])))
        if tag == UNNAMED and sha256 is not None:
            known = tags[sha256] if len(tags[sha256]) == 1 else names[sha256]
            return _in_group(run, pretraining=min(known, key=natural_order))
        return run

    found = [settled(run) for run in runs]
    apart, notes = _told_apart(found)
    where = found[0].group.data
    for sha256, several in tags.items():
        if len(several) > 1 and sha256 != NO_INIT:
            listed = " and ".join(sorted(several, key=natural_order))
            notes.append(
                f"{where}: {listed} have the same initial weights ({_short(sha256)}), judged apart"
            )
    return apart, notes


def _told_apart(runs: Sequence[RunResult]) -> tuple[list[RunResult], list[str]]:
    """Add networks and weights to the names of pre-trainings that have several."""
    archs: dict[str, set[str]] = defaultdict(set)
    hashes: dict[str, set[str | None]] = defaultdict(set)
    for run in runs:
        archs[run.group.pretraining].add(run.arch)
        hashes[run.group.pretraining].add(run.group.init_sha256)

    def which(run: RunResult) -> str:
        arch = run.arch if len(archs[run.group.pretraining]) > 1 else ""
        several = len(hashes[run.group.pretraining]) > 1
        weights = _weights(run.group.init_sha256) if several else ""
        return " with ".join(filter(None, (arch, weights)))

    apart = [_in_group(run, which_weights=which(run)) for run in runs]
    notes = []
    for name in archs:
        what = [
            words
            for words, several in (("networks", archs[name]), ("initial weights", hashes[name]))
            if len(several) > 1
        ]
        if what:
            groups = {run.group.which_weights for run in apart if run.group.pretraining == name}
            notes.append(
                f"{runs[0].group.data}: {name} names runs from different {' and '.join(what)}, "
                f"judged apart: {'; '.join(sorted(groups))}"
            )
    return apart, notes


def _weights(sha256: str | None) -> str:
    if sha256 is None:
        return "weights unknown"
    return "random weights" if sha256 == NO_INIT else f"weights {_short(sha256)}"


def _short(sha256: str) -> str:
    return sha256[:SHOWN]
