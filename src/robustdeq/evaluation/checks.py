"""Red flags: signs that an attack failed rather than that a model is robust (Carlini et al. 2019; Athalye et al. 2018).

A flag is a function of the record. Where two attacks are compared on the same samples, it fires only if the sign test
over the samples on which they differ is significant at 1%, which takes at least seven of them (two gradients that
differ by more than 5 points: at 10%, four of them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.stats import binomtest

from .statistics import Share

LEVEL, GAP_LEVEL = 0.01, 0.1
"""Of the sign test; the second where two gradients also differ by more than ``GAP`` points."""
GRADIENTS, LEFT, GAP, RESIDUAL = 5.0, 2.0, 5.0, 0.5
"""Allowed: percent of zero gradients, percent left in a huge ball, points between two gradients, relative residual."""


@dataclass(frozen=True)
class Flag:
    """One check. found: what was measured, against what is allowed. text: what it means where it fires."""

    name: str
    fired: bool
    found: float | None
    allowed: float
    text: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def flags(record: dict[str, Any]) -> list[Flag]:
    """Every check that this record allows, fired or not. What all points say counts more than the first few."""
    columns = [
        _gradients_differ(record),
        _wins(
            record, "static", ("static",), ("frozen", "end-to-end"),
            "images made against the bare model break {found:.1f} percent more than attacks through the defence, which "
            "are too weak to say anything for it",
        ),
        _wins(
            record, "black-box", ("black-box",), ("PGD", "AA", "frozen", "end-to-end"),
            "attacks that see no gradient break {found:.1f} percent more than those that follow it, which is masked",
        ),
    ]  # fmt: skip
    measures = _of_measures(record.get("checks", {}).get("measures", {}))
    made = {flag.name: flag for flag in (*measures, *columns) if flag is not None}
    return list(made.values())


def outcomes(record: dict[str, Any], name: str) -> torch.Tensor:
    """Of an attack on every point: 1 stands, 0 fell, -1 not attacked. (points,) int64"""
    facts = record["attacks"][name]["batches"]
    return torch.tensor([o for start in sorted(facts, key=int) for o in facts[start]["outcomes"]], dtype=torch.int64)


def comparable(record: dict[str, Any]) -> tuple[str, str] | None:
    """Two independent attacks that differ in their gradient only, unrolled and phantom."""
    attacks = {name: record["attacks"][name] for name in record["columns"]}
    of = {"unrolled": [], "phantom": []}
    for name, facts in attacks.items():
        gradient = facts["view"].get("gradient") or {}
        if facts["independent"] and gradient.get("name") in of:
            of[gradient["name"]].append(name)
    keys = ("attack", "column", "points")
    pairs = [(a, b) for a in of["unrolled"] for b in of["phantom"] if all(attacks[a][k] == attacks[b][k] for k in keys)]
    return pairs[0] if pairs else None


def _of_measures(found: dict[str, Any]) -> list[Flag | None]:
    if not found:
        return []
    return [
        _no_gradient(found["gradients"]),
        _random(found["repeated"]),
        _surplus(
            "more steps", found["more steps"], found["fewer steps"],
            "PGD-10 breaks fewer samples than PGD-3, by {found:.1f} percent: the gradient leads astray",
        ),
        _huge(found["huge eps"]),
        _flat([found[name]["loss"] for name in ("half eps", "more steps", "double eps")]),
        _residual(found["residual"]) if "residual" in found else None,
        _gap(found["more steps"]["outcomes"], found["phantom"]["outcomes"]) if "phantom" in found else None,
        _surplus(
            "black-box", found["more steps"], found["square"],
            "Square, which sees no gradient, breaks {found:.1f} percent more than PGD-10: the gradient is masked",
        ) if "square" in found else None,
    ]  # fmt: skip


def _no_gradient(found: dict[str, int]) -> Flag:
    share = _percent(**found)
    text = f"{share:.0f}% of the samples have a gradient that is zero or not finite: attacks that follow it stand still"
    return Flag("gradients", share > GRADIENTS, share, GRADIENTS, text)


def _random(found: dict[str, int]) -> Flag:
    share = _percent(**found)
    text = f"two forwards of the same images differ on {share:.0f}% of the samples: one call of an attack proves little"
    return Flag("random", found["count"] > 0, share, 0.0, text)


def _huge(found: dict[str, Any]) -> Flag:
    stands = Share(sum(found["outcomes"]), len(found["outcomes"]))
    fired = bool(stands.total) and stands.interval[0] > LEFT
    text = f"{stands.percent:.0f}% stand in a ball of 0.5, where every image can be made grey: the attack is broken"
    return Flag("huge eps", fired, stands.percent if stands.total else None, LEFT, text)


def _flat(losses: Sequence[float | None]) -> Flag | None:
    if any(loss is None for loss in losses):
        return None
    half, whole, double = (loss or 0.0 for loss in losses)
    rise = min(whole - half, double - whole)
    text = f"the loss does not rise with eps: {half:.3g}, {whole:.3g}, {double:.3g} at half, once and twice eps"
    return Flag("loss", rise <= 0, rise, 0.0, text)


def _residual(found: float | None) -> Flag:
    text = (
        f"the median relative residual at z^[N] is {'infinite' if found is None else format(found, '.2f')}: no fixed "
        "point is near, so gradients that assume one are not to be trusted (the unrolled one assumes none)"
    )
    return Flag("residual", found is None or found > RESIDUAL, found, RESIDUAL, text)


def _gradients_differ(record: dict[str, Any]) -> Flag | None:
    pair = comparable(record)
    if pair is None:
        return None
    unrolled, phantom = (outcomes(record, name) for name in pair)
    seen = unrolled >= 0
    return _gap(unrolled[seen].tolist(), phantom[seen].tolist())


def _gap(unrolled: list[int], phantom: list[int]) -> Flag:
    gap = _difference(phantom, unrolled)
    fired = abs(gap) > GAP and min(_chance(phantom, unrolled), _chance(unrolled, phantom)) < GAP_LEVEL
    weaker = "phantom" if gap > 0 else "unrolled"
    text = f"PGD with the unrolled and the phantom gradient differ by {abs(gap):.1f} points: the {weaker} one is masked"
    return Flag("gradients differ", fired, abs(gap), GAP, text)


def _wins(record: dict[str, Any], name: str, weak: Sequence[str], strong: Sequence[str], text: str) -> Flag | None:
    """Whether the columns that should be the weaker ones break more; a column is known by its last word."""

    def of(kinds: Sequence[str]) -> list[torch.Tensor]:
        chosen = [attack for attack, column in record["columns"].items() if column.split()[-1] in kinds]
        return [outcomes(record, attack) == 0 for attack in chosen]

    below, above = of(weak), of(strong)
    if not below or not above:
        return None
    points = min(map(len, (*below, *above)))
    seen = torch.tensor([right for part in _clean(record) for right in part])[:points]

    def standing(fallen: list[torch.Tensor]) -> dict[str, Any]:
        stands = ~torch.stack([part[:points] for part in fallen]).any(0)
        return {"outcomes": stands[seen].int().tolist()}

    return _surplus(name, standing(above), standing(below), text)


def _clean(record: dict[str, Any]) -> list[list[bool]]:
    parts = [record["clean"][start] for start in sorted(record["clean"], key=int)]
    return [[p == y for p, y in zip(part["predictions"], part["labels"])] for part in parts]


def _surplus(name: str, strong: dict[str, Any], weak: dict[str, Any], text: str) -> Flag:
    """Fires if the attack that should be the stronger one leaves more samples standing."""
    found = _difference(strong["outcomes"], weak["outcomes"])
    fired = found > 0 and _chance(strong["outcomes"], weak["outcomes"]) < LEVEL
    return Flag(name, fired, found, 0.0, text.format(found=found))


def _difference(one: list[int], other: list[int]) -> float:
    """By how many percent of the samples more stand under one than under the other."""
    return 100 * (sum(one) - sum(other)) / max(len(one), 1)


def _chance(one: list[int], other: list[int]) -> float:
    """The sign test: how likely so many more would stand under one than the other, if each were as strong."""
    above = sum(a > b for a, b in zip(one, other))
    below = sum(a < b for a, b in zip(one, other))
    return float(binomtest(above, above + below, alternative="greater").pvalue) if above + below else 1.0


def _percent(count: int, total: int) -> float:
    return 100 * count / max(total, 1)
