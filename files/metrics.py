"""`metrics.jsonl`, in which a run records a line an epoch: read whatever a kill has left there.

Starts without PyTorch, so that the report and the study can read it anywhere.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the figures of each epoch by their names, `epoch` among them, in the order of epochs.

    A line that is no epoch's, as a run cut off in mid-write leaves one, is passed over, and so is a
    figure that is no finite number. Of two lines of one epoch the later stands. Raises OSError
    where the file cannot be read.
    """
    epochs: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines():
        figures = _figures(line)
        if type(figures.get("epoch")) is int:
            epochs[figures["epoch"]] = figures
    return [epochs[epoch] for epoch in sorted(epochs)]


def _figures(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if _is_finite(value)}


def _is_finite(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # NaN and infinity fail this
