"""Named complete runs: data, model, training, defence and evaluation in one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .data import Splits, digits
from .options import choose
from .regulation import EntropyReduction
from .training import Phase, TrainConfig

LOAD: dict[str, Callable[[], Splits]] = {"digits": digits}
"""Data sets by name."""

DEFAULT_EPS = {"digits": 0.15}
"""The L-inf radius that is asked of a data set unless another is given, pixels in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a run needs.

    data: a name of ``LOAD``. model: a preset, with options. training: of the baseline row. defence: input entropy
    reduction of the defended rows. auto_attacks: which of AutoAttack's attacks a short run makes, on the first
    ``auto_points`` test images; a full run makes the standard suite on all of them. test_points: how many of the test
    images, which are in random order, are used at all; None takes all.
    """

    name: str
    summary: str
    data: str
    model: str
    training: TrainConfig
    defence: EntropyReduction
    model_options: Mapping[str, Any] = field(default_factory=dict)
    auto_attacks: tuple[str, ...] = ("apgd-ce", "apgd-t")
    auto_points: int = 100
    test_points: int | None = None

    @property
    def rows(self) -> dict[str, TrainConfig]:
        """The models that are trained, by the names of their rows."""
        base = self.training
        without = tuple(replace(phase, attack_steps=0) for phase in base.phases)
        return {
            "baseline": base,
            "random states": replace(base, states="random"),
            "no attacks in training": replace(base, phases=without),
        }


def digits_recipe() -> Recipe:
    """Three small DEQs on scikit-learn's 8x8 digits, in about three minutes on two CPU cores."""
    eps = DEFAULT_EPS["digits"]
    return Recipe(
        name="digits",
        summary="8x8 digits, eps 0.15: the paper's four rows in minutes on a CPU",
        data="digits",
        model="mdeq-nano",
        training=TrainConfig(
            eps=eps,
            batch_size=128,
            learning_rate=8e-3,
            weight_decay=1e-2,
            phases=(
                Phase(epochs=14, attack_steps=1, step_size=1.25 * eps, solver_steps=4),
                Phase(epochs=6, attack_steps=5, step_size=eps / 4),
            ),
        ),
        defence=EntropyReduction(eps=eps, step_size=eps / 4, updates=10, every=2),
    )


def smoke_recipe() -> Recipe:
    """The digits recipe cut down until it only shows that every part runs; its numbers mean nothing."""
    full = digits_recipe()
    phases = (
        Phase(epochs=1, attack_steps=1, step_size=full.training.eps, solver_steps=2),
        Phase(epochs=1, attack_steps=2, step_size=full.training.eps / 2, solver_steps=4),
    )
    return replace(
        full,
        name="smoke",
        summary="every part of digits in about a minute; the numbers mean nothing",
        training=replace(full.training, phases=phases),
        model_options={"steps": 4},
        defence=replace(full.defence, updates=2),
        auto_attacks=("apgd-ce",),
        auto_points=4,
        test_points=24,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"digits": digits_recipe, "smoke": smoke_recipe}


def recipe(name: str) -> Recipe:
    """A recipe by name."""
    return choose("recipe", name, RECIPES)()


def load_data(name: str) -> Splits:
    """A data set by name."""
    return choose("data set", name, LOAD)()
