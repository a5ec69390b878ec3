"""One attack of a suite, and the models that an attack may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..attacks import PGD, AutoAttack, Frozen, Readout, Unrolled
from ..models.classifier import DEQClassifier
from ..options import checked
from ..regulation import RegulatedClassifier

Attack = Callable[..., Tensor]


@checked
@dataclass(frozen=True)
class Entry:
    """One attack of a suite.

    name: unique in its suite. column: of the table; a sample's outcome there is the worst over the column's entries.
    attack: ``attack(module, x, y, indices=...)``. view: from the evaluated model to what the attack looks through.
    points: attack only the first so many points of the set; None takes all. independent: attack every sample that is
    classified correctly, also those that an earlier entry of the column has broken, so that attacks can be compared.
    """

    name: str
    column: str
    attack: PGD | AutoAttack | Attack
    view: Callable[[Any], nn.Module] = lambda model: model
    points: int | None = None
    independent: bool = False


def bare(model: nn.Module) -> nn.Module:
    """The model without its defence: what a static (transfer) attack sees."""
    return model.model if isinstance(model, RegulatedClassifier) else model


def innermost(model: nn.Module) -> nn.Module:
    """The DEQ inside a defence or a readout, or the model itself."""
    return model.model if isinstance(model, (RegulatedClassifier, Readout)) else model


def exact(model: nn.Module) -> nn.Module:
    """The deployed model with its exact gradient; of a defended one x' - x is held constant."""
    if isinstance(model, RegulatedClassifier):
        return Frozen(model)
    return Unrolled(model) if isinstance(model, DEQClassifier) else model
