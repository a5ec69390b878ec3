"""The record of an evaluation and its file, written after every batch and read back to go on; all that knows JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..distributed import Distributed
from ..environment import environment
from ..files import DIGEST, differences, plain, read_json, tidy, write_json
from ..options import checked, make
from .images import batches

SCHEMA = 7
MEASURED = ("gradients", "repeated", "more steps", "fewer steps", "half eps", "double eps", "huge eps")
"""By every finished look for red flags."""
RECORD, SHARES = "evaluation.json", "evaluation.[0-9]*.json"
ANEW, ELSEWHERE = "remove it to evaluate anew", ("seconds", "environment", "environments")


@dataclass(kw_only=True)
class Spent:
    """What work cost. evaluations: of f; backward: passes through one. updates: of a defended input, one a sample."""

    seconds: float = 0.0
    evaluations: int = 0
    backward: int = 0
    updates: int = 0


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
    """Of a defended forward, in multiples of the bare one's (None: of nothing); updates of the input a sample."""

    points: int
    seconds: float
    evaluations: float | None
    updates: float


@checked
@dataclass
class Described:
    """A module by its class and what tells it from another of its class."""

    name: str
    settings: dict[str, Any]


@checked
@dataclass(kw_only=True)
class Identity:
    """What must be the same for a record to be continued. weights: digest below defence and readout; deployed: of all.
    logits: of the first image without a defence, which tell models of the same weights apart. images: digest."""

    model: Any
    weights: str
    deployed: str
    solver: Any
    steps: int | None
    readout: Described | None
    defence: Described | None
    logits: list[float]
    points: int
    images: str
    norm: str
    eps: float
    seed: int
    batch_size: int


@checked
@dataclass(kw_only=True)
class Record:
    """samples: how they were chosen, in words. images: whether the verified ones are kept. columns: of every attack of
    this evaluation, in order; ``attacks`` may hold others from before. environments: by the name batches give."""

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

    def to_json(self) -> Any:
        """The record as what JSON can hold."""
        return plain(asdict(self))


def _joined_rows(done: dict[int, Any], name: str) -> Tensor:
    return torch.tensor([value for _, batch in sorted(done.items()) for value in getattr(batch, name)]).long()


class RecordFile:
    """A record on disk. One of another identity is refused, not overwritten.

    A process alone writes evaluation.json. Of several, each writes evaluation.RANK.json, and whoever ends or begins
    unites them, so their number may change between one start and the next.
    """

    def __init__(self, folder: Path | None, fresh: Record, resume: bool, distributed: Distributed) -> None:
        if folder is None and distributed.world_size > 1:
            raise ValueError(f"evaluate: {distributed.world_size} processes without out; allowed: a folder they share.")
        self.folder, self.distributed, self.record = folder, distributed, fresh
        if folder is not None:
            if resume and (before := united(folder)) is not None:
                _refuse_other(folder / RECORD, before.identity, fresh.identity)
                for name, attack in fresh.attacks.items():
                    if attack.options is None:  # it may be another function now: never taken for done
                        before.attacks.pop(name, None)
                self.record = _joined(before, fresh)
            distributed.barrier()
            distributed.main_first(self._settle)
        mine = {rows.start for rows in self.mine(fresh.identity.points)}
        for done in (self.record.clean, *(attack.batches for attack in self.record.attacks.values())):
            for start in done.keys() - mine:
                del done[start]  # no stale copy of another process's batch can come back from this one's file
        here = environment(command=True)
        self.environment = hashlib.sha256(json.dumps(here, sort_keys=True).encode()).hexdigest()[:8]
        self.record.environments[self.environment] = here

    def mine(self, points: int) -> Sequence[slice]:
        """The batches of this process."""
        return self.distributed.share(batches(points, self.record.identity.batch_size))

    def save(self) -> None:
        file = RECORD if self.distributed.world_size == 1 else f"evaluation.{self.distributed.rank}.json"
        if self.folder is not None:
            _write(self.folder / file, self.record)

    def gather(self, conclude: Callable[[], None]) -> None:
        """Unite all shares in evaluation.json and in every process. conclude: what the first adds to the whole."""
        self.save()
        self.distributed.barrier()
        if self.distributed.main:
            self.record = united(self.folder) or self.record
            conclude()
            self._settle()
        self.distributed.barrier()
        self.record = united(self.folder) or self.record

    def _settle(self) -> None:
        """One file, and no shares."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            tidy(self.folder)
            _write(self.folder / RECORD, self.record)
            for share in self.folder.glob(SHARES):
                share.unlink()


def _refuse_other(path: Path, before: Identity, now: Identity) -> None:
    size, pairs = max(map(abs, before.logits + now.logits)), list(zip(before.logits, now.logits))
    # Another machine or number of threads may have rounded the logits otherwise.
    if len(before.logits) == len(now.logits) and all(abs(a - b) <= 1e-3 * size for a, b in pairs):
        before = replace(before, logits=now.logits)
    if differing := ", ".join(differences(asdict(before), asdict(now))):
        raise ValueError(f"{path} belongs to another {differing}; give another folder, or remove it.")


def _write(path: Path, record: Record) -> None:
    write_json(path, {DIGEST: _seal(value := record.to_json()), **value})


def _seal(value: Any) -> str:
    """SHA-256 of what a record says, wherever and how fast it was measured, whatever the layout."""

    def measured(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: measured(item) for name, item in sorted(value.items()) if name not in ELSEWHERE}
        return [measured(item) for item in value] if isinstance(value, list) else value

    return hashlib.sha256(json.dumps(measured(value)).encode()).hexdigest()


def united(folder: Path | None) -> Record | None:
    """What a folder's record and its shares hold together, whatever it is a record of; None where there is nothing."""
    record = None
    for path in [] if folder is None else [*folder.glob(RECORD), *sorted(folder.glob(SHARES))]:
        value = read_json(path, ANEW)
        try:
            schema = value.get("schema") if isinstance(value, dict) else None
            if schema != SCHEMA:
                raise ValueError(f"schema {str(schema)[:40]}; allowed: {SCHEMA}")
            stated, share = value.pop(DIGEST, None), make(Record, value)
            if stated != _seal(value):
                raise ValueError("damaged: its digest is of another record")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({str(error)[:300]}); {ANEW}.") from error
        record = share if record is None else _joined(record, share)
    return record


def _joined(old: Record, new: Record) -> Record:
    """The batches of both; an attack that was given other options counts as the newer has it."""
    attacks = dict(old.attacks)
    for name, attack in new.attacks.items():
        before = attacks.get(name, attack)
        same = replace(before, batches={}) == replace(attack, batches={})
        done = {**before.batches, **attack.batches} if same else attack.batches
        attacks[name] = replace(attack, batches=dict(sorted(done.items())))
    clean, environments = dict(sorted({**old.clean, **new.clean}.items())), old.environments | new.environments
    checks, cost = new.checks or old.checks, new.cost or old.cost
    return replace(new, clean=clean, attacks=attacks, environments=environments, checks=checks, cost=cost)
