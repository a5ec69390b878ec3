"""Which attacks an evaluation runs, cheap ones first, and in which column each counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from torch import Tensor, nn

from ..attacks import PGD, AutoAttack, EndToEnd, Frozen, IntermediateState, Summed, Threat, ThroughGradient
from ..checks import Count, Distance, Length, Seed, check_count
from ..defences import EarlyState
from ..models.structure import Structure, structure
from ..options import check_options, checked, choose, convert, field_types
from ..text import shown

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
    points: Count | None = None
    independent: bool = False

    def __post_init__(self) -> None:
        for part in ("attack", "view"):
            if not callable(getattr(self, part)):
                raise ValueError(f"Entry {self.name}: {part}={shown(getattr(self, part))}; allowed: a callable.")
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


def looks(model: nn.Module, *, every: bool = False) -> nn.Module:
    """The bare DEQ read out where the defence first looks: images that are wrong there it makes more wrong. every:
    wherever it looks, and at the end, summed."""
    kind = structure(model, opaque=True)
    if not every:
        return EarlyState(kind.bare, kind.defence.looks[0])
    return Summed([EarlyState(kind.bare, state) for state in (*kind.defence.looks, kind.states)], deployed=kind.bare)


PHANTOM = partial(ThroughGradient, gradient="phantom")
COMMON = ("step_size", "seed", "batch_size", "steps", "points")
AUTO = (*COMMON, "attacks", "iterations", "queries")


@dataclass(frozen=True)
class Budget:
    """What the attacks of a suite may spend: the options of a suite.

    step_size: of PGD, default a quarter of eps. steps: of PGD. restarts: of PGD, in one more entry. attacks: of
    AutoAttack, default its standard. iterations, queries: its own budgets. points: attack only the first so many points
    of the set with AutoAttack and Square (``quick``: with all); None takes all. states: of ``paper``.
    """

    threat: Threat
    step_size: Distance | None = None
    seed: Seed = 0
    batch_size: Count = 250
    steps: Count = 20
    points: Count | None = None
    attacks: Annotated[Sequence[str], Length()] | None = None
    iterations: Count = 100
    queries: Count = 5000
    restarts: Count = 5
    states: Annotated[Sequence[int | str], Length()] | None = None

    @classmethod
    def of(cls, suite: str, threat: Threat, names: Sequence[str], options: Mapping[str, Any], **default: Any) -> Budget:
        """names: of the options that the suite has."""
        check_options(f"suite {suite}", options, names)
        hints = field_types(cls)
        given = {name: convert(f"suite {suite}", name, value, hints[name]) for name, value in options.items()}
        return cls(threat, **{**default, **given})

    @property
    def pgd(self) -> PGD:
        size = self.threat.eps / 4 if self.step_size is None else self.step_size
        return PGD(self.threat, size, self.steps, seed=self.seed)

    @property
    def auto(self) -> AutoAttack:
        return AutoAttack(
            self.threat, attacks=self.attacks, seed=self.seed, batch_size=self.batch_size, iterations=self.iterations,
            queries=self.queries,
        )  # fmt: skip

    def each(self, suffix: str, column: str, view: View, kind: str = "") -> list[Entry]:
        """AutoAttack's attacks, those whose names begin with ``kind``, as entries: each is resumed, timed and counted,
        and attacks only what stands, as later attacks of AutoAttack do."""
        names = [name for name in self.auto.names if name.startswith(kind)]
        return [Entry(n + suffix, column, replace(self.auto, attacks=(n,)), view, self.points) for n in names]


def quick(model: Model, threat: Threat, **options: Any) -> list[Entry]:
    """PGD with the unrolled and with the phantom gradient; for a defended model under static and frozen threat.

    options: step_size, seed, batch_size, steps, points of ``Budget``.
    """
    return _quick(structure(model), Budget.of("quick", threat, COMMON, options))


def _quick(kind: Structure, budget: Budget) -> list[Entry]:
    name, pgd, points = f"pgd-{budget.steps}", budget.pgd, budget.points
    if kind.defence is None and kind.states:
        return [
            Entry(f"{name} unrolled", "PGD", pgd, exact, points, independent=True),
            Entry(f"{name} phantom", "PGD", pgd, PHANTOM, points, independent=True),
        ]
    if kind.defence is None:
        return [Entry(name, "PGD", pgd, points=points)]
    # A static attack takes all its steps: an image that lies just past the bare model's boundary transfers badly.
    views = {"": static, " first look": looks} if _has_looks(kind) else {"": static}
    far = replace(pgd, keep="highest")
    entries = [Entry(f"{name} static{view}", "static", far, views[view], points) for view in views]
    return [*entries, Entry(f"{name} frozen", "frozen", pgd, Frozen, points)]


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
        views[f" {state}"] = partial(_intermediate, code=state)
        views[f" {state}"](kind.deployed)  # a state that does not fit is a mistake now, not after an hour
    entries = [Entry(f"pgd-{budget.steps}{code}", columns[0], pgd, view) for code, view in views.items()]
    return entries + [entry for code, view in views.items() for entry in budget.each(code, columns[1], view)]


def _intermediate(model: Any, code: str) -> nn.Module:
    bare: Any = structure(model, opaque=True).bare
    return IntermediateState.parse(bare, code)


def standard(model: Model, threat: Threat, **options: Any) -> list[Entry]:
    """``quick``, then AutoAttack "standard" (or the ``attacks`` named) with the exact gradient.

    options: of ``Budget``, without restarts and states. A defended model is attacked through the frozen view.
    """
    budget, kind = Budget.of("standard", threat, AUTO, options), structure(model)
    suffix, column = ("", "AA") if kind.defence is None else (" frozen", "frozen")
    return _quick(kind, replace(budget, points=None)) + budget.each(suffix, column, exact)


def adaptive(model: Model, threat: Threat, **options: Any) -> list[Entry]:
    """Every gradient, loss and restart on a bare model; static, frozen, end-to-end and black-box on a defended one.

    options: of ``Budget``, without states. Through a defence only the APGDs of AutoAttack are run.
    """
    budget, kind = Budget.of("adaptive", threat, (*AUTO, "restarts"), options), structure(model)
    entries = _bare(kind, budget) if kind.defence is None else _defended(kind, budget)
    square = replace(budget.auto, attacks=("square",))
    return [*entries, Entry("square black-box", "black-box", square, points=budget.points)]


def _bare(kind: Structure, budget: Budget) -> list[Entry]:
    pgd = budget.pgd
    again = replace(pgd, seed=budget.seed + 1, restarts=budget.restarts)
    attacks: dict[str, tuple[PGD, View]] = {}
    if kind.states and kind.deq is not None:
        # The simultaneous adjoint takes the solver's own estimate of the inverse Jacobian.
        for gradient in ("implicit", "simultaneous") if kind.deq.solver.estimates_inverse else ("implicit",):
            attacks[gradient] = (pgd, partial(ThroughGradient, gradient=gradient))
        attacks["summed"] = (pgd, lambda deq: IntermediateState.several(deq, range(1, deq.steps + 1)))
    attacks["dlr"] = (replace(pgd, loss="dlr"), exact)
    if budget.restarts > 1:
        attacks[f"x{budget.restarts}"] = (again, exact)
    attacks["targeted"] = (replace(pgd, loss="ce-targeted"), exact)
    others = [Entry(f"pgd-{budget.steps} {name}", "PGD", *attack) for name, attack in attacks.items()]
    return _quick(kind, replace(budget, points=None)) + others + budget.each("", "AA", exact)


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
    far = [replace(pgd, loss=loss, keep="highest") for _, loss, _ in attacks]
    entries = [Entry(f"{name} static{of}", "static", a, view) for (of, _, view), a in zip(attacks, far)]
    entries += budget.each(" static", "static", static)
    for column, view in {"frozen": Frozen, "end-to-end": EndToEnd}.items():
        entries.append(Entry(f"{name} {column}", column, pgd, view))
        entries.append(Entry(f"{name} {column} dlr", column, replace(pgd, loss="dlr"), view))
        # FAB and Square cost thousands of defended forwards, and Square has a column of its own.
        entries += budget.each(f" {column}", column, view, kind="apgd")
        if budget.restarts > 1:
            entries.append(Entry(f"{name} {column} x{budget.restarts}", column, again, view))
    summed = Entry(f"{name} summed", "end-to-end", pgd, lambda model: Summed([Frozen(model), EndToEnd(model)]))
    return [*entries, summed]


def _has_looks(kind: Structure) -> bool:
    return bool(kind.states and getattr(kind.defence, "looks", ()))


SUITES: dict[str, Callable[..., list[Entry]]] = {
    "quick": quick, "paper": paper, "standard": standard, "adaptive": adaptive,
}  # fmt: skip


def suite(name: str, model: Model, threat: Threat, **options: Any) -> list[Entry]:
    """The entries of a suite by name; an option it does not have is a ValueError."""
    return choose("suite", name, SUITES)(model, threat, **options)
