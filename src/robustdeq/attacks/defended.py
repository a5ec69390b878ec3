"""Views of a model defended by input entropy reduction: the bare model, or a gradient through the defence."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..options import checked
from ..regulation import RegulatedClassifier, SmoothSign
from .views import ThroughGradient, View, check_model


@checked
class Static(ThroughGradient):
    """The bare model, for a transfer attack: it is what ``deployed`` names here, and the defence is never asked.

    gradient: see ``ThroughGradient``.
    """

    def __init__(self, defended: RegulatedClassifier, gradient: Any = "unrolled") -> None:
        check_model("Static", defended, RegulatedClassifier)
        super().__init__(defended.model, gradient)


class Frozen(View):
    """A defended model with x' - x held constant in the backward pass (BPDA, Athalye et al. 2018)."""

    accepts = RegulatedClassifier

    def forward(self, x: Tensor) -> Tensor:
        return self.deployed(x)


@checked
class EndToEnd(View):
    """A defended model differentiated through its input updates; a smooth surrogate stands for sign on the way back.

    temperature: of tanh, relative to the mean size of the gradient.
    """

    accepts = RegulatedClassifier

    def __init__(self, deployed: RegulatedClassifier, temperature: float = 1.0) -> None:
        super().__init__(deployed)
        self.sign = SmoothSign(temperature)

    @property
    def options(self) -> dict[str, Any]:
        return {"temperature": self.sign.temperature}

    def forward(self, x: Tensor) -> Tensor:
        return self.deployed(x, through=self.sign)
