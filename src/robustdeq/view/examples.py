"""Images to begin with: of a data set, stored beside a Space, or uploaded; always in the shape that the model takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..data import ImageSet, load
from ..data.images import Row, open_image
from ..files import read_tensors, write_tensors
from ..models.modes import evaluating
from ..text import shown


def first_images(source: str, shape: Sequence[int], count: int) -> ImageSet:
    """The first ``count`` test images of a source, see ``data.load``, of the shape (C, H, W). A folder is read as a
    stream, so that no large set is decoded for a few images."""
    size = None if source == "digits" else min(shape[1:])
    test = load(source, streaming=Path(source).is_dir(), image_size=size).test
    images = test.take(slice(min(count, len(test))))
    grey = images.pixels[:, :1]
    if shape[0] == 1 and images.pixels.equal(grey.expand_as(images.pixels)):  # a stream repeats what is grey
        images = replace(images, pixels=grey)
    if tuple(images.pixels.shape[1:]) != tuple(shape):
        has = f"{shown(source)} has images of shape {tuple(images.pixels.shape[1:])}"
        raise ValueError(f"{has}; allowed: {tuple(shape)}, as the model takes them, or no --data, for uploads alone.")
    return images


def save_images(file: Path, images: ImageSet) -> None:
    """Write an image set to a safetensors file, names and all."""
    told = {"classes": json.dumps(images.classes), "source": images.source, "white": str(images.white)}
    write_tensors(file, {"pixels": images.pixels, "labels": images.labels}, **told)


def read_images(file: Path) -> ImageSet:
    """What ``save_images`` wrote."""
    tensors, told = read_tensors(file, "allowed: the file that `robustdeq view --space` wrote")
    return ImageSet(
        tensors["pixels"], tensors["labels"], tuple(json.loads(told["classes"])), told["source"], int(told["white"])
    )


def uploaded(data: bytes, name: str, shape: Sequence[int]) -> Tensor:
    """An image file as (1, C, H, W) float32 in [0, 1]: the first frame, upright, transparency on white; the largest
    part in the middle with the model's proportions, resized by bilinear interpolation; grey (ITU-R 601) for one
    channel, red, green and blue for three. Raises a ValueError for what is no such image, and for another C.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise ValueError(f"{shown(name)}: the model takes {channels} channels; allowed for uploads: 1 or 3.")
    image, _, _ = open_image(Row(shown(name), data, 0))
    image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    pixels: Any = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(pixels.reshape(height, width, channels).copy()).permute(2, 0, 1)[None].float() / 255


def class_names(model: Any, images: ImageSet | None) -> tuple[str, ...]:
    """What the logits of a model of a known image_shape are called: as the model says, or else the images, or by their
    numbers."""
    weight = next(model.parameters())
    with torch.no_grad(), evaluating(model):
        blank = torch.zeros(1, *model.image_shape, dtype=weight.dtype, device=weight.device)
        count = model(blank, steps=1).shape[1]
    names = getattr(model, "classes", None) or (images.classes if images is not None else ())
    return tuple(names) if len(names) == count else tuple(map(str, range(count)))
