"""The record of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..attacks.autoattack import VERSIONS
from ..options import checked
from .identity import Identity
from .images import KeptImages, Rows, batches
from .recordfile import Resumable, Spent, per_sample

MEASURED = ("gradients", "repeated", "more steps", "fewer steps", "half eps", "double eps", "huge eps")
"""By every finished look for red flags."""
RECORD = "evaluation.json"
STANDARD = {"iterations": 100, "queries": 5000}
"""AutoAttack's own budgets."""


@checked
@dataclass(kw_only=True)
class CleanBatch(Spent):
    """predictions: -1 where a logit is not finite. probabilities: rows of logits that lie in [0, 1] and sum to 1.
    ties: finite rows whose largest logit several classes have."""

    predictions: list[int]
    labels: list[int]
    probabilities: int
    ties: int = 0

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
        stated = isinstance(threat, dict) and isinstance(threat.get("eps"), int | float) and "name" in threat
        if not stated or not isinstance(self.settings.get("gradient"), dict | None):
            raise ValueError("AttackRecord: threat or gradient has no name and options; allowed: both as JSON objects.")

    @property
    def outcomes(self) -> Tensor:
        """1 stands, 0 fell, -1 not attacked, (points,) int64."""
        return per_sample(self.batches, "outcomes")

    @property
    def spent(self) -> Spent:
        """By all batches together."""
        return Spent.together(self.batches.values())

    @property
    def rejected(self) -> int:
        """How many images lay outside the threat model."""
        return sum(batch.rejected for batch in self.batches.values())

    @property
    def warnings(self) -> list[str]:
        """Each once, in alphabetical order."""
        return sorted({text for batch in self.batches.values() for text in batch.warnings})

    @property
    def of_autoattack(self) -> tuple[str, ...]:
        """Which attacks of AutoAttack, with the budgets of its standard version, this is; none for others."""
        options = self.options or {} if self.attack == "AutoAttack" else {}
        if isinstance(attacks := options.get("attacks"), list):
            return tuple(map(str, attacks))
        return VERSIONS["standard"] if options.get("version") == "standard" else ()


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
    verb: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 7

    schema: int = version
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
        return per_sample(self.clean, "predictions")

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return per_sample(self.clean, "labels")

    @property
    def correct(self) -> Tensor:
        """(N,) bool, on the images themselves."""
        return self.predictions == self.labels

    @property
    def optimises(self) -> bool:
        """Whether the model was seen to update its input while it predicts."""
        return self.cost is not None and self.cost.updates > 0

    @property
    def others(self) -> dict[str, Tensor]:
        """Of every attack of another evaluation in this folder, as far as it came, which samples it broke under this
        threat model, (N,) bool. The columns do not count them."""
        broke = {}
        for name, attack in self.attacks.items():
            same = (attack.options or {}).get("threat", self.identity.threat) == self.identity.threat
            if name not in self.columns and attack.batches and same:
                broke[name] = torch.zeros(self.identity.points, dtype=torch.bool)
                for start, batch in attack.batches.items():
                    broke[name][start : start + len(batch.outcomes)] = torch.tensor(batch.outcomes) == 0
        return broke

    @property
    def done(self) -> dict[str, tuple[int, int]]:
        """How many batches are done, and how many there are: of ``clean``, and of every attack in ``columns``."""
        stages = {"clean": (len(self.clean), self.identity.points)}
        for name in self.columns:
            attack = self.attacks.get(name)
            stages[name] = (len(attack.batches), attack.points) if attack else (0, 1)
        size = max(self.identity.batch_size, 1)
        return {name: (done, -(-points // size)) for name, (done, points) in stages.items()}

    def kept(self, folder: Path | None) -> dict[str, KeptImages]:
        """Per attack, its verified images, which lie below the record's folder; nothing where none are kept."""
        if folder is None or not self.images:
            return {}
        size, attacks = self.identity.batch_size, self.attacks
        return {name: KeptImages(folder / "images", name, attacks[name].points, size) for name in self.columns}

    def standing_autoattack(self, column: str) -> Tensor | None:
        """(N,) bool, what stands AutoAttack standard; None if the column's attacks are not all of it."""
        standing, missing = self.correct.clone(), set(VERSIONS["standard"])
        wanted = {**STANDARD, "threat": self.identity.threat}
        for attack in (self.attacks[name] for name, of in self.columns.items() if of == column):
            outcomes, options = attack.outcomes, attack.options or {}
            whole = len(outcomes) == len(standing) and not (standing & (outcomes < 0)).any()
            own = all(options.get(key) == value for key, value in wanted.items())
            if attack.of_autoattack and attack.exact and whole and own:
                missing -= set(attack.of_autoattack)
                standing &= outcomes == 1
        return None if missing else standing

    def adversarial(self, kept: Mapping[str, Rows]) -> Tensor:
        """All images in order, (N, C, H, W) float32 on the CPU: of each sample that which broke it, where several did
        the first; else the last that was tried; its own where it was wrong already. kept: the images of every attack.
        """
        count = self.identity.points
        outcomes = {name: self.attacks[name].outcomes for name in kept if self.attacks[name].points == count}
        if not outcomes:
            given = f"attacks with kept images on all {count} points: none"
            raise ValueError(f"robustbench_images: {given}; allowed: an evaluation with images=True of every point.")
        first, joined = next(iter(outcomes)), []
        for rows in batches(count, self.identity.batch_size):
            batch, broken = kept[first][rows].float(), torch.zeros(rows.stop - rows.start, dtype=torch.bool)
            for name, outcome in outcomes.items():
                images, now = kept[name][rows].float(), outcome[rows]
                tried = (now >= 0) & ~broken
                batch[tried] = images[tried]
                broken |= now == 0
            joined.append(batch)
        return torch.cat(joined)

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
