"""Rows of arrow tables: of parquet files, here or on the hub, and of what the `datasets` library has downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from .columns import Columns, find_columns
from .rows import Row, check_label

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

READ = 128
"""Rows that are held at a time: of large images about 15 MB."""


@contextmanager
def open_parquet(file: str) -> Iterator[pq.ParquetFile]:
    """A parquet file by path or address (``hf://...``). Raises a ValueError that names it when it is damaged."""
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with fsspec.open(file, "rb") as stream:  # type: ignore[attr-defined]
            yield pq.ParquetFile(stream)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise ValueError(f"{file}: not a whole parquet file ({first_line(error)}); fetch it again.") from error


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True)
class ParquetShard:
    """Rows ``start`` to ``stop`` (None: the last) of one parquet file."""

    file: str
    columns: Columns
    start: int = 0
    stop: int | None = None

    @cached_property
    def _stop(self) -> int:
        if self.stop is not None:
            return self.stop
        with open_parquet(self.file) as parquet:
            return parquet.metadata.num_rows

    def __len__(self) -> int:
        return self._stop - self.start

    def part(self, start: int, stop: int) -> ParquetShard:
        return replace(self, start=self.start + start, stop=self.start + stop)

    def rows(self) -> Iterator[Row]:
        with open_parquet(self.file) as parquet:
            self._check(parquet)
            first = 0
            for group in range(parquet.num_row_groups):
                count = parquet.metadata.row_group(group).num_rows
                if first < self._stop and first + count > self.start:
                    yield from self._group_rows(parquet, group, first)
                first += count

    def _check(self, parquet: pq.ParquetFile) -> None:
        found = find_columns(parquet.schema_arrow, self.file)
        if replace(found, classes=None) != replace(self.columns, classes=None):
            raise ValueError(f"{self.file}: columns {found}; allowed: {self.columns}, as in the first file.")

    def _group_rows(self, parquet: pq.ParquetFile, group: int, first: int) -> Iterator[Row]:
        for table in self._tables(parquet, group, first):
            low, high = max(self.start - first, 0), min(self._stop - first, table.num_rows)
            if low < high:
                yield from table_rows(table.slice(low, high - low), self.columns, self.file, first + low)
            first += table.num_rows
            if first >= self._stop:
                return

    def _tables(self, parquet: pq.ParquetFile, group: int, first: int) -> Iterator[pa.RecordBatch]:
        """Batches of one row group; a damaged page is an error of the row where reading stopped."""
        import pyarrow as pa

        wanted = [f"{self.columns.image}.bytes" if self.columns.nested else self.columns.image, self.columns.label]
        try:
            for table in parquet.iter_batches(READ, row_groups=[group], columns=wanted):
                yield table
                first += table.num_rows
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.file} row {first}: damaged from here on ({first_line(error)}).") from error

    def key(self) -> str:
        return f"{PurePath(self.file).name} rows {self.start} to {self.stop}"

    def hidden(self) -> bool:
        with open_parquet(self.file) as parquet:
            self._check(parquet)
            table = next(parquet.iter_batches(1, columns=[self.columns.label]), None)
        return table is not None and table.num_rows > 0 and table.column(0)[0].as_py() == -1


@dataclass(frozen=True)
class TableShard:
    """Rows ``start`` to ``stop`` of a `datasets.Dataset` in arrow format, called ``name``."""

    dataset: Any
    columns: Columns
    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, start: int, stop: int) -> TableShard:
        return replace(self, start=self.start + start, stop=self.start + stop)

    def rows(self) -> Iterator[Row]:
        for first in range(self.start, self.stop, READ):
            table = self.dataset[first : min(first + READ, self.stop)]
            yield from table_rows(table, self.columns, self.name, first)

    def key(self) -> str:
        return f"{self.name} rows {self.start} to {self.stop}"

    def hidden(self) -> bool:
        return len(self) > 0 and self.dataset[self.start : self.start + 1].column(self.columns.label)[0].as_py() == -1


def table_rows(table: pa.Table | pa.RecordBatch, columns: Columns, name: str, first: int) -> Iterator[Row]:
    """The rows of a table whose first one is row ``first`` of ``name``."""
    import pyarrow.compute as pc

    images = table.column(columns.image)
    data = (pc.struct_field(images, "bytes") if columns.nested else images).to_pylist()  # type: ignore[attr-defined]
    assert columns.classes is not None
    for row, (image, label) in enumerate(zip(data, table.column(columns.label).to_pylist()), start=first):
        where = f"{name} row {row}"
        if not image:
            raise ValueError(f"{where}: no image in column {columns.image!r}.")
        yield Row(where, image, check_label(label, len(columns.classes), where))
