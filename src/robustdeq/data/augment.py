"""Vectorised augmentation on the device of the images, from a seeded generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(
    x: Tensor, generator: torch.Generator, *, pad: int, flip: bool, total: int | None = None, first: int = 0
) -> Tensor:
    """Random crop after zero-padding by ``pad``, and a horizontal flip with probability 1/2. x: (B, C, H, W).

    total, first: x is the rows from ``first`` of a batch of ``total``, and is given the numbers of these rows.
    """
    batch, channels, height, width = x.shape
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
