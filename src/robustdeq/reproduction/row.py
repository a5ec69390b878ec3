"""The stages of a row: train, evaluate, evaluate the defended model, analyse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..analysis import entropy_along
from ..attacks import PGD, AutoAttack, EndToEnd, Frozen
from ..data import Splits
from ..distributed import Distributed
from ..dynamics.trajectory import monitored
from ..evaluation import Entry, Evaluation, adaptive, cost, evaluate, quick, readouts, standard
from ..files import write_json
from ..models import DEQClassifier, load_model
from ..recipe import train
from ..seeds import mix
from .job import APGD_ITERATIONS, DEFENDED, END_TO_END_STEPS, QUERIES, Job

BATCH = 100


class Row:
    """The stages of one row. Each leaves its result in the folder and is skipped when it is there."""

    def __init__(self, job: Job, name: str, data: Splits[Any]) -> None:
        self.job, self.name, self.data = job, name, data
        self.recipe = job.recipe.rows[name]
        self.threat = self.recipe.training.threat
        self.test = data.test.take(slice(self.recipe.test_points)).to(job.device)
        self.points = len(self.test) if job.full else min(self.recipe.auto_points, len(self.test))
        self.seed = mix(self.recipe.training.seed, 1) % 2**31
        self.suite = {"step_size": self.threat.eps / 4, "seed": self.seed, "batch_size": BATCH, "points": self.points}

    def train(self, progress) -> nn.Module:
        folder = self.job.model(self.name)
        if not (folder / "config.json").exists():
            here = Distributed(device=torch.device(self.job.device))
            out = self.job.training(self.name)
            train(self.recipe, out, folder, data=self.data, distributed=here, progress=progress)
        return load_model(folder).to(self.job.device)

    def evaluate(self, model: nn.Module, progress) -> Evaluation:
        attacks = None if self.job.full else self.recipe.auto_attacks
        return self._evaluate(model, standard(model, self.threat, attacks=attacks, **self.suite), self.name, progress)

    def evaluate_defended(self, model: DEQClassifier, bare: Evaluation, progress) -> Evaluation:
        """Under all four threat settings; the short form with few steps and queries where the defence is in the way."""
        defended, name = self.recipe.defence(model), self.name + DEFENDED
        transfers = {f"static/bare {attack}": images for attack, images in bare.images.items()}
        if self.job.full:
            return self._evaluate(defended, adaptive(defended, self.threat, **self.suite), name, progress, transfers)
        auto = AutoAttack(self.threat, seed=self.seed, batch_size=BATCH, iterations=APGD_ITERATIONS)
        pgd, square = PGD(self.threat, self.threat.eps / 4, END_TO_END_STEPS, seed=self.seed), ("square",)
        entries = [
            *quick(defended, self.threat, **self.suite),
            Entry("pgd end-to-end", "end-to-end", pgd, EndToEnd, self.points),
            Entry("square", "black-box", replace(auto, attacks=square, queries=QUERIES), points=self.points),
        ]
        # Those that the bare model meets. Last: nine targets are dear, and see only what all others leave.
        for attack in self.recipe.auto_attacks:
            entries.append(Entry(f"{attack} frozen", "frozen", replace(auto, attacks=(attack,)), Frozen, self.points))
        return self._evaluate(defended, entries, name, progress, transfers, checks=0)

    def _evaluate(
        self, model, entries, name: str, progress, transfers: Mapping[str, Any] | None = None, checks: int = 50
    ) -> Evaluation:
        """checks: 0 leaves those that compare columns."""
        return evaluate(
            model, self.test, suite=entries, threat=self.threat, batch_size=BATCH, seed=self.seed, images=True,
            transfers=transfers, out=self.job.evaluation(name), progress=progress, checks=checks,
            samples=f"the first {len(self.test)} test images of {self.test.source}",
        )  # fmt: skip

    def analyse(self, model: DEQClassifier, bare: Evaluation, progress) -> None:
        file = self.job.analysis(self.name)
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
            out=self.job.states(self.name),
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
