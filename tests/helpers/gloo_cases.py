"""How a test has two processes of this machine work together."""

from __future__ import annotations

import functools
import socket

import pytest
import torch.multiprocessing as mp

from engine.launching import Launch

WORLD = 2


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def two_gloo_processes() -> Launch:
    return Launch("cpu", spawn=True, dist_url=f"tcp://127.0.0.1:{free_port()}", nproc=WORLD)


# A spawned rank imports PyTorch anew, for seconds, and that is the only difference to a forked one
# on the CPU. The real way to start stays in test_interruptions.py (a rank killed), and in
# test_distributed.py (a rank's wrong input, a long download).
def fork_ranks(patch: pytest.MonkeyPatch | None = None) -> None:
    """Let a run fork its ranks: until the patch is undone, or for the rest of this process."""
    forked = functools.partial(mp.start_processes, start_method="fork")
    (patch or pytest.MonkeyPatch()).setattr(mp, "spawn", forked)
