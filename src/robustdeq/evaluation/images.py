"""Images that an evaluation reads and keeps, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol
from urllib.parse import quote

import torch
from torch import Tensor, nn

from ..checks import Count, Seed, check_fine, check_images, check_labels, check_range
from ..files import digest, read_tensors, write_tensors
from ..options import Fits

ARGUMENTS: dict[str, Any] = {
    "batch_size": Count, "seed": Seed, "resume": bool, "samples": str | None,
    "out": Annotated[Any, Fits(lambda out: isinstance(out, str | Path | None) and out != "", "a folder")],
    "distributed": Annotated[Any, Fits(lambda processes: hasattr(processes, "world_size"), "a Distributed")],
    "progress": Annotated[Any, Fits(lambda progress: progress is None or callable(progress), "a function")],
}  # fmt: skip
"""Of whatever works through images, as annotations; see ``options.check_arguments``."""


class Points(Protocol):
    """Labelled images, as an ``ImageSet`` or a ``StreamedSet`` offers them."""

    def __len__(self) -> int: ...
    def take(self, rows: Any) -> Any: ...
    def digest(self) -> str: ...


class Rows(Protocol):
    """Images by row number: a tensor, or ``KeptImages``."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Tensor: ...


@dataclass(frozen=True)
class Pair:
    """``Points`` from a tensor of images (N, C, H, W) in [0, 1] and one of labels (N,) int64."""

    x: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        check_images(self.x)
        check_range(self.x)
        check_labels(self.x, self.labels)

    def __len__(self) -> int:
        return len(self.x)

    def images(self) -> Tensor:
        return self.x

    def take(self, rows: slice) -> Pair:
        return Pair(self.x[rows], self.labels[rows])

    def digest(self) -> str:
        return digest(*self.x.detach().split(256), self.labels)


def points_of(owner: str, x: Any, y: Tensor | None) -> Points:
    """The images and labels that ``owner`` was given as ``Points``."""
    labelled = not isinstance(x, Tensor) and all(hasattr(x, name) for name in ("take", "digest", "__len__"))
    if labelled != (y is None):
        pair = f"{type(x).__name__} and {'no labels' if y is None else 'labels'}"
        raise ValueError(f"{owner}: {pair}; allowed: a tensor x and a tensor y, or an ImageSet without y.")
    points: Any = x if y is None else Pair(x, y)
    if not len(points):
        raise ValueError(f"{owner}: no images; allowed: at least one.")
    return points


def loaded(points: Points, rows: slice, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Images and labels of some rows, where the model computes. No inference tensors: those have no gradient."""
    batch = points.take(rows)
    x, y = (tensor.clone() if tensor.is_inference() else tensor for tensor in (batch.images(), batch.labels))
    check_images(x)
    check_fine(x)
    check_range(x)
    device = next((parameter.device for parameter in model.parameters()), x.device)
    return x.to(device), y.to(device)


def batches(points: int, size: int) -> list[slice]:
    """Consecutive rows of 0..points-1, ``size`` at a time."""
    return [slice(start, min(start + size, points)) for start in range(0, points, size)]


@dataclass(frozen=True)
class KeptImages:
    """The adversarial images (points, C, H, W) of one attack in files of a batch each; what is asked for is read.

    ``kept[rows]``: rows a slice or (n,) int64, images (n, C, H, W) on the CPU. ``iter(kept)`` gives the batches.
    """

    folder: Path
    name: str
    points: int
    batch_size: int

    def __len__(self) -> int:
        return self.points

    def __iter__(self) -> Iterator[Tensor]:
        return (self[rows] for rows in batches(self.points, self.batch_size))

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        wanted = torch.arange(self.points)[rows if isinstance(rows, slice) else rows.cpu()]
        size = min(self.batch_size, self.points)  # which no integer of torch may be too small for
        first = wanted // size * size
        loaded = {start: self._read(start) for start in (first.unique().tolist() or [0])}
        if not len(wanted):
            return loaded[0][:0]
        return torch.stack([loaded[start][row - start] for start, row in zip(first.tolist(), wanted.tolist())])

    def write(self, start: int, images: Tensor) -> None:
        """Write the images (B, C, H, W) of the batch that begins at sample ``start``, as a file of their own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_tensors(self.file(start), {"images": images}, **self._label(start))

    def _read(self, start: int) -> Tensor:
        todo = "remove it, and evaluate again to make these images anew"
        tensors, metadata = read_tensors(self.file(start), todo)
        images = tensors.get("images", torch.empty(0))
        if metadata != self._label(start) or len(images) != min(self.batch_size, self.points - start):
            raise ValueError(f"{self.file(start)} holds other images; {todo}.")
        return images

    def _label(self, start: int) -> dict[str, str]:
        return {"attack": self.name, "first": str(start)}

    def file(self, start: int) -> Path:
        """Of the batch that begins there."""
        return self.folder / f"{quote(self.name, safe=' ')}-{start}.safetensors"
