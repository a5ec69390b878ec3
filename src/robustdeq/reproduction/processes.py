"""The rows of a reproduction, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from ..models import DEQClassifier
from .row import Job, Row

Report = Callable[[str, str, int, int], None]
"""Called with the row, what it is doing, and how much of how much is done."""


class JobError(RuntimeError):
    """A row could not be finished; the message says why."""


def run_rows(job: Job, report: Report) -> None:
    """Every row in a process of its own, ``jobs`` at a time; progress comes back through a queue."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    threads = max(1, torch.get_num_threads() // job.jobs)  # which OMP_NUM_THREADS says, where somebody has set it
    executor = ProcessPoolExecutor(job.jobs, context, initializer=_begin, initargs=(queue, threads))
    futures = {executor.submit(_row, job, row): row for row in job.recipe.rows}
    try:
        running = set(futures)
        while running:
            done, running = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
            while not queue.empty():
                report(*queue.get())
            for future in done:
                try:
                    future.result()
                except BrokenProcessPool as error:
                    raise JobError("a row's process was ended; the same command goes on from what is done.") from error
                except (ValueError, FloatingPointError, OSError) as error:
                    raise JobError(f"{futures[future]}: {error}") from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)  # rows that wait are not begun
        try:
            for process in multiprocessing.active_children():
                process.terminate()  # a training run saves after its step
            executor.shutdown()
        except KeyboardInterrupt:  # asked a second time: nobody waits for a step to end
            for process in multiprocessing.active_children():
                process.kill()
            raise


_queue: Any = None
"""Of a row's process: where its progress goes."""
_asked = False
"""Whether a row's process was asked to end."""


def _begin(queue: Any, threads: int) -> None:
    """What a row's process does first. Ctrl-C reaches every process of a terminal; the parent ends the others."""
    global _queue
    _queue = queue
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()  # a killed run leaves no orphans
    torch.set_num_threads(threads)


class _Sent:
    """The progress of a stage, on its way to the parent. work: see ``progress.Lines``; there its pace is the work's."""

    def __init__(self, row: str, stage: str) -> None:
        self.row, self.stage = row, stage
        self.work: Callable[[int], float] = float

    def __call__(self, done: int, total: int, text: str) -> None:
        _queue.put((self.row, f"{self.stage}: {text}", round(self.work(done)), round(self.work(total))))


def _row(job: Job, name: str) -> None:
    global _asked
    if _asked:
        return
    try:
        row = Row(job, name)
        if not row.kept:
            model = row.train(_Sent(name, "training"))
            bare = row.evaluate(model, _Sent(name, "evaluation"))
            if isinstance(model, DEQClassifier):
                if row.defended:
                    row.evaluate_defended(model, bare, _Sent(name, "through the defence"))
                row.analyse(model, bare, _Sent(name, "analysis"))
    except KeyboardInterrupt:  # a training was asked to end and has saved; the pool hands the next row out still
        _asked = True
        raise
    _queue.put((name, "done", 1, 1))
