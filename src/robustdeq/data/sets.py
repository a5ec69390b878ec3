"""Labelled images in memory: their rows, splits, shuffled batches and random crops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Generic

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import TypeVar

from ..checks import check_count
from ..files import digest, first_line
from ..text import printable

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class ImageSet:
    """pixels: (N, C, H, W) uint8, 0..white. labels: (N,) int64. classes: their names. source: where it comes from."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str
    white: int = 255

    def __post_init__(self) -> None:
        check_count("ImageSet", "white", self.white, 1, 255)
        kinds = [(getattr(t, "dtype", None), len(getattr(t, "shape", ()))) for t in (self.pixels, self.labels)]
        if kinds != [(torch.uint8, 4), (torch.int64, 1)] or len(self.pixels) != len(self.labels):
            raise ValueError(f"ImageSet: (dtype, dim) {kinds}; allowed: pixels (N, C, H, W) uint8, labels (N,) int64.")

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """SHA-256 of pixels and labels, and of ``white`` where it is not that of image files."""
        return digest(self.pixels, self.labels, *([] if self.white == 255 else [torch.tensor(self.white)]))

    def images(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """(n, C, H, W) float32 in [0, 1]."""
        return self.pixels[check_rows("images", rows, len(self))].float() / self.white

    def take(self, rows: Tensor | slice) -> ImageSet:
        """These rows, a slice or (n,) int64, as a set. Raises a ValueError for a row that is not there."""
        rows = check_rows("take", rows, len(self))
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows])

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its pixels and labels on a device."""
        check_device(device)
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def batches(self, size: int, generator: torch.Generator, part: slice = slice(None), skip: int = 0) -> Batches:
        """One epoch of shuffled batches: float32 (size, C, H, W) in [0, 1] and int64 (size,).

        A last batch smaller than ``size`` is left out. part: which rows of every batch are wanted (the rows of one
        process). skip: how many batches are passed over.
        """
        check_epoch(size, generator, part, skip, len(self))
        order, starts = torch.randperm(len(self), generator=generator), range(skip * size, len(self) - size + 1, size)
        batches = (order[start : start + size][part].to(self.labels.device) for start in starts)
        return ((self.pixels[rows].float() / self.white, self.labels[rows]) for rows in batches)


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
    if not isinstance(images, ImageSet) or not isinstance(sizes, Sequence):
        pair = f"{type(images).__name__} into {sizes!r:.80}"
        raise ValueError(f"cut: a {pair}; allowed: an ImageSet into a list of sizes.")
    for size in sizes:
        check_count("cut", "sizes", size, 0)
    check_count("cut", "seed", seed, 0, 2**63 - 1)
    if sum(sizes) >= len(images):
        raise ValueError(f"cut: sizes {sizes} of {len(images)} images; allowed: a sum below {len(images)}.")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return tuple(images.take(rows) for rows in order.split([*sizes, len(images) - sum(sizes)]))


def digits(*, test: int = 360, validation: int = 100, seed: int = 0) -> Splits:
    """The 1,797 real handwritten digits that ship with scikit-learn (UCI, Alpaydin and Kaynak 1998).

    Grey images (N, 1, 8, 8) of 17 levels, cut at random with ``seed``. Raises a ValueError when no image is left.
    """
    from sklearn.datasets import load_digits

    check_count("digits", "test", test, 0)
    check_count("digits", "validation", validation, 0)
    pixels, labels = load_digits(return_X_y=True)
    images, numbers = torch.as_tensor(pixels).to(torch.uint8).reshape(-1, 1, 8, 8), torch.as_tensor(labels).long()
    whole = ImageSet(images, numbers, tuple("0123456789"), "scikit-learn digits (8x8, 17 grey levels)", white=16)
    tested, held, rest = cut(whole, (test, validation), seed)
    return Splits(rest, held, tested, seed)


def crop_and_flip(
    x: Tensor, generator: torch.Generator, *, pad: int, flip: bool, total: int | None = None, first: int = 0
) -> Tensor:
    """Random crop after zero-padding by ``pad``, and a horizontal flip with probability 1/2. x: (B, C, H, W).

    total, first: x is the rows from ``first`` of a batch of ``total``, and is given the numbers of these rows.
    """
    if not isinstance(x, Tensor) or x.dim() != 4:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"crop_and_flip: x is {shape}; allowed: (batch, channels, height, width).")
    check_count("crop_and_flip", "pad", pad, 0)
    check_generator("crop_and_flip", generator)
    batch, channels, height, width = x.shape
    total = batch if total is None else total
    check_count("crop_and_flip", "first", first, 0)
    check_count("crop_and_flip", "total", total, first + batch)
    rows = slice(first, first + batch)
    if pad:
        shift = torch.randint(0, 2 * pad + 1, (2, total), generator=generator)[:, rows].to(x.device)
        down = (torch.arange(height, device=x.device) + shift[0, :, None])[:, None, :, None]
        across = (torch.arange(width, device=x.device) + shift[1, :, None])[:, None, None, :]
        # Every image has a window of its own: its rows and columns are gathered, which no slice could do at once.
        samples = torch.arange(batch, device=x.device)[:, None, None, None]
        planes = torch.arange(channels, device=x.device)[None, :, None, None]
        x = F.pad(x, (pad, pad, pad, pad))[samples, planes, down, across]
    if flip:
        turned = (torch.rand(total, generator=generator)[rows] < 0.5).to(x.device)
        x = torch.where(turned[:, None, None, None], x.flip(3), x)
    return x


def check_rows(owner: str, rows: Any, count: int) -> Tensor | slice:
    """A slice as it is; a tensor, an array or a list of row numbers, or (count,) bool, as a tensor."""
    with suppress(TypeError, ValueError, RuntimeError):  # torch has one for each thing that is no tensor
        if isinstance(rows, slice):
            if rows.indices(count)[2] > 0:
                return rows
        else:
            numbers = torch.as_tensor(rows)
            if numbers.dtype == torch.bool and numbers.shape == (count,):
                return numbers
            if numbers.dim() == 1 and (numbers.dtype in WHOLE or not len(numbers)):
                numbers = numbers.long()
                if ((numbers >= -count) & (numbers < count)).all():
                    return numbers
    allowed = f"a slice forwards, or (n,) whole numbers in {-count}..{count - 1}"
    raise ValueError(f"{owner}: rows {printable(str(rows))[:80]}; allowed: {allowed}.")


def check_generator(owner: str, generator: Any) -> None:
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        where = f" on {generator.device}" if isinstance(generator, torch.Generator) else ""
        raise ValueError(f"{owner}: generator is a {type(generator).__name__}{where}; allowed: a torch.Generator, CPU.")


def check_epoch(size: Any, generator: Any, part: Any, skip: Any, count: int) -> None:
    """The arguments of ``batches`` of a set of ``count`` images."""
    check_count("batches", "size", size, 1, max(count, 1))
    check_count("batches", "skip", skip, 0)
    check_generator("batches", generator)
    if not isinstance(part, slice):
        raise ValueError(f"batches: part={part!r:.80}; allowed: a slice.")


def check_device(device: Any) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:  # an AssertionError where torch has no CUDA
        raise ValueError(f"to: no device {device!r:.80} here ({first_line(error)}); allowed: cpu.") from error
