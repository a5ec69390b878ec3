"""Which attacks an evaluation runs, cheap ones first, and in which column each counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

from torch import Tensor, nn

from ..attacks import PGD, AutoAttack, Frozen, Threat, ThroughGradient
from ..models.classifier import DEQClassifier
from ..options import check_options, checked, choose
from ..regulation import RegulatedClassifier

Attack = Callable[..., Tensor]


def bare(model: nn.Module) -> nn.Module:
    """The model without its defence: what a static (transfer) attack sees."""
    return model.model if isinstance(model, RegulatedClassifier) else model


def exact_bare(model: nn.Module) -> nn.Module:
    """``bare``, through its exact gradient."""
    inner = bare(model)
    return ThroughGradient(inner, "unrolled") if isinstance(inner, DEQClassifier) else inner


@checked
@dataclass(frozen=True)
class Entry:
    """One attack of a suite.

    name: unique in its suite. column: of the table; a sample's outcome there is the worst over the column's entries.
    attack: ``attack(module, x, y, indices=...)``. view: from the evaluated model to what the attack looks through.
    points: attack only the first so many points of the set; None takes all.
    """

    name: str
    column: str
    attack: PGD | AutoAttack | Attack
    view: Callable[[Any], nn.Module] = lambda model: model
    points: int | None = None


def quick(
    model: nn.Module, threat: Threat, *, step_size: float, seed: int = 0, batch_size: int = 250,
    points: int | None = None,
) -> list[Entry]:  # fmt: skip
    """PGD-20 with the unrolled and with the phantom gradient; for a defended model under static and frozen threat.

    The static attack takes all its steps: an image that lies just past the bare model's boundary transfers badly.
    """
    attack = PGD(threat, step_size=step_size, steps=20, seed=seed)
    if isinstance(model, RegulatedClassifier):
        return [
            Entry("pgd-20 static", "PGD static", replace(attack, keep="last"), exact_bare, points),
            Entry("pgd-20 frozen", "PGD frozen", attack, Frozen, points),
        ]
    if not isinstance(model, DEQClassifier):
        return [Entry("pgd-20", "PGD", attack, points=points)]
    return [
        Entry("pgd-20 unrolled", "PGD", attack, lambda m: ThroughGradient(m, "unrolled"), points),
        Entry("pgd-20 phantom", "PGD", attack, lambda m: ThroughGradient(m, "phantom"), points),
    ]


def standard(model: nn.Module, threat: Threat, *, step_size: float, seed: int = 0, points: int | None = None,
             attacks: Sequence[str] | None = None, batch_size: int = 250) -> list[Entry]:  # fmt: skip
    """``quick``, then AutoAttack "standard" (or the ``attacks`` named) with the exact gradient.

    points: of AutoAttack only. A defended model is attacked through the frozen view.
    """
    auto = AutoAttack(threat, attacks=attacks, seed=seed, batch_size=batch_size)
    if isinstance(model, RegulatedClassifier):
        entry = Entry("autoattack frozen", "AA frozen", auto, Frozen, points)
    elif isinstance(model, DEQClassifier):
        entry = Entry("autoattack", "AA", auto, lambda m: ThroughGradient(m, "unrolled"), points)
    else:
        entry = Entry("autoattack", "AA", auto, points=points)
    return [*quick(model, threat, step_size=step_size, seed=seed, batch_size=batch_size), entry]


SUITES: dict[str, Callable[..., list[Entry]]] = {"quick": quick, "standard": standard}


def suite(name: str, model: nn.Module, threat: Threat, **options: Any) -> list[Entry]:
    """The entries of a suite by name; an option it does not have is a ValueError."""
    made = choose("suite", name, SUITES)
    check_options(f"suite {name}", options, list(signature(made).parameters)[2:])
    return made(model, threat, **options)
