"""Vectorised augmentation on the device of the images, from a seeded generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_count
from .doors import check_generator


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
    check_count("crop_and_flip", "first", first, 0)
    check_count("crop_and_flip", "total", batch if total is None else total, first + batch)
    rows, total = slice(first, first + batch), batch if total is None else total
    if pad:
        shift = torch.randint(0, 2 * pad + 1, (2, total), generator=generator)[:, rows].to(x.device)
        down = (torch.arange(height, device=x.device) + shift[0, :, None])[:, None, :, None]
        across = (torch.arange(width, device=x.device) + shift[1, :, None])[:, None, None, :]
        samples = torch.arange(batch, device=x.device)[:, None, None, None]
        planes = torch.arange(channels, device=x.device)[None, :, None, None]
        x = F.pad(x, (pad, pad, pad, pad))[samples, planes, down, across]
    if flip:
        turned = (torch.rand(total, generator=generator)[rows] < 0.5).to(x.device)
        x = torch.where(turned[:, None, None, None], x.flip(3), x)
    return x
