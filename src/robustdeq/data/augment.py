"""Vectorised augmentation on the device of the images, from a seeded generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(x: Tensor, generator: torch.Generator, *, pad: int, flip: bool) -> Tensor:
    """Random crop after zero-padding by ``pad``, and a horizontal flip with probability 1/2. x: (B, C, H, W)."""
    batch, channels, height, width = x.shape
    if pad:
        shift = torch.randint(0, 2 * pad + 1, (2, batch), generator=generator).to(x.device)
        rows = (torch.arange(height, device=x.device) + shift[0, :, None])[:, None, :, None]
        columns = (torch.arange(width, device=x.device) + shift[1, :, None])[:, None, None, :]
        samples = torch.arange(batch, device=x.device)[:, None, None, None]
        planes = torch.arange(channels, device=x.device)[None, :, None, None]
        x = F.pad(x, (pad, pad, pad, pad))[samples, planes, rows, columns]
    if flip:
        turned = (torch.rand(batch, generator=generator) < 0.5).to(x.device)
        x = torch.where(turned[:, None, None, None], x.flip(3), x)
    return x
