"""Views: modules with the same kind of logits as a model but another gradient. Any attack can look through one. The
model that is really attacked, ``deployed``, alone decides whether an image is adversarial."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checks import check_count, check_images
from ..defences import Defended, SmoothSign
from ..gradients import GRADIENTS, Phantom, Unrolled
from ..models.deq import DEQClassifier
from ..models.modes import borrowed, unwrapped
from ..models.structure import structure
from ..options import checked, describe
from ..text import shown
from .door import logits_of


def exactly(module: nn.Module) -> AbstractContextManager[None]:
    """Inside, a DEQ in the module passes a gradient through its solver, whatever gradient is its own: what is wrapped
    around it calls it as it is, and an attack is not to be led astray by that."""
    deq = structure(module, opaque=True).deq
    return borrowed([] if deq is None or isinstance(deq.gradient, Unrolled) else [deq], gradient=Unrolled())


class View(nn.Module):
    """A way of looking at ``deployed``. ``forward`` gives logits (B, K) of images (B, C, H, W) in [0, 1]; of a faithful
    view the deployed ones, and only the gradient differs. settings: what tells it from another of its class; JSON."""

    accepts: type[nn.Module] = DEQClassifier
    faithful = True
    settings: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed
    deployed: Any  # an ``accepts``

    def __init__(self, deployed: nn.Module) -> None:
        super().__init__()
        deployed = unwrapped(deployed)
        if not isinstance(deployed, self.accepts):
            owner, model = type(self).__name__, type(deployed).__name__
            raise ValueError(f"{owner}: the model is a {model}; allowed: {self.accepts.__name__}.")
        self.deployed = deployed


@checked
class ThroughGradient(View):
    """The deployed logits with a gradient of one's choice, by a name in ``GRADIENTS`` or as a Gradient."""

    def __init__(self, deployed: nn.Module, gradient: Any) -> None:
        super().__init__(deployed)
        self.gradient = GRADIENTS.resolve(gradient)
        self.settings = {"gradient": describe(self.gradient)}

    def forward(self, x: Tensor) -> Tensor:
        """The deployed logits (B, K), with the gradient that was chosen."""
        return self.deployed(x, gradient=self.gradient)


@checked
class Static(ThroughGradient):
    """The bare DEQ of a defended one, for a transfer attack: it is ``deployed``, and the defence is never asked."""

    def __init__(self, defended: Defended, gradient: Any = "unrolled") -> None:
        super().__init__(Frozen(defended).deployed.model, gradient)  # Frozen refuses what is not defended


class Exact(View):
    """What asks a DEQ, such as a readout of one's own, with the DEQ's exact gradient."""

    accepts = nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """The deployed logits (B, K)."""
        with exactly(self.deployed):
            return self.deployed(x)


@checked
class Frozen(Exact):
    """A defended model with x' - x held constant in the backward pass (BPDA, Athalye et al. 2018). Of what is left, a
    DEQ in it among others, the gradient is exact."""

    accepts = Defended


@checked
class EndToEnd(View):
    """A defended model differentiated through all it does; a smooth surrogate stands for sign on the way back: tanh,
    of a ``temperature`` relative to the mean size of the gradient. Memory: the graphs of the N steps and, up to a GiB
    (``KEPT``), of the updates; of more the backward pass makes each again, from less than three images for each."""

    accepts = Defended

    def __init__(self, deployed: Defended, temperature: float = 1.0) -> None:
        super().__init__(deployed)
        self.sign, self.settings = SmoothSign(temperature), {"temperature": temperature}

    def forward(self, x: Tensor) -> Tensor:
        """The deployed logits (B, K), with the gradient through the defence."""
        with exactly(self.deployed):
            return self.deployed.end_to_end(x, self.sign)


@checked
class IntermediateState(View):
    """The papers' attack gradient (P22 sec. 4.2, P23 eq. 11): logits = readout(h_K), h_0 = f(z^[state]). state: i in
    1..N. unroll: K_a >= 1 (the papers: 1..9). damping: lambda in (0, 1] (the papers: 0.5 and 1)."""

    faithful = False

    def __init__(self, deployed: nn.Module, state: int = 8, unroll: int = 5, damping: float = 0.5) -> None:
        super().__init__(deployed)
        check_count("IntermediateState", "state", state, high=self.deployed.steps)
        self.state, self.phantom = state, Phantom(unroll, damping)
        self.settings = {"state": state, "unroll": unroll, "damping": damping}

    @classmethod
    def several(cls, deployed: DEQClassifier, states: Sequence[int], unroll: int = 5, damping: float = 0.5) -> Summed:
        """The sum over several states, e.g. ``range(1, 9)``."""
        if not isinstance(states, Sequence):
            raise ValueError(f"IntermediateState: states={shown(states)}; allowed: a list of states, e.g. range(1, 9).")
        return Summed([cls(deployed, state, unroll, damping) for state in states])

    @classmethod
    def parse(cls, deployed: DEQClassifier, code: str) -> IntermediateState:
        """From the authors' codes: ``Munroll-7-5`` is lambda 0.5, 0-based state 7, K_a = 5; ``Funroll`` lambda 1."""
        match = re.fullmatch(r"([MF])unroll-([0-9]{1,9})-([0-9]{1,9})", code) if isinstance(code, str) else None
        if match is None:
            codes = "Munroll-STATE-UNROLL or Funroll-STATE-UNROLL, e.g. Munroll-7-5"
            raise ValueError(f"IntermediateState: code {shown(code)}; allowed: {codes}.")
        kind, state, unroll = match.groups()
        return cls(deployed, state=int(state) + 1, unroll=int(unroll), damping=0.5 if kind == "M" else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, K) of h_K, with the gradient of the phantom steps from z^[i]."""
        model = self.deployed
        check_images(x, model.image_shape)
        # As in train mode: h_K itself, and not z^[i] with its gradient.
        return model.read(self.phantom(model.solver, model.map(x), model.zeros(x), self.state, training=True))


@checked
class Warm(View):
    """A DEQ in the steps of one run of an attack: the first solve is the deployed one, every later one begins at the
    state of the one before, of an image close by, and takes ``steps``. Its gradient is that of these steps alone."""

    faithful = False

    def __init__(self, deployed: nn.Module, steps: int = 2) -> None:
        super().__init__(deployed)
        check_count("Warm", "steps", steps)
        self.settings = {"steps": steps}
        self.steps, self.z = steps, cast(Tensor | None, None)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, K) of the state that this solve reaches; the samples are those of the solve before."""
        model = self.deployed
        check_images(x, model.image_shape)
        start, steps = (model.zeros(x), model.steps) if self.z is None else (self.z, self.steps)
        z = Unrolled()(model.solver, model.map(x), start, steps, training=False)
        self.z = z.detach()
        return model.read(z)

    def keep(self, rows: Tensor) -> None:
        """Go on with these samples, (B,) bool."""
        self.z = None if self.z is None else self.z[rows]


@checked
class Summed(View):
    """Several modules at once in an attack on one deployed model (P22, P23: the gradient of several states).

    PGD climbs the sum over the modules of the loss at each one's own logits. An attack that asks one module for one
    tensor gets the deployed logits, with the sum of the modules' pullbacks behind them. deployed: what is attacked,
    where the modules are not views of it (``EarlyState``).
    """

    accepts = nn.Module

    def __init__(self, views: Sequence[nn.Module], deployed: nn.Module | None = None) -> None:
        if not isinstance(views, Iterable) or isinstance(views, Tensor):
            raise ValueError(f"Summed: views is a {type(views).__name__}; allowed: a list of views.")
        views = list(views)
        owners = [getattr(view, "deployed", None) for view in views] if deployed is None else [deployed]
        modules = bool(views) and all(isinstance(view, nn.Module) for view in views)
        if not modules or owners[0] is None or any(owner is not owners[0] for owner in owners):
            names = ", ".join(type(view).__name__ for view in views[:9])
            raise ValueError(f"Summed: views=[{names}]; allowed: one or more views of one deployed model.")
        super().__init__(owners[0])
        self.views = nn.ModuleList(views)
        self.settings = {"views": [{"name": type(v).__name__, **getattr(v, "settings", {})} for v in views]}

    def forward(self, x: Tensor) -> Tensor:
        """The deployed logits (B, K), with the sum of the views' gradients."""
        with torch.no_grad():
            logits = logits_of(self, self.deployed, x)
        for view in self.views if torch.is_grad_enabled() else ():
            seen = logits_of(self, view, x)
            logits = logits + (seen - seen.detach()).nan_to_num()  # logits that are not finite have no say
        return logits


def summands(module: nn.Module) -> list[nn.Module]:
    """The modules at whose logits an attack takes its loss: the views that are summed up, or the module itself."""
    return list(module.views) if isinstance(module, Summed) else [module]


def judge(module: nn.Module) -> nn.Module:
    """The module whose logits say what is misclassified: what is deployed, or the first view that has its logits."""
    view = summands(module)[0]
    if not isinstance(module, View) or (isinstance(view, View) and view.faithful):
        return view
    return module.deployed


def as_one(module: nn.Module) -> nn.Module:
    """For a library that asks one module for one tensor: the logits that are judged, with the module's gradient."""
    return module if isinstance(module, Summed) or judge(module) is module else Summed([module])
