"""A reproduction for several seeds, and one table of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from ..evaluation import Evaluation
from ..evaluation.result import Share
from ..files import claim, held, write_text
from ..report import write_report
from ..report.paired import Paired, mcnemar, paired
from ..text import markdown
from .job import Job, Report
from .run import Reproduction
from .table import COLUMNS, evaluated

BASE = "baseline"
"""The row that others are compared with, sample by sample."""


@dataclass(frozen=True, kw_only=True)
class Repeated(Job):
    """The same for ``seeds`` seeds, from the recipe's on, each a ``Reproduction`` in out/seed-S; see ``Job``."""

    seeds: int

    def parts(self) -> dict[int, Reproduction]:
        """By seed."""
        first, made = self.recipe.training.seed, {}
        for seed in range(first, first + self.seeds):
            recipe = replace(self.recipe, training=replace(self.recipe.training, seed=seed))
            own = {"device": self.device, "jobs": self.jobs, "full": self.full}
            made[seed] = Reproduction(recipe=recipe, out=self.out / f"seed-{seed}", **own)
        return made

    def run(self, report: Report) -> str:
        """Do all that is not done yet; return the table, which is ``out/table.md`` too, and where the report lies."""
        parts = self.parts()
        with held(self.out):
            claim(self.out / "seeds.json", self.recipe.plan())  # more seeds may be asked for later
            for seed, part in parts.items():
                part.run(lambda row, stage, done, total, seed=seed: report(f"{row}, seed {seed}", stage, done, total))
        table = seeds_table({seed: evaluated(part) for seed, part in parts.items()})
        write_text(self.out / "table.md", table)
        folders = [part.out for part in parts.values()]
        written = write_report(folders, self.out / "report.html", data=self.recipe.data)
        return f"{table}\nThe report, for a browser: {written}\n"


def seeds_table(found: Mapping[int, Mapping[str, Evaluation]]) -> str:
    """Markdown. found: rows by name, by seed. Means and counts of every column, and every row beside the baseline."""
    names = list(dict.fromkeys(name for rows in found.values() for name in rows))
    lines = [f"| row | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    for name in names:
        shares = [rows[name].shares() for rows in found.values() if name in rows]
        cells = [_cell([share[column] for share in shares if column in share]) for column in COLUMNS]
        lines.append(f"| {markdown(name)} | {' | '.join(cells)} |")
    seeds = ", ".join(map(str, found))
    lines += ["", f"Percent: mean over seeds (lowest to highest), and the count of each; seeds {seeds}.", ""]
    lines += [
        f"| beside {BASE} | column | gained, lost by seed | p by seed | in all | p |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        pairs = [paired(rows[name], rows[BASE]) for rows in found.values() if name in rows and BASE in rows]
        for columns in zip(*pairs) if name != BASE else ():
            lines.append(f"| {markdown(name)} | {_beside(columns)} |")
    told = "gained, lost: samples that stand in this row only, and in the other only, of those that both saw; p: of "
    told += "McNemar's exact test. In all: summed over seeds, whose images are the same, so its p is too small."
    return "\n".join([*lines, "", told]) + "\n"


def _cell(shares: Sequence[Share]) -> str:
    if not shares:
        return "-"
    percents, counts = [share.percent for share in shares], ", ".join(str(share.count) for share in shares)
    return f"{mean(percents):.1f} ({min(percents):.1f} to {max(percents):.1f}) {counts} of {shares[0].total}"


def _beside(pairs: Sequence[Paired]) -> str:
    gained, lost = (sum(getattr(pair, side) for pair in pairs) for side in ("first", "second"))
    by_seed = "; ".join(f"{pair.first}, {pair.second}" for pair in pairs)
    chances = "; ".join(f"{pair.p:.2g}" for pair in pairs)
    return f"{pairs[0].column} | {by_seed} | {chances} | {gained}, {lost} | {mcnemar(gained, lost):.2g}"
