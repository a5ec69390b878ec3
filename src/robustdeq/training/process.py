"""This process: the most memory it has held, and whether somebody asked it to end."""

from __future__ import annotations

import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def memory_gib() -> float:
    """The most memory that was held so far: of the GPU by tensors, else by this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Inside, the first SIGINT or SIGTERM sets the event; a second one ends the process as usual."""
    asked, before = threading.Event(), {}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        asked.set()
        put_back()

    if threading.current_thread() is threading.main_thread():  # no other one may set a handler
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        put_back()
