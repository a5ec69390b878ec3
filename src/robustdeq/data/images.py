"""Labelled images in memory, cutting and batching them, and decoding image files to uint8 pixels with Pillow."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from typing_extensions import TypeVar

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is opened, whatever a file's ending says: not EPS, which Pillow hands to Ghostscript. PPM includes PGM."""
MODES: dict[str, Any] = dict.fromkeys(("1", "L", "LA"), "L")
MODES |= dict.fromkeys(("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"), "RGB")
"""Pillow's 8-bit modes, and what they become."""
RANDOM_SIDE = 7 / 8
"""The side of a random crop, of the shorter side of the image: the usual 224 of 256."""
MAX_BYTES = 16 * 2**30
"""A larger set is not held in memory."""
WORKERS = min(8, os.cpu_count() or 1)
"""Threads that decode: Pillow lets the others run while it decodes and resizes."""
CHUNK = 16
"""Images that a thread decodes at a time: handing over one by one costs as much as a small image."""


class Row(NamedTuple):
    """One stored image. where: as errors name it. data: an image file's bytes; None: ``where`` is the file.

    place: where a random crop of it lies, from the left (top) edge, 0, to the right (bottom) edge, 1.
    """

    where: str
    data: bytes | None
    label: int
    place: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ImageSet:
    """pixels: (N, C, H, W) uint8, 0..white. labels: (N,) int64. classes: their names. source: where it comes from."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str
    white: int = 255

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """SHA-256 of pixels and labels."""
        total = hashlib.sha256()
        for tensor in (self.pixels, self.labels):
            total.update(tensor.cpu().contiguous().numpy().data)
        return total.hexdigest()

    def images(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """(n, C, H, W) float32 in [0, 1]."""
        return self.pixels[rows].float() / self.white

    def take(self, rows: Tensor | slice) -> ImageSet:
        """These rows, a slice or (n,) int64, as a set."""
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows])

    def to(self, device: torch.device | str) -> ImageSet:
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def batches(
        self, size: int, generator: torch.Generator, part: slice = slice(None), skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled batches: float32 (size, C, H, W) in [0, 1] and int64 (size,).

        A last batch smaller than ``size`` is left out. part: which rows of every batch are wanted (the rows of one
        process). skip: how many batches are passed over.
        """
        order = torch.randperm(len(self), generator=generator)
        for start in range(skip * size, len(self) - size + 1, size):
            rows = order[start : start + size][part].to(self.labels.device)
            yield self.images(rows), self.labels[rows]


S = TypeVar("S", default=ImageSet)


@dataclass(frozen=True)
class Splits(Generic[S]):
    """train, validation and test, each an ``ImageSet`` (or a ``StreamedSet``); seed: of the cut of the validation set.

    Validation images come from what may be trained on, never from the test set.
    """

    train: S
    validation: S
    test: S
    seed: int


def cut(images: ImageSet, sizes: tuple[int, ...], seed: int) -> tuple[ImageSet, ...]:
    """Disjoint random subsets of these sizes, and the rest as the last. Raises a ValueError if no rest is left."""
    if sum(sizes) >= len(images):
        raise ValueError(f"cut: sizes {sizes} of {len(images)} images; allowed: a sum below {len(images)}.")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return tuple(images.take(rows) for rows in order.split([*sizes, len(images) - sum(sizes)]))


def digits(*, test: int = 360, validation: int = 100, seed: int = 0) -> Splits:
    """The 1,797 real handwritten digits that ship with scikit-learn (UCI, Alpaydin and Kaynak 1998).

    Grey images (N, 1, 8, 8) of 17 levels, cut at random with ``seed``. Raises a ValueError when no image is left.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images, numbers = torch.as_tensor(pixels).to(torch.uint8).reshape(-1, 1, 8, 8), torch.as_tensor(labels).long()
    whole = ImageSet(images, numbers, tuple("0123456789"), "scikit-learn digits (8x8, 17 grey levels)", white=16)
    tested, held, rest = cut(whole, (test, validation), seed)
    return Splits(rest, held, tested, seed)


def open_image(row: Row) -> tuple[Image.Image, bool]:
    """The first frame, upright, in mode L or RGB, and whether it is JPEG-coded. Raises a ValueError naming the row."""
    try:
        data = Path(row.where).read_bytes() if row.data is None else row.data
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        jpeg = image.format in ("JPEG", "MPO")  # MPO: a JPEG with a second picture behind it, as telephones write it
        if image.width * image.height > (Image.MAX_IMAGE_PIXELS or 2**62):  # Pillow itself only warns up to twice that
            raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
        deep = any(";16" in str(tile) for tile in image.tile)  # Pillow would drop half the bits of 16-bit RGB unsaid
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except UnidentifiedImageError as error:
        raise ValueError(f"{row.where}: broken image; allowed: {', '.join(FORMATS)}.") from error
    except Exception as error:  # Pillow's readers raise whatever a broken file drives them to
        raise ValueError(f"{row.where}: broken image ({type(error).__name__}: {error}).") from error
    if deep or image.mode not in MODES:
        mode = f"{image.mode} of 16 bits" if deep and "16" not in image.mode else image.mode
        raise ValueError(f"{row.where}: pixels of mode {mode}; allowed: 8 bits a channel.")
    mode = MODES[image.mode]
    if image.has_transparency_data and (rgba := image.convert("RGBA")).getextrema()[3][0] < 255:  # type: ignore[index]
        warnings.warn("transparent pixels are shown on white.", RuntimeWarning, stacklevel=2)
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return (image if image.mode == mode else image.convert(mode)), jpeg


def fit(image: Image.Image, size: int, place: tuple[float, ...] | None = None) -> Image.Image:
    """``size`` x ``size`` pixels, bilinear: the largest square in the middle, or the crop of a random place."""
    width, height = image.size
    if width == height == size and place is None:
        return image
    side = min(width, height) * (1.0 if place is None else RANDOM_SIDE)
    left, top = ((space - side) * at for space, at in zip((width, height), place or (0.5, 0.5)))
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


Decoded = tuple[Row, np.ndarray, bool]
"""A row, its pixels (C, H, W) uint8, C = 1 where it is grey, and whether it was JPEG."""


def decode(rows: Iterator[Row], size: int | None) -> Generator[Decoded]:
    """Each row in order, of ``size`` x ``size`` pixels (None: as stored), decoded while those before it are used.

    Raises a ValueError for a broken image, and for one of another size than the first.
    """

    def work(row: Row) -> Decoded:
        image, jpeg = open_image(row)
        pixels = np.asarray(fit(image, size, row.place) if size else image)
        return row, pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), jpeg

    first, chunks = None, iter(lambda: list(islice(rows, CHUNK)), [])
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="decode") as pool:
        futures = (pool.submit(lambda chunk: [work(row) for row in chunk], chunk) for chunk in chunks)
        ahead = deque(islice(futures, 4 * WORKERS))
        try:
            while ahead:
                decoded = ahead.popleft().result()
                ahead.extend(islice(futures, 1))
                for row, pixels, jpeg in decoded:
                    height, width = pixels.shape[1:]
                    first = first or (height, width)
                    if (height, width) != first:
                        images = f"{width}x{height} pixels where the images before it have {first[1]}x{first[0]}"
                        raise ValueError(f"{row.where}: {images}; give image_size to bring all to one size.")
                    yield row, pixels, jpeg
        finally:
            for future in ahead:
                future.cancel()


def stack(decoded: Iterable[Decoded], count: int) -> tuple[Tensor, Tensor, bool, bool]:
    """(count, 3, H, W) uint8, grey images repeated; labels (count,) int64; whether all are grey; whether all were JPEG.

    Raises a ValueError for pixels that do not fit into memory.
    """
    pixels, labels, grey, all_jpeg = np.empty((count, 0), np.uint8), np.empty(count, np.int64), True, True
    for index, (row, image, jpeg) in enumerate(decoded):
        if index == 0:
            if (size := count * 3 * image[0].size) > MAX_BYTES:
                images = f"{row.where} and the other {count - 1} images of {image.shape[2]}x{image.shape[1]} would take"
                raise ValueError(f"{images} {size / 2**30:.0f} GiB; give streaming=True or a smaller image_size.")
            pixels = np.empty((count, 3, *image.shape[1:]), np.uint8)
        pixels[index], labels[index] = image, row.label
        grey, all_jpeg = grey and len(image) == 1, all_jpeg and jpeg
    return torch.from_numpy(pixels), torch.from_numpy(labels), grey, all_jpeg


def read(rows: Iterator[Row], count: int, size: int | None) -> tuple[Tensor, Tensor, bool, bool]:
    """``count`` rows decoded and stacked, see there."""
    with closing(decode(rows, size)) as images:
        return stack(images, count)
