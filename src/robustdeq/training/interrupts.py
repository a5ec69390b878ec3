"""What a training does when it is asked to end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Inside, the first SIGINT or SIGTERM sets the event; a second one ends the process as usual.

    In a process of a pool, as a row of ``reproduce`` has, what is ignored already stays so: a terminal's SIGINT, which
    the parent passes on. And a second SIGTERM waits for the end of this: a pool that is closed sends it to all, those
    that save among them.
    """
    asked, before, late = threading.Event(), {}, threading.Event()
    child = multiprocessing.parent_process() is not None

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        asked.set()
        put_back()
        if child:
            signal.signal(signal.SIGTERM, lambda *_: late.set())

    if threading.current_thread() is threading.main_thread():  # no other one may set a handler
        for number in (signal.SIGINT, signal.SIGTERM):
            if not (child and signal.getsignal(number) is signal.SIG_IGN):
                before[number] = signal.signal(number, ask)
    try:
        yield asked
    finally:
        put_back()
        if late.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
