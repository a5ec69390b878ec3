"""The record of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..options import checked
from .recordfile import Identity as Identity
from .recordfile import Resumable
from .recordfile import Spent as Spent

SCHEMA = 7
MEASURED = ("gradients", "repeated", "more steps", "fewer steps", "half eps", "double eps", "huge eps")
"""By every finished look for red flags."""
RECORD, SHARES = "evaluation.json", "evaluation.[0-9]*.json"


@checked
@dataclass(kw_only=True)
class CleanBatch(Spent):
    """predictions: -1 where a logit is not finite. probabilities: rows of logits that lie in [0, 1] and sum to 1."""

    predictions: list[int]
    labels: list[int]
    probabilities: int

    def __post_init__(self) -> None:
        if (one := len(self.predictions)) != (other := len(self.labels)):
            raise ValueError(f"CleanBatch: {one} predictions of {other} labels.")


@checked
@dataclass(kw_only=True)
class Batch(Spent):
    """outcomes: 1 stands, 0 fell, -1 not attacked. rejected: images outside the threat model. kept: whether the
    verified images are in a file. transferred: digest of the images, where they were made elsewhere."""

    outcomes: list[int]
    environment: str = ""
    rejected: int = 0
    kept: bool = False
    warnings: list[str] = field(default_factory=list)
    transferred: str | None = None


@checked
@dataclass(kw_only=True)
class AttackRecord:
    """attack, view: classes; options and settings tell them from others of their class, None where that cannot be told.
    exact: the view has the deployed logits and their exact gradient. batches: by the number of their first point."""

    column: str
    attack: str
    options: dict[str, Any] | None = field(default_factory=dict)
    view: str
    settings: dict[str, Any] = field(default_factory=dict)
    points: int
    exact: bool = False
    independent: bool = False
    batches: dict[int, Batch] = field(default_factory=dict)

    def __post_init__(self) -> None:
        threat = (self.options or {}).get("threat", {"name": "", "eps": 0.0})
        told = isinstance(threat, dict) and isinstance(threat.get("eps"), int | float) and "name" in threat
        if not told or not isinstance(self.settings.get("gradient"), dict | None):
            raise ValueError("AttackRecord: threat or gradient has no name and options; allowed: both as JSON objects.")

    @property
    def outcomes(self) -> Tensor:
        """1 stands, 0 fell, -1 not attacked, (points,) int64."""
        return _joined_rows(self.batches, "outcomes")


@checked
@dataclass(kw_only=True)
class Checks:
    """What flags are raised on, of the first ``points`` samples (0: left out). outcomes: 1 where a sample is sound or
    stands a short attack, else 0. values: mean cross-entropy when attacked, or a median; None: none, or infinite."""

    points: int = 0
    outcomes: dict[str, list[int]] = field(default_factory=dict)
    values: dict[str, float | None] = field(default_factory=dict)
    done: bool = False

    def __post_init__(self) -> None:
        missing = [name for name in MEASURED if name not in self.outcomes or name not in self.values]
        if self.done and self.points and missing:
            raise ValueError(f"Checks: done without {', '.join(missing)}; allowed: all of them.")


@checked
@dataclass
class Cost:
    """Of a defended forward, in multiples of the bare one's (None: of nothing); updates of the input a sample. same:
    share of the samples that have the bare model's logits, bit for bit (None: an older record)."""

    points: int
    seconds: float
    evaluations: float | None
    updates: float
    same: float | None = None


@checked
@dataclass(kw_only=True)
class Record(Resumable):
    """samples: how they were chosen, in words. images: whether the verified ones are kept. columns: of every attack of
    this evaluation, in order; ``attacks`` may hold others from before. environments: by the name batches give."""

    stem: ClassVar[str] = "evaluation"
    version: ClassVar[int] = SCHEMA

    schema: int = SCHEMA
    identity: Identity
    samples: str
    columns: dict[str, str]
    attacks: dict[str, AttackRecord]
    clean: dict[int, CleanBatch]
    images: bool = False
    opaque: bool = False
    checks: Checks | None = None
    cost: Cost | None = None
    environments: dict[str, object] = field(default_factory=dict)

    @property
    def predictions(self) -> Tensor:
        """(N,) int64, on the images themselves; -1 where a logit is not finite."""
        return _joined_rows(self.clean, "predictions")

    @property
    def correct(self) -> Tensor:
        """(N,) bool, on the images themselves."""
        return self.predictions == _joined_rows(self.clean, "labels")

    def stages(self) -> Iterator[dict[int, Any]]:
        yield self.clean
        yield from (attack.batches for attack in self.attacks.values())

    def joined(self, newer: Record) -> Record:
        """An attack that was given other options counts as the newer has it."""
        attacks = dict(self.attacks)
        for name, attack in newer.attacks.items():
            before = attacks.get(name, attack)
            same = replace(before, batches={}) == replace(attack, batches={})
            done = {**before.batches, **attack.batches} if same else attack.batches
            attacks[name] = replace(attack, batches=dict(sorted(done.items())))
        clean = dict(sorted({**self.clean, **newer.clean}.items()))
        environments = self.environments | newer.environments
        checks, cost = newer.checks or self.checks, newer.cost or self.cost
        return replace(newer, clean=clean, attacks=attacks, environments=environments, checks=checks, cost=cost)

    def resumed(self, fresh: Record) -> Record:
        for name, attack in fresh.attacks.items():
            if attack.options is None:  # it may be another function now: never taken for done
                self.attacks.pop(name, None)
        return self.joined(fresh)


def _joined_rows(done: dict[int, Any], name: str) -> Tensor:
    return torch.tensor([value for _, batch in sorted(done.items()) for value in getattr(batch, name)]).long()
