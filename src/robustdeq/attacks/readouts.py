"""The readout defences of P22: models of their own, which read a DEQ's dynamics out elsewhere than at z^[N]."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..dynamics import SolverState, drive
from ..gradients import GRADIENTS
from ..models.classifier import DEQClassifier, Tally, check_images
from ..options import build, checked
from .views import check_model, check_state


class Readout(nn.Module):
    """Logits (B, K) of images (B, C, H, W) in [0, 1], by ``model``'s dynamics. To be deployed, and attacked, as it is.

    The gradient is the exact one, through the solver, whatever the model's own.
    """

    def __init__(self, model: DEQClassifier) -> None:
        super().__init__()
        check_model(type(self).__name__, model, DEQClassifier)
        self.model = model

    @property
    def tally(self) -> Tally:
        return self.model.tally

    @property
    def options(self) -> dict[str, Any]:
        """What tells this readout from another of its class; JSON."""
        return {}


@checked
class EarlyState(Readout):
    """readout(z^[state]). state: in 1..N, chosen on held-out images."""

    def __init__(self, model: DEQClassifier, state: int) -> None:
        super().__init__(model)
        check_state("EarlyState", model, state)
        self.state, self.rule = state, build("gradient", "unrolled", GRADIENTS)

    @property
    def options(self) -> dict[str, Any]:
        return {"state": self.state}

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, steps=self.state, gradient=self.rule)


class Ensemble(Readout):
    """readout(mean of z^[1], ..., z^[N])."""

    def forward(self, x: Tensor) -> Tensor:
        model = self.model
        check_images(x, model.image_shape)
        total = model.zeros(x)

        def add(state: SolverState) -> None:
            nonlocal total
            total = total + state.z

        drive(model.solver, model.map(x), model.zeros(x), model.steps, observers=[add])
        return model.readout(total / model.steps)
