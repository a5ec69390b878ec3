"""Folders: parquet files in the layouts of the Hugging Face hub, and images in a folder for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from .catalogue import Catalogue
from .columns import Columns, find_columns
from .layout import class_folders, image_folders, images_in, parquet_files
from .rows import FolderShard, Shard

BLOCK = 64
"""Files in a shard of an image folder."""
MOST_CLASSES = 100_000


def open_folder(folder: Path) -> Catalogue:
    """What lies in ``folder``. Raises a ValueError that says what was found and what is allowed."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: a file; allowed: a folder with the files of every split.")
    if files := parquet_files(folder):
        return _parquet(folder, files)
    if folders := image_folders(folder):
        return _images(folder, folders)
    raise ValueError(
        f"{folder}: no parquet file and no image folder of any split; allowed: train.parquet and test.parquet, "
        "data/train-00000-of-00001.parquet, ..., or train/CLASS/*.png, test/CLASS/*.png, ..."
    )


def _parquet(folder: Path, files: dict[str, list[Path]]) -> Catalogue:
    columns = _columns((files.get("train") or next(iter(files.values())))[0])
    if columns.classes is None:
        columns = replace(columns, classes=_numbers(columns, [file for split in files.values() for file in split]))
    shards = {split: [s for file in paths for s in _row_groups(file, columns)] for split, paths in files.items()}
    return Catalogue(str(folder), folder.resolve().name, columns.classes or (), shards, files, str(asdict(columns)))


def _columns(file: Path) -> Columns:
    from .tables import open_parquet

    with open_parquet(str(file)) as parquet:
        return find_columns(parquet.schema_arrow, str(file))


def _numbers(columns: Columns, files: Iterable[Path]) -> tuple[str, ...]:
    """Classes without names are called by their numbers, up to the largest label of any split."""
    import pyarrow.compute as pc

    from .tables import open_parquet

    largest = 0
    for file in files:
        with open_parquet(str(file)) as parquet:
            if columns.label in parquet.schema_arrow.names:
                most = pc.max(parquet.read([columns.label]).column(0)).as_py()  # type: ignore[attr-defined]
                largest = max(largest, most or 0)
        if largest >= MOST_CLASSES:
            raise ValueError(f"{file}: column {columns.label!r} holds {largest}; allowed: below {MOST_CLASSES}.")
    return tuple(str(number) for number in range(largest + 1))


def _row_groups(file: Path, columns: Columns) -> list[Shard]:
    """A shard for each row group. Raises a ValueError when the file's columns or classes are other ones."""
    from .tables import ParquetShard, open_parquet

    shards: list[Shard] = []
    with open_parquet(str(file)) as parquet:
        found = find_columns(parquet.schema_arrow, str(file))
        if replace(found, classes=found.classes or columns.classes) != columns:
            raise ValueError(f"{file}: {found}; allowed: {columns}, as in the first training file.")
        start = 0
        for group in range(parquet.num_row_groups):
            stop = start + parquet.metadata.row_group(group).num_rows
            shards.append(ParquetShard(str(file), columns, start, stop))
            start = stop
    return shards


def _images(folder: Path, folders: dict[str, Path]) -> Catalogue:
    """Classes are the folders of the training set, in alphabetical order."""
    names = class_folders(folders["train"]) if "train" in folders else []
    listed = {split: _labelled(place, names) for split, place in folders.items()}
    shards = {split: _blocks(files) for split, files in listed.items()}
    files = {split: [file for file, _ in found] for split, found in listed.items()}
    counts = [sorted(Counter(label for _, label in found).items()) for found in listed.values()]
    return Catalogue(str(folder), folder.resolve().name, tuple(names), shards, files, f"{names} {counts}")


def _labelled(place: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    for name in class_folders(place):
        if name not in names:
            raise ValueError(f"{place / name}: no class of the training set; allowed: {', '.join(names)}.")
    files = [(file, label) for label, name in enumerate(names) for file in images_in(place / name)]
    present = {label for _, label in files}
    for label, name in enumerate(names):
        if label not in present and (place / name).is_dir():
            raise ValueError(f"{place / name}: no image; allowed: at least one for each class folder.")
    return files


def _blocks(files: list[tuple[Path, int]]) -> list[Shard]:
    """Shards of the files in a random order that is always the same one, since on the disk they lie class by class."""
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    mixed = [files[index] for index in order]
    return [FolderShard(tuple(mixed[start : start + BLOCK])) for start in range(0, len(mixed), BLOCK)]
