"""What models ask of images and of the numbers in their configs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..dynamics.solver import check_count


def check_images(x: Tensor, shape: Sequence[int] | None = None) -> None:
    """Raise a ValueError unless x is a floating batch (B, C, H, W) in [0, 1], of the given (C, H, W) if there is one.

    The range is looked at on the CPU only, since a look costs a synchronisation on a GPU; attacks and evaluation check
    it once at their door on every device.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        given = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"images are {given}; allowed: a floating-point tensor in [0, 1] (uint8 / 255).")
    if x.dim() != 4 or (shape is not None and tuple(x.shape[1:]) != tuple(shape)):
        wanted = "(batch, channels, height, width)" if shape is None else f"(batch, {', '.join(map(str, shape))})"
        raise ValueError(f"images have shape {tuple(x.shape)}; allowed: {wanted}.")
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        check_range(x)


def check_range(x: Tensor, slack: float = 1e-5) -> None:
    """Raise a ValueError if a pixel lies outside [0, 1] by more than rounding. A NaN is left to the solver's status."""
    if not x.numel():
        return
    low, high = (float(v) for v in x.detach().aminmax())
    if low < -slack or high > 1 + slack:
        raise ValueError(f"images lie in [{low:.4g}, {high:.4g}]; allowed: [0, 1] (divide 8-bit pixels by 255).")


def check_dtype(x: Tensor, weight: Tensor) -> None:
    """Raise a ValueError unless the images have the dtype of the weights they meet first; autocast casts by itself."""
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"images are {x.dtype}; allowed: {weight.dtype}, as the model's weights.")


def check_counts(owner: str, name: str, values: Any, length: int | None = None) -> tuple[int, ...]:
    """``values`` as a tuple; a ValueError unless they are ``length`` whole numbers >= 1 (None: one or more)."""
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_list or not values or len(values) != (length or len(values)):
        wanted = length or "one or more"
        raise ValueError(f"{owner}: {name}={values!r}; allowed: a list of {wanted} whole numbers >= 1.")
    counts: tuple[Any, ...] = tuple(values)
    for count in counts:
        check_count(owner, name, count)
    return counts
