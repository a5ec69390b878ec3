"""From stored image files to uint8 pixels, decoded with Pillow; and how what is wrong with them is told."""

from __future__ import annotations

import io
import os
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..files import first_line
from ..text import printable, shortened

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is opened, whatever a file's ending says: not EPS, which Pillow hands to Ghostscript. PPM includes PGM."""
MODES: dict[str, Any] = dict.fromkeys(("1", "L", "LA"), "L")
MODES |= dict.fromkeys(("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"), "RGB")
"""Pillow's 8-bit modes, and what they become."""
RANDOM_SIDE = 7 / 8
"""The side of a random crop, of the shorter side of the image: the usual 224 of 256."""
MAX_BYTES = 16 * 2**30
"""A larger set is not held in memory."""
ON_WHITE = "transparent pixels are shown on white."
WORKERS = min(8, os.cpu_count() or 1)
"""Threads that decode: Pillow lets the others run while it decodes and resizes."""
CHUNK = 16
"""Images that a thread decodes at a time: handing over one by one costs as much as a small image."""


@contextmanager
def one_line() -> Iterator[None]:
    """Inside, what is wrong with a source leaves as a ValueError of one printable line."""
    try:
        yield
    except OSError as error:
        text = f"{error.filename or 'the source'}: cannot be read ({first_line(error)}); allowed: what can."
        raise ValueError(shortened(text)) from error
    except ValueError as error:
        if type(error) is ValueError and str(error) == shortened(str(error)):
            raise
        raise ValueError(shortened(str(error))) from error


def say(text: str, kind: type[Warning] = UserWarning) -> None:
    """Warn, of the line that called ``load`` or nearly so."""
    warnings.warn(printable(text), kind, stacklevel=5)


class Row(NamedTuple):
    """One stored image. where: as errors name it. data: an image file's bytes; None: ``where`` is the file.

    place: where a random crop of it lies, from the left (top) edge, 0, to the right (bottom) edge, 1.
    """

    where: str
    data: bytes | None
    label: int
    place: tuple[float, ...] | None = None


def open_image(row: Row) -> tuple[Image.Image, bool, bool]:
    """The first frame, upright, in mode L or RGB; whether it is JPEG-coded; whether transparent pixels became white.

    Raises a ValueError naming the row.
    """
    try:
        data = Path(row.where).read_bytes() if row.data is None else row.data
    except OSError as error:
        raise ValueError(f"{row.where}: cannot be read ({first_line(error)}); allowed: an image file.") from error
    if not data:
        raise ValueError(f"{row.where}: no image, the file is empty; fetch it again or remove it.")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        jpeg = image.format in ("JPEG", "MPO")  # MPO: a JPEG with a second picture behind it, as telephones write it
        most = Image.MAX_IMAGE_PIXELS or 2**62
        if image.width * image.height > most:  # Pillow itself only warns up to twice that
            raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels; allowed: at most {most}")
        # Pillow would drop half the bits of 16-bit RGB unsaid; of a PPM it keeps the largest value at the end.
        deep = any(";16" in str(tile) or (tile[0][:3] == "ppm" and tile[3][-1] > 255) for tile in image.tile)  # type: ignore
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except UnidentifiedImageError as error:
        raise ValueError(f"{row.where}: broken image; allowed: {', '.join(FORMATS)}.") from error
    except Exception as error:  # Pillow's readers raise whatever a broken file drives them to
        problem = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{row.where}: broken image ({problem}); fetch it again or remove it.") from error
    if deep or image.mode not in MODES:
        mode = f"{image.mode} of 16 bits" if deep and "16" not in image.mode else image.mode
        raise ValueError(f"{row.where}: pixels of mode {mode}; allowed: 8 bits a channel.")
    mode, clear = MODES[image.mode], False
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if clear := image.getextrema()[3][0] < 255:  # type: ignore[index]
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return (image if image.mode == mode else image.convert(mode)), jpeg, clear


def fit(image: Image.Image, size: int, place: tuple[float, ...] | None = None) -> Image.Image:
    """``size`` x ``size`` pixels, bilinear: the largest square in the middle, or the crop of a random place."""
    width, height = image.size
    if width == height == size and place is None:
        return image
    side = min(width, height) * (1.0 if place is None else RANDOM_SIDE)
    left, top = ((space - side) * at for space, at in zip((width, height), place or (0.5, 0.5)))
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


class Decoded(NamedTuple):
    """A row and its pixels (C, H, W) uint8, C = 1 where it is grey. jpeg, clear: see ``open_image``."""

    row: Row
    pixels: np.ndarray
    jpeg: bool
    clear: bool


class Stack(NamedTuple):
    """pixels: (N, 3, H, W) uint8, grey images repeated. labels: (N,) int64. grey, jpeg: all are; clear: any is."""

    pixels: Tensor
    labels: Tensor
    grey: bool
    jpeg: bool
    clear: bool


def decode(rows: Iterator[Row], size: int | None) -> Generator[Decoded]:
    """Each row in order, of ``size`` x ``size`` pixels (None: as stored), decoded while those before it are used.

    Raises a ValueError for a broken image, and for one of another size than the first.
    """

    def work(row: Row) -> Decoded:
        image, jpeg, clear = open_image(row)
        pixels = np.asarray(fit(image, size, row.place) if size else image)
        return Decoded(row, pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), jpeg, clear)

    first, chunks = None, iter(lambda: list(islice(rows, CHUNK)), [])
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="decode") as pool:
        futures = (pool.submit(lambda chunk: [work(row) for row in chunk], chunk) for chunk in chunks)
        ahead = deque(islice(futures, 4 * WORKERS))  # Executor.map would read all rows at once
        try:
            while ahead:
                decoded = ahead.popleft().result()
                ahead.extend(islice(futures, 1))
                for one in decoded:
                    height, width = one.pixels.shape[1:]
                    first = first or (height, width)
                    if (height, width) != first:
                        images = f"{width}x{height} pixels where the images before it have {first[1]}x{first[0]}"
                        raise ValueError(f"{one.row.where}: {images}; give image_size= to bring all to one size.")
                    yield one
        finally:
            for future in ahead:
                future.cancel()


def check_memory(where: str, count: int, height: int, width: int) -> None:
    """Raises a ValueError for images that are not to be held in memory."""
    if (size := count * 3 * height * width) > MAX_BYTES:
        images = f"{count} images of {width}x{height} would take {size / 2**30:.0f} GiB"
        most = f"{MAX_BYTES / 2**30:.0f} GiB"
        raise ValueError(f"{where}: {images}; allowed: {most}; give streaming=True or a smaller image_size=.")


def stack(decoded: Iterable[Decoded], count: int) -> Stack:
    """``count`` images in one tensor. Raises a ValueError for pixels that do not fit into memory."""
    pixels, labels = np.empty((count, 0), np.uint8), np.empty(count, np.int64)
    grey, all_jpeg, any_clear = True, True, False
    for index, (row, image, jpeg, clear) in enumerate(decoded):
        if index == 0:
            check_memory(row.where, count, *image.shape[1:])
            pixels = np.empty((count, 3, *image.shape[1:]), np.uint8)
        pixels[index], labels[index] = image, row.label
        grey, all_jpeg, any_clear = grey and len(image) == 1, all_jpeg and jpeg, any_clear or clear
    return Stack(torch.from_numpy(pixels), torch.from_numpy(labels), grey, all_jpeg, any_clear)


def read(rows: Iterator[Row], count: int, size: int | None) -> Stack:
    """``count`` rows decoded and stacked, see there."""
    with closing(decode(rows, size)) as images:
        return stack(images, count)
