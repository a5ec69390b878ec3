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

    def key(self) -> str:
        """Which rows these are, wherever the files lie."""
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

    def key(self) -> str:
        return ", ".join(f"{file.name} {label}" for file, label in self.files)

    def hidden(self) -> bool:
        return False


def check_label(label: int | None, classes: int, where: str) -> int:
    """The label, or a ValueError when it is missing or names no class."""
    if label is None or not 0 <= label < classes:
        raise ValueError(f"{where}: label {label}; allowed: 0 to {classes - 1}.")
    return label


def hold_out(shards: Sequence[Shard], count: int, seed: int, spread: int = 16) -> tuple[list[Shard], list[Shard]]:
    """``count`` rows in runs from about ``spread`` random shards, and shards of all other rows.

    A stream cannot be cut row by row without reading all of it, so runs of rows are held out: they are as random as the
    order in which the rows are stored. Raises a ValueError when there are not so many.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(shards), generator=generator).tolist()
    taken = _shares(shards, order, count, spread)
    held, rest = [], []
    for index, shard in enumerate(shards):
        if not taken[index]:
            rest.append(shard)
            continue
        start = int(torch.randint(len(shard) - taken[index] + 1, (), generator=generator))
        stop = start + taken[index]
        held.append(shard.part(start, stop))
        rest.extend(shard.part(*run) for run in ((0, start), (stop, len(shard))) if run[0] < run[1])
    return held, rest


def _shares(shards: Sequence[Shard], order: Sequence[int], count: int, spread: int) -> list[int]:
    """How many rows each shard gives, in passes over ``order``; only shards that are asked for rows are measured."""
    taken, share, missing = [0] * len(shards), -(-count // min(spread, len(shards))), count
    while missing:
        before = missing
        for index in order:
            more = min(share, missing, len(shards[index]) - taken[index]) if missing else 0
            taken[index] += more
            missing -= more
        if missing == before:
            raise ValueError(f"validation={count} of {count - missing} images; allowed: at most all of them.")
    return taken
