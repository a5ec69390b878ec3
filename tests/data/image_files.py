"""Small sets in every layout. Image number i of a split is recognised by its pixels: the first is (i, 100, 200)."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NAMES = ["cat", "dog", "eel"]


def numbered(number: int, size: tuple[int, int] = (6, 6)) -> np.ndarray:
    """(H, W, 3) uint8: random, but for the first pixel."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[0, 0] = number % 256, 100, 200
    return pixels


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    stream, image = io.BytesIO(), pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, kind, **options)
    return stream.getvalue()


def pngs(first: int, count: int) -> list[bytes]:
    return [encoded(numbered(number)) for number in range(first, first + count)]


def table(images, labels=None, names=None, image="img", label="label", nested=True, **more) -> pa.Table:
    """A table as the hub has it. names: of the classes, noted as the `datasets` library notes them."""
    labels = [number % 3 for number in range(len(images))] if labels is None else labels
    if nested:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        column = pa.array([{"bytes": data, "path": None} for data in images], kind)
    else:
        column = pa.array(images, pa.binary())
    whole = pa.table({image: column, label: pa.array(labels, pa.int64()), **more})
    if names:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        whole = whole.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return whole


def write(file: Path, whole: pa.Table, **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(whole, file, **options)
    return file


def parquet_set(folder: Path, train: int = 20, test: int = 6, names=None, **options) -> Path:
    """train.parquet with images 0.., test.parquet with images 100.."""
    write(folder / "train.parquet", table(pngs(0, train), names=names), **options)
    write(folder / "test.parquet", table(pngs(100, test), names=names), **options)
    return folder


def image_folder(folder: Path, splits=("train", "test"), each: int = 4, kind: str = "png") -> Path:
    """``each`` images a class; their numbers go up in the order of splits, classes and files."""
    number = 0
    for split in splits:
        for name in NAMES:
            place = folder / split / name
            place.mkdir(parents=True)
            for _ in range(each):
                Image.fromarray(numbered(number)).save(place / f"{number:04}.{kind}")
                number += 1
    return folder


def numbers(pixels) -> list[int]:
    """Which images these are. pixels: (N, 3, H, W) uint8."""
    return pixels[:, 0, 0, 0].tolist()
