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
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty
from typing import Any

import torch

from .analysis import entropy_along
from .attacks import PGD, AutoAttack, EndToEnd, Frozen
from .data import Splits
from .distributed import Distributed
from .dynamics.trajectory import monitored
from .environment import environment
from .evaluation import Entry, Evaluation, adaptive, cost, evaluate, quick, readouts, standard
from .files import claim, held, read_json, write_json, write_text
from .models import DEQClassifier
from .options import describe
from .recipe import Recipe, train, trainer_of
from .report import entropy_figure, state_figure, write_report
from .seeds import mix
from .text import markdown

Report = Callable[[str, str, int, int], None]
"""Called with the row, what it is doing, and how much of how much is done."""

DEFENDED = " + entropy reduction"
SETTINGS = ("static", "frozen", "end-to-end", "black-box")
BATCH = 100
APGD_ITERATIONS, END_TO_END_STEPS, QUERIES = 20, 10, 60
"""Budgets of a short run through the defence, where a step costs seven and more of the bare model's."""

SHORT_BUDGETS = (
    f" PGD-20, end-to-end PGD-{END_TO_END_STEPS}; through the defence APGD-CE takes {APGD_ITERATIONS} iterations, "
    f"Square {QUERIES} queries."
)


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A recipe and the folder of its results. full: AutoAttack standard on every test image. jobs: rows at a time."""

    recipe: Recipe
    out: Path
    device: str = "cpu"
    jobs: int = 3
    full: bool = False

    def run(self, report: Report) -> str:
        """Do all that is not done yet; return the table, which is ``out/table.md`` too, and where the report lies."""
        rows = {name: row.training.to_dict() for name, row in self.recipe.rows.items()}
        own = {"defence": describe(self.recipe.defence), "full": self.full, "device": self.device, "rows": rows}
        file = self.out / "recipe.json"
        if not file.exists():  # what does not fit is refused before anything is written
            data, here = self.recipe.load(), Distributed(device=torch.device(self.device))
            for name, row in self.recipe.rows.items():
                trainer_of(row, self.out / "training" / _slug(name), data, here)
        with held(self.out):
            claim(file, {**self.recipe.plan(), "seed": self.recipe.training.seed, **own})
            _run_rows(self, report)
            return _assemble(self)


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
        row = _Row(job, name, job.recipe.rows[name].load())
        model = row.train(progress("training"))
        bare = row.evaluate(model, progress("evaluation"))
        if name != "no attacks in training":
            row.evaluate_defended(model, bare, progress("through the defence"))
        row.analyse(model, bare, progress("analysis"))
    except KeyboardInterrupt:  # a training was asked to end and has saved; the pool hands the next row out still
        _asked = True
        raise
    _queue.put((name, "done", 1, 1))


class _Row:
    """The stages of one row. Each leaves its result in the folder and is skipped when it is there."""

    def __init__(self, job: Reproduction, name: str, data: Splits[Any]) -> None:
        self.job, self.name, self.data = job, name, data
        self.recipe = job.recipe.rows[name]
        self.threat = self.recipe.training.threat
        self.test = data.test.take(slice(self.recipe.test_points)).to(job.device)
        self.points = len(self.test) if job.full else min(self.recipe.auto_points, len(self.test))
        self.seed = mix(self.recipe.training.seed, 1) % 2**31
        self.suite = {"step_size": self.threat.eps / 4, "seed": self.seed, "batch_size": BATCH, "points": self.points}

    def train(self, progress) -> DEQClassifier:
        folder = self.job.out / "models" / _slug(self.name)
        if not (folder / "config.json").exists():
            here = Distributed(device=torch.device(self.job.device))
            out = self.job.out / "training" / _slug(self.name)
            train(self.recipe, out, folder, data=self.data, distributed=here, progress=progress)
        return DEQClassifier.from_pretrained(folder, map_location=self.job.device)

    def evaluate(self, model: DEQClassifier, progress) -> Evaluation:
        attacks = None if self.job.full else self.recipe.auto_attacks
        return self._evaluate(model, standard(model, self.threat, attacks=attacks, **self.suite), self.name, progress)

    def evaluate_defended(self, model: DEQClassifier, bare: Evaluation, progress) -> Evaluation:
        """Under all four threat settings; the short form with few steps and queries where the defence is in the way."""
        defended, name = self.recipe.defence(model), self.name + DEFENDED
        transfers = {f"static/bare {attack}": images for attack, images in bare.images.items()}
        if self.job.full:
            return self._evaluate(defended, adaptive(defended, self.threat, **self.suite), name, progress, transfers)
        auto = AutoAttack(
            self.threat, attacks=("apgd-ce",), seed=self.seed, batch_size=BATCH, iterations=APGD_ITERATIONS
        )
        pgd = PGD(self.threat, self.threat.eps / 4, END_TO_END_STEPS, seed=self.seed)
        entries = [
            *quick(defended, self.threat, **self.suite),
            Entry("apgd-ce frozen", "frozen", auto, Frozen, self.points),
            Entry("pgd end-to-end", "end-to-end", pgd, EndToEnd, self.points),
            Entry("square", "black-box", replace(auto, attacks=("square",), queries=QUERIES), points=self.points),
        ]
        return self._evaluate(defended, entries, name, progress, transfers, checks=0)

    def _evaluate(
        self, model, entries, name: str, progress, transfers: Mapping[str, Any] | None = None, checks: int = 50
    ) -> Evaluation:
        """checks: 0 leaves those that compare columns."""
        return evaluate(
            model, self.test, suite=entries, threat=self.threat, batch_size=BATCH, seed=self.seed, images=True,
            transfers=transfers, out=self.job.out / "evaluation" / _slug(name), progress=progress, checks=checks,
            samples=f"the first {len(self.test)} test images of {self.test.source}",
        )  # fmt: skip

    def analyse(self, model: DEQClassifier, bare: Evaluation, progress) -> None:
        file = self.job.out / "analysis" / f"{_slug(self.name)}.json"
        if file.exists():
            return
        few = self.test.take(slice(self.recipe.auto_points))
        x = few.images()
        x_adv = bare.images["pgd-20 unrolled"][: len(few)].to(x)
        progress(0, 2, "entropy")
        entropies = {"clean": entropy_along(model, x).tolist(), "attacked": entropy_along(model, x_adv).tolist()}
        progress(1, 2, "every state")
        held_out = self.data.validation.take(slice(len(few))).to(self.job.device)
        states = readouts(
            model, few, held_out, threat=self.threat, steps=10, batch_size=BATCH, seed=self.seed,
            out=self.job.out / "states" / _slug(self.name),
        )  # fmt: skip
        analysis = {
            "source": self.test.source,
            "test_images": len(self.test),
            "entropy": entropies,
            "readouts": states.to_dict(),
            "residuals": monitored(model.trajectory(x).residuals).median(dim=1).values.tolist(),
            "defence_cost": cost(self.recipe.defence(model), x).seconds,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, analysis)
        progress(2, 2, "every state")


def _assemble(job: Reproduction) -> str:
    """Table, results and figures from what the rows left."""
    out, rows = job.out, list(job.recipe.rows)
    folders = {name: out / "evaluation" / _slug(name) for row in rows for name in (row, row + DEFENDED)}
    evaluations = {name: Evaluation.read(folder) for name, folder in folders.items() if folder.exists()}
    analysis = {row: read_json(out / "analysis" / f"{_slug(row)}.json", "remove it to make it anew") for row in rows}
    table = _table(job, evaluations, analysis[rows[0]])
    (out / "figures").mkdir(exist_ok=True)
    entropies = {row: (of["entropy"]["clean"], of["entropy"]["attacked"]) for row, of in analysis.items()}
    entropy_figure(out / "figures" / "entropy.png", entropies)
    state_figure(out / "figures" / "states.png", {row: of["readouts"] for row, of in analysis.items()})
    results = {
        "recipe": read_json(out / "recipe.json", "give another --out"),
        "environment": environment(),
        "rows": {name: evaluation.to_dict() for name, evaluation in evaluations.items()},
        "analysis": analysis,
    }
    write_json(out / "results.json", results)
    write_text(out / "table.md", table)
    return f"{table}\nThe report, for a browser: {write_report([out], data=job.recipe.data)}\n"


def _table(job: Reproduction, evaluations: Mapping[str, Evaluation], images: Mapping[str, Any]) -> str:
    attacks = "standard" if job.full else " + ".join(name.upper() for name in job.recipe.auto_attacks)
    lines = [
        f"# {markdown(job.recipe.model)} on {markdown(images['source'])}",
        "",
        f"| row | clean | PGD-20 | joint | AA ({attacks}) | {' | '.join(SETTINGS)} | All |",
        "|---|---|---|---|---|" + "---|" * len(SETTINGS) + "---|",
    ]
    for name, evaluation in evaluations.items():
        shares = evaluation.shares()
        cells = [str(shares.get(column, "-")) for column in ("clean", "PGD", "joint", "AA", *SETTINGS, "All")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    fired = [(name, flag) for name, evaluation in evaluations.items() for flag in evaluation.flags if flag.fired]
    total, training = images["test_images"], job.recipe.training
    ball = f"{'L-inf' if training.threat.name == 'Linf' else 'L2'}, eps {training.eps:g}, seed {training.seed}"
    order = "cut at random before any training" if job.recipe.data == "digits" else "in their published order"
    points = total if job.full else min(job.recipe.auto_points, total)
    lines += [
        "",
        f"Percent, exact 95% interval, count. {ball}; {total} test images, {order}; "
        f"AA, the four settings and All on the first {points}.",
        "PGD-20: the per-sample worst of the unrolled and the phantom gradient and, on what these leave, of the DLR "
        "loss; joint: joint optimisation of state, adjoint and image.",
        "Rows with entropy reduction, by what the attacker knows. static: images made against the bare model, those of "
        "its own row among them; frozen: through the defence, x' - x held constant; end-to-end: through its updates; "
        "black-box: Square." + ("" if job.full else SHORT_BUDGETS),
        "All: the samples that survive every attack of their row. Every image was verified by the deployed forward.",
        *(f"Red flag, {name}: {flag.text}." for name, flag in fired),
    ]
    return "\n".join(lines) + "\n"


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())
