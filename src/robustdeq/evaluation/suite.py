"""Which attacks an evaluation runs, cheap ones first, and in which column each counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any

from torch import nn

from ..attacks import PGD, AutoAttack, Frozen, IntermediateState, Phantom, Static, Threat
from ..dynamics.solver import check_count
from ..models.classifier import DEQClassifier
from ..options import check_options, choose
from ..regulation import RegulatedClassifier
from .adaptive import adaptive, at_first_look
from .entry import Entry, bare, exact


def quick(
    model: nn.Module, threat: Threat, *, step_size: float, seed: int = 0, batch_size: int = 250, steps: int = 20,
    points: int | None = None,
) -> list[Entry]:  # fmt: skip
    """PGD with the unrolled and with the phantom gradient; for a defended model under static and frozen threat.

    The static attack takes all its steps: an image that lies just past the bare model's boundary transfers badly.
    """
    attack, name = PGD(threat, step_size=step_size, steps=steps, seed=seed), f"pgd-{steps}"
    if isinstance(model, RegulatedClassifier):
        far = PGD(threat, step_size=step_size, steps=steps, seed=seed, keep="highest")
        return [
            Entry(f"{name} static", "static", far, Static, points),
            Entry(f"{name} static first look", "static", far, at_first_look, points),
            Entry(f"{name} frozen", "frozen", attack, Frozen, points),
        ]
    if not isinstance(model, DEQClassifier):
        return [Entry(name, "PGD", attack, points=points)]
    return [
        Entry(f"{name} unrolled", "PGD", attack, exact, points, independent=True),
        Entry(f"{name} phantom", "PGD", attack, Phantom, points, independent=True),
    ]


def paper(
    model: nn.Module, threat: Threat, *, step_size: float, seed: int = 0, batch_size: int = 250, steps: int = 10,
    states: Sequence[int | str] | None = None, attacks: Sequence[str] | None = None, iterations: int = 100,
    queries: int = 5000, points: int | None = None,
) -> list[Entry]:  # fmt: skip
    """What the papers run: PGD-10 and AutoAttack through intermediate states, and on a defended model their transfer.

    states: the authors' codes, as "Munroll-7-5", or numbers i of z^[i] (lambda 0.5, K_a = 5); default the last state
    and the one halfway. A model that is no DEQ is attacked as it is.
    """
    inner, defended = bare(model), isinstance(model, RegulatedClassifier)
    pgd = PGD(threat, step_size=step_size, steps=steps, seed=seed, keep="highest" if defended else "worst")
    auto = AutoAttack(threat, attacks=attacks, seed=seed, batch_size=batch_size, iterations=iterations, queries=queries)
    columns = ("static", "static") if defended else ("PGD", "AA")
    if not isinstance(inner, DEQClassifier):
        if states is not None:
            raise ValueError(f"suite paper: states={states!r} of a {type(model).__name__}; allowed: a DEQ's.")
        return [Entry(f"pgd-{steps}", "PGD", pgd), Entry("autoattack", "AA", auto, points=points)]
    default = dict.fromkeys([inner.steps, max(inner.steps // 2, 1)])
    codes = [_code(state) for state in (default if states is None else states)]
    views = {code: partial(_through, code=code) for code in codes}
    for view in views.values():
        view(model)  # a code or a state that does not fit is a mistake now, not after an hour
    return [
        *(Entry(f"pgd-{steps} {code}", columns[0], pgd, view) for code, view in views.items()),
        *(Entry(f"autoattack {code}", columns[1], auto, view, points) for code, view in views.items()),
    ]


def _code(state: int | str) -> str:
    if isinstance(state, str):
        return state
    check_count("suite paper", "states", state)
    return f"Munroll-{state - 1}-5"


def _through(model: Any, code: str) -> IntermediateState:
    return IntermediateState.parse(bare(model), code)  # type: ignore[arg-type]


def standard(
    model: nn.Module, threat: Threat, *, step_size: float, seed: int = 0, batch_size: int = 250, steps: int = 20,
    attacks: Sequence[str] | None = None, iterations: int = 100, queries: int = 5000, points: int | None = None,
) -> list[Entry]:  # fmt: skip
    """``quick``, then AutoAttack "standard" (or the ``attacks`` named) with the exact gradient.

    points: of AutoAttack only. A defended model is attacked through the frozen view.
    """
    auto = AutoAttack(threat, attacks=attacks, seed=seed, batch_size=batch_size, iterations=iterations, queries=queries)
    first = quick(model, threat, step_size=step_size, seed=seed, batch_size=batch_size, steps=steps)
    if isinstance(model, RegulatedClassifier):
        return [*first, Entry("autoattack frozen", "frozen", auto, Frozen, points)]
    return [*first, Entry("autoattack", "AA", auto, exact, points)]


SUITES: dict[str, Callable[..., list[Entry]]] = {
    "quick": quick,
    "paper": paper,
    "standard": standard,
    "adaptive": adaptive,
}


def suite(name: str, model: nn.Module, threat: Threat, **options: Any) -> list[Entry]:
    """The entries of a suite by name; an option it does not have is a ValueError."""
    made = choose("suite", name, SUITES)
    check_options(f"suite {name}", options, list(signature(made).parameters)[2:])
    return made(model, threat, **options)
