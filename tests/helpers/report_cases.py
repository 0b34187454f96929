"""Hand-made runs for the tests of the report."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from files import names
from files.results import RunResult, parse_result


def result(sa: float = 90.0, ra: float = 40.0, **changes: Any) -> dict[str, Any]:
    """Make the contents of a `results.json`: an AT run unless `mode` says 'std'.

    The figures of the best-SA and of the last network differ from those that are judged.
    """
    mode = changes.get("mode", "adv")
    standard = {
        "sa_best": {"sa": sa, "ra": None},
        "ra_best": {"sa": None, "ra": None},
        "last": {"sa": max(sa - 7, 0), "ra": None},
    }
    adversarial = {
        "sa_best": {"sa": min(sa + 3, 100), "ra": max(ra - 5, 0)},
        "ra_best": {"sa": sa, "ra": ra},
        "last": {"sa": max(sa - 7, 0), "ra": max(ra - 7, 0)},
    }
    state = changes.get("state", 1)
    density = changes.get("density", 1.0 if state is None else 0.8**state)
    return {
        "pretraining": "adv",
        "ticket": "imp",
        "state": state,
        "density": density,
        "ticket_sha256": sha256((changes.get("ticket", "imp"), state, density)),
        "dataset": "cifar10",
        "mode": mode,
        "data_number": 1.0,
        "seed": 1,
        "arch": "resnet18",
        **(standard if mode == "std" else adversarial),
        **origin(changes.get("pretraining", "adv"), changes.get("dataset", "cifar10")),
        **changes,
    }


def origin(pretraining: object, dataset: object) -> dict[str, Any]:
    """Make what results say of where they come from: one file a pre-training, one split a set."""
    return {
        "init": f"{pretraining}.pt",
        "init_sha256": sha256(pretraining),
        "test_split": sha256(dataset),
        "class_names": ["cat", "dog"],
        "warnings": [],
    }


def sha256(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


FAILED_CHECK = [{"name": "more steps", "passed": False, "detail": "RA 40 % to 50 %"}]


def run(sa: float = 90.0, ra: float = 40.0, path: str | None = None, **changes: Any) -> RunResult:
    """Make a run as `read_runs` would give it; its path is unlike that of any other run."""
    data = result(sa, ra, **changes)
    words = (data[key] for key in ("pretraining", "dataset", "data_number", "ticket", "state"))
    name = "/".join(map(str, [*words, data["density"], data["mode"], data["seed"]]))
    return parse_result(data, Path(path or name) / names.RESULTS)


def ticket(state: int, st_sa: float, at_sa: float, at_ra: float, **changes: Any) -> list[RunResult]:
    """Make the ST and the AT run of one ticket and seed."""
    return [
        run(st_sa, mode="std", state=state, **changes),
        run(at_sa, at_ra, mode="adv", state=state, **changes),
    ]


def write_run(folder: Path, epochs: int = 0, **changes: Any) -> Path:
    """Write a run's `results.json`, with a curve of `epochs` points; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    data = result(**changes)
    (folder / names.RESULTS).write_text(json.dumps(data))
    if epochs:
        lines = [
            {"epoch": e, "seconds": 2.0 * e + 2, "val_sa": 50.0 + e, "val_ra": 20.0 + e}
            for e in range(epochs)
        ]
        (folder / names.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / names.RESULTS


def write_grid(root: Path, pretraining: str = "adv", **changes: Any) -> None:
    """Write a dense network and three tickets, of which state 2 is the sparsest double win."""
    figures = {0: (90, 80, 40), 1: (90, 80, 41), 2: (90.5, 79.8, 40), 3: (88, 80, 38)}
    for state, (st_sa, at_sa, at_ra) in figures.items():
        for mode, sa in (("std", st_sa), ("adv", at_sa)):
            write_run(
                root / f"{pretraining}-{state}-{mode}", epochs=4, sa=sa, ra=at_ra, mode=mode,
                state=state, pretraining=pretraining, command=["python", "main.py", "--x", "a b"],
                **changes,
            )  # fmt: skip
