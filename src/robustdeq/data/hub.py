"""Sets of the Hugging Face hub by name, through the `datasets` library: downloaded once, or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .catalogue import Catalogue
from .columns import Columns, find_columns
from .decode import MAX_BYTES
from .layout import SPLITS
from .rows import Shard
from .tables import ParquetShard, TableShard, first_line, open_parquet

SHORT = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "tiny-imagenet": "zh-plus/tiny-imagenet",
    "imagenet-1k": "ILSVRC/imagenet-1k",
}
"""Names without an owner, and what they stand for."""

TIMEOUT = 5.0
"""Seconds for the first answer of the hub; the libraries' own retries begin only after it."""


def open_hub(name: str, streaming: bool) -> Catalogue:
    """The set called ``owner/name``. Without a network it is read from the `datasets` library's cache.

    Raises a ValueError when the hub cannot be reached and the set is not there, when it does not exist or needs a
    login, and when it cannot be read as images with labels.
    """
    problem = unreachable(name)
    if problem and streaming:
        raise ValueError(f"{name}: no such folder, and the hub cannot be reached ({problem}).")
    if not problem:
        return _streamed(name) if streaming else _downloaded(name)
    with offline():
        return _downloaded(name, problem)


def unreachable(name: str) -> str | None:
    """Why the hub does not answer; None when it does. Raises a ValueError for a set that it does not show."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=TIMEOUT)
    except GatedRepoError as error:
        raise ValueError(f"{name}: the hub asks for a login; run `hf auth login` and accept its terms.") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{name}: no such folder, and no such data set on the hub or a private one (`hf auth login`)."
        ) from error
    except Exception as error:  # no network, a proxy, a certificate, a server error: the client has a class for each
        return f"{type(error).__name__}: {first_line(error)}"
    return None


@contextmanager
def offline() -> Iterator[None]:
    """The `datasets` library looks into its cache at once, and says so, instead of asking the hub for 20 seconds."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


@contextmanager
def one_line(name: str, problem: str | None) -> Iterator[None]:
    """Any error of the `datasets` library as a ValueError of one line. problem: why the hub cannot be reached."""
    try:
        yield
    except Exception as error:  # it has no base class for them, and passes on those of its many readers
        if problem:
            reason = f"no such folder, the hub cannot be reached ({problem}), and no copy is in the `datasets` cache"
            raise ValueError(f"{name}: {reason}.") from error
        raise ValueError(f"{name}: {first_line(error)}; give a folder or another name.") from error


def _downloaded(name: str, problem: str | None = None) -> Catalogue:
    """Everything, prepared once in the cache of the `datasets` library."""
    import datasets

    with one_line(name, problem):
        builder = datasets.load_dataset_builder(name)
    size = builder.info.download_size or 0
    if size > MAX_BYTES:
        raise ValueError(f"{name}: {size / 2**30:.0f} GiB to download; give streaming=True.")
    with one_line(name, problem):
        builder.download_and_prepare()
        tables: dict[str, Any] = {_split(split): builder.as_dataset(split=split) for split in builder.info.splits or {}}
    columns = _columns(name, _first(tables).features.arrow_schema)
    shards: dict[str, list[Shard]] = {
        split: [TableShard(table.with_format("arrow"), columns, f"{name} {split}", 0, len(table))]
        for split, table in tables.items()
    }
    files = {split: [Path(file["filename"]) for file in table.cache_files] for split, table in tables.items()}
    return Catalogue(name, name.split("/")[-1], columns.classes or (), shards, files, str(columns))


def _streamed(name: str) -> Catalogue:
    """Every file of the set is a shard; at most one file is opened here."""
    import datasets

    with one_line(name, None):
        builder = datasets.load_dataset_builder(name)
    listed = {_split(split): list(files) for split, files in (builder.config.data_files or {}).items()}
    other = [file for files in listed.values() for file in files if not file.endswith(".parquet")]
    if other or not listed:
        raise ValueError(f"{name}: {(other or ['no file'])[0]}: only parquet files stream; give streaming=False.")
    features = builder.info.features
    columns = _columns(name, features.arrow_schema if features else _schema(_first(listed)[0]))
    shards: dict[str, list[Shard]] = {
        split: [ParquetShard(file, columns) for file in files] for split, files in listed.items()
    }
    known = {_split(split): facts.num_examples for split, facts in (builder.info.splits or {}).items()}
    return Catalogue(name, name.split("/")[-1], columns.classes or (), shards, {}, str(columns), known)


def _split(name: Any) -> str:
    return SPLITS.get(str(name), str(name))


def _first(splits: dict[str, Any]) -> Any:
    return splits.get("train") or next(iter(splits.values()))


def _schema(file: str) -> Any:
    with open_parquet(file) as parquet:
        return parquet.schema_arrow


def _columns(name: str, schema: Any) -> Columns:
    """The columns of a set, whose classes must have names: to number them all labels would have to be read."""
    columns = find_columns(schema, name)
    if columns.classes is None:
        raise ValueError(
            f"{name}: column {columns.label!r} has no class names; download its files and give the folder."
        )
    return columns
