"""Sets that are too large for memory: read, decoded and cropped by worker threads while the model computes."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .decode import Place, check_size, fit, open_image, pixels_of, stack
from .images import ImageSet
from .rows import Row, Shard

T = TypeVar("T")

DEPTH = 2
"""Batches that are prepared ahead."""


@dataclass(frozen=True)
class StreamedSet:
    """Labelled images in ``shards``, brought to ``image_size`` (None: as stored, all of one size), three channels.

    random: whether a batch shows a random crop instead of the middle. workers: threads that decode (Pillow lets other
    threads run while it decodes and resizes). buffer: rows, as image files, among which the next one is drawn.
    together: shards that are read in turn. count: the number of rows, where counting takes long. Rows are best stored in random order, as the large hub sets are.
    """

    shards: tuple[Shard, ...]
    classes: tuple[str, ...]
    source: str
    image_size: int | None = None
    random: bool = False
    device: torch.device | str = "cpu"
    workers: int = 4
    buffer: int = 2048
    together: int = 4
    count: int | None = None

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards) if self.count is None else self.count

    def to(self, device: torch.device | str) -> StreamedSet:
        return replace(self, device=device)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled batches: float32 (size, 3, H, W) in [0, 1] and int64 (size,), on ``device``.

        Order and crops depend on ``generator`` only, not on the number of workers; a last batch smaller than ``size``
        is left out. Raises a ValueError that names the file and the row which is broken.
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        for pixels, labels in ahead(self._stacks(size, torch.Generator().manual_seed(seed)), DEPTH):
            yield pixels.to(self.device).float() / 255, labels.to(self.device)

    def take(self, rows: Tensor | slice) -> ImageSet:
        """These rows (positions in stored order), their middles, in memory."""
        wanted = torch.arange(len(self))[rows].tolist()
        found = dict(zip(sorted(set(wanted)), self._decoded((row, None) for row in self._at(sorted(set(wanted))))))
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
            inside = [position - first for position in positions if first <= position < first + count]
            if inside:
                part = shard.part(inside[0], inside[-1] + 1)
                chosen = set(inside)
                yield from (row for index, row in enumerate(part.rows(), start=inside[0]) if index in chosen)
            first += count

    def _stacks(self, size: int, generator: torch.Generator) -> Generator[tuple[Tensor, Tensor]]:
        with closing(self._decoded(self._placed(generator))) as decoded:
            while len(batch := list(islice(decoded, size))) == size:
                yield stack(pixels for pixels, _ in batch), torch.tensor([label for _, label in batch])

    def _placed(self, generator: torch.Generator) -> Iterator[tuple[Row, Place | None]]:
        """Shuffled rows, each with the place of its random crop."""
        order = torch.randperm(len(self.shards), generator=generator).tolist()
        rows = in_turn([self.shards[index] for index in order], self.together)
        for row in shuffled(rows, self.buffer, generator):
            across, down = torch.rand(2, generator=generator).tolist()
            yield row, (across, down) if self.random and self.image_size else None

    def _decoded(self, placed: Iterable[tuple[Row, Place | None]]) -> Generator[tuple[np.ndarray, int]]:
        """(C, H, W) uint8 and label, in the order given, decoded by the workers."""
        size: tuple[int, int] | None = None
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        try:
            for row, image in in_order(pool, self._image, placed, 16 * self.workers):
                size = size or image.size
                check_size(image, size, row)
                yield pixels_of(image), row.label
        finally:
            pool.shutdown(cancel_futures=True)

    def _image(self, row: Row, place: Place | None) -> tuple[Row, Image.Image]:
        image = open_image(row)[0]
        return row, fit(image, self.image_size, place) if self.image_size else image


def in_order(pool: ThreadPoolExecutor, work, items: Iterable[tuple], most: int) -> Iterator:
    """``work(*item)`` of every item, in order; at most ``most`` are under way."""
    pending: deque[Future] = deque()
    for item in items:
        pending.append(pool.submit(work, *item))
        if len(pending) >= most:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def in_turn(shards: Iterable[Shard], together: int) -> Iterator[Row]:
    """One row of each of ``together`` shards in turn; a shard that ends makes room for the next."""
    waiting = iter(shards)
    running = deque(shard.rows() for shard in islice(waiting, together))
    while running:
        row = next(running[0], None)
        if row is None:
            running.popleft()
            running.extend(shard.rows() for shard in islice(waiting, 1))
        else:
            running.rotate(-1)
            yield row


def shuffled(items: Iterable[T], buffer: int, generator: torch.Generator) -> Iterator[T]:
    """Every item once; each is drawn from among ``buffer`` that were read."""
    held: list[T] = []
    for item in items:
        if len(held) < buffer:
            held.append(item)
            continue
        index = int(torch.randint(buffer, (), generator=generator))
        yield held[index]
        held[index] = item
    for index in torch.randperm(len(held), generator=generator).tolist():
        yield held[index]


def ahead(items: Generator[T], depth: int) -> Iterator[T]:
    """The items, made by a thread that is up to ``depth`` of them ahead; it ends when the reader does."""
    made: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def put(kind: str, value: object) -> bool:
        while not stop.is_set():
            try:
                made.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def make() -> None:
        try:
            all(put("item", item) for item in items)
            put("end", None)
        except BaseException as error:  # handed to the reader, who raises it
            put("error", error)
        finally:
            items.close()

    thread = threading.Thread(target=make, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stop.set()
        thread.join()
