"""The main job: train the rows of the paper's table, evaluate them, write table, results and figures.

One job a trained model; jobs run in processes of their own and share nothing but the output folder, which holds:
recipe.json, models/ROW/, training/ROW/, evaluation/ROW[-entropy-reduction]/, states/ROW/, analysis/ROW.json, and at the
end table.md, results.json and figures/. Whatever is there already is not done again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import Empty
from typing import Any

import torch

from .analysis import entropy_along, entropy_figure, state_accuracy, state_figure
from .attacks import PGD, AutoAttack, EndToEnd, Frozen
from .data import Splits, load
from .dynamics.trajectory import known
from .environment import environment
from .evaluation import Entry, Evaluation, adaptive, cost, evaluate, quick, readouts, standard
from .files import claim, write_json, write_text
from .models import create_model, save_model
from .models.classifier import DEQClassifier
from .recipes import Recipe, recipe
from .seeds import mix
from .training import Trainer

Report = Callable[[str, str, int, int], None]
"""Called with the row, what it is doing, and how much of how much is done."""

DEFENDED = " + entropy reduction"
SETTINGS = ("static", "frozen", "end-to-end", "black-box")
FAILED = "failed"
BATCH = 100
APGD_ITERATIONS, END_TO_END_STEPS, QUERIES = 20, 10, 60
"""Budgets of a short run through the defence, where a step costs seven and more of the bare model's."""

SHORT_BUDGETS = (
    f" PGD-20, end-to-end PGD-{END_TO_END_STEPS}; through the defence APGD-CE takes {APGD_ITERATIONS} iterations, "
    f"Square {QUERIES} queries."
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a user may choose for a reproduction. full: AutoAttack standard on every test image."""

    recipe: str
    out: Path
    seed: int = 0
    device: str = "cpu"
    jobs: int = 3
    full: bool = False

    def resolved(self) -> Recipe:
        base = recipe(self.recipe)
        return replace(base, training=replace(base.training, seed=self.seed))


def reproduce(settings: Settings, report: Report) -> str:
    """Do all that is not done yet and return the table, which is also in ``out/table.md``."""
    chosen = settings.resolved()
    _claim(settings, chosen)
    _run_jobs(settings, list(chosen.rows), report)
    return _assemble(settings, chosen)


def _claim(settings: Settings, chosen: Recipe) -> None:
    """Write down what this folder is for; refuse one that is for something else."""
    file = settings.out / "recipe.json"
    rows = {name: config.to_dict() for name, config in chosen.rows.items()}
    plan = {"recipe": chosen.name, "full": settings.full, "seed": settings.seed, "device": settings.device,
            "model": chosen.model, "model_options": dict(chosen.model_options), "defence": asdict(chosen.defence),
            "rows": rows}  # fmt: skip
    claim(file, plan)


class JobError(RuntimeError):
    """A row could not be finished; the message says why."""


def _run_jobs(settings: Settings, rows: list[str], report: Report) -> None:
    """Every row in a process of its own, ``jobs`` at a time; progress comes back through a queue."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // settings.jobs)
    queue = context.Queue()
    waiting, running = list(rows), {}
    try:
        while waiting or running:
            while waiting and len(running) < settings.jobs:
                row = waiting.pop(0)
                running[row] = context.Process(target=_row, args=(settings, row, threads, queue), daemon=True)
                running[row].start()
            time.sleep(0.1)
            ended = {row: process.exitcode for row, process in running.items() if process.exitcode is not None}
            _drain(queue, report)
            for row, code in ended.items():
                running.pop(row).join()
                if code:
                    raise JobError(
                        f"{row}: the job ended with exit code {code}; the same command goes on from what is done."
                    )
    finally:
        for process in running.values():
            process.terminate()
            process.join()


def _drain(queue: Any, report: Report) -> None:
    while True:
        try:
            row, text, done, total = queue.get_nowait()
        except Empty:
            return
        if text == FAILED:
            raise JobError(f"{row}: {done}")
        report(row, text, done, total)


def _row(settings: Settings, row: str, threads: int, queue: Any) -> None:
    """One job: train, evaluate, evaluate the defended model, analyse."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # a job is a child process
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()  # a killed run leaves no orphans
    torch.set_num_threads(threads)

    def progress(stage: str) -> Callable[[int, int, str], None]:
        return lambda done, total, text: queue.put((row, f"{stage}: {text}", done, total))

    try:
        chosen = settings.resolved()
        job = _Job(settings, chosen, row, load(chosen.data, validation=chosen.validation))
        model = job.train(progress("training"))
        bare = job.evaluate(model, progress("evaluation"))
        if job.defended:
            job.evaluate_defended(model, bare, progress("through the defence"))
        job.analyse(model, bare, progress("analysis"))
        queue.put((row, "done", 1, 1))
    except (ValueError, FloatingPointError, OSError) as error:
        queue.put((row, FAILED, str(error), 0))
    except KeyboardInterrupt:
        os._exit(130)


class _Job:
    """The stages of one row. Each leaves its result in the folder and is skipped when it is there."""

    def __init__(self, settings: Settings, chosen: Recipe, row: str, data: Splits) -> None:
        self.settings, self.recipe, self.row = settings, chosen, row
        self.config = chosen.rows[row]
        self.threat = self.config.parts().threat
        self.data = data
        self.test = data.test.take(slice(chosen.test_points)).to(settings.device)
        self.points = len(self.test) if settings.full else chosen.auto_points
        self.seed = mix(settings.seed, 1) % 2**31

    @property
    def defended(self) -> bool:
        return self.row != "no attacks in training"

    def train(self, progress) -> DEQClassifier:
        folder = self.settings.out / "models" / _slug(self.row)
        if not (folder / "config.json").exists():
            model = create_model(
                self.recipe.model, len(self.data.train.classes), seed=self.settings.seed, **self.recipe.model_options
            )
            train = self.data.train.to(self.settings.device)
            trainer = Trainer(
                model.to(self.settings.device), train, self.config, self.settings.out / "training" / _slug(self.row)
            )
            save_model(trainer.run(progress), folder)
        return DEQClassifier.from_pretrained(folder, map_location=self.settings.device)

    def evaluate(self, model: DEQClassifier, progress) -> Evaluation:
        attacks = None if self.settings.full else self.recipe.auto_attacks
        entries = standard(
            model, self.threat, step_size=self.threat.eps / 4, seed=self.seed, points=self.points, attacks=attacks,
            batch_size=BATCH,
        )  # fmt: skip
        return self._evaluate(model, entries, self.row, progress)

    def evaluate_defended(self, model: DEQClassifier, bare: Evaluation, progress) -> Evaluation:
        """Under all four threat settings; the short form with few steps and queries where the defence is in the way."""
        defended = self.recipe.defence(model)
        transfers = {f"static/bare {name}": images for name, images in bare.images.items()}
        options = {"step_size": self.threat.eps / 4, "seed": self.seed, "batch_size": BATCH, "points": self.points}
        if self.settings.full:
            return self._evaluate(
                defended, adaptive(defended, self.threat, **options), self.row + DEFENDED, progress, transfers
            )
        *static, frozen = quick(defended, self.threat, **options)
        auto = AutoAttack(
            self.threat, attacks=("apgd-ce",), seed=self.seed, batch_size=BATCH, iterations=APGD_ITERATIONS
        )
        pgd = PGD(self.threat, self.threat.eps / 4, END_TO_END_STEPS, seed=self.seed)
        square = replace(auto, attacks=("square",), queries=QUERIES)
        entries = [
            *static,
            frozen,
            Entry("apgd-ce frozen", "frozen", auto, Frozen, self.points),
            Entry("pgd end-to-end", "end-to-end", pgd, EndToEnd, self.points),
            Entry("square", "black-box", square, points=self.points),
        ]
        return self._evaluate(defended, entries, self.row + DEFENDED, progress, transfers, checks=0)

    def _evaluate(
        self, model, entries, name: str, progress, transfers: Mapping[str, Any] | None = None, checks: int = 50
    ) -> Evaluation:
        """checks: 0 leaves those that compare columns."""
        return evaluate(
            model, self.test, suite=entries, threat=self.threat, batch_size=BATCH, seed=self.seed, images=True,
            transfers=transfers, out=self.settings.out / "evaluation" / _slug(name), progress=progress, checks=checks,
            chosen=f"the first {len(self.test)} test images of {self.test.source}",
        )  # fmt: skip

    def analyse(self, model: DEQClassifier, bare: Evaluation, progress) -> None:
        file = self.settings.out / "analysis" / f"{_slug(self.row)}.json"
        if file.exists():
            return
        few = self.test.take(slice(self.recipe.auto_points))
        x = few.images()
        x_adv = bare.images["pgd-20 unrolled"][: len(few)].to(x)
        progress(0, 2, "entropy")
        entropies = {"clean": entropy_along(model, x).tolist(), "attacked": entropy_along(model, x_adv).tolist()}
        progress(1, 2, "every state")
        held_out = self.data.validation.take(slice(len(few))).to(self.settings.device)
        states = readouts(
            model, few, held_out, threat=self.threat, steps=10, batch_size=BATCH, seed=self.seed,
            out=self.settings.out / "states" / _slug(self.row),
        )  # fmt: skip
        residuals = known(model.trajectory(x).residuals).median(dim=1).values.tolist()
        multiplier = cost(self.recipe.defence(model), x)["seconds"]
        found = {
            "entropy": entropies,
            "states": asdict(state_accuracy(states)),
            "readouts": states.to_dict(),
            "residuals": residuals,
            "defence_cost": multiplier,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
        progress(2, 2, "every state")


def _assemble(settings: Settings, chosen: Recipe) -> str:
    """Table, results and figures from what the jobs left."""
    out = settings.out
    rows: dict[str, Evaluation] = {}
    analysis = {}
    results: dict[str, Any] = {
        "recipe": json.loads((out / "recipe.json").read_text()),
        "environment": environment(),
        "rows": {},
    }
    for row in chosen.rows:
        for name in (row, row + DEFENDED):
            folder = out / "evaluation" / _slug(name)
            if folder.exists():
                rows[name] = Evaluation.read(folder)
                results["rows"][name] = rows[name].to_dict()
        analysis[row] = json.loads((out / "analysis" / f"{_slug(row)}.json").read_text())
    results["analysis"] = analysis
    table = _table(settings, chosen, rows)
    (out / "figures").mkdir(exist_ok=True)
    entropy_figure(
        out / "figures" / "entropy.png",
        {row: (a["entropy"]["clean"], a["entropy"]["attacked"]) for row, a in analysis.items()},
    )
    state_figure(out / "figures" / "states.png", {row: a["states"] for row, a in analysis.items()})
    write_json(out / "results.json", results)
    write_text(out / "table.md", table)
    return table


def _table(settings: Settings, chosen: Recipe, rows: dict[str, Evaluation]) -> str:
    test = load(chosen.data, validation=chosen.validation).test.take(slice(chosen.test_points))
    attacks = "standard" if settings.full else " + ".join(name.upper() for name in chosen.auto_attacks)
    lines = [
        f"# {chosen.model} on {test.source}",
        "",
        f"| row | clean | PGD-20 | AA ({attacks}) | {' | '.join(SETTINGS)} | All |",
        "|---|---|---|---|" + "---|" * len(SETTINGS) + "---|",
    ]
    for name, shares in ((name, found.shares()) for name, found in rows.items()):
        cells = [shares.get(column) for column in ("clean", "PGD", "AA", *SETTINGS, "All")]
        lines.append(f"| {name} | " + " | ".join("-" if share is None else str(share) for share in cells) + " |")
    fired = [(name, flag) for name, found in rows.items() for flag in found.flags if flag.fired]
    lines += ["", *_notes(settings, chosen, len(test)), *(f"Red flag, {name}: {flag.text}." for name, flag in fired)]
    return "\n".join(lines) + "\n"


def _notes(settings: Settings, chosen: Recipe, total: int) -> list[str]:
    points = total if settings.full else chosen.auto_points
    return [
        f"Percent, exact 95% interval, count. L-inf, eps {chosen.training.eps:g}, seed {settings.seed}; {total} "
        f"test images, cut at random before any training; AA, the four settings and All on the first {points}.",
        "PGD-20: the per-sample worst of the unrolled and the phantom gradient.",
        "Rows with entropy reduction, by what the attacker knows. static: images made against the bare model, those of "
        "its own row among them; frozen: through the defence, x' - x held constant; end-to-end: through its updates; "
        "black-box: Square." + ("" if settings.full else SHORT_BUDGETS),
        "All: the samples that survive every attack of their row. Every image was verified by the deployed forward.",
    ]


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())
