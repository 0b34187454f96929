"""Every test runs at one thread unless it says otherwise, so that figures repeat to the bit."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# The longest files, the longest first: script/test.sh hands the files out in the order of their
# tests, and one of these at the end would keep one core busy when the others have nothing to do.
LONGEST = (
    "study", "interruptions", "distributed", "real_runs", "compile", "architectures", "models",
    "report_command", "image_outcomes",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def skip_figures(monkeypatch):
    """Leave empty files for a report's figures: drawing takes longer than all the rest of it."""

    def touch(_figure, stem, formats=()):
        kinds = ("png", "svg", *formats)
        paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
        for path in paths:
            path.touch()
        return paths

    monkeypatch.setattr("report.pictures.save_figure", touch)
