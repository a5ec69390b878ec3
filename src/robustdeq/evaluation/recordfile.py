"""A record on disk, written after every batch and read back to go on, by one process or several; it knows JSON."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from typing_extensions import Self

from ..distributed import Distributed
from ..environment import environment
from ..files import DIGEST, json_digest, plain, read_json, tidy, write_json
from ..options import make
from .identity import check_same
from .images import batches

ANEW, ELSEWHERE = "remove it to begin anew", ("seconds", "environment", "environments")


@dataclass(kw_only=True)
class Spent:
    """What work cost. evaluations: of f; backward: passes through one. updates: of a defended input, one a sample."""

    seconds: float = 0.0
    evaluations: int = 0
    backward: int = 0
    updates: int = 0

    @classmethod
    def together(cls, batches: Iterable[Spent]) -> Spent:
        """What several cost in all."""
        rows = list(batches)
        return Spent(**{of.name: sum(getattr(row, of.name) for row in rows) for of in fields(Spent)})


def per_sample(batches: Mapping[int, Spent], name: str, dtype: torch.dtype = torch.int64) -> Tensor:
    """What the batches, by the number of their first point, have under this name, in order: (N,)."""
    return torch.tensor([value for _, batch in sorted(batches.items()) for value in getattr(batch, name)], dtype=dtype)


class Resumable(ABC):
    """What a folder keeps of work that is done batch by batch: a dataclass of JSON values in STEM.json.

    stem: of the file's name. verb: what makes it. version: of what ``schema`` says there. identity: what must be the
    same for the work to go on. environments: by the names that batches give.
    """

    stem: ClassVar[str]
    verb: ClassVar[str]
    version: ClassVar[int]
    schema: int
    identity: Any  # an Identity
    environments: dict[str, object]

    @abstractmethod
    def stages(self) -> Iterable[dict[int, Any]]:
        """The batches that are done, by the number of their first point."""

    @abstractmethod
    def joined(self, newer: Any) -> Self:
        """The batches of both."""

    def resumed(self, fresh: Any) -> Self:
        """What is gone on with as ``fresh``, on which nothing has been done."""
        return self.joined(fresh)

    def to_json(self) -> Any:
        """The record as what JSON can hold."""
        return plain(asdict(self))  # type: ignore[call-overload]

    @classmethod
    def united(cls, folder: Path | None) -> Self | None:
        """What a folder's record and its shares hold together, whatever it is a record of; None where there is
        nothing."""
        record = None
        files = [] if folder is None else [*folder.glob(f"{cls.stem}.json"), *sorted(folder.glob(cls.share_files()))]
        for path in files:
            value = read_json(path, ANEW)
            try:
                schema = value.get("schema") if isinstance(value, dict) else None
                if schema != cls.version:
                    raise ValueError(f"schema {str(schema)[:40]}; allowed: {cls.version}")
                stated, share = value.pop(DIGEST, None), make(cls, value)
                if stated != _seal(value):
                    raise ValueError("damaged: its digest is of another record")
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path} cannot be read ({str(error)[:300]}); {ANEW}.") from error
            record = share if record is None else record.joined(share)
        return record

    @classmethod
    def share_files(cls) -> str:
        """Pattern of the files that several processes write."""
        return f"{cls.stem}.[0-9]*.json"


R = TypeVar("R", bound=Resumable)


class RecordFile(Generic[R]):
    """A record on disk. One of another identity is refused, not overwritten.

    A process alone writes STEM.json. Of several, each writes STEM.RANK.json, and whoever ends or begins unites them, so
    their number may change between one start and the next. device: where this process computes.
    """

    def __init__(
        self, folder: Path | None, fresh: R, resume: bool, distributed: Distributed, device: torch.device
    ) -> None:
        if folder is None and distributed.world_size > 1:
            several = f"{distributed.world_size} processes without out"
            raise ValueError(f"{fresh.verb}: {several}; allowed: a folder they share.")
        self.folder, self.distributed = folder, distributed
        self.record: R = fresh
        if folder is not None:
            if resume and (before := fresh.united(folder)) is not None:
                check_same(folder / f"{fresh.stem}.json", before.identity, fresh.identity)
                self.record = before.resumed(fresh)
            distributed.barrier()
            distributed.main_first(self._settle)
        mine = {rows.start for rows in self.mine(fresh.identity.points)}
        for done in self.record.stages():
            for start in done.keys() - mine:
                del done[start]  # no stale copy of another process's batch can come back from this one's file
        here = environment(command=True, device=device)
        self.environment = json_digest(here)[:8]
        self.record.environments[self.environment] = here

    def mine(self, points: int) -> Sequence[slice]:
        """The batches of this process."""
        return self.distributed.share(batches(points, self.record.identity.batch_size))

    def save(self) -> None:
        rank = "" if self.distributed.world_size == 1 else f".{self.distributed.rank}"
        if self.folder is not None:
            _write(self.folder / f"{self.record.stem}{rank}.json", self.record)

    def gather(self, conclude: Callable[[], None] = lambda: None) -> None:
        """Unite all shares in STEM.json and in every process. conclude: what the first adds to the whole."""
        self.save()
        self.distributed.barrier()
        if self.distributed.main:
            self.record = self.record.united(self.folder) or self.record
            conclude()
            self._settle()
        self.distributed.barrier()
        self.record = self.record.united(self.folder) or self.record

    def _settle(self) -> None:
        """One file, and no shares."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            tidy(self.folder)
            _write(self.folder / f"{self.record.stem}.json", self.record)
            for share in self.folder.glob(self.record.share_files()):
                share.unlink()


def _write(path: Path, record: Resumable) -> None:
    write_json(path, {DIGEST: _seal(value := record.to_json()), **value})


def _seal(value: Any) -> str:
    """SHA-256 of what a record says, wherever and how fast it was measured, whatever the layout."""

    def measured(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: measured(item) for name, item in value.items() if name not in ELSEWHERE}
        return [measured(item) for item in value] if isinstance(value, list) else value

    return json_digest(measured(value))
