"""Two evaluations on the same samples, and who breaks what: counts sample by sample, and an exact test."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import binomtest

from ..evaluation import Evaluation

OWN = ("static", "white-box")
"""Columns of images that were made against the bare model of the very one that is judged."""


@dataclass(frozen=True)
class Paired:
    """One column of two evaluations on the same ``points`` samples. first, second: those that are right in that one
    only. alike: both met the same attacks there. p: of McNemar's exact test (two-sided), how likely so uneven a split
    is if both were as good, and of attacks that are not alike, if each met as strong ones."""

    column: str
    points: int
    first: int
    second: int
    alike: bool = True

    @property
    def p(self) -> float:
        return mcnemar(self.first, self.second)

    @property
    def difference(self) -> float:
        """By how many percentage points the first is better."""
        return 100 * (self.first - self.second) / self.points if self.points else float("nan")


def mcnemar(first: int, second: int) -> float:
    """The exact p-value of McNemar's test: of the discordant pairs, half should fall to either side (Edwards 1948)."""
    if not first + second:
        return 1.0
    return float(binomtest(first, first + second, 0.5).pvalue)


def paired(one: Evaluation, other: Evaluation) -> list[Paired]:
    """Every column that both have, on the samples that both saw. A ValueError says why there is none."""
    a, b = one.record.identity, other.record.identity
    if a.images != b.images:
        raise ValueError("other images")
    columns = ["clean"]
    if (a.norm, a.eps) == (b.norm, b.eps):
        both = [column for column in dict.fromkeys(one.columns.values()) if column in other.columns.values()]
        columns += [*both, *(["All"] if one.columns and other.columns else [])]
    rows = []
    for column in columns:
        first, second = one.standing(column), other.standing(column)
        points = min(len(first), len(second))
        first, second = first[:points], second[:points]
        alike = _attacks(one, column) == _attacks(other, column)
        rows.append(Paired(column, points, int((first & ~second).sum()), int((second & ~first).sum()), alike))
    return rows


def _attacks(of: Evaluation, column: str) -> list[str]:
    """What was run for a column, whatever it was called; ``All`` has every attack, and clean images none. Of images
    made elsewhere their digests; those made against the bare self of each model are others by nature."""
    names = [name for name, at in of.columns.items() if column in (at, "All")]
    attacks = [of.record.attacks[name] for name in names]
    told = [{k: v for k, v in (a.options or {}).items() if k not in ("seed", "batch_size")} for a in attacks]
    images = [{str(batch.transferred) for batch in a.batches.values() if a.column not in OWN} for a in attacks]
    each = zip(attacks, told, images)
    return sorted(repr((a.column, a.attack, o, a.view, a.settings, a.points, sorted(of))) for a, o, of in each)
