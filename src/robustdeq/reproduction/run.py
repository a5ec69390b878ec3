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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ..attacks import AutoAttack
from ..distributed import Distributed
from ..files import claim, held, write_text
from ..models import DEQClassifier
from ..options import describe
from ..recipe import trainer_of
from ..report import write_report
from .row import Job, Row
from .table import assemble, evaluated, seeds_table

Report = Callable[[str, str, int, int], None]
"""Called with the row, what it is doing, and how much of how much is done."""


class JobError(RuntimeError):
    """A row could not be finished; the message says why."""


class Reproduction(Job):
    """A recipe that is trained, evaluated and put into a table; see ``Job``."""

    def run(self, report: Report) -> str:
        """Do all that is not done yet; return the table, which is ``out/table.md`` too, and where the report lies."""
        file = self.out / "recipe.json"
        if not file.exists():
            self.check()
        with held(self.out):
            claim(file, self.plan())
            _run_rows(self, report)
            return assemble(self)

    def check(self) -> None:
        """Raise a ValueError for what does not fit, before anything is written: trainings, defence, attacks, images."""
        data, here = self.recipe.load(), Distributed(device=torch.device(self.device))
        if not len(data.validation):
            raise ValueError("reproduce: no held-out images, on which readouts are chosen; allowed: validation > 0.")
        attacks = None if self.full else self.recipe.auto_attacks
        AutoAttack(self.recipe.training.threat, attacks=attacks).fitting(len(data.train.classes))
        for name, row in self.recipe.rows.items():
            model = trainer_of(row, self.place("training", name), data, here).model
            if isinstance(model, DEQClassifier):
                row.defence(model)

    def plan(self) -> dict[str, Any]:
        """What recipe.json says. Of a row: its training, and its model where that is not the recipe's."""
        rows = {name: row.training.to_dict() for name, row in self.recipe.rows.items()}
        for name, row in self.recipe.rows.items():
            for field in ("model", "model_options"):
                if getattr(row, field) != getattr(self.recipe, field):
                    rows[name][field] = describe(getattr(row, field))
        plan = {**self.recipe.plan(), "seed": self.recipe.training.seed, "defence": describe(self.recipe.defence)}
        return {**plan, "full": self.full, "device": self.device, "rows": rows}


@dataclass(frozen=True, kw_only=True)
class Repeated(Job):
    """The same for ``seeds`` seeds, from the recipe's on, each a ``Reproduction`` in out/seed-S; see ``Job``."""

    seeds: int

    def parts(self) -> dict[int, Reproduction]:
        """By seed."""
        training, parts = self.recipe.training, {}
        for seed in range(training.seed, training.seed + self.seeds):
            parts[seed] = Reproduction(
                recipe=replace(self.recipe, training=replace(training, seed=seed)), out=self.out / f"seed-{seed}",
                device=self.device, jobs=self.jobs, full=self.full,
            )  # fmt: skip
        return parts

    def run(self, report: Report) -> str:
        """Do all that is not done yet; return the table, which is ``out/table.md`` too, and where the report lies."""
        parts = self.parts()
        if not (self.out / "seeds.json").exists():
            next(iter(parts.values())).check()
        with held(self.out):
            claim(self.out / "seeds.json", self.recipe.plan())  # more seeds may be asked for later
            for seed, part in parts.items():
                part.run(lambda row, stage, done, total, seed=seed: report(f"{row}, seed {seed}", stage, done, total))
        table = seeds_table({seed: evaluated(part) for seed, part in parts.items()})
        write_text(self.out / "table.md", table)
        folders = [part.out for part in parts.values()]
        written = write_report(folders, self.out / "report.html", data=self.recipe.data)
        return f"{table}\nThe report, for a browser: {written}\n"


def _run_rows(job: Reproduction, report: Report) -> None:
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


def _row(job: Reproduction, name: str) -> None:
    """Train, evaluate, evaluate the defended model, analyse."""
    progress = partial(_Sent, name)
    global _asked
    if _asked:
        return
    try:
        row = Row(job, name)
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
