"""Ctrl-C and SIGTERM as a wish that the loop grants after its step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Inside, the first SIGINT or SIGTERM sets the event; a second one ends the process as usual.

    In a thread that is not the main one, signals are left alone.
    """
    asked, before = threading.Event(), {}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        asked.set()
        put_back()

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        put_back()
