"""Views: modules with the same kind of logits as a model but another gradient. Any attack can look through one.

``deployed`` is the model that is really attacked; it alone decides whether an image is adversarial.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import gradients
from ..dynamics import drive
from ..dynamics.solver import check_count
from ..gradients import GRADIENTS, phantom_state
from ..models.classifier import DEQClassifier, check_images
from ..options import build, checked, describe


class View(nn.Module):
    """A way of looking at ``deployed``. ``forward`` gives logits (B, K) of images (B, C, H, W) in [0, 1].

    faithful: the view's logits are the deployed ones, and only the gradient differs.
    """

    accepts: type[nn.Module] = DEQClassifier
    faithful = True
    deployed: Any  # an ``accepts``

    def __init__(self, deployed: nn.Module) -> None:
        super().__init__()
        check_model(type(self).__name__, deployed, self.accepts)
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
class Phantom(ThroughGradient):
    """The papers' training gradient at z^[N], see ``gradients.Phantom``."""

    def __init__(self, deployed: DEQClassifier, unroll: int = 5, damping: float = 0.5) -> None:
        super().__init__(deployed, gradients.Phantom(unroll, damping))


@checked
class Implicit(ThroughGradient):
    """The implicit function theorem at z^[N], see ``gradients.Implicit``."""

    def __init__(self, deployed: DEQClassifier, solver: Any = "broyden", steps: int = 7) -> None:
        super().__init__(deployed, gradients.Implicit(solver, steps))


class SimultaneousAdjoint(ThroughGradient):
    """The adjoint state moved along with the forward iterate, see ``gradients.SimultaneousAdjoint``."""

    def __init__(self, deployed: DEQClassifier) -> None:
        super().__init__(deployed, "simultaneous")


@checked
class AtState(View):
    """The logits that z^[state] gives, with their exact gradient through the solver. state: in 1..N.

    For whoever knows that a defence looks at that state: images that are wrong there are wrong for the defence.
    """

    faithful = False

    def __init__(self, deployed: DEQClassifier, state: int) -> None:
        super().__init__(deployed)
        check_state("AtState", deployed, state)
        self.state, self.rule = state, build("gradient", "unrolled", GRADIENTS)

    @classmethod
    def several(cls, deployed: DEQClassifier, states: Sequence[int]) -> Summed:
        """The sum over several states."""
        return Summed([cls(deployed, state) for state in states])

    @property
    def options(self) -> dict[str, Any]:
        return {"state": self.state}

    def forward(self, x: Tensor) -> Tensor:
        return self.deployed(x, steps=self.state, gradient=self.rule)


@checked
class IntermediateState(View):
    """The papers' attack gradient (P22 sec. 4.2, P23 eq. 11): logits = readout(h_K), h_0 = f(z^[state]).

    state: i in 1..N. unroll: K_a >= 1 (the papers: 1..9). damping: lambda in (0, 1] (the papers: 0.5 and 1).
    """

    faithful = False

    def __init__(self, deployed: DEQClassifier, state: int = 8, unroll: int = 5, damping: float = 0.5) -> None:
        super().__init__(deployed)
        check_state("IntermediateState", deployed, state)
        self.state, self.rule = state, gradients.Phantom(unroll, damping)

    @classmethod
    def several(cls, deployed: DEQClassifier, states: Sequence[int], unroll: int = 5, damping: float = 0.5) -> Summed:
        """The sum over several states, e.g. ``range(1, 9)``."""
        return Summed([cls(deployed, state, unroll, damping) for state in states])

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


class Summed(View):
    """Several ``views`` of one deployed model at once (P22, P23: the gradient of several intermediate states).

    PGD climbs the sum over the views of the loss at each one's own logits. An attack that asks one module for one
    tensor gets the deployed logits, with the sum of the views' pullbacks behind them.
    """

    accepts = nn.Module

    def __init__(self, views: Sequence[View]) -> None:
        views = list(views)
        if not views or any(not isinstance(view, View) or view.deployed is not views[0].deployed for view in views):
            given = ", ".join(type(view).__name__ for view in views)
            raise ValueError(f"Summed: views=[{given}]; allowed: one or more views of one deployed model.")
        super().__init__(views[0].deployed)
        self.views = nn.ModuleList(views)

    @property
    def options(self) -> dict[str, Any]:
        return {"views": [{"name": type(view).__name__, **cast(View, view).options} for view in self.views]}

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.deployed(x)
        for view in self.views if torch.is_grad_enabled() else ():
            seen = view(x)
            logits = logits + (seen - seen.detach()).nan_to_num()  # logits that are not finite have no say
        return logits


def parts(module: nn.Module) -> list[nn.Module]:
    """The modules at whose logits an attack takes its loss: the views that are summed up, or the module itself."""
    return list(module.views) if isinstance(module, Summed) else [module]


def check_model(owner: str, model: nn.Module, kind: type[nn.Module]) -> None:
    """Raise a ValueError unless the model is of this kind."""
    if not isinstance(model, kind):
        raise ValueError(f"{owner}: the model is a {type(model).__name__}; allowed: {kind.__name__}.")


def check_state(owner: str, model: DEQClassifier, state: int) -> None:
    """Raise a ValueError unless ``state`` is in 1..N."""
    check_count(owner, "state", state)
    if state > model.steps:
        raise ValueError(f"{owner}: state={state}; allowed: 1..{model.steps}, the model's number of steps.")
