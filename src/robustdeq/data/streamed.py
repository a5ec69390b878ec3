"""Sets that are too large for memory: read, decoded and cropped by worker threads while the model computes."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch
from torch import Tensor

from .decode import WORKERS, Place, decoded, pixels_of, stack
from .images import ImageSet
from .rows import Row, Shard
from .workers import ahead, in_turn, shuffled

DEPTH = 2
"""Batches that are prepared ahead."""


@dataclass(frozen=True)
class StreamedSet:
    """Labelled images in ``shards``, brought to ``image_size`` (None: as stored, all of one size), three channels.

    random: whether a batch shows a random crop instead of the middle. workers: threads that decode. buffer: rows, as
    image files, among which the next one is drawn. together: shards that are read in turn. count: the number of rows,
    where counting them takes long. Rows are best stored in random order, as those of the large hub sets are.
    """

    shards: tuple[Shard, ...]
    classes: tuple[str, ...]
    source: str
    image_size: int | None = None
    random: bool = False
    device: torch.device | str = "cpu"
    workers: int = WORKERS
    buffer: int = 2048
    together: int = 4
    count: int | None = None

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards) if self.count is None else self.count

    def digest(self) -> str:
        """SHA-256 of what is known without reading: which rows of which files, and how they are shown."""
        facts = [self.source, self.classes, self.image_size, self.random, [shard.key() for shard in self.shards]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def to(self, device: torch.device | str) -> StreamedSet:
        return replace(self, device=device)

    def batches(
        self, size: int, generator: torch.Generator, part: slice = slice(None), skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled batches: float32 (size, 3, H, W) in [0, 1] and int64 (size,), on ``device``.

        Order and crops depend on ``generator`` only, not on the number of workers; a last batch smaller than ``size``
        is left out. part: which rows of every batch are wanted. skip: how many batches are passed over. Rows
        that are not wanted are read, but not decoded. Raises a ValueError that names the file and the row which is
        broken.
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        for pixels, labels in ahead(self._stacks(size, torch.Generator().manual_seed(seed), part, skip), DEPTH):
            yield pixels.to(self.device).float() / 255, labels.to(self.device)

    def images(self, rows: Tensor | slice) -> Tensor:
        """float32 in [0, 1] of the given rows, see ``take``."""
        return self.take(rows).images()

    def take(self, rows: Tensor | slice) -> ImageSet:
        """These rows (positions in stored order), their middles, in memory."""
        wanted = torch.arange(len(self))[rows].tolist()
        order = sorted(set(wanted))
        with closing(decoded(((row, None) for row in self._at(order)), self.image_size, self.workers)) as images:
            found = {index: (pixels_of(image), row.label) for index, (row, image, _) in zip(order, images)}
        pixels = stack(found[index][0] for index in wanted)
        labels = torch.tensor([found[index][1] for index in wanted])
        return ImageSet(pixels.to(self.device), labels.to(self.device), self.classes, self.source)

    def _at(self, positions: Sequence[int]) -> Iterator[Row]:
        """The rows at sorted positions; shards without one are not read."""
        first = 0
        for shard in self.shards:
            if not positions or first > positions[-1]:
                return
            count = len(shard)
            mine = positions[bisect_left(positions, first) : bisect_left(positions, first + count)]
            inside = [position - first for position in mine]
            if inside:
                part = shard.part(inside[0], inside[-1] + 1)
                chosen = set(inside)
                yield from (row for index, row in enumerate(part.rows(), start=inside[0]) if index in chosen)
            first += count

    def _stacks(
        self, size: int, generator: torch.Generator, part: slice, skip: int
    ) -> Generator[tuple[Tensor, Tensor]]:
        wanted = range(size)[part]
        placed = islice(self._placed(generator), skip * size, len(self) // size * size)
        mine = (item for item, place in zip(placed, cycle(range(size))) if place in wanted)
        with closing(decoded(mine, self.image_size, self.workers)) as images:
            while len(batch := list(islice(images, len(wanted)))) == len(wanted):
                yield stack(pixels_of(image) for _, image, _ in batch), torch.tensor([row.label for row, _, _ in batch])

    def _placed(self, generator: torch.Generator) -> Iterator[tuple[Row, Place | None]]:
        """Shuffled rows, each with the place of its random crop."""
        order = torch.randperm(len(self.shards), generator=generator).tolist()
        rows = in_turn((self.shards[index].rows() for index in order), self.together)
        for row in shuffled(rows, self.buffer, generator):
            across, down = torch.rand(2, generator=generator).tolist()
            yield row, (across, down) if self.random and self.image_size else None
