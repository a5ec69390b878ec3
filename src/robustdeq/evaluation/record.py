"""The record of an evaluation and its file, written after every batch and read back to go on; all that knows JSON."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from ..distributed import SINGLE, Distributed
from ..environment import environment
from ..files import differences, plain, write_json
from ..options import make

SCHEMA = 4
RECORD = "evaluation.json"
SHARES = "evaluation.[0-9]*.json"


@dataclass(kw_only=True)
class Spent:
    """What work cost. evaluations: of f. updates: of a defended input, one a sample."""

    seconds: float = 0.0
    evaluations: int = 0
    updates: int = 0


@dataclass(kw_only=True)
class CleanBatch(Spent):
    """predictions: -1 where a logit is not finite. probabilities: rows of logits that lie in [0, 1] and sum to 1."""

    predictions: list[int]
    labels: list[int]
    probabilities: int


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


@dataclass
class Described:
    """An object by its class and what tells it from another of its class; None where that cannot be told."""

    name: str
    options: dict[str, Any] | None = field(default_factory=dict)


@dataclass(kw_only=True)
class AttackRecord:
    """exact: the view has the deployed logits and their exact gradient. batches: by the number of their first point."""

    column: str
    attack: Described
    view: Described
    points: int
    exact: bool = False
    independent: bool = False
    batches: dict[int, Batch] = field(default_factory=dict)

    @property
    def outcomes(self) -> Tensor:
        """1 stands, 0 fell, -1 not attacked, (points,) int64."""
        return torch.tensor([o for start in sorted(self.batches) for o in self.batches[start].outcomes]).long()


@dataclass(kw_only=True)
class Count:
    count: int
    total: int


@dataclass(kw_only=True)
class Trial:
    """A short attack on correct samples: 1 stands, 0 fell; and the mean cross-entropy of its images."""

    outcomes: list[int]
    loss: float | None


@dataclass(kw_only=True)
class Checks:
    """What flags are raised on, measured on the first ``points`` samples. medians: None where infinite."""

    points: int = 0
    counts: dict[str, Count] = field(default_factory=dict)
    trials: dict[str, Trial] = field(default_factory=dict)
    medians: dict[str, float | None] = field(default_factory=dict)
    done: bool = False


@dataclass(kw_only=True)
class Cost:
    """A defended forward in multiples of the bare one's (None: of nothing); updates of the input a sample."""

    points: int
    seconds: float
    evaluations: float | None
    updates: float


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


@dataclass(kw_only=True)
class Record:
    """samples: how they were chosen, in words. images: whether the verified ones are kept. columns: of every attack of
    this evaluation, in order; ``attacks`` may hold others from before. environments: by the name batches give."""

    identity: Identity
    samples: str
    columns: dict[str, str]
    attacks: dict[str, AttackRecord]
    images: bool = False
    opaque: bool = False
    clean: dict[int, CleanBatch] = field(default_factory=dict)
    checks: Checks | None = None
    cost: Cost | None = None
    environments: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def predictions(self) -> Tensor:
        """(N,) int64, on the images themselves; -1 where a logit is not finite."""
        return self._clean("predictions")

    @property
    def correct(self) -> Tensor:
        """(N,) bool, on the images themselves."""
        return self.predictions == self._clean("labels")

    def _clean(self, name: str) -> Tensor:
        rows = [getattr(self.clean[start], name) for start in sorted(self.clean)]
        return torch.tensor([label for labels in rows for label in labels]).long()

    def to_json(self) -> Any:
        return plain(asdict(self))

    @classmethod
    def from_json(cls, value: Any) -> Record:
        """Raises a ValueError if a field is missing, unknown, or of another type."""
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema != SCHEMA:
            raise ValueError(f"schema {str(schema)[:40]}; allowed: {SCHEMA}")
        return _typed(cls, value)


def _typed(hint: Any, value: Any) -> Any:
    """A JSON value as the type that ``hint`` states."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else _typed(inner[0], value)
    if origin is dict and isinstance(value, dict):
        return {inner[0](key): _typed(inner[1], item) for key, item in value.items()}
    if origin is list and isinstance(value, list):
        return [_typed(inner[0], item) for item in value]
    if is_dataclass(hint) and isinstance(value, dict):
        hints, owner = get_type_hints(hint), getattr(hint, "__name__", "")
        if differing := ", ".join(sorted(value.keys() ^ hints.keys())):
            raise ValueError(f"{owner}: {differing} missing or unknown")
        return make(hint, {name: _typed(hints[name], value[name]) for name in hints})  # type: ignore[arg-type]
    if origin is None and (type(value) is hint or (hint is float and type(value) is int)):
        return value
    raise ValueError(f"{str(value)[:40]!r} is no {getattr(hint, '__name__', hint)}")


class RecordFile:
    """A record on disk. One of another identity is refused, not overwritten.

    A process alone writes evaluation.json. Of several, each writes evaluation.RANK.json, and whoever ends or begins
    unites them, so their number may change between one start and the next.
    """

    def __init__(
        self, folder: Path | None, fresh: Record, *, resume: bool = True, distributed: Distributed = SINGLE
    ) -> None:
        if folder is None and distributed.world_size > 1:
            raise ValueError(f"evaluate: {distributed.world_size} processes without out; allowed: a folder they share.")
        self.folder, self.distributed, self.record = folder, distributed, fresh
        if folder is not None:
            if resume and (before := united(folder)) is not None:
                _refuse_other(folder / RECORD, before.identity, fresh.identity)
                for name, attack in fresh.attacks.items():
                    if attack.attack.options is None:  # it may be another function now: never taken for done
                        before.attacks.pop(name, None)
                self.record = _joined(before, fresh)
            distributed.barrier()
            distributed.main_first(self._settle)
        self.record.clean = self._own(self.record.clean)
        for attack in self.record.attacks.values():
            attack.batches = self._own(attack.batches)
        here = environment()
        self.environment = hashlib.sha256(json.dumps(here, sort_keys=True).encode()).hexdigest()[:8]
        self.record.environments[self.environment] = here

    def save(self) -> None:
        file = RECORD if self.distributed.world_size == 1 else f"evaluation.{self.distributed.rank}.json"
        if self.folder is not None:
            write_json(self.folder / file, asdict(self.record))

    def gather(self, conclude: Callable[[], None]) -> None:
        """Every process has finished its share: all of it is in evaluation.json, and in every process. conclude: what
        the first process adds when it has the whole record."""
        self.save()
        self.distributed.barrier()
        if self.distributed.main:
            self._unite()
            conclude()
            self._settle()
        self.distributed.barrier()
        self._unite()

    def _unite(self) -> None:
        if self.folder is not None:
            self.record = united(self.folder) or self.record

    def _own(self, batches: dict[int, Any]) -> dict[int, Any]:
        """Those of this process: no stale copy of another's can come back from its file."""
        size, rank, count = self.record.identity.batch_size, self.distributed.rank, self.distributed.world_size
        return {start: batch for start, batch in batches.items() if start // size % count == rank}

    def _settle(self) -> None:
        """One file, and no shares."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / RECORD, asdict(self.record))
            for share in self.folder.glob(SHARES):
                share.unlink()


def _refuse_other(path: Path, before: Identity, now: Identity) -> None:
    size, pairs = max(map(abs, before.logits + now.logits)), list(zip(before.logits, now.logits))
    # Another machine or number of threads may have rounded the logits otherwise.
    if len(before.logits) == len(now.logits) and all(abs(a - b) <= 1e-3 * size for a, b in pairs):
        before = replace(before, logits=now.logits)
    if differing := ", ".join(differences(asdict(before), asdict(now))):
        raise ValueError(f"{path} belongs to another {differing}; give another output folder, or resume=False.")


def united(folder: Path) -> Record | None:
    """What a folder's record and its shares hold together, whatever it is a record of; None where there is nothing."""
    record = None
    for path in [path for path in (folder / RECORD,) if path.exists()] + sorted(folder.glob(SHARES)):
        try:
            share = Record.from_json(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}); remove it to evaluate anew.") from error
        record = share if record is None else _joined(record, share)
    return record


def _joined(old: Record, new: Record) -> Record:
    """The batches of both; an attack that was given other options counts as the newer has it."""
    attacks = dict(old.attacks)
    for name, attack in new.attacks.items():
        before = attacks.get(name, attack)
        same = replace(before, batches={}) == replace(attack, batches={})
        batches = {**before.batches, **attack.batches} if same else attack.batches
        attacks[name] = replace(attack, batches=dict(sorted(batches.items())))
    clean, environments = dict(sorted({**old.clean, **new.clean}.items())), old.environments | new.environments
    checks, cost = new.checks or old.checks, new.cost or old.cost
    return replace(new, clean=clean, attacks=attacks, environments=environments, checks=checks, cost=cost)
