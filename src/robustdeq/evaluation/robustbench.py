"""What RobustBench wants to know of a record, and the adversarial images that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..attacks.autoattack import VERSIONS
from .images import Rows, batches
from .record import AttackRecord, Record

STANDARD = {"iterations": 100, "queries": 5000}
"""AutoAttack's own budgets."""
EXCLUDED = "optimises its input at inference, and RobustBench excludes such defences"


def standard(record: Record, column: str) -> Tensor | None:
    """(N,) bool, what stands AutoAttack standard; None if the column's attacks are not all of it."""
    standing, missing = record.correct.clone(), set(VERSIONS["standard"])
    for name in (name for name, c in record.columns.items() if c == column):
        attack = record.attacks[name]
        outcomes, options, parts = attack.outcomes, attack.options or {}, parts_of(attack)
        whole = len(outcomes) == len(standing) and not (standing & (outcomes < 0)).any()
        own = all(options.get(key) == budget for key, budget in STANDARD.items())
        if parts and attack.exact and whole and own and options.get("threat") == threat_of(record):
            missing -= set(parts)
            standing &= outcomes == 1
    return None if missing else standing


def threat_of(record: Record) -> dict[str, Any]:
    """As an attack's options tell it."""
    return {"name": record.identity.norm, "eps": record.identity.eps}


def parts_of(attack: AttackRecord) -> tuple[str, ...]:
    """Which attacks of AutoAttack, with the budgets of its standard version, a recorded attack is; none for others."""
    if attack.attack != "AutoAttack":
        return ()
    options = attack.options or {}
    whole = VERSIONS["standard"] if options.get("version") == "standard" else ()
    named = options.get("attacks")
    return tuple(map(str, named)) if isinstance(named, list) else whole


def optimises(record: Record) -> bool:
    """Whether the model was seen to update its input while it predicts."""
    return record.cost is not None and record.cost.updates > 0


def eps_of(eps: float) -> str:
    """As RobustBench writes it: 8/255, or 0.5."""
    steps = eps * 255
    return f"{round(steps)}/255" if round(steps) and abs(steps - round(steps)) < 1e-6 else f"{eps:g}"


def footnote_of(record: Record, own: str | None) -> str | None:
    notes = [note for note in (own, f"The model {EXCLUDED}." if optimises(record) else None) if note]
    return " ".join(notes) or None


def images_of(record: Record, kept: Mapping[str, Rows]) -> Tensor:
    """All images in order, (N, C, H, W) float32 on the CPU: of each sample that which broke it, where several did the
    first; else the last that was tried; its own where it was wrong already. kept: the images of every attack."""
    count = record.identity.points
    outcomes = {name: record.attacks[name].outcomes for name in kept if record.attacks[name].points == count}
    if not outcomes:
        given = f"attacks with kept images on all {count} points: none"
        raise ValueError(f"robustbench_images: {given}; allowed: an evaluation with images=True of every point.")
    first, found = next(iter(outcomes)), []
    for rows in batches(count, record.identity.batch_size):
        batch, broken = kept[first][rows].float(), torch.zeros(rows.stop - rows.start, dtype=torch.bool)
        for name, outcome in outcomes.items():
            images, now = kept[name][rows].float(), outcome[rows]
            tried = (now >= 0) & ~broken
            batch[tried] = images[tried]
            broken |= now == 0
        found.append(batch)
    return torch.cat(found)
