"""How a test has two processes of this machine work together."""

from __future__ import annotations

import socket

from engine.distributed import Launch

WORLD = 2


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def two_gloo_processes() -> Launch:
    return Launch("cpu", spawn=True, dist_url=f"tcp://127.0.0.1:{free_port()}", nproc=WORLD)
