"""Whether a module fits what it is given, and gives what is wanted of it: one line instead of torch's own complaint."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..checks import described
from ..files import first_line
from ..text import shown

WORDS = "shapes?|sizes?|dimensions?|channels?|devices?|d?types?|arguments?|not implemented|forward"
MISFIT = re.compile(rf"\b({WORDS})\b", re.IGNORECASE)
"""In the words of an error of torch that is about what a module was given, not about what went wrong inside it."""


def asked(role: str, module: nn.Module, x: Tensor, call: Callable[[Tensor], Any] | None = None, u: Any = None) -> Any:
    """``module(x)``, or ``call(x)``, which asks the module in its own way, with ``u`` beside x. That they do not fit is
    a ValueError; anything else that is raised stays what it is."""
    try:
        return module(x) if call is None else call(x)
    except (RuntimeError, TypeError, IndexError) as error:
        exactly = type(error) in (RuntimeError, NotImplementedError, TypeError, IndexError)  # no CUDA error, for one
        if not exactly or not (MISFIT.search(str(error)) or isinstance(error, NotImplementedError)):
            raise
        weight = next((part for part in module.parameters() if part.is_floating_point()), None)
        made = "" if weight is None else f" with weights of {weight.dtype} on {weight.device}"
        beside = "" if u is None else f" beside u, {described(u)}"
        raise ValueError(
            f"{role}, a {type(module).__name__}{made}, cannot take {described(x)}{beside} ({first_line(error)}); "
            "allowed: what it was made for, in its own dtype and on its own device."
        ) from error


def check_module(owner: str, name: str, module: Any) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise ValueError(f"{owner}: {name} is {described(module)}; allowed: a torch.nn.Module.")
    return module


def check_sides(owner: str, image_shape: Sequence[int], divisor: int) -> None:
    """The sides of images (C, H, W) can be divided so often."""
    if any(side % divisor for side in image_shape[1:]):
        wanted = f"(channels, height, width), sides divisible by {shown(divisor)}"
        raise ValueError(f"{owner}: image_shape={shown(image_shape)}; allowed: {wanted}.")


def check_logits(owner: str, module: nn.Module, logits: Any, count: int, classes: int = 2) -> None:
    """``logits`` are what a classifier gives for ``count`` images: floating point, (count, at least ``classes``)."""
    shaped = isinstance(logits, Tensor) and logits.dim() == 2 and len(logits) == count and logits.shape[1] >= classes
    if not shaped or not logits.is_floating_point() or logits.is_sparse:
        wanted = f"a floating-point tensor of logits ({count}, K >= {classes}) for {count} images"
        raise ValueError(f"{owner}: {type(module).__name__} gives {described(logits)}; allowed: {wanted}.")
