"""Image files to uint8 pixels, with Pillow."""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .rows import Row, Shard
from .workers import in_order

GREY = {"1": "L", "L": "L", "LA": "L"}
COLOUR = {mode: "RGB" for mode in ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")}
MODES = GREY | COLOUR
"""Pillow's 8-bit modes and what they become; transparency is dropped."""

ORIENTATION = 0x0112
RANDOM_SIDE = 7 / 8
"""The side of a random crop, of the shorter side of the image: the usual 224 of 256."""
MAX_BYTES = 16 * 2**30
"""A larger set is not decoded as a whole."""

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that decode: Pillow lets the others run while it decodes and resizes."""

Place = tuple[float, float]
"""Where a random crop lies, from the left (top) edge, 0, to the right (bottom) edge, 1."""


@dataclass(frozen=True)
class Decoded:
    """pixels: (N, C, H, W) uint8, C = 1 where every image is grey, else 3. labels: (N,) int64. jpeg: all were JPEG."""

    pixels: Tensor
    labels: Tensor
    jpeg: bool


def open_image(row: Row) -> tuple[Image.Image, bool]:
    """The image, upright, in mode L or RGB, and whether it is JPEG-coded. Raises a ValueError that names the row."""
    try:
        image = Image.open(io.BytesIO(row.data))
        jpeg = image.format == "JPEG"
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        image.load()
    except Exception as error:  # Pillow's readers raise whatever a broken file drives them to
        raise ValueError(f"{row.where}: broken image ({type(error).__name__}: {error}).") from error
    if image.mode not in MODES:
        raise ValueError(f"{row.where}: pixels of mode {image.mode}; allowed: 8 bits a channel.")
    return (image if image.mode == MODES[image.mode] else image.convert(MODES[image.mode])), jpeg


def fit(image: Image.Image, size: int, place: Place | None = None) -> Image.Image:
    """``size`` x ``size`` pixels: the largest square in the middle, or the crop of a random place, resized."""
    width, height = image.size
    if width == height == size and place is None:
        return image
    side = min(width, height) * (1.0 if place is None else RANDOM_SIDE)
    left, top = ((space - side) * at for space, at in zip((width, height), place or (0.5, 0.5)))
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def pixels_of(image: Image.Image) -> np.ndarray:
    """(C, H, W) uint8; C is 1 for a grey image."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def decoded(
    placed: Iterable[tuple[Row, Place | None]], image_size: int | None, workers: int = WORKERS
) -> Generator[tuple[Row, Image.Image, bool]]:
    """Rows with their images, in the order given, and whether each was JPEG; decoded by threads.

    Raises a ValueError for a broken image, and for one of another size than the first.
    """

    def work(row: Row, place: Place | None) -> tuple[Row, Image.Image, bool]:
        image, jpeg = open_image(row)
        return row, fit(image, image_size, place) if image_size else image, jpeg

    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    size: tuple[int, int] | None = None
    try:
        for row, image, jpeg in in_order(pool, work, placed, 16 * workers):
            size = size or image.size
            _check_size(image, size, row)
            yield row, image, jpeg
    finally:
        pool.shutdown(cancel_futures=True)


def decode_all(shards: Sequence[Shard], image_size: int | None) -> Decoded:
    """All rows in order. Raises a ValueError for a broken row, for mixed sizes without ``image_size``, and for an
    amount of pixels that should be streamed."""
    count = sum(len(shard) for shard in shards)
    labels, pixels = np.empty(count, np.int64), None
    grey = all_jpeg = True
    rows = chain.from_iterable(shard.rows() for shard in shards)
    with closing(decoded(((row, None) for row in rows), image_size)) as images:
        for index, (row, image, jpeg) in enumerate(images):
            pixels = _room(count, image, row) if pixels is None else pixels
            pixels[index], labels[index] = pixels_of(image), row.label
            grey, all_jpeg = grey and image.mode == "L", all_jpeg and jpeg
    if pixels is None:
        raise ValueError("no row to decode; allowed: at least one.")
    return Decoded(torch.from_numpy(pixels[:, :1].copy() if grey else pixels), torch.from_numpy(labels), all_jpeg)


def _room(count: int, image: Image.Image, row: Row) -> np.ndarray:
    width, height = image.size
    if count * 3 * height * width > MAX_BYTES:
        raise ValueError(
            f"{row.where} and the other {count - 1} images of {width}x{height} would take "
            f"{count * 3 * height * width / 2**30:.0f} GiB; give streaming=True or a smaller image_size."
        )
    return np.empty((count, 3, height, width), np.uint8)


def _check_size(image: Image.Image, size: tuple[int, int], row: Row) -> None:
    """size: width and height of the images before this one."""
    if image.size != size:
        raise ValueError(
            f"{row.where}: {image.width}x{image.height} pixels where the images before it have {size[0]}x{size[1]}; "
            "give image_size to bring all to one size."
        )


def stack(images: Iterable[np.ndarray]) -> Tensor:
    """(B, 3, H, W) uint8 of (C, H, W) images of one size, grey ones repeated."""
    return torch.from_numpy(np.stack([np.broadcast_to(x, (3, *x.shape[1:])) for x in images]))
