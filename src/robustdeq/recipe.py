"""A complete run as one value, and how one model of it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .attacks import AutoAttack
from .checks import Count, Natural, Seed
from .data import ImageSet, Splits, StreamedSet, load
from .data.sources import OPTIONS
from .defences import EntropyReduction
from .distributed import SINGLE, Distributed
from .models import create_model, load_model, save_model
from .models.zoo import SETTABLE
from .options import check_options, checked, describe
from .progress import Progress
from .text import shown
from .training import MART, PGDAT, TRADES, Phase, RandomState, TrainConfig, Trainer

PLAN = ("data", "validation", "data_seed", "image_size", "streaming", "image_column", "label_column", "model",
        "model_options")  # fmt: skip
"""The fields that decide a training run beside the training config."""


@checked
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a run needs.

    data: a source of ``data.load``. validation: images held out of the training set, None for the source's default.
    data_seed: of that cut. image_size, streaming, image_column, label_column: see ``data.load``.
    model: a preset, with options. training: of the baseline row. defence: input entropy reduction of the defended rows.
    auto_attacks: which of AutoAttack's attacks a short run makes, on the first ``auto_points`` test images; a full run
    makes the standard suite on all of them. test_points: how many of the test images, the first ones, are
    used at all; None takes all. further: more rows of the table, by name what they change (see ``changed``).
    """

    name: str
    data: str
    model: str
    training: TrainConfig
    defence: EntropyReduction
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    validation: Natural | None = None
    data_seed: Seed = 0
    image_size: Count | None = None
    streaming: bool = False
    image_column: str | None = None
    label_column: str | None = None
    auto_attacks: tuple[str, ...] = ("apgd-ce", "apgd-t")
    auto_points: Count = 100
    test_points: Count | None = None
    further: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        AutoAttack(self.training.threat, attacks=self.auto_attacks)  # which are checked there

    @property
    def rows(self) -> dict[str, Recipe]:
        """The models that are trained, by the names of their rows."""
        training = self.training
        return {
            "baseline": self,
            "random states": replace(self, training=replace(training, states=RandomState())),
            "no attacks in training": replace(self, training=clean(training)),
            **{name: self.changed(settings) for name, settings in self.further.items()},
        }

    def load(self) -> Splits[ImageSet] | Splits[StreamedSet]:
        return load(self.data, seed=self.data_seed, **{name: getattr(self, name) for name in OPTIONS})

    def plan(self) -> dict[str, Any]:
        """What a training run is, as JSON; ``recipes.recipe`` reads it back."""
        fields = {name: describe(getattr(self, name)) for name in PLAN}
        return {"recipe": self.name, **fields, "training": self.training.to_dict()}

    def changed(self, settings: Mapping[str, Any]) -> Recipe:
        """With fields of ``PLAN``, of the budgets, or of the training config set by name; options join those there,
        those of the model only where it stays the same."""
        ours = [*PLAN, "defence", "auto_attacks", "auto_points", "test_points"]
        known = [*ours, *(field.name for field in dataclasses.fields(TrainConfig))]
        inside = {field.name: f'phases=[{{"{field.name}": ..., ...}}]' for field in dataclasses.fields(Phase)}
        inside |= {name: f'model_options={{"{name}": ...}}' for name in SETTABLE}
        check_options(f"recipe {self.name}", settings, known, inside)
        fields = {name: settings[name] for name in ours if name in settings}
        before = replace(self, model_options={}) if fields.get("model", self.model) != self.model else self
        for name in fields.keys() & {"model_options", "defence"}:  # what is not named stays
            if not isinstance(fields[name], Mapping):
                raise ValueError(f"{name}={shown(fields[name])}; allowed: options by name, as JSON.")
            fields[name] = {**describe(getattr(before, name)), **fields[name]}
        training = {name: value for name, value in settings.items() if name not in ours}
        trained = self.training.to_dict()
        if "threat" in training and "eps" not in training and not isinstance(training["threat"], str):
            trained.pop("eps")
        return replace(before, training=TrainConfig.from_dict({**trained, **training}), **fields)


def clean(config: TrainConfig) -> TrainConfig:
    """The same run without attacks, on cross-entropy where the objective is one of a pair of images."""
    objective = config.objective
    if isinstance(objective, TRADES | MART):  # which would compare every image with itself
        objective = PGDAT(label_smoothing=getattr(objective, "label_smoothing", 0.0))
    phases = tuple(replace(phase, attack_steps=0) for phase in config.phases)
    return replace(config, phases=phases, objective=objective)


def trainer_of(
    recipe: Recipe, out: Path, data: Splits[Any], distributed: Distributed = SINGLE, wandb: bool = False,
    compiled: bool = False, graphs: bool = False,
) -> Trainer:  # fmt: skip
    """What trains a recipe's model, which has its first weights, in ``out``. data: of the recipe; the model is made for
    its images and classes.

    Raises a ValueError if model, images and config do not fit each other, and writes nothing.
    """
    if not len(data.train):
        given = "no training images, a test split alone"
        raise ValueError(f"{recipe.data}: {given}; allowed: train, and test or validation.")
    fitting = {
        "image_shape": tuple(data.train.take(slice(1)).images().shape[1:]),
        "num_classes": len(data.train.classes),
    }
    options = {**fitting, "seed": recipe.training.seed, **recipe.model_options}
    model = create_model(recipe.model, **options).to(distributed.device)
    model.classes = tuple(data.train.classes)
    if compiled:
        model.compile()
    trainer = Trainer(
        model, data.train.to(distributed.device), recipe.training, out, data.validation.to(distributed.device),
        wandb=wandb, distributed=distributed, graphs=graphs,
    )  # fmt: skip
    if not trainer.checkpoint.exists():
        trainer.rehearse()
    return trainer


def train(
    recipe: Recipe, out: Path, folder: Path, *, data: Splits[Any] | None = None, distributed: Distributed = SINGLE,
    progress: Progress | None = None, wandb: bool = False, compiled: bool = False, graphs: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train one model of a recipe in ``out`` (config.json, checkpoints, log), and save it in ``folder``.

    It is the one that stood best on held-out images where it was judged there, else the last. data: of the recipe,
    where it has been loaded already. compiled: by ``model.compile()``. graphs: the passes of an update are CUDA graphs.
    A killed run goes on. Returns the run's history, a row an epoch.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; allowed: a folder, for the model.")
    trainer = trainer_of(recipe, out, recipe.load() if data is None else data, distributed, wandb, compiled, graphs)
    model: Any = trainer.run(progress, recipe.plan())
    if distributed.main:
        model = load_model(trainer.best) if trainer.best.exists() else model
        source = {name: getattr(recipe, name) for name in ("data", "data_seed", "validation")}
        attacked = any(phase.attack_steps for phase in recipe.training.phases)
        threat = describe(recipe.training.threat) if attacked else None
        model.trained_on = {**source, "threat": threat}
        save_model(model, folder)
    return trainer.history
