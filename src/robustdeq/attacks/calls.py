"""What an attack asks of a model at most, known before it begins: the bound that an evaluation's forecast is made of.

An attack of this package has a method ``calls(model, classes)``, which gives a list of ``Calls``: for each image that
it is given, how often it asks which module. What one such call costs depends on model and view alone, and is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .starts import CANDIDATES
from .views import View, summands


@dataclass(frozen=True)
class Calls:
    """Of one module, logits = module(images), for each image, at most. forwards: without a graph; gradients: with one,
    and a backward pass to the images; backward: further passes back through these graphs."""

    module: Callable[[Tensor], Tensor]
    forwards: int = 0
    gradients: int = 0
    backward: int = 0


def looks(model: nn.Module, gradients: int, forwards: int, judged: int = 0) -> list[Calls]:
    """Of an attack that takes its loss at the logits of every summand. judged: looks after which the deployed model is
    asked who is broken, where the view's logits are not the deployed ones."""
    views = summands(model)
    calls = [Calls(view, forwards, gradients) for view in views]
    if isinstance(views[0], View) and not views[0].faithful:
        calls.append(Calls(views[0].deployed, judged))
    return calls


def aims(attack: Any, model: nn.Module, classes: int) -> tuple[int, list[Calls]]:
    """How many goals ``starts.goals`` gives, and what they cost."""
    if attack.loss == "kl":
        return 1, [Calls(model, forwards=1)]
    if not attack.loss.endswith("targeted"):
        return 1, []
    near = min(classes - 1, CANDIDATES) if attack.order == "nearest" else 0
    calls = Calls(model, gradients=1, backward=near - 1) if near else Calls(model, forwards=1)
    return min(attack.targets, classes - 1), [calls]
