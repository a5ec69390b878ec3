"""Image files to uint8 pixels, with Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .rows import Row, Shard

GREY = {"1": "L", "L": "L", "LA": "L"}
COLOUR = {mode: "RGB" for mode in ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")}
MODES = GREY | COLOUR
"""Pillow's 8-bit modes and what they become; transparency is dropped."""

ORIENTATION = 0x0112
RANDOM_SIDE = 7 / 8
"""The side of a random crop, of the shorter side of the image: the usual 224 of 256."""
MAX_BYTES = 16 * 2**30
"""A larger set is not decoded as a whole."""

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


def decode_all(shards: Sequence[Shard], image_size: int | None) -> Decoded:
    """All rows in order. Raises a ValueError for a broken row, for mixed sizes without ``image_size``, and for an
    amount of pixels that should be streamed."""
    count = sum(len(shard) for shard in shards)
    pixels, labels = np.empty(0, np.uint8), np.empty(count, np.int64)
    grey = jpeg = True
    for index, row in enumerate(chain.from_iterable(shard.rows() for shard in shards)):
        image, is_jpeg = open_image(row)
        image = fit(image, image_size) if image_size else image
        if index == 0:
            pixels = _room(count, image, row)
        check_size(image, (pixels.shape[3], pixels.shape[2]), row)
        pixels[index] = pixels_of(image)
        labels[index] = row.label
        grey, jpeg = grey and image.mode == "L", jpeg and is_jpeg
    return Decoded(torch.from_numpy(pixels[:, :1].copy() if grey else pixels), torch.from_numpy(labels), jpeg)


def _room(count: int, image: Image.Image, row: Row) -> np.ndarray:
    width, height = image.size
    if count * 3 * height * width > MAX_BYTES:
        raise ValueError(
            f"{row.where} and the other {count - 1} images of {width}x{height} would take "
            f"{count * 3 * height * width / 2**30:.0f} GiB; give streaming=True or a smaller image_size."
        )
    return np.empty((count, 3, height, width), np.uint8)


def check_size(image: Image.Image, size: tuple[int, int], row: Row) -> None:
    """size: width and height of the images before this one."""
    if image.size != size:
        raise ValueError(
            f"{row.where}: {image.width}x{image.height} pixels where the images before it have {size[0]}x{size[1]}; "
            "give image_size to bring all to one size."
        )


def stack(images: Iterable[np.ndarray]) -> Tensor:
    """(B, 3, H, W) uint8 of (C, H, W) images of one size, grey ones repeated."""
    return torch.from_numpy(np.stack([np.broadcast_to(x, (3, *x.shape[1:])) for x in images]))
