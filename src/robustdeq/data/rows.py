"""One labelled image as it is stored, and the runs of rows ("shards") that every kind of source is read in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import torch


class Row(NamedTuple):
    """where: the file and the row, as an error names them. data: a PNG, JPEG, ... file. label: 0..classes-1."""

    where: str
    data: bytes
    label: int


class Shard(Protocol):
    """Rows that lie together and are read in order."""

    def __len__(self) -> int: ...

    def part(self, start: int, stop: int) -> Shard:
        """Rows ``start`` to ``stop`` of this shard."""
        ...

    def rows(self) -> Iterator[Row]:
        """Raises a ValueError that names the file and the row which cannot be read."""
        ...

    def hidden(self) -> bool:
        """Whether the labels are withheld: the first one is -1."""
        ...


@dataclass(frozen=True)
class FolderShard:
    """Image files with their labels."""

    files: tuple[tuple[Path, int], ...]

    def __len__(self) -> int:
        return len(self.files)

    def part(self, start: int, stop: int) -> FolderShard:
        return replace(self, files=self.files[start:stop])

    def rows(self) -> Iterator[Row]:
        for file, label in self.files:
            try:
                data = file.read_bytes()
            except OSError as error:
                raise ValueError(f"{file}: cannot be read ({error}).") from error
            yield Row(str(file), data, label)

    def hidden(self) -> bool:
        return False


def check_label(label: int | None, classes: int, where: str) -> int:
    """The label, or a ValueError when it is missing or names no class."""
    if label is None or not 0 <= label < classes:
        raise ValueError(f"{where}: label {label}; allowed: 0 to {classes - 1}.")
    return label


def hold_out(shards: Sequence[Shard], count: int, seed: int, spread: int = 16) -> tuple[list[Shard], list[Shard]]:
    """``count`` rows from the fronts of about ``spread`` random shards, and the shards of all other rows.

    A stream cannot be cut row by row without reading all of it, so whole fronts are held out: as random as the order
    in which the rows are stored. Raises a ValueError when nothing would be left.
    """
    order = torch.randperm(len(shards), generator=torch.Generator().manual_seed(seed)).tolist()
    taken = dict.fromkeys(range(len(shards)), 0)
    share, missing = -(-count // min(spread, len(shards))), count
    while missing:
        before = missing
        for index in order:
            more = min(share, missing, len(shards[index]) - taken[index]) if missing else 0
            taken[index] += more
            missing -= more
        if missing == before:
            raise ValueError(f"validation={count}; allowed: fewer than the {count - missing} training images.")
    held = [shards[index].part(0, taken[index]) for index in order if taken[index]]
    rest = [shard.part(taken[i], len(shard)) if taken[i] else shard for i, shard in enumerate(shards)]
    return held, [shard for i, shard in enumerate(rest) if not taken[i] or len(shard)]
