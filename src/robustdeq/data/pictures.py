"""Images as pages and galleries take them: 8 bits, PNG, data URIs."""

from __future__ import annotations

import base64
import io

import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def picture(image: Tensor) -> Image.Image:
    """(C, H, W), cut to [0, 1], in 8 bits. One channel is grey, three are colours; of any other number the mean is
    shown."""
    if len(image) not in (1, 3):
        image = image.mean(dim=0, keepdim=True)
    pixels = (image.detach().cpu().float().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy())


def data_uri(image: Tensor, side: int | None = None) -> str:
    """The PNG of a ``picture`` of (C, H, W), at most ``side`` pixels a side."""
    longest = max(image.shape[1:])
    if side is not None and longest > side:
        size = [max(1, round(length * side / longest)) for length in image.shape[1:]]
        image = F.interpolate(image[None], size=size, mode="area")[0]
    picture(image).save(buffer := io.BytesIO(), "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def magnified(change: Tensor, largest: float | None = None) -> tuple[Tensor, float]:
    """A change of an image (C, H, W) with none at grey and ``largest`` (default: its own) at black or white; and how
    many times it is magnified: 0.5 is the most that a pixel can then move."""
    largest = float(change.abs().max()) if largest is None else largest
    factor = 0.5 / largest if largest > 0 else 1.0
    return (0.5 + factor * change).clamp(0, 1), factor
