"""The suite that tries everything, with the defence known to the attacker in four threat settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from ..attacks import (
    PGD,
    AtState,
    AutoAttack,
    EndToEnd,
    Frozen,
    Implicit,
    IntermediateState,
    Phantom,
    SimultaneousAdjoint,
    Static,
    Summed,
    Threat,
)
from ..dynamics import Solver
from ..models.classifier import DEQClassifier
from ..regulation import RegulatedClassifier
from .entry import Entry, exact


def adaptive(
    model: nn.Module, threat: Threat, *, step_size: float, seed: int = 0, batch_size: int = 250, steps: int = 20,
    restarts: int = 5, attacks: Sequence[str] | None = None, iterations: int = 100, queries: int = 5000,
    points: int | None = None,
) -> list[Entry]:  # fmt: skip
    """Every gradient, loss and restart on a bare model; static, frozen, end-to-end and black-box on a defended one.

    attacks: of AutoAttack, default its standard; through a defence only its APGDs are run. points: of AutoAttack and
    Square only.
    """
    pgd = PGD(threat, step_size=step_size, steps=steps, seed=seed)
    auto = AutoAttack(threat, attacks=attacks, seed=seed, batch_size=batch_size, iterations=iterations, queries=queries)
    square = Entry("square", "black-box", replace(auto, attacks=("square",)), points=points)
    if isinstance(model, RegulatedClassifier):
        return [*_defended(pgd, auto, restarts, points), square]
    return [*_bare(model, pgd, restarts), Entry("autoattack", "AA", auto, exact, points), square]


def _bare(model: nn.Module, pgd: PGD, restarts: int) -> list[Entry]:
    name = f"pgd-{pgd.steps}"
    again = replace(pgd, seed=pgd.seed + 1, restarts=restarts)
    others = [
        Entry(f"{name} dlr", "PGD", replace(pgd, loss="dlr"), exact),
        *([Entry(f"{name} x{restarts}", "PGD", again, exact)] if restarts > 1 else []),
        Entry(f"{name} targeted", "PGD", replace(pgd, loss="ce-targeted"), exact),
    ]
    if not isinstance(model, DEQClassifier):
        return [Entry(name, "PGD", pgd), *others]
    return [
        Entry(f"{name} unrolled", "PGD", pgd, exact, independent=True),
        Entry(f"{name} phantom", "PGD", pgd, Phantom, independent=True),
        Entry(f"{name} implicit", "PGD", pgd, Implicit),
        *([Entry(f"{name} simultaneous", "PGD", pgd, SimultaneousAdjoint)] if _has_inverse(model) else []),
        Entry(f"{name} summed", "PGD", pgd, _every_state),
        *others,
    ]


def _defended(pgd: PGD, auto: AutoAttack, restarts: int, points: int | None) -> list[Entry]:
    """Static attacks take all their steps: an image just past the bare model's boundary transfers badly.

    They know at which states the defence looks: what is wrong there already, it makes more wrong.
    """
    name, far = f"pgd-{pgd.steps}", replace(pgd, keep="highest")
    climbing = tuple(attack for attack in auto.names if attack.startswith("apgd"))
    through = replace(auto, attacks=climbing or None)
    entries = [
        Entry(f"{name} static", "static", far, Static),
        Entry(f"{name} static phantom", "static", far, lambda defended: Static(defended, "phantom")),
        Entry(f"{name} static dlr", "static", replace(far, loss="dlr"), Static),
        Entry(f"{name} static first look", "static", far, at_first_look),
        Entry(f"{name} static first look dlr", "static", replace(far, loss="dlr"), at_first_look),
        Entry(f"{name} static every look", "static", far, _at_every_look),
        Entry(f"{name} static targeted", "static", replace(far, loss="ce-targeted"), Static),
        Entry("autoattack static", "static", auto, Static, points),
    ]
    for column, view in {"frozen": Frozen, "end-to-end": EndToEnd}.items():
        entries.append(Entry(f"{name} {column}", column, pgd, view))
        entries.append(Entry(f"{name} {column} dlr", column, replace(pgd, loss="dlr"), view))
        if climbing:
            entries.append(Entry(f"apgd {column}", column, through, view, points))
        if restarts > 1:
            again = replace(pgd, seed=pgd.seed + 1, restarts=restarts)
            entries.append(Entry(f"{name} {column} x{restarts}", column, again, view))
    return [*entries, Entry(f"{name} summed", "end-to-end", pgd, _both)]


def at_first_look(defended: RegulatedClassifier) -> nn.Module:
    """The bare model at the state after which the defence first changes the input."""
    return AtState(defended.model, defended.method.every)


def _at_every_look(defended: RegulatedClassifier) -> nn.Module:
    steps = defended.model.steps
    return AtState.several(defended.model, [*range(defended.method.every, steps, defended.method.every), steps])


def _both(defended: RegulatedClassifier) -> nn.Module:
    """The gradients past the updates and through them, summed."""
    return Summed([Frozen(defended), EndToEnd(defended)])


def _every_state(model: DEQClassifier) -> nn.Module:
    return IntermediateState.several(model, range(1, model.steps + 1))


def _has_inverse(model: DEQClassifier) -> bool:
    """Whether the simultaneous adjoint accepts the solver."""
    return type(model.solver).transposed_inverse is not Solver.transposed_inverse
