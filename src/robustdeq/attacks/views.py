"""Views: modules with the same kind of logits as a model but another gradient. Any attack can look through one.

``deployed`` is the model that is really attacked; it alone decides whether an image is adversarial.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from ..dynamics import drive
from ..dynamics.solver import check_count
from ..gradients import GRADIENTS, Phantom, phantom_state
from ..models.classifier import DEQClassifier, check_images
from ..options import build, checked, describe
from ..regulation import RegulatedClassifier, SmoothSign


class View(nn.Module):
    """A way of looking at ``deployed``. ``forward`` gives logits (B, K) of images (B, C, H, W) in [0, 1].

    faithful: the view's logits are the deployed ones, and only the gradient differs.
    """

    accepts: type[nn.Module] = DEQClassifier
    faithful = True
    deployed: Any  # an ``accepts``

    def __init__(self, deployed: nn.Module) -> None:
        super().__init__()
        if not isinstance(deployed, self.accepts):
            given, name = type(deployed).__name__, type(self).__name__
            raise ValueError(f"{name}: the model is a {given}; allowed: {self.accepts.__name__}.")
        self.deployed = deployed

    @property
    def options(self) -> dict[str, Any]:
        """What tells this view from another of its class; JSON."""
        return {}


class ThroughGradient(View):
    """The deployed logits with a gradient of one's choice: ``unrolled | phantom | implicit | simultaneous``."""

    def __init__(self, deployed: DEQClassifier, gradient: Any) -> None:
        super().__init__(deployed)
        self.gradient = build("gradient", gradient, GRADIENTS)

    @property
    def options(self) -> dict[str, Any]:
        return {"gradient": describe(self.gradient)}

    def forward(self, x: Tensor) -> Tensor:
        return self.deployed(x, gradient=self.gradient)


class Unrolled(ThroughGradient):
    """The exact gradient of the deployed computation, through the solver."""

    def __init__(self, deployed: DEQClassifier) -> None:
        super().__init__(deployed, "unrolled")


@checked
class IntermediateState(View):
    """The papers' attack gradient (P22 sec. 4.2, P23 eq. 11): logits = readout(h_K), h_0 = f(z^[state]).

    state: i in 1..N. unroll: K_a >= 1 (the papers: 1..9). damping: lambda in (0, 1] (the papers: 0.5 and 1).
    """

    faithful = False

    def __init__(self, deployed: DEQClassifier, state: int = 8, unroll: int = 5, damping: float = 0.5) -> None:
        super().__init__(deployed)
        check_count("IntermediateState", "state", state)
        if state > deployed.steps:
            allowed = f"1..{deployed.steps}, the model's number of steps"
            raise ValueError(f"IntermediateState: state={state}; allowed: {allowed}.")
        self.state, self.rule = state, Phantom(unroll, damping)

    @classmethod
    def parse(cls, deployed: DEQClassifier, code: str) -> IntermediateState:
        """From the authors' codes: ``Munroll-7-5`` is lambda 0.5, 0-based state 7, K_a = 5; ``Funroll-...`` lambda 1.

        Raises a ValueError for another code, or a state that the model does not have.
        """
        match = re.fullmatch(r"([MF])unroll-(\d+)-(\d+)", code) if isinstance(code, str) else None
        if match is None:
            allowed = "Munroll-STATE-UNROLL or Funroll-STATE-UNROLL, e.g. Munroll-7-5"
            raise ValueError(f"IntermediateState: code {code!r}; allowed: {allowed}.")
        kind, state, unroll = match.groups()
        return cls(deployed, state=int(state) + 1, unroll=int(unroll), damping=0.5 if kind == "M" else 1.0)

    @property
    def options(self) -> dict[str, Any]:
        return {"state": self.state, "unroll": self.rule.unroll, "damping": self.rule.damping}

    def forward(self, x: Tensor) -> Tensor:
        model = self.deployed
        check_images(x, model.image_shape)
        f = model.map(x)
        with torch.no_grad():
            z = drive(model.solver, f, model.zeros(x), self.state).z
        return model.readout(phantom_state(f, z, self.rule.unroll, self.rule.damping))


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


class Judged(nn.Module):
    """The deployed logits with the gradient of an unfaithful view, for an attack that asks one module for both."""

    def __init__(self, view: nn.Module) -> None:
        super().__init__()
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.view.get_submodule("deployed")(x)
        if not torch.is_grad_enabled():
            return logits
        seen = self.view(x)
        return logits + (seen - seen.detach())


@checked
class EarlyState(nn.Module):
    """The readout defence of P22: a model that predicts readout(z^[state]), with its exact gradient. state: in 1..N."""

    def __init__(self, model: DEQClassifier, state: int) -> None:
        super().__init__()
        check_count("EarlyState", "state", state)
        if not isinstance(model, DEQClassifier) or state > model.steps:
            allowed = f"1..{model.steps}" if isinstance(model, DEQClassifier) else "states of a DEQClassifier"
            raise ValueError(f"EarlyState: state={state} of a {type(model).__name__}; allowed: {allowed}.")
        self.model, self.state = model, state
        self.rule = build("gradient", "unrolled", GRADIENTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, steps=self.state, gradient=self.rule)
