"""Red flags: signs that an attack failed rather than that a model is robust (Carlini et al. 2019; Athalye et al. 2018).

A flag is a function of the record. Where two attacks are compared on the same samples, it fires only if the sign test
over the samples on which they differ is significant at 1%, which takes at least seven of them (two gradients that
differ by more than 5 points: at 10%, four of them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from scipy.stats import binomtest
from torch import Tensor

from .record import Checks, Record

LEVEL, GAP_LEVEL = 0.01, 0.1
"""Of the sign test; the second where two gradients also differ by more than ``GAP`` points."""
GRADIENTS, LEFT, GAP, RESIDUAL = 5.0, 2.0, 5.0, 0.5
"""Allowed: percent of zero gradients, percent left in a huge ball, points between two gradients, relative residual."""


@dataclass(frozen=True)
class Flag:
    """One check. value: what was measured, against what is allowed. text: what it means where it fires."""

    name: str
    fired: bool
    value: float | None
    allowed: float
    text: str


def flags(record: Record) -> list[Flag]:
    """Every check that this record allows, fired or not; those of the clean outputs only where they fire.

    What all points say counts more than the first few.
    """
    columns = [
        _wins(
            record, "static", ("static",), ("frozen", "end-to-end"),
            "images made against the bare model break {value:.1f} percent more than attacks through the defence, which "
            "are too weak to say anything for it",
        ),
        _wins(
            record, "black-box", ("black-box",), ("PGD", "AA", "frozen", "end-to-end"),
            "attacks that see no gradient break {value:.1f} percent more than those that follow it, which is masked",
        ),
    ]  # fmt: skip
    if (pair := comparable(record)) is not None:
        unrolled, phantom = (record.attacks[name].outcomes for name in pair)
        columns.append(_gap(unrolled[unrolled >= 0].tolist(), phantom[phantom >= 0].tolist()))
    measured = [] if record.checks is None else _of_checks(record.checks)
    by_name = {flag.name: flag for flag in (*_outputs(record), *measured, *columns) if flag is not None}
    return list(by_name.values())


def comparable(record: Record) -> tuple[str, str] | None:
    """Two independent attacks that differ in their gradient only, unrolled and phantom."""
    names: dict[str, list[str]] = {"unrolled": [], "phantom": []}
    for name in record.columns:
        gradient = ((record.attacks[name].view.options or {}).get("gradient") or {}).get("name")
        if record.attacks[name].independent and gradient in names:
            names[gradient].append(name)

    def rest(name: str) -> tuple[object, ...]:
        attack = record.attacks[name]
        return attack.attack, attack.column, attack.points

    return next(((a, b) for a in names["unrolled"] for b in names["phantom"] if rest(a) == rest(b)), None)


def _outputs(record: Record) -> list[Flag]:
    total, broken = len(record.predictions), int((record.predictions < 0).sum())
    probabilities = sum(batch.probabilities for batch in record.clean.values())
    fired = []
    if broken:
        text = f"{broken} of {total} clean logits are not finite; such samples count as errors, not attacked"
        fired.append(Flag("not finite", True, 100 * broken / total, 0.0, text))
    if probabilities and probabilities == total - broken:
        text = "outputs are probabilities, not logits: where they saturate, gradients vanish and attacks stand still"
        fired.append(Flag("probabilities", True, 100.0, 0.0, text))
    return fired


def _of_checks(checks: Checks) -> list[Flag | None]:
    if not checks.trials:
        return []
    trials = {name: trial.outcomes for name, trial in checks.trials.items()}
    zero, other = (100 * c.count / max(c.total, 1) for c in (checks.counts["gradients"], checks.counts["repeated"]))
    return [
        Flag(
            "gradients", zero > GRADIENTS, zero, GRADIENTS,
            f"{zero:.0f}% of the samples have a gradient that is zero or not finite: attacks on it stand still",
        ),
        Flag(
            "random", other > 0, other, 0.0,
            f"two forwards of the same images differ on {other:.0f}% of the samples: one attack proves little",
        ),
        _surplus(
            "more steps", trials["more steps"], trials["fewer steps"],
            "PGD-10 breaks fewer samples than PGD-3, by {value:.1f} percent: the gradient leads astray",
        ),
        _huge(trials["huge eps"]),
        _flat([checks.trials[name].loss for name in ("half eps", "more steps", "double eps")]),
        _residual(checks.medians["residual"]) if "residual" in checks.medians else None,
        _gap(trials["more steps"], trials["phantom"]) if "phantom" in trials else None,
        _surplus(
            "black-box", trials["more steps"], trials["square"],
            "Square, which sees no gradient, breaks {value:.1f} percent more than PGD-10: the gradient is masked",
        ) if "square" in trials else None,
    ]  # fmt: skip


def _huge(outcomes: list[int]) -> Flag | None:
    if not outcomes:
        return None
    exact, percent = binomtest(sum(outcomes), len(outcomes)).proportion_ci(0.95, "exact"), 100 * mean(outcomes)
    text = f"{percent:.0f}% stand in a ball of 0.5, where every image can be made grey: the attack is broken"
    return Flag("huge eps", 100 * exact.low > LEFT, percent, LEFT, text)


def _flat(losses: Sequence[float | None]) -> Flag | None:
    half, whole, double = losses
    if half is None or whole is None or double is None:
        return None
    rise = min(whole - half, double - whole)
    text = f"the loss does not rise with eps: {half:.3g}, {whole:.3g}, {double:.3g} at half, once and twice eps"
    return Flag("loss", rise <= 0, rise, 0.0, text)


def _residual(median: float | None) -> Flag:
    text = (
        f"the median relative residual at z^[N] is {'infinite' if median is None else format(median, '.2f')}: no fixed "
        "point is near, so gradients that assume one are not to be trusted (the unrolled one assumes none)"
    )
    return Flag("residual", median is None or median > RESIDUAL, median, RESIDUAL, text)


def _gap(unrolled: list[int], phantom: list[int]) -> Flag:
    gap = _difference(phantom, unrolled)
    fired = abs(gap) > GAP and min(_chance(phantom, unrolled), _chance(unrolled, phantom)) < GAP_LEVEL
    weaker = "phantom" if gap > 0 else "unrolled"
    text = f"PGD with the unrolled and the phantom gradient differ by {abs(gap):.1f} points: the {weaker} one is masked"
    return Flag("gradients differ", fired, abs(gap), GAP, text)


def _wins(record: Record, name: str, weak: Sequence[str], strong: Sequence[str], text: str) -> Flag | None:
    """Whether the columns that should be the weaker ones break more; a column is known by its last word."""

    def fallen(kinds: Sequence[str]) -> list[Tensor]:
        names = [attack for attack, column in record.columns.items() if column.split()[-1] in kinds]
        return [record.attacks[attack].outcomes == 0 for attack in names]

    below, above = fallen(weak), fallen(strong)
    if not below or not above:
        return None
    points = min(map(len, (*below, *above)))
    correct = record.correct[:points]

    def standing(columns: list[Tensor]) -> list[int]:
        stands = ~torch.stack([column[:points] for column in columns]).any(0)
        return stands[correct].int().tolist()

    return _surplus(name, standing(above), standing(below), text)


def _surplus(name: str, strong: list[int], weak: list[int], text: str) -> Flag:
    """Fires if the attack that should be the stronger one leaves more samples standing."""
    value = _difference(strong, weak)
    return Flag(name, value > 0 and _chance(strong, weak) < LEVEL, value, 0.0, text.format(value=value))


def _difference(one: list[int], other: list[int]) -> float:
    """By how many percent of the samples more stand under one than under the other."""
    return 100 * (sum(one) - sum(other)) / max(len(one), 1)


def _chance(one: list[int], other: list[int]) -> float:
    """The sign test: how likely so many more would stand under one than the other, if each were as strong."""
    above = sum(a > b for a, b in zip(one, other))
    below = sum(a < b for a, b in zip(one, other))
    return float(binomtest(above, above + below, alternative="greater").pvalue) if above + below else 1.0
