"""Sets too large for memory: read, decoded and cropped while the model computes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice

import torch
from torch import Tensor

from ..checks import check_count
from ..files import json_digest
from ..seeds import generator as seeded
from .images import ON_WHITE, Row, check_memory, decode, one_line, read, say, stack
from .sets import Batches, ImageSet, check_device, check_epoch, check_rows
from .stored import Stored


@dataclass(frozen=True)
class StreamedSet:
    """Labelled images: the rows ``spans`` of ``stored``, in colour, brought to ``image_size`` (None: as stored).

    random: whether a batch shows a random crop instead of the middle. buffer: rows, as image files, among which the
    next ones are drawn. Rows are best stored in random order, as those of the large hub sets are.
    """

    stored: Stored
    spans: tuple[range, ...]
    source: str
    image_size: int | None = None
    random: bool = False
    device: torch.device | str = "cpu"
    buffer: int = 2048

    def __post_init__(self) -> None:
        check_count("StreamedSet", "buffer", self.buffer)

    def __len__(self) -> int:
        return sum(map(len, self.spans))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their numbers."""
        return self.stored.classes

    def digest(self) -> str:
        """SHA-256 of what is known without reading: which rows and columns of which files, and how they are shown."""
        rows = [self.stored.files, self.stored.sizes, [(span.start, span.stop) for span in self.spans]]
        columns = [self.stored.image, self.stored.label]
        description = [self.source, self.classes, self.image_size, self.random, rows, columns]
        return json_digest(description)

    def to(self, device: torch.device | str) -> StreamedSet:
        """The same set, whose batches come on a device."""
        check_device(device)
        return replace(self, device=device)

    def batches(self, size: int, generator: torch.Generator, part: slice = slice(None), skip: int = 0) -> Batches:
        """One epoch of shuffled batches: float32 (size, 3, H, W) in [0, 1] and int64 (size,), on ``device``.

        Order and crops depend on ``generator`` only; a last batch smaller than ``size`` is left out. part: which rows
        of every batch are wanted. skip: how many batches are passed over. Rows that are not wanted are read, but not
        decoded. Raises a ValueError that names the split and the row which is broken.
        """
        check_epoch(size, generator, part, skip, len(self))
        return self._batches(size, generator, part, skip)

    def _batches(self, size: int, generator: torch.Generator, part: slice, skip: int) -> Batches:
        seed, wanted = int(torch.randint(2**62, (), generator=generator)), len(range(size)[part])
        whitened = False
        with one_line(), closing(decode(self._rows(size, seed, part, skip), self.image_size)) as images:
            for _ in range(skip, len(self) // size):
                batch = stack(islice(images, wanted), wanted)
                if batch.clear and not whitened:  # once an epoch
                    say(f"{self.stored.where}: {ON_WHITE}", RuntimeWarning)
                whitened = whitened or batch.clear
                yield batch.pixels.to(self.device).float() / 255, batch.labels.to(self.device)

    def _rows(self, size: int, seed: int, part: slice, skip: int) -> Iterator[Row]:
        """The wanted rows of each batch, each with the place of its random crop; every process reads all of them."""
        rows = islice(self._shuffled(random.Random(seed)), skip * size, None)
        for batch in range(skip, len(self) // size):
            places = torch.rand(size, 2, generator=seeded(seed, batch)).tolist()
            for row, place in list(zip(islice(rows, size), places))[part]:
                yield row._replace(place=tuple(place)) if self.random and self.image_size else row

    def _shuffled(self, draw: random.Random) -> Iterator[Row]:
        """Shards in random order; then each row changes places with a random one of the buffer."""
        # A shard is read from end to end, never at random places: on a network that would be one request a row.
        pieces, buffer = [piece for span in self.spans for piece in self.stored.pieces(span)], []
        draw.shuffle(pieces)
        for row in chain.from_iterable(map(self.stored.rows, pieces)):
            if len(buffer) < self.buffer:
                buffer.append(row)
            else:
                place = draw.randrange(len(buffer))
                buffer[place], row = row, buffer[place]
                yield row
        draw.shuffle(buffer)
        yield from buffer

    def images(self, rows: Tensor | slice) -> Tensor:
        """(n, 3, H, W) float32 in [0, 1], see ``take``."""
        return self.take(rows).images()

    @one_line()
    def take(self, rows: Tensor | slice) -> ImageSet:
        """These rows (positions in stored order, a slice or (n,) int64), their middles, in memory."""
        rows = check_rows("take", rows, len(self))
        wanted = torch.cat([torch.arange(span.start, span.stop) for span in self.spans])[rows]
        if not len(wanted):
            raise ValueError(f"take: no row of {len(self)}; allowed: at least one.")
        numbers, places = wanted.unique(return_inverse=True)
        inside, span = set(numbers.tolist()), range(int(numbers[0]), int(numbers[-1]) + 1)
        stored = (row for number, row in zip(span, self.stored.rows(span)) if number in inside)
        if self.image_size:  # before anything is decoded
            check_memory(self.stored.where, len(numbers), self.image_size, self.image_size)
        whole = read(stored, len(numbers), self.image_size)
        if whole.clear:
            say(f"{self.stored.where}: {ON_WHITE}", RuntimeWarning)
        pixels, labels = (tensor[places].to(self.device) for tensor in (whole.pixels, whole.labels))
        return ImageSet(pixels, labels, self.classes, self.source)
