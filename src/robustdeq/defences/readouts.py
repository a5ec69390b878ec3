"""The readout defences of P22: models of their own, which read a DEQ's dynamics out elsewhere than at z^[N]."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..checks import check_count, check_images
from ..dynamics import SolverState, drive
from ..gradients import Unrolled
from ..models.deq import DEQClassifier
from ..models.modes import unwrapped
from ..models.structure import Wrapper
from ..options import checked


class Readout(Wrapper):
    """Logits (B, K) of images (B, C, H, W) in [0, 1], by ``model``'s dynamics. To be deployed, and attacked, as it is.
    The gradient is the exact one, through the solver, whatever the model's own."""

    kind = "readout"
    model: DEQClassifier

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        model = unwrapped(model)
        if not isinstance(model, DEQClassifier):
            raise ValueError(f"{type(self).__name__}: the model is a {type(model).__name__}; allowed: a DEQClassifier.")
        self.model = model


@checked
class EarlyState(Readout):
    """readout(z^[state]), state in 1..N, chosen on held-out images where it is a defence. An attack may look through it
    as well: images that are wrong at the state at which a defence looks are wrong for it."""

    def __init__(self, model: nn.Module, state: int) -> None:
        super().__init__(model)
        check_count("EarlyState", "state", state, high=self.model.steps)
        self.state = state

    @property
    def settings(self) -> dict[str, Any]:
        """Which state is read."""
        return {"state": self.state}

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of z^[state], of images x (B, C, H, W), with the exact gradient."""
        return self.model(x, steps=self.state, gradient=Unrolled())


@checked
class Ensemble(Readout):
    """readout(mean of z^[1], ..., z^[N])."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of the mean of z^[1] ... z^[N], of images x (B, C, H, W), with the exact gradient."""
        model = self.model
        check_images(x, model.image_shape)
        total = model.zeros(x)

        def add(state: SolverState) -> None:
            nonlocal total
            total = total + state.z

        drive(model.solver, model.map(x), model.zeros(x), model.steps, observers=[add])
        return model.read(total / model.steps)
