"""`outcomes.safetensors`, which a test writes: the images that each network classified correctly.

One bit per test image, in the order of the split, for every network and measure. Starts without
PyTorch, so that the report can read outcomes anywhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from errors import InputError, first_line
from files.sealed import HASH, hash_of, header_of, write_sealed

FORMAT = "double-win-outcomes-1"
CLEAN, PGD, RESTARTS, AUTOATTACK = MEASURES = ("clean", "pgd", "restarts", "autoattack")
NORM = "Linf"  # begins every attack in words; earlier versions left it unsaid

AnyPath = str | os.PathLike[str]
BoolArray = NDArray[np.bool_]
Key = tuple[str, str]  # network and measure


@dataclass(frozen=True)
class Outcomes:
    """What one test found, image by image.

    split: the fingerprint of the test images' content and order; outcomes are compared only where
    it is equal. images: how many images the split has. seed: the run's. attacks: each attacked
    measure in words. bits: `{(network, measure): (n,) bool}`, True where the image was classified
    correctly; n is `images`, or less where only n images of the split were tested, chosen by their
    number and the labels alone. run: what `results.json` says of the run under the same keys, as
    far as it tells runs apart; earlier versions did not write it.

    Raises ValueError where these do not fit together.
    """

    split: str
    images: int
    seed: int
    attacks: Mapping[str, str]
    bits: Mapping[Key, BoolArray]
    run: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for (network, measure), bits in self.bits.items():
            if not network or "." in network or measure not in MEASURES:
                raise ValueError(f"no network and measure of outcomes: {network!r}, {measure!r}")
            if bits.dtype != np.bool_ or bits.ndim != 1 or not 0 < len(bits) <= self.images:
                raise ValueError(
                    f"{network}, {measure}: {bits.dtype} {bits.shape} for {self.images} images"
                )
        attacked = {measure for _, measure in self.bits} - {"clean"}
        if attacked - self.attacks.keys():
            raise ValueError(f"no attack is named for {', '.join(sorted(attacked))}")

    def accuracy(self, network: str, measure: str) -> float | None:
        """The percentage of the tested images that are correct; None where none was tested."""
        bits = self.bits.get((network, measure))
        return None if bits is None else 100 * int(np.count_nonzero(bits)) / len(bits)


def save_outcomes(path: AnyPath, outcomes: Outcomes) -> None:
    """Write outcomes, all of them or nothing; equal outcomes give equal bytes.

    Raises RunFailed when the disk is full or the place cannot be written.
    """
    named = {f"{network}.{measure}": bits for (network, measure), bits in outcomes.bits.items()}
    packed = {name: np.packbits(named[name]).tobytes() for name in sorted(named)}
    header = {
        "format": FORMAT,
        "split": outcomes.split,
        "images": str(outcomes.images),
        "seed": str(outcomes.seed),
        "attacks": json.dumps(dict(sorted(outcomes.attacks.items()))),
        "tested": json.dumps({name: len(named[name]) for name in packed}),
        **({"run": json.dumps(dict(sorted(outcomes.run.items())))} if outcomes.run else {}),
    }
    write_sealed(path, packed, header)


def read_outcomes(path: AnyPath) -> Outcomes:
    """Read outcomes.

    Raises InputError where the file is missing, damaged, or not one of outcomes.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); outcomes expected") from error
    try:
        arrays, about = load(content), header_of(content)
    except Exception as error:  # a torn or hostile file fails in many ways
        raise InputError(f"{path}: damaged, or no outcomes at all ({first_line(error)})") from error
    if about.get("format") != FORMAT:
        raise InputError(f"{path}: not a file of outcomes; a test of this program writes one")
    packed = ((name, arrays[name].tobytes()) for name in sorted(arrays))
    if about.get(HASH) != hash_of(about, packed):
        raise InputError(f"{path}: damaged, it does not match its checksum")
    try:
        return _outcomes(about, arrays)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not outcomes of this program ({error})") from error


def _outcomes(about: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> Outcomes:
    tested = json.loads(about["tested"])
    bits = {}
    for name, array in arrays.items():
        network, _, measure = name.partition(".")
        count = tested[name]
        if type(count) is not int or array.dtype != np.uint8 or len(array) != (count + 7) // 8:
            raise ValueError(f"{name} does not hold {count} bits")
        bits[network, measure] = np.unpackbits(array, count=count).astype(bool)
    said = json.loads(about["attacks"])
    attacks = {str(measure): _named(str(attack)) for measure, attack in said.items()}
    run = {str(key): str(value) for key, value in json.loads(about.get("run", "{}")).items()}
    return Outcomes(about["split"], int(about["images"]), int(about["seed"]), attacks, bits, run)


def _named(attack: str) -> str:
    """An attack in words, by which the report compares runs: with its norm."""
    return attack if attack.startswith(NORM) else f"{NORM} {attack}"
