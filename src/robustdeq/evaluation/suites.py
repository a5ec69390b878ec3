"""Which attacks an evaluation runs, cheap ones first, and in which column each counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import Any

from torch import Tensor, nn

from ..attacks import PGD, AutoAttack, EndToEnd, Frozen, IntermediateState, Summed, Threat, ThroughGradient
from ..checks import check_count
from ..defences import EarlyState
from ..models.structure import Structure, structure
from ..options import check_options, checked, choose

Attack = Callable[..., Tensor]
Model = nn.Module | Structure
View = Callable[[Any], nn.Module]


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
    view: View = lambda model: model
    points: int | None = None
    independent: bool = False

    def __post_init__(self) -> None:
        if self.points is not None:
            check_count(f"Entry {self.name}", "points", self.points)
        if self.column in ("clean", "All"):
            raise ValueError(f"Entry {self.name}: column={self.column!r}; allowed: neither clean nor All.")


def exact(model: nn.Module) -> nn.Module:
    """The deployed model with its exact gradient; of a defended one what the defence changes is held constant."""
    kind = structure(model, opaque=True)
    if kind.defence is not None:
        return Frozen(kind.deployed)
    return ThroughGradient(kind.deployed, "unrolled") if kind.states else kind.deployed


def static(model: nn.Module, gradient: str = "unrolled") -> nn.Module:
    """The model without its defence, for a transfer attack: the defence is never asked."""
    kind = structure(model, opaque=True)
    return ThroughGradient(kind.bare, gradient) if kind.states else kind.bare


def first_look(model: nn.Module) -> nn.Module:
    """The bare DEQ read out where the defence first looks: images that are wrong there it makes more wrong."""
    kind = structure(model, opaque=True)
    return EarlyState(kind.bare, kind.defence.looks[0])


def every_look(model: nn.Module) -> nn.Module:
    """The bare DEQ read out wherever the defence looks, and at the end, summed."""
    kind = structure(model, opaque=True)
    states = [*kind.defence.looks, kind.states]
    return Summed([EarlyState(kind.bare, state) for state in states], deployed=kind.bare)


def _through(model: Any, gradient: str) -> nn.Module:
    return ThroughGradient(model, gradient)


def _every_state(model: Any) -> nn.Module:
    return IntermediateState.several(model, range(1, model.steps + 1))


def _frozen_and_through(model: Any) -> nn.Module:
    return Summed([Frozen(model), EndToEnd(model)])


def _intermediate(model: Any, code: str) -> nn.Module:
    return IntermediateState.parse(structure(model, opaque=True).bare, code)  # type: ignore[arg-type]


def _each(auto: AutoAttack, suffix: str, column: str, view: View, points: int | None) -> list[Entry]:
    """AutoAttack's attacks as entries of their own, each resumed, timed and counted.

    Of a column, later entries attack only what stands, as later attacks of AutoAttack do.
    """
    return [Entry(name + suffix, column, replace(auto, attacks=(name,)), view, points) for name in auto.names]


def _has_looks(kind: Structure) -> bool:
    return bool(kind.states and getattr(kind.defence, "looks", ()))


def _check(suite: str, **counts: int | None) -> None:
    for name, count in counts.items():
        if name != "points" or count is not None:
            check_count(f"suite {suite}", name, count)  # type: ignore[arg-type]


def quick(
    model: Model, threat: Threat, *, step_size: float, seed: int = 0, batch_size: int = 250, steps: int = 20,
    points: int | None = None,
) -> list[Entry]:  # fmt: skip
    """PGD with the unrolled and with the phantom gradient; for a defended model under static and frozen threat.

    The static attack takes all its steps: an image that lies just past the bare model's boundary transfers badly.
    """
    _check("quick", steps=steps, points=points, batch_size=batch_size)
    kind = structure(model)
    attack, name = PGD(threat, step_size=step_size, steps=steps, seed=seed), f"pgd-{steps}"
    if kind.defence is not None:
        far = replace(attack, keep="highest")
        looks = [Entry(f"{name} static first look", "static", far, first_look, points)] if _has_looks(kind) else []
        return [
            Entry(f"{name} static", "static", far, static, points),
            *looks,
            Entry(f"{name} frozen", "frozen", attack, Frozen, points),
        ]
    if not kind.states:
        return [Entry(name, "PGD", attack, points=points)]
    return [
        Entry(f"{name} unrolled", "PGD", attack, exact, points, independent=True),
        Entry(f"{name} phantom", "PGD", attack, partial(_through, gradient="phantom"), points, independent=True),
    ]


def paper(
    model: Model, threat: Threat, *, step_size: float, seed: int = 0, batch_size: int = 250, steps: int = 10,
    states: Sequence[int | str] | None = None, attacks: Sequence[str] | None = None, iterations: int = 100,
    queries: int = 5000, points: int | None = None,
) -> list[Entry]:  # fmt: skip
    """What the papers run: PGD-10 and AutoAttack through intermediate states, and on a defended model their transfer.

    states: the authors' codes, as "Munroll-7-5", or numbers i of z^[i] (lambda 0.5, K_a = 5); default the last state
    and the one halfway. A model that is no DEQ is attacked as it is. points: of AutoAttack only.
    """
    _check("paper", steps=steps, iterations=iterations, queries=queries, points=points, batch_size=batch_size)
    kind = structure(model)
    defended = kind.defence is not None
    pgd = PGD(threat, step_size=step_size, steps=steps, seed=seed, keep="highest" if defended else "worst")
    auto = AutoAttack(threat, attacks=attacks, seed=seed, batch_size=batch_size, iterations=iterations, queries=queries)
    columns = ("static", "static") if defended else ("PGD", "AA")
    if not kind.states and states is not None:
        raise ValueError(f"suite paper: states={states!r} of a {type(kind.bare).__name__}; allowed: a DEQ's.")
    views: dict[str, View] = {"": static}
    if kind.states:
        views = {}
        for state in dict.fromkeys([kind.states, max(kind.states // 2, 1)]) if states is None else states:
            if not isinstance(state, str):
                check_count("suite paper", "states", state)
                state = f"Munroll-{state - 1}-5"
            views[f" {state}"] = partial(_intermediate, code=state)
            views[f" {state}"](kind.deployed)  # a state that does not fit is a mistake now, not after an hour
    return [
        *(Entry(f"pgd-{steps}{code}", columns[0], pgd, view) for code, view in views.items()),
        *(entry for code, view in views.items() for entry in _each(auto, code, columns[1], view, points)),
    ]


def standard(
    model: Model, threat: Threat, *, step_size: float, seed: int = 0, batch_size: int = 250, steps: int = 20,
    attacks: Sequence[str] | None = None, iterations: int = 100, queries: int = 5000, points: int | None = None,
) -> list[Entry]:  # fmt: skip
    """``quick``, then AutoAttack "standard" (or the ``attacks`` named) with the exact gradient.

    points: of AutoAttack only. A defended model is attacked through the frozen view.
    """
    _check("standard", steps=steps, iterations=iterations, queries=queries, points=points, batch_size=batch_size)
    auto = AutoAttack(threat, attacks=attacks, seed=seed, batch_size=batch_size, iterations=iterations, queries=queries)
    first = quick(model, threat, step_size=step_size, seed=seed, batch_size=batch_size, steps=steps)
    if structure(model).defence is not None:
        return [*first, *_each(auto, " frozen", "frozen", Frozen, points)]
    return [*first, *_each(auto, "", "AA", exact, points)]


def adaptive(
    model: Model, threat: Threat, *, step_size: float, seed: int = 0, batch_size: int = 250, steps: int = 20,
    restarts: int = 5, attacks: Sequence[str] | None = None, iterations: int = 100, queries: int = 5000,
    points: int | None = None,
) -> list[Entry]:  # fmt: skip
    """Every gradient, loss and restart on a bare model; static, frozen, end-to-end and black-box on a defended one.

    attacks: of AutoAttack, default its standard; through a defence only its APGDs are run. points: of AutoAttack and
    Square only.
    """
    _check(
        "adaptive", steps=steps, restarts=restarts, iterations=iterations, queries=queries, points=points,
        batch_size=batch_size,
    )  # fmt: skip
    kind = structure(model)
    pgd = PGD(threat, step_size=step_size, steps=steps, seed=seed)
    auto = AutoAttack(threat, attacks=attacks, seed=seed, batch_size=batch_size, iterations=iterations, queries=queries)
    square = Entry("square black-box", "black-box", replace(auto, attacks=("square",)), points=points)
    if kind.defence is not None:
        return [*_defended(kind, pgd, auto, restarts, points), square]
    return [*_bare(kind, pgd, restarts), *_each(auto, "", "AA", exact, points), square]


def _bare(kind: Structure, pgd: PGD, restarts: int) -> list[Entry]:
    name = f"pgd-{pgd.steps}"
    again = replace(pgd, seed=pgd.seed + 1, restarts=restarts)
    others = [
        Entry(f"{name} dlr", "PGD", replace(pgd, loss="dlr"), exact),
        *([Entry(f"{name} x{restarts}", "PGD", again, exact)] if restarts > 1 else []),
        Entry(f"{name} targeted", "PGD", replace(pgd, loss="ce-targeted"), exact),
    ]
    if not kind.states or kind.deq is None:
        return [Entry(name, "PGD", pgd), *others]
    # The simultaneous adjoint takes the solver's own estimate of the inverse Jacobian.
    gradients = ("implicit", "simultaneous") if kind.deq.solver.estimates_inverse else ("implicit",)
    return [
        Entry(f"{name} unrolled", "PGD", pgd, exact, independent=True),
        Entry(f"{name} phantom", "PGD", pgd, partial(_through, gradient="phantom"), independent=True),
        *(Entry(f"{name} {gradient}", "PGD", pgd, partial(_through, gradient=gradient)) for gradient in gradients),
        Entry(f"{name} summed", "PGD", pgd, _every_state),
        *others,
    ]


def _defended(kind: Structure, pgd: PGD, auto: AutoAttack, restarts: int, points: int | None) -> list[Entry]:
    """Static attacks take all their steps: an image just past the bare model's boundary transfers badly.

    They know at which states the defence looks: what is wrong there already, it makes more wrong.
    """
    name, far = f"pgd-{pgd.steps}", replace(pgd, keep="highest")
    dlr = replace(far, loss="dlr")
    entries = [Entry(f"{name} static", "static", far, static)]
    if kind.states:
        entries.append(Entry(f"{name} static phantom", "static", far, partial(static, gradient="phantom")))
    entries.append(Entry(f"{name} static dlr", "static", dlr, static))
    if _has_looks(kind):
        entries += [
            Entry(f"{name} static first look", "static", far, first_look),
            Entry(f"{name} static first look dlr", "static", dlr, first_look),
            Entry(f"{name} static every look", "static", far, every_look),
        ]
    entries.append(Entry(f"{name} static targeted", "static", replace(far, loss="ce-targeted"), static))
    entries += _each(auto, " static", "static", static, points)
    # FAB and Square cost thousands of defended forwards, and Square has a column of its own.
    climbing = tuple(attack for attack in auto.names if attack.startswith("apgd"))
    for column, view in {"frozen": Frozen, "end-to-end": EndToEnd}.items():
        entries.append(Entry(f"{name} {column}", column, pgd, view))
        entries.append(Entry(f"{name} {column} dlr", column, replace(pgd, loss="dlr"), view))
        if climbing:
            entries += _each(replace(auto, attacks=climbing), f" {column}", column, view, points)
        if restarts > 1:
            again = replace(pgd, seed=pgd.seed + 1, restarts=restarts)
            entries.append(Entry(f"{name} {column} x{restarts}", column, again, view))
    return [*entries, Entry(f"{name} summed", "end-to-end", pgd, _frozen_and_through)]


SUITES: dict[str, Callable[..., list[Entry]]] = {
    "quick": quick,
    "paper": paper,
    "standard": standard,
    "adaptive": adaptive,
}


def suite(name: str, model: Model, threat: Threat, **options: Any) -> list[Entry]:
    """The entries of a suite by name; an option it does not have is a ValueError."""
    entries = choose("suite", name, SUITES)
    check_options(f"suite {name}", options, list(signature(entries).parameters)[2:])
    return entries(model, threat, **options)
