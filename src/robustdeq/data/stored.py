"""Splits as they are stored, row by row; parquet files, their columns and the names of their classes."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from pathlib import PurePath
from typing import Any

from ..files import first_line
from .images import Row, say

BATCH = 128
"""Rows that are read at a time."""
LABELS = ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Stored:
    """One split as it is stored: columns ``image`` and ``label`` of ``data``, a ``Dataset`` or ``IterableDataset``.

    where: as errors name it. files: which rows these are, wherever they lie. sizes: rows of each shard. classes: their
    names, empty as long as they have none. labels: those that occur, where that is asked. listed: ``image`` holds the
    names of files that were listed here. (A path in a parquet file is not followed: a stranger may have written it, and
    it could name any file of this machine.)
    """

    where: str
    data: Any
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    labels: frozenset[Any]
    image: str
    label: str
    classes: tuple[str, ...]
    listed: bool = False

    def __len__(self) -> int:
        return sum(self.sizes)

    def pieces(self, span: range) -> list[range]:
        """The rows of ``span`` that lie in each shard."""
        return [range(max(span.start, a), min(span.stop, b)) for a, b in pairwise(accumulate((0, *self.sizes)))]

    def rows(self, span: range) -> Iterator[Row]:
        """Raises a ValueError for a row that is missing, cannot be read, or whose label names no class."""
        import pyarrow as pa
        import pyarrow.compute as pc

        numbers, at = {name: index for index, name in enumerate(self.classes)}, iter(span)
        for table in self._tables(span):
            images = table[self.image]
            images = pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images  # type: ignore
            for image, label, number in zip(images.to_pylist(), table[self.label].to_pylist(), at):
                where, data = (os.fsdecode(image), None) if self.listed else (f"{self.where} row {number}", image)
                if not isinstance(image, bytes):
                    raise ValueError(f"{where}: no image in column {self.image!r}; allowed: bytes of an image file.")
                index, allowed = label, f"0 to {len(numbers) - 1}"
                if not pa.types.is_integer(table[self.label].type):
                    index, allowed = numbers.get(label), "a class of the training set"
                if index is None or not 0 <= index < len(numbers):
                    raise ValueError(f"{where}: label {label}; allowed: {allowed}.")
                yield Row(where, data, index)
        if (number := next(at, None)) is not None:
            raise ValueError(f"{self.where} row {number}: missing, there were {len(self)} rows; load it again.")

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
            problem = f"damaged ({first_line(error)}); fetch it again"
            raise ValueError(f"{self.where} row {number} or later: {problem}.") from error


def parquet(where: str, splits: Mapping[str, list[str]], wanted: Mapping[str, str]) -> dict[str, Stored]:
    """Parquet files, here or on the hub (``hf://...``). They are streamed in any case: so there is no second copy."""
    import fsspec
    import pyarrow.parquet as pq
    from datasets import Dataset, Features

    def look(split: str, file: str) -> tuple[Any, int, list[Any]]:
        with _readable(file):
            stream = fsspec.open(file, "rb").open()  # type: ignore[attr-defined]
        with stream:
            with _readable(file):
                whole = pq.ParquetFile(stream)
            with _readable(file, "what it notes of its columns cannot be read", "write it again"):
                features = Features.from_arrow_schema(whole.schema_arrow)
            columns = columns_of(features, file, wanted)
            if twice := [name for name in columns[:2] if whole.schema_arrow.names.count(name) > 1]:
                raise ValueError(f"{file}: several columns are called {twice[0]!r}; allowed: one.")
            with _readable(file):
                asked = split == "test" or not columns[2]
                labels = whole.read([columns[1]]).column(0).unique().to_pylist() if asked else []
            return columns, whole.metadata.num_rows, labels

    every = [(split, file) for split in sorted(splits, key="train".__ne__) for file in splits[split]]
    with ThreadPoolExecutor(16) as pool:
        looks = dict(zip(every, pool.map(look, *zip(*every))))
    columns = looks[every[0]][0]
    for (_, file), (other, *_) in looks.items():
        for kind, one, first in zip(("image column", "label column", "class names", "labels"), other, columns):
            if one != first:
                shown = f"{kind} {one!r:.200}; allowed: {first!r:.200}"
                raise ValueError(f"{file}: {shown}, as in {every[0][1]}; write both alike.")
    stored = {}
    for split, files in splits.items():
        paths: Any = [glob.escape(file) for file in files]  # `datasets` takes a name for a pattern
        data = Dataset.from_parquet(paths, streaming=True, columns=list(columns[:2]), batch_size=BATCH)
        names, (_, sizes, labels) = [PurePath(file).name for file in files], zip(*(looks[split, f] for f in files))
        stored[split] = Stored(f"{where} {split}", data, tuple(names), sizes, frozenset(chain(*labels)), *columns[:3])
    return stored


@contextmanager
def _readable(file: str, problem: str = "not a whole parquet file", todo: str = "fetch it again") -> Iterator[None]:
    try:
        yield
    except Exception as error:  # arrow, the file system and the network have a class for each
        problem, todo = ("cannot be read", "let it be read") if isinstance(error, PermissionError) else (problem, todo)
        raise ValueError(f"{file}: {problem} ({first_line(error)}); {todo}.") from error


def columns_of(features: Any, where: str, wanted: Mapping[str, str]) -> tuple[str, str, tuple[str, ...], str]:
    """The columns of images and of labels, the names of classes, the kind of labels.

    An integer column is a label by its name only: it may be an id.
    """
    from datasets import ClassLabel, Image, Value

    dtypes = {name: f.dtype if isinstance(f, Value | ClassLabel) else type(f).__name__ for name, f in features.items()}
    inner = {name: feature.get("bytes") if isinstance(feature, dict) else feature for name, feature in features.items()}
    pictures = [n for n, f in inner.items() if isinstance(f, Image) or "binary" in str(getattr(f, "dtype", ""))]
    possible = [name for name, dtype in dtypes.items() if re.fullmatch(r"u?int\d+|(large_)?string(_view)?", dtype)]
    coded = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    likely = coded or [name for name in possible if name in LABELS]
    columns = []
    for kind, fitting, names, usual in (
        ("image", pictures, pictures, ("img", "image")), ("label", possible, likely, LABELS)
    ):  # fmt: skip
        first = next((name for name in usual if name in names), names[0] if len(names) == 1 else None)
        columns.append(wanted.get(kind, first))
        if columns[-1] not in fitting:
            there = ", ".join(f"{name}: {dtype}" for name, dtype in dtypes.items())
            problem = f"{'several' if names else 'no'} {kind} columns"
            problem = f"{wanted[kind]!r} is no {kind} column" if kind in wanted else problem
            allowed = f"allowed: {', '.join(map(repr, fitting))}" if fitting else "none of these can be one"
            problem = f"{problem}; columns: {there or 'none'}; name one with {kind}_column=... ({allowed})"
            raise ValueError(f"{where}: {problem}.")
    label = features[columns[1]]
    classes = tuple(map(str, label.names)) if isinstance(label, ClassLabel) else ()
    return columns[0], columns[1], classes, "text" if "string" in label.dtype else "numbers"


def named(where: str, splits: dict[str, Stored]) -> dict[str, Stored]:
    """With the names of classes that no file names: the training set's texts, or numbers up to the largest label."""
    one, total = next(iter(splits.values())), sum(map(len, splits.values()))
    classes, column = one.classes, f"{where}: column {one.label!r}"
    if not classes:
        labels = {split: stored.labels - {None, -1} for split, stored in splits.items()}
        names, every = set(labels.get("train", ())), set().union(*labels.values())
        if not any(isinstance(label, str) for label in every):
            if (largest := max(every, default=0)) >= max(total, 1):
                raise ValueError(f"{column} holds {largest}; allowed: less than the {total} images.")
            if every and (unused := sorted(set(range(largest + 1)) - every)):
                some = f"{str(unused[:5])[1:-1]}{', ...' if len(unused) > 5 else ''}"
                say(f"{column} goes up to {largest}, but no image has the label {some}.")
            names = {str(number) for number in range(largest + 1)}
        classes = in_order(names)
    for name in classes:  # they go into tables and figures
        if not name.isprintable() or not name.strip():
            raise ValueError(f"{where}: a class is called {name!r}; allowed: text that can be printed; rename it.")
    return {split: replace(stored, classes=classes) for split, stored in splits.items()}


def in_order(names: set[str]) -> tuple[str, ...]:
    """Names that are numbers by their value, then the others alphabetically."""
    return tuple(sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)))
