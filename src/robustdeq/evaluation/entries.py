"""One attack of a suite, and what it looks through."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..attacks import Exact, Frozen, IntermediateState, Summed, ThroughGradient
from ..checks import Count
from ..defences import EarlyState
from ..gradients import Unrolled
from ..models.structure import Structure, structure
from ..options import checked
from ..text import shown

Attack = Callable[..., Tensor]
Model = nn.Module | Structure
View = Callable[[Any], nn.Module]
TAKEN = ("clean", "All", "sample", "label", "prediction")
"""Names that columns of tables and frames have already."""


@checked
@dataclass(frozen=True)
class Entry:
    """One attack of a suite.

    name: unique in its suite. column: of the table; a sample's outcome there is the worst over the column's entries.
    attack: ``attack(module, x, y, indices=...)``; a method ``calls`` tells beforehand what it costs at most
    (``attacks.Calls``). view: from the evaluated model to what the attack looks through.
    points: attack only the first so many points of the set; None takes all. independent: attack every sample that is
    classified correctly, also those that an earlier entry of the column has broken, so that attacks can be compared.
    surrogate: another model, trained independently, of which the view is taken instead: the images are made there, and
    verified on the evaluated model as always.
    """

    name: str
    column: str
    attack: Attack
    view: View = lambda model: model
    points: Count | None = None
    independent: bool = False
    surrogate: nn.Module | None = None

    def __post_init__(self) -> None:
        for field in ("attack", "view"):
            if not callable(value := getattr(self, field)):
                raise ValueError(f"Entry {self.name}: {field}={shown(value)}; allowed: a callable.")
        try:
            inspect.signature(self.attack).bind(None, None, None, indices=None)
        except TypeError as error:
            given = f"{type(self.attack).__name__} cannot be called as attack(module, x, y, indices=...)"
            wanted = "one that takes the samples' indices, (B,) int64"
            raise ValueError(f"Entry {self.name}: {given}; allowed: {wanted}.") from error
        except ValueError:  # it has no signature
            pass
        if not isinstance(self.surrogate, nn.Module | None):
            raise ValueError(f"Entry {self.name}: surrogate={shown(self.surrogate)}; allowed: a torch.nn.Module.")
        for field in ("name", "column"):
            if (value := getattr(self, field)) in TAKEN:
                raise ValueError(f"Entry {self.name}: {field}={value!r}; allowed: none of {', '.join(TAKEN)}.")


def exact(model: nn.Module) -> nn.Module:
    """The deployed model with its exact gradient; of a defended one what the defence changes is held constant."""
    kind = structure(model, opaque=True)
    if kind.defence is not None:
        return Frozen(kind.deployed)
    if kind.states:
        return ThroughGradient(kind.deployed, "unrolled")
    if kind.deq is None or isinstance(kind.deq.gradient, Unrolled):
        return kind.deployed
    return Exact(kind.deployed)  # what asks a DEQ, as a readout does, whose own gradient is another


def static(model: nn.Module, gradient: str = "unrolled") -> nn.Module:
    """The model without its defence, for a transfer attack: the defence is never asked."""
    kind = structure(model, opaque=True)
    return ThroughGradient(kind.bare, gradient) if kind.states else kind.bare


def bare(model: nn.Module) -> nn.Module:
    """The model inside the defence, with the gradient that is its own."""
    return structure(model, opaque=True).bare


def early(model: nn.Module, state: int) -> nn.Module:
    """The readout of z^[state] of the bare DEQ: another model, of which images are transferred."""
    return EarlyState(bare(model), state)


def looks(model: nn.Module, *, every: bool = False) -> nn.Module:
    """The bare DEQ read out where the defence first looks: images that are wrong there it makes more wrong. every:
    wherever it looks, and at the end, summed."""
    kind = structure(model, opaque=True)
    if not every:
        return EarlyState(kind.bare, kind.defence.looks[0])
    return Summed([EarlyState(kind.bare, state) for state in (*kind.defence.looks, kind.states)], deployed=kind.bare)


def intermediate(model: nn.Module, code: str) -> nn.Module:
    """The bare DEQ with the papers' gradient from an intermediate state, by the authors' code."""
    return IntermediateState.parse(bare(model), code)  # type: ignore[arg-type]  # a suite asks it of a DEQ only


def every_state(deq: Any) -> nn.Module:
    """The DEQ with the papers' gradients from all its states, summed."""
    return IntermediateState.several(deq, range(1, deq.steps + 1))


phantom = partial(ThroughGradient, gradient="phantom")
