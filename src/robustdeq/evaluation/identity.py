"""What an evaluation is of: the model, its solver and defence, the images, the threat."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import Threat
from ..checks import check_labels
from ..files import digest, plain
from ..models.fit import check_logits
from ..models.modes import evaluating
from ..models.structure import Structure
from ..options import describe
from .images import Points
from .recordfile import Described, Identity

First = tuple[Tensor, Tensor]
"""The first image (1, C, H, W) of the points, where the model computes, and its label (1,)."""


def identity_of(
    owner: str, kind: Structure, points: Points, y: Tensor | None, first: First, threat: Threat, **of: Any
) -> Identity:
    """Raises a ValueError of ``owner`` if images, labels or classes do not fit the model. of: seed, batch_size."""
    logits = _first_logits(owner, kind, points, y, first)
    readout, defence = (
        None if wrapper is None else Described(type(wrapper).__name__, plain(wrapper.settings))
        for wrapper in (kind.readout, kind.defence)
    )
    return Identity(
        **below(kind), deployed=_weights(kind.deployed), readout=readout, defence=defence, logits=logits,
        points=len(points), images=points.digest(), norm=threat.name, eps=threat.eps, **of,
    )  # fmt: skip


def _first_logits(owner: str, kind: Structure, points: Points, y: Tensor | None, first: First) -> list[float]:
    """Of the first image, without a defence: that may flip signs of almost nothing from machine to machine."""
    x, label = first
    check_classes(owner, kind, points)
    logits = x
    for module in dict.fromkeys((kind.deployed, kind.bare)):
        with torch.no_grad(), evaluating(kind.deployed):
            logits = module(x)
        check_logits(owner, module, logits, 1)
    labels = getattr(points, "labels", label if y is None else y)
    check_labels(labels, labels, logits.shape[1])
    return logits[0].double().nan_to_num(0, 0, 0).tolist()


def check_classes(owner: str, kind: Structure, points: Points) -> None:
    """Where model and images both name their classes: the same names in the same order."""
    named = [getattr(module, "classes", None) for module in (kind.deployed, kind.bare, kind.deq)]
    model = next((names for names in named if isinstance(names, tuple | list) and names), None)
    images = getattr(points, "classes", None)
    for label, (one, other) in enumerate(zip_longest(model or (), images or ()) if model and images else ()):
        if one is None or other is None or str(one) != str(other):
            differing = f"class {label} is {one!r} to the model and {other!r} in the images"
            raise ValueError(f"{owner}: {differing}; allowed: the same names in the same order.")


def below(kind: Structure) -> dict[str, Any]:
    """What tells the model below defence and readout from others."""
    inner, deq = kind.bare if kind.deq is None else kind.deq, kind.deq
    return {
        "model": plain(getattr(inner, "config", None)) or type(inner).__name__, "weights": _weights(inner),
        "solver": None if deq is None else plain(describe(deq.solver)), "steps": None if deq is None else deq.steps,
    }  # fmt: skip


def _weights(module: nn.Module) -> str:
    state = module.state_dict()
    return digest(torch.tensor(list(" ".join(state).encode()), dtype=torch.uint8), *state.values())
