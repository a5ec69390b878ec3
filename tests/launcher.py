"""Starts two processes: of a script or module as a user would with torchrun, or of a function as a launcher does."""

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
FORK = multiprocessing.get_context("fork")
"""A fork has everything imported already: two seconds instead of twelve."""


def launch(*command: object) -> str:
    """What they print together; fails with the end of their errors if one of them fails."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([*LAUNCHER, *map(str, command)], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def launch_function(work: Callable[..., None], *arguments: object) -> None:
    """``work(*arguments)`` in two processes that find in their environment what a launcher leaves there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = [FORK.Process(target=_ranked, args=(rank, place, work, arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]


def _ranked(rank: int, place: dict[str, str], work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    os.environ |= {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    work(*arguments)
