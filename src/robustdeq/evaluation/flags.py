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

from .identity import Identity
from .record import Checks, Record

LEVEL, GAP_LEVEL = 0.01, 0.1
"""Of the sign test; the second where two gradients also differ by more than ``GAP`` points."""
FOLLOWING = ("PGD", "joint", "AA", "white-box", "frozen", "end-to-end")
"""Columns of attacks that follow the deployed model's gradient."""
FIXED_POINT = ("residual", "joint")
"""Flags about attacks that assume a fixed point; the others do not need one."""
ZERO_GRADIENTS, BATCH, LEFT, GAP, RESIDUAL, TIES = 5.0, 5.0, 2.0, 5.0, 0.5, 2.0
"""Allowed: percent of zero gradients, percent that a batch moves, percent left in a huge ball or outside of its own,
points between two gradients, relative residual, percent of ties (half precision has some)."""


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
    compared = [
        _wins(
            record, "static", ("static",), ("frozen", "end-to-end"),
            "images made against the bare model break {value:.1f} percent more than attacks through the defence, which "
            "are too weak to say anything for it",
        ),
        _wins(
            record, "black-box", ("black-box",), FOLLOWING,
            "attacks that see no gradient break {value:.1f} percent more than those that follow it, which is masked",
        ),
        _wins(
            record, "surrogate", ("surrogate", "transfer"), FOLLOWING,
            "images made against other models break {value:.1f} percent more than attacks that follow the gradient of "
            "this one, which is masked",
        ),
        _joint(record),
        _weak(record),
    ]  # fmt: skip
    if (pair := comparable(record)) is not None:
        unrolled, phantom = (record.attacks[name].outcomes for name in pair)
        compared.append(_gap(unrolled[unrolled >= 0].tolist(), phantom[phantom >= 0].tolist()))
    checks = record.checks
    measured = _of_checks(checks, record.identity) if checks is not None and checks.outcomes else []
    by_name = {flag.name: flag for flag in (*_outputs(record), *measured, *compared) if flag is not None}
    return list(by_name.values())


def comparable(record: Record) -> tuple[str, str] | None:
    """Two independent attacks that differ in their gradient only, unrolled and phantom."""
    attacks = {name: record.attacks[name] for name in record.columns if record.attacks[name].independent}
    gradient = {name: (attack.settings.get("gradient") or {}).get("name") for name, attack in attacks.items()}
    rest = {name: (attack.attack, attack.options, attack.column, attack.points) for name, attack in attacks.items()}
    pairs = ((a, b) for a in attacks for b in attacks if (gradient[a], gradient[b]) == ("unrolled", "phantom"))
    return next((pair for pair in pairs if rest[pair[0]] == rest[pair[1]]), None)


def _outputs(record: Record) -> list[Flag]:
    total, broken = len(record.predictions), int((record.predictions < 0).sum())
    probabilities = sum(batch.probabilities for batch in record.clean.values())
    ties = sum(batch.ties for batch in record.clean.values())
    fired = []
    if record.cost is not None and record.cost.same == 1:
        text = "on clean images the defended logits are the bare model's, bit for bit: there the defence does nothing"
        fired.append(Flag("idle defence", True, 100.0, 99.0, text))
    if broken:
        text = f"{broken} of {total} clean logits are not finite; such samples count as errors, not attacked"
        fired.append(Flag("not finite", True, 100 * broken / total, 0.0, text))
    if probabilities and probabilities == total - broken:
        text = "outputs are probabilities, not logits: where they saturate, gradients vanish and attacks stand still"
        fired.append(Flag("probabilities", True, 100.0, 0.0, text))
    shown = {name: int((record.attacks[name].outcomes >= 0).sum()) for name in record.columns}
    outside = {name: record.attacks[name].rejected for name in record.columns if record.attacks[name].rejected}
    if many := {name: percent for name, n in outside.items() if (percent := 100 * n / shown[name]) > LEFT}:
        which = ", ".join(f"{outside[name]} of {shown[name]} images of {name}" for name in many)
        text = f"{which} lie outside the ball or the box: their samples count as standing"
        fired.append(Flag("rejected", True, max(many.values()), LEFT, text))
    if ties and (percent := 100 * ties / total) > TIES:
        text = f"{ties} of {total} clean samples have their largest logit twice: which class is taken is an accident"
        fired.append(Flag("ties", True, percent, TIES, text))
    return fired


def _of_checks(checks: Checks, of: Identity) -> list[Flag]:
    outcomes, values = checks.outcomes, checks.values
    percent_failed = {name: 100 * each.count(0) / max(len(each), 1) for name, each in outcomes.items()}
    zero, other = percent_failed["gradients"], percent_failed["repeated"]
    still = f"{zero:.0f}% of the samples have a gradient that is zero or not finite: attacks on it stand still"
    random = f"two forwards of the same images differ on {other:.0f}% of the samples: one attack proves little"
    astray = "PGD-10 breaks fewer samples than PGD-3, by {value:.1f} percent: the gradient leads astray"
    # Of what is random these would say nothing more.
    moved = {name: percent_failed[name] for name in ("alone", "with gradient") if name in outcomes and not other}
    flagged = [
        Flag("gradients", zero > ZERO_GRADIENTS, zero, ZERO_GRADIENTS, still),
        Flag("random", other > 0, other, 0.0, random),
        _surplus("more steps", outcomes["more steps"], outcomes["fewer steps"], astray),
    ]
    if (percent := moved.get("alone")) is not None:
        text = f"{percent:.0f}% of the samples have other logits alone than in a batch: what falls in one may stand in"
        flagged.append(Flag("batch", percent > BATCH, percent, BATCH, f"{text} another"))
    if (percent := moved.get("with gradient")) is not None:
        text = f"{percent:.0f}% of the samples have other logits where a gradient is asked for: attacks see another"
        flagged.append(Flag("gradient mode", percent > 0, percent, 0.0, f"{text} model than the one that is judged"))
    if left := outcomes["huge eps"]:
        percent, surely = 100 * mean(left), 100 * binomtest(sum(left), len(left)).proportion_ci(0.95, "exact").low
        text = f"{percent:.0f}% stand in a ball of 0.5, where every image can be made grey: the attack is broken"
        flagged.append(Flag("huge eps", surely > LEFT, percent, LEFT, text))
    half, whole, double = (values[name] for name in ("half eps", "more steps", "double eps"))
    if of.eps and half is not None and whole is not None and double is not None:
        wider = of.norm != "Linf" or of.eps < 1  # the box is the largest ball there is
        rise = min(whole - half, double - whole) if wider else whole - half
        text = f"the loss does not rise with eps: {half:.3g}, {whole:.3g}, {double:.3g} at half, once and twice eps"
        flagged.append(Flag("loss", rise <= 0, rise, 0.0, text))
    if "residual" in values:
        median = values["residual"]
        text = (
            f"the median relative residual at z^[N] is {'infinite' if median is None else format(median, '.2f')}: no "
            "fixed point is near, so gradients that assume one are not to be trusted (the unrolled one assumes none)"
        )
        flagged.append(Flag("residual", median is None or median > RESIDUAL, median, RESIDUAL, text))
    if "phantom" in outcomes:
        flagged.append(_gap(outcomes["more steps"], outcomes["phantom"]))
    if "square" in outcomes:
        text = "Square, which sees no gradient, breaks {value:.1f} percent more than PGD-10: the gradient is masked"
        flagged.append(_surplus("black-box", outcomes["more steps"], outcomes["square"], text))
    return flagged


def _gap(unrolled: list[int], phantom: list[int]) -> Flag:
    gap = _difference(phantom, unrolled)
    fired = abs(gap) > GAP and min(_chance(phantom, unrolled), _chance(unrolled, phantom)) < GAP_LEVEL
    weaker = "phantom" if gap > 0 else "unrolled"
    text = f"PGD with the unrolled and the phantom gradient differ by {abs(gap):.1f} points: the {weaker} one is masked"
    return Flag("gradients differ", fired, abs(gap), GAP, text)


def _wins(record: Record, name: str, weak: Sequence[str], strong: Sequence[str], text: str) -> Flag | None:
    """Whether the columns that should be the weaker ones break more; a column is known by its last word."""
    last = {name: (column.split() or [""])[-1] for name, column in record.columns.items()}
    sides = [[name for name in last if last[name] in kinds] for kinds in (strong, weak)]
    if not all(sides):
        return None
    fallen = [[record.attacks[attack].outcomes == 0 for attack in side] for side in sides]
    points = min(len(outcomes) for side in fallen for outcomes in side)
    correct = record.correct[:points]
    standing = [~torch.stack([outcomes[:points] for outcomes in side]).any(0) for side in fallen]
    above, below = (stands[correct].int().tolist() for stands in standing)
    return _surplus(name, above, below, text)


def _joint(record: Record) -> Flag | None:
    """Whether the joint attack is weaker than PGD through the solver, on the samples that both were shown."""
    joint = next((a for name in record.columns if (a := record.attacks[name]).attack == "JointOptimisation"), None)
    pair = comparable(record)
    if joint is None or pair is None:
        return None
    one, other = joint.outcomes, record.attacks[pair[0]].outcomes[: len(joint.outcomes)]
    both = (one[: len(other)] >= 0) & (other >= 0)
    text = "the joint attack breaks {value:.1f} percent less than PGD through the solver: no fixed point is near"
    return _surplus("joint", one[: len(other)][both].tolist(), other[both].tolist(), text)


def _weak(record: Record) -> Flag | None:
    """Whether all attacks together leave more of the first samples than the plain PGD of the checks."""
    if not record.columns or record.checks is None or "more steps" not in record.checks.outcomes:
        return None
    each = [record.attacks[name].outcomes for name in record.columns]
    points = min(record.checks.points, *map(len, each))
    stands = ~torch.stack([outcomes[:points] == 0 for outcomes in each]).any(0)[record.correct[:points]]
    text = "all attacks together leave {value:.1f} percent more than PGD-10 in steps of a quarter of eps: too weak"
    return _surplus("weak attacks", stands.int().tolist(), record.checks.outcomes["more steps"][: len(stands)], text)


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
