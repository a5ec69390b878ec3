"""Images as PNG data URIs, small enough for a page."""

from __future__ import annotations

import base64
import io

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def data_uri(image: Tensor, side: int) -> str:
    """A PNG of an image (C, H, W) in [0, 1], of 3 channels or else of its first, at most ``side`` pixels a side."""
    if max(image.shape[1:]) > side:
        scale = side / max(image.shape[1:])
        size = [max(1, round(length * scale)) for length in image.shape[1:]]
        image = F.interpolate(image[None], size=size, mode="area")[0]
    pixels = (image.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    pixels = pixels.permute(1, 2, 0).numpy() if len(pixels) == 3 else pixels[0].numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def magnified(change: Tensor) -> tuple[Tensor, float]:
    """A change of an image (C, H, W) with its largest value at black or white and none at grey; and how many times it
    is magnified: 0.5 is the most that a pixel can then move."""
    largest = float(change.abs().max())
    factor = 0.5 / largest if largest > 0 else 1.0
    return (0.5 + factor * change).clamp(0, 1), factor
