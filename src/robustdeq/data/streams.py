"""Stored splits, and sets too large for memory: read, decoded and cropped while the model computes."""

from __future__ import annotations

import glob
import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice, pairwise
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from ..checks import check_count
from ..files import first_line
from ..seeds import generator as seeded
from .images import ImageSet, Row, decode, read, stack

BATCH = 128
"""Rows that are read at a time."""
LABELS = ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Stored:
    """One split as it is stored: columns ``image`` and ``label`` of ``data``, a ``Dataset`` or ``IterableDataset``.

    where: as errors name it. files: which rows these are, wherever they lie. sizes: rows of each shard. classes: their
    names, empty as long as they have none. labels: those that occur, where that is asked.
    """

    where: str
    data: Any
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    labels: frozenset[Any]
    image: str
    label: str
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return sum(self.sizes)

    def pieces(self, span: range) -> list[range]:
        """The rows of ``span`` that lie in each shard."""
        return [range(max(span.start, a), min(span.stop, b)) for a, b in pairwise(accumulate((0, *self.sizes)))]

    def rows(self, span: range) -> Iterator[Row]:
        """Raises a ValueError for a row that cannot be read or whose label names no class."""
        import pyarrow as pa
        import pyarrow.compute as pc

        numbers, at = {name: index for index, name in enumerate(self.classes)}, iter(span)
        for table in self._tables(span):
            images = table[self.image]
            images = pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images  # type: ignore
            for image, label, number in zip(images.to_pylist(), table[self.label].to_pylist(), at):
                where, data = (image, None) if isinstance(image, str) else (f"{self.where} row {number}", image)
                if not image:
                    raise ValueError(f"{where}: no image in column {self.image!r}.")
                index, allowed = label, f"0 to {len(numbers) - 1}"
                if isinstance(label, str):
                    index, allowed = numbers.get(label), "a class of the training set"
                if index is None or not 0 <= index < len(numbers):
                    raise ValueError(f"{where}: label {label}; allowed: {allowed}.")
                yield Row(where, data, index)

    def _tables(self, span: range) -> Iterator[Any]:
        number = span.start
        try:
            for shard, (first, piece) in enumerate(zip(accumulate((0, *self.sizes)), self.pieces(span))):
                if piece:
                    data = self.data.shard(len(self.sizes), shard).skip(piece.start - first).take(len(piece))
                    for table in data.with_format("arrow").iter(BATCH):
                        yield table
                        number += len(table)
        except Exception as error:  # arrow, the file system and the network have a class for each
            raise ValueError(f"{self.where} row {number} or later: damaged ({first_line(error)}).") from error


def parquet(where: str, splits: Mapping[str, list[str]], wanted: Mapping[str, str]) -> dict[str, Stored]:
    """Parquet files, here or on the hub (``hf://...``). They are streamed in any case: so there is no second copy."""
    import fsspec
    import pyarrow.parquet as pq
    from datasets import Dataset, Features

    def look(split: str, file: str) -> tuple[Any, int, list[Any]]:
        try:
            with fsspec.open(file, "rb") as stream:  # type: ignore[attr-defined]
                whole = pq.ParquetFile(stream)
                columns = columns_of(Features.from_arrow_schema(whole.schema_arrow), file, wanted)
                asked = split == "test" or not columns[2]
                labels = whole.read([columns[1]]).column(0).unique().to_pylist() if asked else []
                return columns, whole.metadata.num_rows, labels
        except Exception as error:  # arrow, the file system and the network have a class for each
            if "_column=" in str(error):  # columns_of has said it all
                raise
            raise ValueError(f"{file}: not a whole parquet file ({first_line(error)}); fetch it again.") from error

    every = [(split, file) for split in sorted(splits, key="train".__ne__) for file in splits[split]]
    with ThreadPoolExecutor(16) as pool:
        looks = dict(zip(every, pool.map(look, *zip(*every))))
    columns = looks[every[0]][0]
    if strange := [(file, other) for (_, file), (other, *_) in looks.items() if other != columns]:
        raise ValueError(f"{strange[0][0]}: columns {strange[0][1]}; allowed: {columns}, as in {every[0][1]}.")
    stored = {}
    for split, files in splits.items():
        paths: Any = [glob.escape(file) for file in files]
        data = Dataset.from_parquet(paths, streaming=True, columns=list(columns[:2]), batch_size=BATCH)
        names, (_, sizes, labels) = [PurePath(file).name for file in files], zip(*(looks[split, f] for f in files))
        stored[split] = Stored(f"{where} {split}", data, tuple(names), sizes, frozenset(chain(*labels)), *columns[:3])
    return stored


def columns_of(features: Any, where: str, wanted: Mapping[str, str]) -> tuple[str, str, tuple[str, ...], str]:
    """The columns of images and of labels, the names of classes, the kind of labels.

    An integer column is a label by its name only: it may be an id.
    """
    from datasets import ClassLabel, Image, Value

    dtypes = {name: f.dtype if isinstance(f, Value | ClassLabel) else type(f).__name__ for name, f in features.items()}
    files = [name for name, feature in features.items() if isinstance(feature, dict) and "bytes" in feature]
    pictures = [n for n, f in features.items() if isinstance(f, Image) or "binary" in dtypes[n] or n in files]
    possible = [name for name, dtype in dtypes.items() if re.fullmatch(r"u?int\d+|(large_)?string", dtype)]
    coded = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    likely = coded or [name for name in possible if name in LABELS]
    columns = []
    for kind, fitting, names, usual in (
        ("image", pictures, pictures, ("img", "image")), ("label", possible, likely, LABELS)
    ):  # fmt: skip
        first = next((name for name in usual if name in names), names[0] if len(names) == 1 else "")
        columns.append(wanted.get(kind, first))
        if columns[-1] not in fitting:
            there = ", ".join(f"{name}: {dtype}" for name, dtype in dtypes.items())
            problem = f"{'several' if names else 'no'} {kind} columns"
            problem = f"{wanted[kind]!r} is no {kind} column" if kind in wanted else problem
            raise ValueError(f"{where}: {problem}; columns: {there}; name one with {kind}_column=...")
    label = features[columns[1]]
    classes = tuple(map(str, label.names)) if isinstance(label, ClassLabel) else ()
    return columns[0], columns[1], classes, "text" if "string" in label.dtype else "numbers"


def named(where: str, splits: dict[str, Stored]) -> dict[str, Stored]:
    """With the names of classes that no file names: the training set's texts, or numbers up to the largest label."""
    if next(iter(splits.values())).classes:
        return splits
    labels = {split: stored.labels - {None, -1} for split, stored in splits.items()}
    names, every, total = set(labels.get("train", ())), set().union(*labels.values()), sum(map(len, splits.values()))
    if not any(isinstance(label, str) for label in every):
        if (largest := max(every, default=0)) >= max(total, 1):
            column = next(iter(splits.values())).label
            raise ValueError(f"{where}: column {column!r} holds {largest}; allowed: less than the {total} images.")
        names = {str(number) for number in range(largest + 1)}
    return {split: replace(stored, classes=in_order(names)) for split, stored in splits.items()}


def in_order(names: set[str]) -> tuple[str, ...]:
    """Names that are numbers by their value, then the others alphabetically."""
    return tuple(sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)))


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

    def __len__(self) -> int:
        return sum(map(len, self.spans))

    @property
    def classes(self) -> tuple[str, ...]:
        return self.stored.classes

    def digest(self) -> str:
        """SHA-256 of what is known without reading: which rows of which files, and how they are shown."""
        rows = [self.stored.files, self.stored.sizes, [(span.start, span.stop) for span in self.spans]]
        description = [self.source, self.classes, self.image_size, self.random, rows]
        return hashlib.sha256(json.dumps(description).encode()).hexdigest()

    def to(self, device: torch.device | str) -> StreamedSet:
        return replace(self, device=device)

    def batches(
        self, size: int, generator: torch.Generator, part: slice = slice(None), skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled batches: float32 (size, 3, H, W) in [0, 1] and int64 (size,), on ``device``.

        Order and crops depend on ``generator`` only; a last batch smaller than ``size`` is left out. part: which rows
        of every batch are wanted. skip: how many batches are passed over. Rows that are not wanted are read, but not
        decoded. Raises a ValueError that names the split and the row which is broken.
        """
        check_count("batches", "size", size)
        seed, wanted = int(torch.randint(2**62, (), generator=generator)), len(range(size)[part])
        with closing(decode(self._rows(size, seed, part, skip), self.image_size)) as images:
            for _ in range(skip, len(self) // size):
                pixels, labels, *_ = stack(islice(images, wanted), wanted)
                yield pixels.to(self.device).float() / 255, labels.to(self.device)

    def _rows(self, size: int, seed: int, part: slice, skip: int) -> Iterator[Row]:
        """The wanted rows of each batch, each with the place of its random crop; every process reads all of them."""
        rows = islice(self._shuffled(random.Random(seed)), skip * size, None)
        for batch in range(skip, len(self) // size):
            places = torch.rand(size, 2, generator=seeded(seed, batch)).tolist()
            for row, place in list(zip(islice(rows, size), places))[part]:
                yield row._replace(place=tuple(place)) if self.random and self.image_size else row

    def _shuffled(self, draw: random.Random) -> Iterator[Row]:
        """Shards in random order; then each row changes places with a random one of the buffer."""
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

    def take(self, rows: Tensor | slice) -> ImageSet:
        """These rows (positions in stored order, a slice or (n,) int64), their middles, in memory."""
        wanted = torch.cat([torch.arange(span.start, span.stop) for span in self.spans])[rows]
        if not len(wanted):
            raise ValueError(f"take: no row of {len(self)}; allowed: at least one.")
        numbers, places = wanted.unique(return_inverse=True)
        inside, span = set(numbers.tolist()), range(int(numbers[0]), int(numbers[-1]) + 1)
        stored = (row for number, row in zip(span, self.stored.rows(span)) if number in inside)
        pixels, labels, *_ = read(stored, len(numbers), self.image_size)
        return ImageSet(pixels[places].to(self.device), labels[places].to(self.device), self.classes, self.source)
