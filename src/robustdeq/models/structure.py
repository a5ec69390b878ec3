"""What an evaluation, an attack or a training run asks of a classifier: has it states, a defence, another readout?

The one place where a module's kind is looked at. Everything else asks the ``Structure``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..checks import described
from ..files import digest
from ..options import describe
from .cell import Tally
from .deq import DEQClassifier
from .modes import unwrapped


class Wrapper(nn.Module):
    """A classifier of one's own around another, ``model``, which stays visible.

    kind: ``defence``, what is done to the image or to the dynamics at inference, which an attacker may know or not; or
    ``readout``, another function of the dynamics, attacked as it is.
    """

    kind = "defence"
    model: Any

    @property
    def settings(self) -> dict[str, Any]:
        """What tells it from another of its class; JSON."""
        return {}


Sign = Callable[[Tensor], Tensor]
"""sign(g) with a smooth backward pass, for a defence that takes signed steps."""


class Defended(Wrapper):
    """A classifier ``model`` behind a test-time defence. Subclass it, write ``forward``, and the suite ``adaptive``
    attacks it under the four threat settings: static (``model`` is attacked), frozen, end-to-end, black-box; ``quick``
    and ``standard`` under the first two, ``paper`` under the first.

    method: the defence's options, a dataclass or a mapping, by which a record is known: of others it is not gone on
    with. looks: the states z^[t] of a DEQ at which the defence first reads the prediction, which a static attack may
    aim at.
    """

    looks: tuple[int, ...] = ()

    def __init__(self, model: nn.Module, method: Any = None) -> None:
        super().__init__()
        is_options = isinstance(method, Mapping) or (is_dataclass(method) and not isinstance(method, type))
        if method is not None and not is_options:
            wanted = "a dataclass, options by name, or None"
            raise ValueError(f"{type(self).__name__}: method is {described(method)}; allowed: {wanted}.")
        self.model, self.method = model, method

    @property
    def settings(self) -> dict[str, Any]:
        """The options of ``method``; without one, what is kept on the defence itself, but for names that begin with _.
        JSON: of a tensor its digest, of what has no options, as a function, its name only."""
        if self.method is not None:
            return describe(self.method)
        kept = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        del kept["training"], kept["method"]
        return {name: digest(value) if isinstance(value, Tensor) else describe(value) for name, value in kept.items()}

    def forward(self, x: Tensor) -> Tensor:
        """The deployed logits (B, K) of images x (B, C, H, W) in [0, 1]. Their gradient is the frozen setting's: what
        autograd cannot pass is held constant (BPDA: ``x + (changed - x).detach()``)."""
        raise NotImplementedError(
            f"{type(self).__name__} has no forward(x), which gives the deployed logits; write one."
        )

    def end_to_end(self, x: Tensor, sign: Sign) -> Tensor:
        """The same value, with a gradient through everything the defence does."""
        return self(x)


@dataclass(frozen=True)
class Structure:
    """A classifier and what it is made of.

    deployed: the module that is judged. bare: the same without its defence, what a static (transfer) attack sees. deq:
    the DEQ whose dynamics are in it; None for a network without states. defence, readout: the wrappers around it.
    opaque: a DEQ or a defence is hidden in it, and only the outermost logits are asked.
    """

    deployed: nn.Module
    bare: nn.Module
    deq: DEQClassifier | None = None
    defence: Any = None
    readout: Any = None
    opaque: bool = False

    @property
    def states(self) -> int:
        """N where ``bare`` itself is a DEQ, whose states and gradients an attack may choose; else 0."""
        return self.deq.steps if self.deq is not None and self.bare is self.deq else 0

    @property
    def tally(self) -> Tally:
        """What the model has spent so far; zeros where nothing is counted."""
        return Tally() if self.deq is None else self.deq.tally


def structure(model: Any, *, opaque: bool = False) -> Structure:
    """What ``model`` is made of, looked for below the wrappers that compute the same (``modes.unwrapped``).

    Raises a ValueError for what is no module, and for one's own module that hides a DEQ or a defence: the views and
    threat settings that could show it masked would be passed over. With ``opaque`` it is taken as it is. A Structure
    is what it is.
    """
    if isinstance(model, Structure):
        return model
    model = unwrapped(model)
    if isinstance(model, DEQClassifier):
        return Structure(model, model, deq=model)
    if isinstance(model, Wrapper):
        inner = structure(model.model, opaque=opaque)
        if model.kind == "readout":
            return replace(inner, deployed=model, bare=model, defence=None, readout=model)
        return replace(inner, deployed=model, defence=model)
    hidden = [type(inner).__name__ for inner in model.modules() if isinstance(inner, DEQClassifier | Wrapper)]
    if hidden and not opaque:
        raise ValueError(
            f"the model is a {type(model).__name__} that hides a {hidden[0]}, whose views and threat settings would be "
            f"passed over; give the {hidden[0]} itself, make it a defences.Defended, or evaluate with opaque=True."
        )
    return Structure(model, model, opaque=bool(hidden))
