"""A labelled set of images, and batches of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor
from typing_extensions import TypeVar


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
        found = hashlib.sha256()
        for part in (self.pixels, self.labels):
            found.update(part.cpu().contiguous().numpy().data)
        return found.hexdigest()

    def images(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """float32 in [0, 1] of the given rows."""
        return self.pixels[rows].float() / self.white

    def take(self, rows: Tensor | slice) -> ImageSet:
        return ImageSet(self.pixels[rows], self.labels[rows], self.classes, self.source, self.white)

    def to(self, device: torch.device | str) -> ImageSet:
        return ImageSet(self.pixels.to(device), self.labels.to(device), self.classes, self.source, self.white)

    def batches(
        self, size: int, generator: torch.Generator, part: slice = slice(None), skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled batches (images, labels); a last batch smaller than ``size`` is left out.

        part: which rows of every batch are wanted. skip: how many batches are passed over.
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
    """Disjoint random parts of the given sizes, and the rest as the last part."""
    if sum(sizes) >= len(images):
        raise ValueError(f"cut: parts of {sizes} from {len(images)} images; allowed: a sum below {len(images)}.")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    parts = order.split([*sizes, len(images) - sum(sizes)])
    return tuple(images.take(rows) for rows in parts)
