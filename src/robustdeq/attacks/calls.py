"""How often an attack asks a model, known before it begins: the bound that an evaluation's forecast is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .starts import CANDIDATES
from .views import judge, summands


@dataclass(frozen=True)
class Calls:
    """Of one module, logits = module(images), for each image, at most. forwards: without a graph; gradients: with one,
    and a backward pass to the images; backward: further passes back through these graphs.

    An attack of this package has a method ``calls(model, classes)``, which gives a list of them. What one such call
    costs depends on model and view alone, and is measured.
    """

    module: Callable[[Tensor], Tensor]
    forwards: int = 0
    gradients: int = 0
    backward: int = 0


def slope_calls(model: nn.Module, gradients: int, forwards: int, judged: int = 0) -> list[Calls]:
    """Of so many ``slope_of``, with a slope wanted or without, and of so many ``fallen``."""
    views = summands(model)
    calls = [Calls(view, forwards, gradients) for view in views]
    return calls if judge(model) is views[0] else [*calls, Calls(judge(model), judged)]


def goal_calls(attack: Any, model: nn.Module, classes: int) -> tuple[int, list[Calls]]:
    """How many goals ``goals`` gives, and what they cost."""
    if attack.loss == "kl":
        return 1, [Calls(model, forwards=1)]
    if not attack.loss.endswith("targeted"):
        return 1, []
    near = min(classes - 1, CANDIDATES) if attack.order == "nearest" else 0
    calls = Calls(model, gradients=1, backward=near - 1) if near else Calls(model, forwards=1)
    return min(attack.targets, classes - 1), [calls]
