"""The main job: train the rows of the paper's table, evaluate them, write table, results, figures and a report.

Rows share nothing but the output folder, which holds: recipe.json, models/ROW/, training/ROW/,
evaluation/ROW[-entropy-reduction]/, states/ROW/, analysis/ROW.json, and at the end table.md, results.json, figures/ and
report.html. Whatever is there already is not done again; of a finished row recipe.json, its evaluation.json, and its
analysis are enough for the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..attacks import AutoAttack
from ..distributed import Distributed
from ..files import claim, held, write_text
from ..models import DEQClassifier
from ..options import describe
from ..recipe import trainer_of
from ..report import write_report
from .processes import Report, run_rows
from .row import Job
from .table import assemble, evaluated, seeds_table


class Reproduction(Job):
    """A recipe that is trained, evaluated and put into a table; see ``Job``."""

    def run(self, report: Report) -> str:
        """Do all that is not done yet; return the table, which is ``out/table.md`` too, and where the report lies."""
        file = self.out / "recipe.json"
        if not file.exists():
            self.check()
        with held(self.out):
            claim(file, self.plan())
            run_rows(self, report)
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

    def by_seed(self) -> dict[int, Reproduction]:
        """The reproductions that it is made of."""
        training = self.recipe.training
        return {
            seed: Reproduction(
                recipe=replace(self.recipe, training=replace(training, seed=seed)), out=self.out / f"seed-{seed}",
                device=self.device, jobs=self.jobs, full=self.full,
            )
            for seed in range(training.seed, training.seed + self.seeds)
        }  # fmt: skip

    def run(self, report: Report) -> str:
        """Do all that is not done yet; return the table, which is ``out/table.md`` too, and where the report lies."""
        by_seed = self.by_seed()
        if not (self.out / "seeds.json").exists():
            next(iter(by_seed.values())).check()
        with held(self.out):
            claim(self.out / "seeds.json", self.recipe.plan())  # more seeds may be asked for later
            for seed, job in by_seed.items():
                job.run(lambda row, stage, done, total, seed=seed: report(f"{row}, seed {seed}", stage, done, total))
        table = seeds_table({seed: evaluated(job) for seed, job in by_seed.items()})
        write_text(self.out / "table.md", table)
        folders = [job.out for job in by_seed.values()]
        written = write_report(folders, self.out / "report.html", data=self.recipe.data)
        return f"{table}\nThe report, for a browser: {written}\n"
