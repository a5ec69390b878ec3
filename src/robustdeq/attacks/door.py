"""The door of every attack: what it is given is looked at once, and inside a gradient can be taken in any mode."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..checks import check_fine, check_images, check_indices, check_labels, check_range
from ..models.fit import asked, check_logits, check_module
from ..models.modes import images_only, trackable

A = TypeVar("A", bound=Callable[..., Tensor])


def at_the_door(call: A) -> A:
    """A decorator for ``call(self, model, x, y, *, indices)`` of an attack.

    Whatever does not fit is one ValueError. No images are their own adversarial images. ``call`` meets the model in
    eval mode without a parameter that asks for a gradient, images without a graph, labels on their device, and autograd
    switched on: an attack needs a gradient in ``torch.no_grad`` and in ``torch.inference_mode``, too.
    """
    signature = inspect.signature(call)

    @functools.wraps(call)
    def inside(self: Any, *args: Any, **options: Any) -> Tensor:
        owner = type(self).__name__
        try:
            bound = signature.bind(self, *args, **options)
        except TypeError as error:
            raise ValueError(f"{owner}: {error}; allowed: attack(model, x, y, indices=None).") from None
        bound.apply_defaults()
        _, model, x, y = bound.args
        indices = bound.kwargs["indices"]
        _check(owner, model, x, y, indices)
        with torch.inference_mode(False), torch.enable_grad():
            x, y = trackable(x).detach(), trackable(y.to(x.device))
            if not len(x):
                return x.clone()
            with images_only(model):
                return call(self, model, x, y, indices=indices)

    return inside  # type: ignore[return-value]


def _check(owner: str, model: Any, x: Any, y: Any, indices: Any) -> None:
    check_module(owner, "the model", model)
    if any(part.is_inference() for part in (*model.parameters(), *model.buffers())):
        made = "weights were made in torch.inference_mode, which no gradient passes"
        raise ValueError(f"{owner}: the model's {made}; allowed: a {type(model).__name__} made outside of it.")
    for name, value in (("images", x), ("labels", y), ("indices", indices)):
        if isinstance(value, Tensor) and (value.is_meta or value.is_nested or value.layout is not torch.strided):
            kind = "nested" if value.is_nested else "meta" if value.is_meta else value.layout
            raise ValueError(f"{owner}: {name} are a tensor of the kind {kind}; allowed: a dense one, with numbers.")
    check_images(x)
    check_fine(x)
    check_range(x)
    check_labels(x, y)
    check_indices(x, indices)


def logits_of(attack: Any, module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)``, which must be logits (B, K >= 2), with a graph where x asks for a gradient."""
    owner = type(attack).__name__
    logits = asked(f"{owner}: the model", module, x)
    check_logits(owner, module, logits, len(x))
    if x.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
        wanted = "logits that autograd can follow back to the images (no detach, no no_grad)"
        raise ValueError(f"{owner}: {type(module).__name__} gives logits without a gradient; allowed: {wanted}.")
    return logits
