"""Image folders and parquet files with damage, read by data.load and by `robustdeq evaluate --data`."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from damage import Damage, remove, spoiled_bytes
from data.image_files import encoded, image_folder, numbered, parquet_set, pngs, table, write
from hypothesis import strategies as st
from law import asked, cases, every, sandbox, told, whatever
from PIL import Image

import robustdeq as rd

EVALUATE = ["evaluate", "model", "--data", "set", "--image-size", "8", "--out", "out", "--subset", "2", "--checks", "0",
            "--set", "steps=1"]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Path]:
    """The same small set in both layouts, each called ``set``."""
    place = tmp_path_factory.mktemp("sets")
    return {"folder": image_folder(place / "folder" / "set", each=3),
            "parquet": parquet_set(place / "parquet" / "set", 12)}


@pytest.fixture(scope="module")
def fitting(tmp_path_factory) -> Path:
    """A model of the sets' shape, so that a set that is right after all is evaluated."""
    model = rd.create_model("mdeq-nano", num_classes=3, seed=0, steps=2, image_shape=(3, 8, 8))
    return rd.save_model(model, tmp_path_factory.mktemp("fitting") / "model")


def looked_at(streaming: bool) -> Any:
    """Everything that a run would read of ``set``."""
    splits = rd.data.load("set", streaming=streaming, validation=2)
    for part in (splits.train, splits.validation, splits.test):
        whole = part.take(slice(None))
        images, labels = whole.images(), whole.labels
        assert images.shape[0] == len(part) and torch.isfinite(images).all()
        assert 0 <= int(labels.min()) <= int(labels.max()) < len(part.classes)
    list(splits.train.batches(2, torch.Generator().manual_seed(0)))
    return splits


@cases(40)
def test_a_set_with_a_spoiled_file(runs, sets):
    """Bits, ends and beginnings of any file: it may be read where the damage does not matter."""

    def body(kind: str, choice: float, streaming: bool, data: Any) -> None:
        with sandbox(sets[kind]):
            files = sorted(path for path in Path("set").rglob("*") if path.is_file())
            file = files[int(choice * len(files)) % len(files)]
            damage: Damage = data.draw(spoiled_bytes(file.read_bytes(), 40))
            file.write_bytes(damage.data)
            asked("image sets: spoiled file", f"{file}: {damage.how}, {streaming=}", lambda: looked_at(streaming),
                  right=whatever)

    every(runs, body, st.sampled_from(sorted(sets)), st.floats(0, 0.999), st.booleans(), st.data())


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds nothing."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def odd_images() -> dict[str, bytes]:
    """Files that end in .png: what is no image of the others' kind, and by no means may be read as one."""
    big = Image.fromarray(np.zeros((6, 6), np.uint16))
    return {
        "empty": b"", "text": b"not an image", "other size": encoded(numbered(0, (7, 6))),
        "claims 60000x60000": png_of(60000, 60000),
        "claims 2**31": png_of(2**31 - 1, 2**31 - 1), "claims 0x0": png_of(0, 0),
        "claims 6x6, holds nothing": png_of(6, 6),
        "grey": encoded(Image.fromarray(numbered(0)[:, :, 0])), "16 bit": encoded(big), "svg": b"<svg xmlns='x'></svg>",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n", "half a jpeg": encoded(numbered(0), "JPEG")[:200],
        "pdf": b"%PDF-1.4\n", "zip": b"PK\x03\x04", "gif of nothing": b"GIF89a", "1x1": encoded(numbered(0, (1, 1))),
    }  # fmt: skip


def _mkdir(path: Path) -> None:
    path.unlink()
    path.mkdir()


LAYOUTS: dict[str, Callable[[Path], Any]] = {
    "a pipe": lambda folder: os.mkfifo(folder / "train" / "cat" / "pipe.png"),
    "no test": lambda folder: shutil.rmtree(folder / "test"),
    "no train": lambda folder: shutil.rmtree(folder / "train"),
    "nothing": lambda folder: [remove(path) for path in folder.iterdir()],
    "no classes": lambda folder: [remove(path) for path in (folder / "test").iterdir()],
    "a class that train has not": lambda folder: (folder / "test" / "cat").rename(folder / "test" / "[x]"),
    "an empty class": lambda folder: [path.unlink() for path in (folder / "train" / "cat").iterdir()],
    "images beside the classes": lambda folder: shutil.copy(next((folder / "train" / "cat").iterdir()),
                                                            folder / "train"),
    "a folder called x.png": lambda folder: _mkdir(next((folder / "train" / "cat").iterdir())),
    "a file for a class": lambda folder: (shutil.rmtree(folder / "test" / "cat"),
                                          (folder / "test" / "cat").write_text("x")),
    "a loop": lambda folder: (folder / "train" / "cat" / "loop.png").symlink_to("loop.png"),
    "a link to nothing": lambda folder: (folder / "train" / "cat" / "x.png").symlink_to("no"),
    "a link to its parent": lambda folder: (folder / "train" / "cat" / "more").symlink_to(folder.resolve()),
    "a split twice": lambda folder: shutil.copytree(folder / "train", folder / "training"),
}  # fmt: skip


@cases(25)
def test_a_folder_with_something_else_in_it(runs, sets, fitting, capfd):
    images = odd_images()

    def body(what: str, split: str, streaming: bool) -> None:
        with sandbox(sets["folder"], fitting) as place:
            folder = place / "set"
            if what in LAYOUTS:
                LAYOUTS[what](folder)
            else:
                file = sorted((folder / split / "dog").iterdir())[-1]
                file.write_bytes(images[what])
            asked("image sets: folders", f"{what}, {split}, {streaming=}", lambda: looked_at(streaming), right=whatever)
            told("image sets: folders", EVALUATE, place, capfd, codes=(0, 2), how=f"{what}, {split}")

    names = st.sampled_from([*LAYOUTS, *images])
    every(runs, body, names, st.sampled_from(["train", "test"]), st.booleans())


def odd_tables() -> dict[str, Callable[[], pa.Table]]:
    """Parquet files that are whole, and hold what is no labelled image."""
    def labelled(labels: Any, kind: Any) -> pa.Table:
        return table(pngs(0, 3)).set_column(1, "label", pa.array(labels, kind))

    return {
        "labels of floats": lambda: labelled([0.5, 1.5, math_nan()], pa.float64()),
        "labels of None": lambda: labelled([0, None, 1], pa.int64()),
        "labels < -1": lambda: labelled([0, -5, 1], pa.int64()),
        "labels 2**40": lambda: labelled([0, 2**40, 1], pa.int64()),
        "labels of lists": lambda: labelled([[0], [1], []], pa.list_(pa.int64())),
        "labels of bytes": lambda: labelled([b"a", b"b", b"\xff"], pa.binary()),
        "labels of text": lambda: labelled(["a", "[/x]", "\x1b[2J"], pa.string()),
        "labels of times": lambda: labelled([1, 2, 3], pa.timestamp("s")),
        "labels 99": lambda: labelled([0, 99, 1], pa.int64()),
        "labels uint64": lambda: labelled([0, 2**63 + 5, 1], pa.uint64()),
        "no labels": lambda: table(pngs(0, 3)).drop_columns(["label"]),
        "no images": lambda: table(pngs(0, 3)).drop_columns(["img"]),
        "two of labels": lambda: table(pngs(0, 3)).append_column("labels", pa.array([0, 1, 2])),
        "no rows": lambda: table(pngs(0, 3)).slice(0, 0), "no columns": lambda: pa.table({}),
        "images of None": lambda: table([None, *pngs(0, 2)], nested=False),
        "images of text": lambda: pa.table({"img": ["a", "b"], "label": [0, 1]}),
        "images of numbers": lambda: pa.table({"img": [1, 2], "label": [0, 1]}),
        "empty images": lambda: table([b"", b"", b""]),
        "names too few": lambda: table(pngs(0, 3), names=["cat"]),
        "names of markup": lambda: table(pngs(0, 3), names=["[/x]", "\x1b[2J", "a\nb\nc"]),
        "paths that lead away": lambda: pa.table({"img": [{"bytes": None, "path": "../../etc/passwd"}] * 3,
                                                  "label": [0, 1, 2]}),
        "images of lists": lambda: pa.table({"img": [[[0, 1], [2, 3]]] * 3, "label": [0, 1, 2]}),
        "a huge image": lambda: table([png_of(60000, 60000)] * 3),
    }  # fmt: skip


def math_nan() -> float:
    return float("nan")


@cases(25)
def test_a_parquet_file_with_something_else_in_it(runs, sets, fitting, capfd):
    tables = odd_tables()

    def body(what: str, split: str, streaming: bool) -> None:
        with sandbox(sets["parquet"], fitting) as place:
            write(place / "set" / f"{split}.parquet", tables[what]())
            asked("image sets: parquet", f"{what}, {split}, {streaming=}", lambda: looked_at(streaming), right=whatever)
            told("image sets: parquet", EVALUATE, place, capfd, codes=(0, 2), how=f"{what}, {split}")

    every(runs, body, st.sampled_from(sorted(tables)), st.sampled_from(["train", "test"]), st.booleans())


@cases(15)
def test_a_source_that_is_another_thing(runs, sets):
    """Options that do not fit a set, a column that is none, files of other kinds."""
    options = st.fixed_dictionaries({}, optional={
        "image_column": st.sampled_from(["x", "label", "", "img", "[/x]", "a\nb\nc"]),
        "validation": st.sampled_from([0, 99, 12, -1]),
        "label_column": st.sampled_from(["x", "img", "", "img.bytes"]),
        "image_size": st.sampled_from([0, 1, 2**31, -1, 10**6]),
    })  # fmt: skip

    def body(kind: str, chosen: dict[str, Any], streaming: bool) -> None:
        if not chosen or ("image_size" in chosen and streaming):
            return
        with sandbox(sets[kind]):
            text = f"{kind} {chosen} {streaming}"
            load = lambda: rd.data.load("set", streaming=streaming, **chosen)  # noqa: E731
            asked("image sets: options", text, load, right=whatever)

    every(runs, body, st.sampled_from(sorted(sets)), options, st.booleans())


def test_the_sets_are_right_without_damage(sets):
    for folder in sets.values():
        with sandbox(folder):
            assert looked_at(False) and looked_at(True)
    assert pq.read_table(sets["parquet"] / "train.parquet").num_rows == 12
