"""The main job: train the rows of the paper's table, evaluate them, write table, results, figures and a report.

A row is trained and evaluated in a process of its own. Rows share nothing but the output folder, which holds:
recipe.json, models/ROW/, training/ROW/, evaluation/ROW[-entropy-reduction]/, states/ROW/, analysis/ROW.json, and at the
end table.md, results.json, figures/ and report.html. Whatever is there already is not done again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from queue import Empty
from typing import Any

import torch

from ..distributed import Distributed
from ..files import claim, held
from ..models import DEQClassifier
from ..options import describe
from ..recipe import Recipe, trainer_of
from .job import Job, Report
from .row import Row
from .table import assemble


class Reproduction(Job):
    """A recipe that is trained, evaluated and put into a table; see ``Job``."""

    def run(self, report: Report) -> str:
        """Do all that is not done yet; return the table, which is ``out/table.md`` too, and where the report lies."""
        file = self.out / "recipe.json"
        if not file.exists():  # what does not fit is refused before anything is written
            data, here = self.recipe.load(), Distributed(device=torch.device(self.device))
            for name, row in self.recipe.rows.items():
                trainer_of(row, self.training(name), data, here)
        with held(self.out):
            claim(file, self.plan())
            _run_rows(self, report)
            return assemble(self)

    def plan(self) -> dict[str, Any]:
        """What recipe.json says."""
        rows = {name: self._told(row) for name, row in self.recipe.rows.items()}
        own = {"defence": describe(self.recipe.defence), "full": self.full, "device": self.device, "rows": rows}
        return {**self.recipe.plan(), "seed": self.recipe.training.seed, **own}

    def _told(self, row: Recipe) -> dict[str, Any]:
        """Of a row: its training, and its model where that is not the recipe's."""
        fields = ("model", "model_options")
        own = {
            name: describe(getattr(row, name)) for name in fields if getattr(row, name) != getattr(self.recipe, name)
        }
        return {**row.training.to_dict(), **own}


class JobError(RuntimeError):
    """A row could not be finished; the message says why."""


def _run_rows(job: Reproduction, report: Report) -> None:
    """Every row in a process of its own, ``jobs`` at a time; progress comes back through a queue."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    threads = max(1, (os.cpu_count() or 1) // job.jobs)
    executor = ProcessPoolExecutor(job.jobs, context, initializer=_begin, initargs=(queue, threads))
    futures = {executor.submit(_row, job, row): row for row in job.recipe.rows}
    try:
        running = set(futures)
        while running:
            done, running = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
            _drain(queue, report)
            for future in done:
                try:
                    future.result()
                except BrokenProcessPool as error:
                    raise JobError("a row's process was ended; the same command goes on from what is done.") from error
                except (ValueError, FloatingPointError, OSError) as error:
                    raise JobError(f"{futures[future]}: {error}") from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        try:
            for process in multiprocessing.active_children():
                process.terminate()  # a training run saves after its step
            executor.shutdown()
        except KeyboardInterrupt:  # asked a second time: nobody waits for a step to end
            for process in multiprocessing.active_children():
                process.kill()
            raise


def _drain(queue: Any, report: Report) -> None:
    while True:
        try:
            report(*queue.get_nowait())
        except Empty:
            return


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


def _row(job: Reproduction, name: str) -> None:
    """Train, evaluate, evaluate the defended model, analyse."""

    def progress(stage: str) -> Callable[[int, int, str], None]:
        return lambda done, total, text: _queue.put((name, f"{stage}: {text}", done, total))

    global _asked
    if _asked:
        return
    try:
        row = Row(job, name, job.recipe.rows[name].load())
        model = row.train(progress("training"))
        bare = row.evaluate(model, progress("evaluation"))
        if isinstance(model, DEQClassifier):
            if name != "no attacks in training":
                row.evaluate_defended(model, bare, progress("through the defence"))
            row.analyse(model, bare, progress("analysis"))
    except KeyboardInterrupt:  # a training was asked to end and has saved; the pool hands the next row out still
        _asked = True
        raise
    _queue.put((name, "done", 1, 1))
