"""The setting of the runs that are shown side by side: network, data, attacks, versions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from files.outcomes import NORM
from files.results import RunResult
from report.judged import Setting
from report.recipes import Recipes, flag_text
from report.weighing import AllTested, Tested

ATTACK, TRAINING_ATTACK = "attack", "training_attack"
WORDS = {
    "network": "network", "input_size": "side of the input in pixels", "classes": "classes",
    "test_images": "test images", "test_split": "fingerprint of the test images",
    "training_data": "training data", "st_epochs": "epochs of ST", "at_epochs": "epochs of AT",
    ATTACK: "RA by", TRAINING_ATTACK: "AT by", "code": "version of the code",
    "packages": "packages",
}  # fmt: skip


def settings(runs: Iterable[RunResult], recipes: Recipes, tested: AllTested) -> tuple[Setting, ...]:
    """Collect what is known of the setting of each data set and share of it."""
    places: dict[tuple[str, float], dict[str, dict[Any, None]]] = {}
    for run in runs:
        told = places.setdefault(run.group.place, {name: {} for name in WORDS})
        of_tests = tested.get(run.path, {})
        for name, value in _told(run, recipes.get(run.path, {}), of_tests):
            if _is_told(value):
                told[name][value] = None
    return tuple(
        Setting(place, {name: tuple(values) for name, values in told.items()})
        for place, told in places.items()
    )


def _is_told(value: Any) -> bool:
    """Whether it can be told of a setting; a foreign file holds anything."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int) and value != ""


def _told(
    run: RunResult, flags: Mapping[str, Any], tested: Mapping[str, Tested]
) -> Iterator[tuple[str, Any]]:
    yield "network", run.arch
    yield "input_size", flags.get("input_size")
    names = flags.get("class_names")
    yield "classes", len(names) if isinstance(names, list) else None
    for one in tested.values():
        yield "test_images", len(one.bits)
    yield "test_split", run.group.test_split
    yield "training_data", flags.get("data_content")
    yield "at_epochs" if run.mode == "adv" else "st_epochs", flags.get("epochs")
    if run.mode == "adv":
        of_outcomes = tested["at_ra"].attack if "at_ra" in tested else None
        yield ATTACK, of_outcomes or run.attack or _pgd(flags, "test")
        yield TRAINING_ATTACK, _pgd(flags, "train")
    yield "code", flags.get("code")
    packages = flags.get("packages")
    if isinstance(packages, dict):
        installed = {name: version for name, version in packages.items() if version}
        yield "packages", ", ".join(f"{name} {version}" for name, version in installed.items())


def _pgd(flags: Mapping[str, Any], when: str) -> str | None:
    """An attack in the words in which outcomes name it; None where it is not recorded."""
    told = {key: flags.get(f"{when}_{key}") for key in ("step", "eps", "gamma", "randinit")}
    if told["step"] is None or told["eps"] is None:
        return None
    words = [f"{NORM} PGD-{told['step']}", f"eps {flag_text(f'{when}_eps', told['eps'])}"]
    if told["gamma"] is not None:
        words.append(f"step size {flag_text(f'{when}_gamma', told['gamma'])}")
    if told["randinit"] is not None:
        words.append("random start" if told["randinit"] else "no random start")
    return ", ".join(words)


def setting_lines(setting: Setting) -> list[str]:
    """Lay a setting out, a line for each thing that is known of it; runs that differ have several.

    Where two runs of one place differ, a warning tells which.
    """
    lines = []
    for name, word in WORDS.items():
        values = setting.told.get(name, ())
        shown = [f"{value:,}" if isinstance(value, int) else str(value) for value in values]
        if shown:
            differ = " (differ)" if len(shown) > 1 else ""
            lines.append(f"{word}{differ}: {'; '.join(shown)}")
    return lines


def attack_of(setting: Setting | None) -> str:
    """The attack by which RA was measured, for the title of a panel; "" where it is unknown."""
    attacks = setting.told.get(ATTACK, ()) if setting else ()
    if len(attacks) > 1:
        return "attacks differ"
    parts = attacks[0].split(", ") if attacks else []
    return ", ".join(part for part in parts if not part.endswith("start") and "step" not in part)
