"""Which attacks an evaluation runs, cheap ones first, and in which column each counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from torch import nn

from ..attacks import APGD, PGD, AutoAttack, EndToEnd, Frozen, JointOptimisation, Summed, Threat, ThroughGradient
from ..checks import Count, Length, Seed, StepSize, check_count
from ..models.structure import Structure, structure
from ..options import check_options, choose, convert, field_types
from ..text import shown
from .entries import Attack, Entry, Model, View, bare, early, every_state, exact, intermediate, looks, phantom, static

COMMON = ("step_size", "seed", "batch_size", "steps", "points", "surrogates")
AUTO = (*COMMON, "attacks", "iterations", "queries")
OWN = {"apgd-ce": "ce", "apgd-dlr": "dlr", "apgd-t": "dlr-targeted"}
"""Of the attacks of AutoAttack, those that ``adaptive`` runs as our APGD, which does not draw for a whole batch and
leaves a sample where it falls; and their losses."""
READ = 8
"""States, evenly spread, of which ``adaptive`` attacks the readouts; all of a solve that is not longer."""


@dataclass(frozen=True)
class Budget:
    """What the attacks of a suite may spend: the options of a suite.

    step_size: of PGD, default a quarter of eps. steps: of PGD; the joint attack takes twice as many iterations. points:
    attack only the first so many points of the set, but for what ``quick`` runs in other suites; None takes all.
    attacks: of AutoAttack, default its standard. iterations, queries: of APGD and of Square. restarts: of PGD, in
    further entries. states: of ``paper``. surrogates: models trained independently; images made against them are tried
    on the evaluated model, in the column ``surrogate``.
    """

    threat: Threat
    step_size: StepSize = None  # type: ignore[assignment]
    seed: Seed = 0
    batch_size: Count = 250
    steps: Count = 20
    points: Count | None = None
    attacks: Annotated[Sequence[str], Length()] | None = None
    iterations: Count = 100
    queries: Count = 5000
    restarts: Count = 5
    states: Annotated[Sequence[int | str], Length()] | None = None
    surrogates: Sequence[nn.Module] = ()

    @classmethod
    def of(cls, suite: str, threat: Threat, names: Sequence[str], options: Mapping[str, Any], **default: Any) -> Budget:
        """names: of the options that the suite has."""
        check_options(f"suite {suite}", options, names)
        hints = field_types(cls)
        given = {name: convert(f"suite {suite}", name, value, hints[name]) for name, value in options.items()}
        return cls(threat, **{**default, **given})

    @property
    def pgd(self) -> PGD:
        return PGD(self.threat, self.step_size, self.steps, seed=self.seed)

    @property
    def auto(self) -> AutoAttack:
        return AutoAttack(
            self.threat, attacks=self.attacks, seed=self.seed, batch_size=self.batch_size, iterations=self.iterations,
            queries=self.queries,
        )  # fmt: skip

    @property
    def joint(self) -> JointOptimisation:
        return JointOptimisation(self.threat, 2 * self.steps, seed=self.seed)

    def apgd(self, loss: str) -> APGD:
        return APGD(self.threat, self.iterations, seed=self.seed, loss=loss, stack=3)

    def each(
        self, suffix: str, column: str, view: View, kinds: tuple[str, ...] = ("",), own: bool = False
    ) -> list[Entry]:
        """AutoAttack's attacks, those whose names begin with one of ``kinds``, as entries: each is resumed, timed and
        counted, and attacks only what stands, as later attacks of AutoAttack do. own: see ``OWN``."""
        entries = []
        for name in filter(lambda name: name.startswith(kinds), self.auto.names):
            label, attack = name, replace(self.auto, attacks=(name,))
            if own and name in OWN:
                label, attack = f"apgd-{self.iterations} {OWN[name]}", self.apgd(OWN[name])
            entries.append(Entry(label + suffix, column, attack, view, self.points))
        return entries

    def elsewhere(self) -> list[Entry]:
        """Images made against the surrogates. Every step is taken: just past a boundary they would transfer badly."""
        far, name = replace(self.pgd, keep="highest"), f"pgd-{self.steps} surrogate"
        return [
            Entry(f"{name} {number} {loss}", "surrogate", replace(far, loss=loss), exact, self.points, surrogate=other)
            for number, other in enumerate(self.surrogates, start=1)
            for loss in ("ce", "dlr")
        ]


def quick(model: Model, threat: Threat, **options: Any) -> list[Entry]:
    """PGD with the unrolled and with the phantom gradient, and on the DLR loss what these leave; of a DEQ the joint
    attack, in a column of its own; a defended model under static and frozen threat.

    options: step_size, seed, batch_size, steps, points, surrogates of ``Budget``.
    """
    budget = Budget.of("quick", threat, COMMON, options)
    return _quick(structure(model), budget) + budget.elsewhere()


def _quick(kind: Structure, budget: Budget, column: str = "joint") -> list[Entry]:
    """column: of the joint attack."""
    name, pgd, points = f"pgd-{budget.steps}", budget.pgd, budget.points
    dlr = Entry(f"{name} dlr", "PGD", replace(pgd, loss="dlr"), exact, points)
    if kind.defence is None and kind.states:
        return [
            Entry(f"{name} unrolled", "PGD", pgd, exact, points, independent=True),
            Entry(f"{name} phantom", "PGD", pgd, phantom, points, independent=True),
            dlr,
            Entry(f"joint-{budget.joint.iterations}", column, budget.joint, bare, points),
        ]
    if kind.defence is None:
        return [Entry(name, "PGD", pgd, exact, points), dlr]
    # A static attack takes all its steps: an image that lies just past the bare model's boundary transfers badly.
    views = {"": static, " first look": looks} if _has_looks(kind) else {"": static}
    far = replace(pgd, keep="highest")
    entries = [Entry(f"{name} static{of}", "static", far, view, points) for of, view in views.items()]
    through = {"": pgd, " dlr": replace(pgd, loss="dlr")}
    return entries + [Entry(f"{name} frozen{of}", "frozen", attack, Frozen, points) for of, attack in through.items()]


def paper(model: Model, threat: Threat, **options: Any) -> list[Entry]:
    """What the papers run: PGD-10 and AutoAttack through intermediate states, and on a defended model their transfer.

    options: of ``Budget``, without restarts. states: the authors' codes, as "Munroll-7-5", or numbers i of z^[i]
    (lambda 0.5, K_a = 5); default the last state and the one halfway. A model that is no DEQ is attacked as it is.
    """
    budget, kind = Budget.of("paper", threat, (*AUTO, "states"), options, steps=10), structure(model)
    states, defended = budget.states, kind.defence is not None
    pgd = replace(budget.pgd, keep="highest" if defended else "worst")
    columns = ("static", "static") if defended else ("PGD", "AA")
    if not kind.states and states is not None:
        raise ValueError(f"suite paper: states={shown(states)} of a {type(kind.bare).__name__}; allowed: a DEQ's.")
    if states is None:
        states = dict.fromkeys([kind.states, max(kind.states // 2, 1)]) if kind.states else ()
    views: dict[str, View] = {} if kind.states else {"": static}
    for state in states:
        if not isinstance(state, str):
            check_count("suite paper", "states", state)
            state = f"Munroll-{state - 1}-5"
        views[f" {state}"] = partial(intermediate, code=state)
        views[f" {state}"](kind.deployed)  # a state that does not fit is a mistake now, not after an hour
    entries = [Entry(f"pgd-{budget.steps}{code}", columns[0], pgd, view, budget.points) for code, view in views.items()]
    entries += [entry for code, view in views.items() for entry in budget.each(code, columns[1], view)]
    return entries + budget.elsewhere()


def standard(model: Model, threat: Threat, **options: Any) -> list[Entry]:
    """``quick``, then AutoAttack "standard" (or the ``attacks`` named) with the exact gradient.

    options: of ``Budget``, without restarts and states. A defended model is attacked through the frozen view.
    """
    budget, kind = Budget.of("standard", threat, AUTO, options), structure(model)
    suffix, column = ("", "AA") if kind.defence is None else (" frozen", "frozen")
    return _quick(kind, replace(budget, points=None)) + budget.each(suffix, column, exact) + budget.elsewhere()


def adaptive(model: Model, threat: Threat, **options: Any) -> list[Entry]:
    """Every gradient, loss, state and restart on a bare model, in the column ``white-box`` behind ``quick``'s; static,
    frozen, end-to-end and black-box on a defended one.

    options: of ``Budget``, without states. Through a defence only the APGDs of AutoAttack are run. APGD is our own.
    """
    budget, kind = Budget.of("adaptive", threat, (*AUTO, "restarts"), options), structure(model)
    entries = _bare(kind, budget) if kind.defence is None else _defended(kind, budget)
    square = replace(budget.auto, attacks=("square",))
    return [*entries, Entry("square black-box", "black-box", square, points=budget.points), *budget.elsewhere()]


def _bare(kind: Structure, budget: Budget) -> list[Entry]:
    """The joint attack takes most of what falls at a few f-units an image, so that the dear ones see little."""
    name, pgd, attacks = f"pgd-{budget.steps}", budget.pgd, dict[str, tuple[Attack, View]]()
    if kind.states and kind.deq is not None:
        # The simultaneous adjoint takes the solver's own estimate of the inverse Jacobian.
        for gradient in ("implicit", "simultaneous") if kind.deq.solver.estimates_inverse else ("implicit",):
            attacks[f"{name} {gradient}"] = (pgd, partial(ThroughGradient, gradient=gradient))
        # Few targets and many iterations leave fewer than the other way round (results/joint.md).
        longer = 2 * budget.joint.iterations
        targeted = replace(budget.joint, iterations=longer, loss="cw-targeted", order="nearest", targets=3, stack=9)
        attacks[f"joint-{targeted.iterations} targeted"] = (targeted, bare)
        count = min(kind.states - 1, READ)
        far = replace(pgd, keep="highest")
        for state in (max(1, round(number * (kind.states - 1) / count)) for number in range(1, count + 1)):
            attacks[f"{name} state {state}"] = (far, partial(early, state=state))
    for loss in ("pm", "cw"):
        attacks[f"apgd-{budget.iterations} {loss}"] = (budget.apgd(loss), exact)
    if budget.restarts > 1:
        again = replace(pgd, seed=budget.seed + 1, restarts=budget.restarts)
        attacks[f"{name} x{budget.restarts}"] = (again, exact)
        attacks[f"{name} dlr x{budget.restarts}"] = (replace(again, loss="dlr"), exact)
    if kind.states:
        attacks[f"{name} summed"] = (pgd, every_state)
    attacks[f"{name} targeted"] = (replace(pgd, loss="ce-targeted"), exact)
    others = [Entry(called, "white-box", *attack, budget.points) for called, attack in attacks.items()]
    others += budget.each("", "white-box", exact, ("apgd", "fab"), own=True)
    return _quick(kind, replace(budget, points=None), "white-box") + others


def _defended(kind: Structure, budget: Budget) -> list[Entry]:
    """Static attacks know at which states the defence looks: what is wrong there already, it makes more wrong."""
    name, pgd = f"pgd-{budget.steps}", budget.pgd
    again = replace(pgd, seed=budget.seed + 1, restarts=budget.restarts)
    attacks: list[tuple[str, str, View]] = [("", "ce", static), (" dlr", "dlr", static)]
    if kind.states:
        attacks.insert(1, (" phantom", "ce", partial(static, gradient="phantom")))
    if _has_looks(kind):
        attacks += [(" first look", "ce", looks), (" first look dlr", "dlr", looks)]
        attacks.append((" every look", "ce", partial(looks, every=True)))
    attacks.append((" targeted", "ce-targeted", static))
    far = replace(pgd, keep="highest")
    entries = [Entry(f"{name} static{of}", "static", replace(far, loss=loss), view) for of, loss, view in attacks]
    entries += budget.each(" static", "static", static, own=True)
    for column, view in {"frozen": Frozen, "end-to-end": EndToEnd}.items():
        entries.append(Entry(f"{name} {column}", column, pgd, view))
        entries.append(Entry(f"{name} {column} dlr", column, replace(pgd, loss="dlr"), view))
        # FAB and Square cost thousands of defended forwards, and Square has a column of its own.
        entries += budget.each(f" {column}", column, view, ("apgd",), own=True)
        if budget.restarts > 1:
            entries.append(Entry(f"{name} {column} x{budget.restarts}", column, again, view))
    entries.append(Entry(f"{name} summed", "end-to-end", pgd, lambda model: Summed([Frozen(model), EndToEnd(model)])))
    whole = {entry.name for entry in _quick(kind, budget)}
    return [entry if entry.name in whole else replace(entry, points=budget.points) for entry in entries]


def _has_looks(kind: Structure) -> bool:
    return bool(kind.states and getattr(kind.defence, "looks", ()))


SUITES: dict[str, Callable[..., list[Entry]]] = {
    "quick": quick, "paper": paper, "standard": standard, "adaptive": adaptive,
}  # fmt: skip
"""The suites by name, each a function that makes its entries."""


def suite(name: str, model: Model, threat: Threat, **options: Any) -> list[Entry]:
    """The entries of a suite by name; an option it does not have is a ValueError."""
    return choose("suite", name, SUITES)(model, threat, **options)
