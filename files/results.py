"""`results.json`, which a transfer writes last: what was transferred, and how accurate it became.

Starts without PyTorch, so that the report and the study can read results anywhere.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from files import names
from files.atomic import write_json

IMP, RANDOM = "imp", "random"
UNTRAINED = ("omp", RANDOM)  # tickets that are found from initial weights without training
FOUND = (IMP, *UNTRAINED)  # how a ticket's masks were found
REINIT = "reinit"  # a ticket of IMP over random weights
TICKETS = (*FOUND, REINIT)
DENSE = "dense"  # the reader's name for a ticket of density 1, the network to match
REGIMES = {"std": "ST", "adv": "AT"}  # each mode, and the paper's name for it
MODES = tuple(REGIMES)
NETWORKS = ("ra_best", "sa_best", "last")  # best by validation RA, best by validation SA, last
NO_INIT = "no --init"  # the reader's hash of weights that were drawn at random
UNNAMED = "unnamed"  # the pre-training of a run without --tag
REQUIRED = (
    "pretraining", "ticket", "state", "density", "ticket_sha256", "dataset", "mode", "data_number",
    "seed", "arch", *NETWORKS,
)  # fmt: skip


class Accuracy(NamedTuple):
    """The test accuracies of one network in percent; None where it was not measured."""

    sa: float | None
    ra: float | None


UNMEASURED = Accuracy(None, None)


class Group(NamedTuple):
    """The runs that one verdict compares: one pre-training, network, data set and share of it.

    init_sha256: the hash of the initial weights; NO_INIT for random ones, None where it is unknown.
    test_split: the fingerprint of the test split; None where it is unknown. The last two are what
    tells the group from others of the same name; "" where that is not needed.
    """

    pretraining: str
    dataset: str
    data_number: float
    init_sha256: str | None = None
    test_split: str | None = None
    which_weights: str = ""
    which_split: str = ""

    @property
    def name(self) -> str:
        """The pre-training, which no other group of the same data has."""
        which = f" ({self.which_weights})" if self.which_weights else ""
        return self.pretraining + which

    @property
    def data(self) -> str:
        """The data set, which no other test split has."""
        return f"{self.dataset} ({self.which_split})" if self.which_split else self.dataset

    @property
    def place(self) -> tuple[str, float]:
        """What groups that are shown side by side share: the data, and the share of it."""
        return self.data, self.data_number

    def __str__(self) -> str:
        return f"{self.name}, {self.data}, {100 * self.data_number:g} % of the data"

    def columns(self) -> dict[str, Any]:
        """The group's columns in tables, but for the two hashes."""
        return {key: getattr(self, key) for key in ("pretraining", "dataset", "data_number")}

    def further_columns(self) -> dict[str, str | None]:
        """What tells the group from others, and what texts call its data."""
        return {"init_sha256": self.init_sha256, "test_split": self.test_split, "data": self.data}


@dataclass(frozen=True)
class RunResult:
    """One `results.json` as read.

    ticket: 'dense' at density 1, whatever ticket gave it, but for 'reinit'. init: what the file of
    the initial weights is called; None where that is unknown. attack: what RA was measured by, in
    words; None where that is unknown.
    """

    path: Path
    group: Group
    ticket: str
    state: int | None
    density: float
    mode: str
    seed: int
    arch: str
    ticket_sha256: str | None
    sa_best: Accuracy
    ra_best: Accuracy
    last: Accuracy
    command: str | None = None
    warnings: tuple[str, ...] = ()
    init: str | None = None
    attack: str | None = None


# --- writing ------------------------------------------------------------------------------------


def build_results(
    *,
    pretraining: str | None,
    ticket: str,
    state: int,
    density: float,
    ticket_sha256: str | None,
    dataset: str,
    mode: str,
    data_number: float,
    seed: int,
    arch: str,
    scores: Mapping[str, Accuracy],
    attack: str | None,
    further: Mapping[str, Any],
    init: str | None,
    init_sha256: str | None,
    test_split: str,
    class_names: Sequence[str],
    warnings: Sequence[str],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Build the contents of `results.json`, in the order in which they are written.

    Args:
        pretraining: the run's tag; None or "" is written as "unnamed".
        ticket: one of TICKETS; IMP for the dense network, whose `state` is 0.
        density: the fraction of the convolution weights that is left.
        ticket_sha256: the hash of the ticket's file; None without a file.
        data_number: the fraction of the training data that was used.
        scores: test accuracies in percent of each of NETWORKS; one that is absent was not kept.
        attack: what RA was measured by, in words; None where it was not measured.
        further: the results of the tests beyond SA and RA, by their keys.
        init: what the file of the initial weights is called (`name_of_init`); None for random ones.
        init_sha256: the hash of those weights, `files.fingerprints.weights_sha256` without the
            classifier and the normalisation, whether --reinit used them or not.
        test_split: the fingerprint of the test images, their labels and class names.
        class_names: in the order of the network's outputs.
        warnings: what the run went on past, a line each.
        provenance: the command, the code's version, the packages and the hardware.
    """
    return {
        "pretraining": pretraining or UNNAMED,
        "ticket": ticket,
        "state": state,
        "density": density,
        "ticket_sha256": ticket_sha256,
        "dataset": dataset,
        "mode": mode,
        "data_number": data_number,
        "seed": seed,
        "arch": arch,
        **{network: scores.get(network, UNMEASURED)._asdict() for network in NETWORKS},
        "attack": attack,
        "init": init,
        "init_sha256": init_sha256,
        "test_split": test_split,
        "class_names": list(class_names),
        "warnings": list(warnings),
        **further,
        **provenance,
    }


def name_of_init(path: str | None) -> str | None:
    """Return what to call initial weights: their file, or its folder if all are called so."""
    if path is None:
        return None
    file = Path(path)
    name = file.resolve().parent.name if file.name == names.INIT else file.name
    return "".join(char if char.isprintable() else "?" for char in name)


def write_results(save_dir: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Write what `build_results` gave into a run's folder, whole or not at all.

    The file's presence says that the run is done. Raises RunFailed for a full disk and the like.
    """
    write_json(Path(save_dir) / names.RESULTS, dict(results))


# --- reading ------------------------------------------------------------------------------------


def read_results(path: str | os.PathLike[str]) -> RunResult:
    """Read one `results.json`.

    Raises ValueError with the reason on one line where the file is unreadable or wrong. The reason
    does not name the path, which the caller puts into its own sentence.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for ever
            raise ValueError("it is no file")
        return parse_result(json.loads(path.read_text(encoding="utf-8")), path)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def parse_result(data: Any, path: Path) -> RunResult:
    """Parse the contents of a `results.json`; `path` is only recorded.

    Raises ValueError where the contents are wrong.
    """
    if not isinstance(data, dict):
        raise ValueError(f"expected an object of results, found {type(data).__name__}")
    absent = [key for key in REQUIRED if key not in data]
    if absent:
        raise ValueError(f"it lacks {', '.join(absent)}")
    density = _number(data, "density", 1.0)
    fraction = _number(data, "data_number", 1.0)
    if density <= 0 or fraction <= 0:
        raise ValueError("density and data_number must be above 0")
    dense = density > 1 - 1e-9
    if not dense and data["ticket"] not in TICKETS:
        raise ValueError(f"ticket is {data['ticket']!r}, not one of {', '.join(TICKETS)}")
    if data["mode"] not in MODES:
        raise ValueError(f"mode is {data['mode']!r}, not adv or std")
    sa_best = _accuracy(data, "sa_best")
    if sa_best.sa is None:
        raise ValueError("sa_best.sa is null")
    return RunResult(
        path=path,
        group=Group(
            _text(data, "pretraining"),
            _text(data, "dataset"),
            float(f"{fraction:g}"),  # as a study's plan and its runs' folders tell shares apart
            _init_sha256(data),
            _optional_text(data, "test_split"),
        ),
        ticket=DENSE if dense and data["ticket"] != REINIT else data["ticket"],
        state=0 if dense else _whole(data, "state", optional=True),
        density=1.0 if dense else density,
        mode=data["mode"],
        seed=_whole(data, "seed") or 0,
        arch=_text(data, "arch"),
        ticket_sha256=_optional_text(data, "ticket_sha256"),
        sa_best=sa_best,
        ra_best=_accuracy(data, "ra_best"),
        last=_accuracy(data, "last"),
        command=_command(data.get("command")),
        warnings=(*_lines(data, "warnings"), *_masking_warnings(data.get("masking_checks"))),
        init=_optional_text(data, "init"),
        attack=_optional_text(data, "attack"),
    )


def _init_sha256(data: Mapping[str, Any]) -> str | None:
    """Read the hash of the initial weights; a run that re-initialised any may not have had them."""
    known = "init_sha256" in data and not (data["init_sha256"] is None and data["ticket"] == REINIT)
    return (_optional_text(data, "init_sha256") or NO_INIT) if known else None


def _lines(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Read a list of lines; a file of an earlier version has none."""
    lines = data.get(key) or []
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError(f"{key} is {lines!r}, not a list of lines")
    return tuple(" ".join(line.split()) for line in lines)


def _masking_warnings(checks: Any) -> tuple[str, ...]:
    """Say in a line each which gradient-masking checks of `--check_masking` failed."""
    return tuple(
        f"gradients may be masked: {check.get('name')} failed ({check.get('detail')})"
        for check in (checks if isinstance(checks, list) else ())
        if isinstance(check, dict) and check.get("passed") is False
    )


def _number(data: Mapping[str, Any], key: str, most: float) -> float:
    value = data[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise ValueError(f"{key} is {value!r}, not a number from 0 to {most:g}")
    return float(value)


def _accuracy(data: Mapping[str, Any], key: str) -> Accuracy:
    pair = data[key]
    if pair is None:
        return UNMEASURED
    if not isinstance(pair, dict) or not set(Accuracy._fields) <= pair.keys():
        raise ValueError(f"{key} is {pair!r}, not {{sa, ra}}")
    values = {f"{key}.{name}": pair[name] for name in Accuracy._fields}
    return Accuracy(*(None if values[k] is None else _number(values, k, 100.0) for k in values))


def _whole(data: Mapping[str, Any], key: str, optional: bool = False) -> int | None:
    value = data[key]
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{key} is {value!r}, not a whole number from 0")
    return value


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"{key} is {value!r}, not a printable name")
    return value


def _optional_text(data: Mapping[str, Any], key: str) -> str | None:
    return None if data.get(key) is None else _text(data, key)


def _command(value: Any) -> str | None:
    """Return what to type to repeat a run, None where the run did not record it."""
    if isinstance(value, list) and value:
        return shlex.join(map(str, value))
    return value if isinstance(value, str) and value.strip() else None
