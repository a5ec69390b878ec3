"""The recipes by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .defences import EntropyReduction
from .files import read_json
from .options import check_options, choose, make
from .recipe import PLAN, Recipe
from .training import JacobianPenalty, Phase, TrainConfig

PIXEL = 1 / 255


def digits_recipe() -> Recipe:
    """Three small DEQs on scikit-learn's 8x8 digits, in a few minutes on two CPU cores."""
    eps = 0.15
    phases = (
        Phase(epochs=14, attack_steps=1, step_size=1.25 * eps, solver_steps=4),
        Phase(epochs=6, attack_steps=5, step_size=eps / 4),
    )
    return Recipe(
        name="digits", data="digits", model="mdeq-nano",
        training=TrainConfig(phases=phases, eps=eps, batch_size=128, learning_rate=8e-3, weight_decay=1e-2),
        defence=EntropyReduction(eps=eps, step_size=eps / 4, updates=10, every=2),
    )  # fmt: skip


def smoke_recipe() -> Recipe:
    """The digits recipe cut down until it only shows that every part runs; its numbers mean nothing."""
    full = digits_recipe()
    phases = (
        Phase(epochs=1, attack_steps=1, step_size=full.training.eps, solver_steps=2),
        Phase(epochs=1, attack_steps=2, step_size=full.training.eps / 2, solver_steps=4),
    )
    return replace(
        full, name="smoke", training=replace(full.training, phases=phases), model_options={"steps": 4},
        defence=replace(full.defence, updates=2), auto_attacks=("apgd-ce",), auto_points=4, test_points=24,
    )  # fmt: skip


def cifar10_small_recipe() -> Recipe:
    """A small DEQ on CIFAR-10 in about half an hour on two CPU cores, trained through the solver.

    Two scales of 8x8 and 4x4 pixels and four steps of the solver; cheap attacks on short solves first, PGD on the full
    solve last. The best of the search in ``results/half-hour.md``. It is judged twice only, since that costs a minute.

    Further rows, of equal work in training: a residual network of as many parameters whose forward costs as much, and
    the papers' gradient and solver. ``tests/test_counting.py`` counts both.
    """
    phases = (
        Phase(epochs=4, attack_steps=1, step_size=10 * PIXEL, solver_steps=2),
        Phase(epochs=2, attack_steps=1, step_size=10 * PIXEL, solver_steps=3),
        Phase(epochs=4, attack_steps=1, step_size=10 * PIXEL),
        Phase(epochs=1, attack_steps=2, step_size=6 * PIXEL),
    )
    training = TrainConfig(
        phases=phases, objective={"name": "pgd-at", "label_smoothing": 0.1}, batch_size=128, optimizer="muon",
        learning_rate=1e-2, weight_decay=5e-3, ema=0.995, pad=2, flip=True, validation_points=500,
        validation_steps=10, validation_every=10,
    )  # fmt: skip
    fgsm, last = {"attack_steps": 1, "step_size": 10 * PIXEL}, {"attack_steps": 2, "step_size": 6 * PIXEL}
    explicit = [{"epochs": 7, **fgsm}, {"epochs": 1, **last}]
    phantom = [{"epochs": 1, "solver_steps": 2, **fgsm}, {"epochs": 2, **fgsm}, {"epochs": 1, **last}]
    further = {
        "explicit network": {
            "model": "resnet18", "model_options": {"stem": 8, "channels": [16, 32, 64, 96], "units": 2},
            "phases": explicit,
        },
        "phantom gradient": {
            "gradient": "phantom", "attack_gradient": "phantom", "model_options": {"solver": {"name": "broyden"}},
            "phases": phantom,
        },
    }  # fmt: skip
    return Recipe(
        name="cifar10-small", data="uoft-cs/cifar10", model="mdeq-small",
        model_options={
            "channels": [40, 80], "head_channels": [16, 32], "stem_stride": 4, "activation": "silu", "steps": 4,
            "solver": {"name": "picard", "damping": 0.8},
        },
        training=training, defence=EntropyReduction(), further=further,
    )  # fmt: skip


def cifar10_large_recipe() -> Recipe:
    """The papers' run, 220 epochs, for GPUs: mdeq-large, PGD-AT with the phantom gradient after a clean warm-up of some
    16,000 steps."""
    phases = (
        Phase(epochs=34, attack_steps=0, solver="picard", gradient="unrolled"),
        Phase(epochs=186, attack_steps=10, step_size=2 * PIXEL),
    )
    training = TrainConfig(
        phases=phases, gradient="phantom", attack_gradient="phantom", batch_size=96, optimizer="adam",
        schedule={"name": "cosine", "floor": 1e-3}, learning_rate=1e-3, pad=4, flip=True, validation_points=1000,
        jacobian=JacobianPenalty(weight=2.0, until=90),
    )  # fmt: skip
    return Recipe(
        name="cifar10-large", data="uoft-cs/cifar10", model="mdeq-large", training=training,
        defence=EntropyReduction(),
    )  # fmt: skip


def cifar10_large_fast_recipe() -> Recipe:
    """mdeq-large in 30 epochs on one GPU, trained through the solver: what won in ``results/half-hour.md``, larger.

    Four steps of the solver; cheap attacks on short solves first, PGD on the full solve last.
    """
    small = cifar10_small_recipe()
    fgsm = {"attack_steps": 1, "step_size": 10 * PIXEL}
    phases = (
        Phase(epochs=9, solver_steps=2, **fgsm),
        Phase(epochs=5, solver_steps=3, **fgsm),
        Phase(epochs=12, **fgsm),
        Phase(epochs=4, attack_steps=2, step_size=6 * PIXEL),
    )
    training = replace(
        small.training, phases=phases, batch_size=256, pad=4, validation_points=1000, validation_steps=20,
        precision="bfloat16",
    )  # fmt: skip
    return replace(
        small, further={}, name="cifar10-large-fast", model="mdeq-large",
        model_options={"activation": "silu", "steps": 4, "dropout": 0.0, "solver": {"name": "picard", "damping": 0.8}},
        training=training,
    )  # fmt: skip


def cifar100_large_recipe() -> Recipe:
    """``cifar10-large-fast`` on CIFAR-100."""
    fast = cifar10_large_fast_recipe()
    return replace(fast, name="cifar100-large", data="uoft-cs/cifar100")


def imagenet_64_recipe() -> Recipe:
    """A starting point for ImageNet at 64x64 pixels on one machine with 8 GPUs; nobody has run it to the end yet.

    The injection halves the image, so a state has the size it has on CIFAR-10. Images are read while they are used.
    """
    fast = cifar10_large_fast_recipe()
    eps = 4 * PIXEL
    phases = (
        Phase(epochs=12, attack_steps=1, step_size=1.25 * eps, solver_steps=4),
        Phase(epochs=6, attack_steps=2, step_size=eps / 1.5),
        Phase(epochs=2, attack_steps=5, step_size=eps / 3),
    )
    training = replace(
        fast.training, phases=phases, threat="Linf", eps=eps, batch_size=1024, ema=0.999, pad=0,
        validation_points=2000, checkpoint_seconds=300.0,
    )  # fmt: skip
    return replace(
        fast, name="imagenet-64", data="imagenet-1k", image_size=64, streaming=True, validation=10_000,
        training=training, model_options={"image_shape": (3, 64, 64), "stem_stride": 2},
        defence=EntropyReduction(eps=eps, step_size=eps / 4),
    )  # fmt: skip


RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits": digits_recipe,
    "smoke": smoke_recipe,
    "cifar10-small": cifar10_small_recipe,
    "cifar10-large": cifar10_large_recipe,
    "cifar10-large-fast": cifar10_large_fast_recipe,
    "cifar100-large": cifar100_large_recipe,
    "imagenet-64": imagenet_64_recipe,
}


def recipe(name: str) -> Recipe:
    """A recipe by name, or the one that a run wrote down as config.json; a ValueError of one line if it is not one."""
    if not name.endswith(".json"):
        if (file := Path(name) / "config.json").exists():
            raise ValueError(f"{name} is a folder, no recipe; allowed: {file}, or {', '.join(RECIPES)}.")
        return choose("recipe", name, RECIPES)()
    plan = read_json(Path(name), "allowed: the config.json of a run")
    if not isinstance(plan, dict) or "recipe" not in plan:
        raise ValueError(f"{name} names no recipe; allowed: the config.json of a run.")
    check_options(name, plan, ["recipe", *PLAN, "training"])
    base, training = choose("recipe", plan.get("recipe"), RECIPES)(), plan.get("training", {})
    if not isinstance(training, dict):
        raise ValueError(f"{name}: training holds {training!r}; allowed: the fields of TrainConfig by name.")
    fields = {field: plan[field] for field in PLAN if field in plan}
    return replace(base, training=make(TrainConfig, {**base.training.to_dict(), **training}), **fields)
