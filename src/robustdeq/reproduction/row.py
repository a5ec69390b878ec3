"""What a reproduction is, and the stages of one of its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..analysis import entropy_along
from ..attacks import PGD, AutoAttack, EndToEnd, Frozen
from ..data import Splits
from ..distributed import Distributed
from ..dynamics.trajectory import monitored
from ..evaluation import Entry, Evaluation, adaptive, evaluate, quick, readouts, standard
from ..files import read_json, write_json
from ..models import DEQClassifier, load_model
from ..progress import Progress
from ..recipe import Recipe, train
from ..seeds import mix

DEFENDED = " + entropy reduction"
"""Behind the name of a row, whose model is judged behind the defence."""
APGD_ITERATIONS, END_TO_END_STEPS, QUERIES = 20, 10, 60
"""Budgets of a short run through the defence, where a step costs seven and more of the bare model's."""
BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Job:
    """A recipe and the folder of its results. full: AutoAttack standard on every test image. jobs: rows at a time."""

    recipe: Recipe
    out: Path
    device: str = "cpu"
    jobs: int = 3
    full: bool = False

    def place(self, kind: str, row: str) -> Path:
        """The folder of a row's training, models, evaluation or states. row: with or without ``DEFENDED``."""
        return self.out / kind / "-".join("".join(c if c.isalnum() else " " for c in row).split())

    def analysis(self, row: str) -> Path:
        """A file."""
        return self.place("analysis", row).with_suffix(".json")


def auto_attacks_of(bare: Evaluation) -> str:
    """Which attacks of AutoAttack were run on an undefended row, and on how many images."""
    attacks = {name: bare.record.attacks[name].points for name, column in bare.columns.items() if column == "AA"}
    points = max(attacks.values(), default=0)
    return f"{', '.join(attacks)} on {points} of {len(bare.clean)} images"


class Row:
    """The stages of one row. Each leaves its result in the folder and is skipped when it is there."""

    def __init__(self, job: Job, name: str) -> None:
        self.job, self.name = job, name
        self.recipe = job.recipe.rows[name]
        self.data: Splits[Any] = self.recipe.load()
        self.threat = self.recipe.training.threat
        self.test = self.data.test.take(slice(self.recipe.test_points)).to(job.device)
        self.points = len(self.test) if job.full else min(self.recipe.auto_points, len(self.test))
        self.seed = mix(self.recipe.training.seed, 1) % 2**31
        self.suite = {"step_size": self.threat.eps / 4, "seed": self.seed, "batch_size": BATCH, "points": self.points}

    @property
    def defended(self) -> bool:
        """Whether it is judged behind the defence as well, if it is a DEQ."""
        return self.name != "no attacks in training"

    @property
    def kept(self) -> bool:
        """Whether all of its results are there, and its model is not: it is not trained again for them. A ValueError
        if they are of other attacks, or other points, than are asked for."""
        if any(self.job.place(kind, self.name).exists() for kind in ("models", "training")):
            return False
        try:
            bare = Evaluation.read(self.job.place("evaluation", self.name))
            dynamics = bare.record.identity.steps is not None
            if dynamics and self.defended:
                Evaluation.read(self.job.place("evaluation", self.name + DEFENDED))
        except ValueError:
            return False
        if dynamics and not self.job.analysis(self.name).exists():
            return False
        names = AutoAttack(self.threat, attacks=None if self.job.full else self.recipe.auto_attacks).names
        asked, made = (f"{', '.join(names)} on {self.points} of {len(self.test)} images", auto_attacks_of(bare))
        if made != asked:
            todo = f"allowed: {made}, or another --out, where it is trained anew"
            raise ValueError(f"reproduce: {asked}, and of the row {self.name} only a record is kept; {todo}.")
        return True

    def train(self, progress: Progress) -> nn.Module:
        folder = self.job.place("models", self.name)
        if not (folder / "config.json").exists():
            here, out = Distributed(device=torch.device(self.job.device)), self.job.place("training", self.name)
            train(self.recipe, out, folder, data=self.data, distributed=here, progress=progress)
        return load_model(folder).to(self.job.device)

    def evaluate(self, model: nn.Module, progress: Progress) -> Evaluation:
        attacks = None if self.job.full else self.recipe.auto_attacks
        return self._evaluate(model, standard(model, self.threat, attacks=attacks, **self.suite), self.name, progress)

    def evaluate_defended(self, model: DEQClassifier, bare: Evaluation, progress: Progress) -> Evaluation:
        """Under all four threat settings; the short form with few steps and queries where the defence is in the way."""
        defended, name = self.recipe.defence(model), self.name + DEFENDED
        options: dict[str, Any] = {
            "transfers": {f"static/bare {attack}": images for attack, images in bare.images.items()}
        }
        if self.job.full:
            return self._evaluate(defended, adaptive(defended, self.threat, **self.suite), name, progress, **options)
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
        options["checks"] = 0  # which leaves those that compare columns
        return self._evaluate(defended, entries, name, progress, **options)

    def _evaluate(
        self, model: nn.Module, entries: list[Entry], name: str, progress: Progress, **options: Any
    ) -> Evaluation:
        return evaluate(
            model, self.test, suite=entries, threat=self.threat, batch_size=BATCH, seed=self.seed, images=True,
            out=self.job.place("evaluation", name), progress=progress, **options,
            samples=f"the first {len(self.test)} test images of {self.test.source}",
        )  # fmt: skip

    def analyse(self, model: DEQClassifier, bare: Evaluation, progress: Progress) -> None:
        file = self.job.analysis(self.name)
        few = self.test.take(slice(self.recipe.auto_points))
        if file.exists() and read_json(file, "remove it to make it anew").get("points", len(few)) == len(few):
            return
        x = few.images()
        x_adv = bare.images["pgd-20 unrolled"][: len(few)].to(x)
        progress(0, 2, "entropy")
        entropies = {"clean": entropy_along(model, x).tolist(), "attacked": entropy_along(model, x_adv).tolist()}
        progress(1, 2, "every state")
        held_out = self.data.validation.take(slice(len(few))).to(self.job.device)
        states = readouts(
            model, few, held_out, threat=self.threat, steps=10, batch_size=BATCH, seed=self.seed,
            out=self.job.place("states", self.name),
        )  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {
            "source": self.test.source,
            "points": len(few),
            "entropy": entropies,
            "readouts": states.to_dict(),
            "residuals": monitored(model.trajectory(x).residuals).median(dim=1).values.tolist(),
        })  # fmt: skip
        progress(2, 2, "every state")
