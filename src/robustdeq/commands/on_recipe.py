"""The verbs that make models: train and reproduce by a recipe, convert from a file."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ..checks import check_count
from ..distributed import launched
from ..dynamics import SOLVERS
from ..gradients import GRADIENTS
from ..models import load_official, save_model
from ..options import settings
from ..progress import bar, bars
from ..recipe import Recipe, clean, train
from ..recipes import RECIPES, recipe
from ..reproduction import Reproduction
from ..training import CHECKPOINT, OBJECTIVES, STATE_SAMPLERS, TrainConfig, summary
from .device import Device, checked_device


@dataclass(kw_only=True)
class OfRecipe:
    """Options of the verbs that run a recipe."""

    recipe: Positional[Annotated[str, arg(help=f"{' | '.join(RECIPES)}, or the config.json of a run")]]
    data: str | None = None
    """digits, a folder of parquet files or images, or a name on the Hugging Face hub; default: the recipe's."""
    set: tuple[str, ...] = ()
    """Any field of the training config as NAME=VALUE, the value in JSON or a plain word; also model, model_options,
    validation, data_seed, image_size, streaming, image_column, label_column, defence, auto_attacks, auto_points and
    test_points."""
    seed: int | None = None
    device: Device = "cpu"

    def changed(self, **flags: Any) -> Recipe:
        """The recipe with what the flags and --set say of it; to say one thing twice is a mistake."""
        flags |= {"data": self.data, "seed": self.seed}
        flags = {name: value for name, value in flags.items() if value is not None}
        values = settings(self.set, Recipe, TrainConfig)
        twice = [name for name in flags if name in values]
        if twice:
            raise ValueError(f"--{twice[0].replace('_', '-')} and --set {twice[0]}=; allowed: one of them.")
        return recipe(self.recipe).changed({**values, **flags})


@dataclass(kw_only=True)
class Train(OfRecipe):
    """Train one model of a recipe and save it.

    For example:
      robustdeq train digits --out runs/mine
      robustdeq train digits --states random --objective trades --out runs/trades
      robustdeq train cifar10-small --data path/to/cifar10 --out runs/small
      robustdeq train cifar10-small --set learning_rate=2e-3 ema=0.995 'jacobian={"weight": 1}' --out runs/b
      robustdeq train runs/mine/config.json --out runs/again
      torchrun --nproc-per-node 8 -m robustdeq train cifar10-large-fast --device cuda --out runs/large

    A killed run goes on from its last checkpoint when the same command is given again.
    """

    out: Path
    """Folder for config.json, checkpoints, log and the model (out/model; the best on held-out images, if judged)."""
    objective: Annotated[str | None, arg(help=str(OBJECTIVES))] = None
    states: Annotated[str | None, arg(help=f"Which z^[t] the loss looks at: {STATE_SAMPLERS}")] = None
    gradient: Annotated[str | None, arg(help=f"Of the update: {GRADIENTS}")] = None
    attack_gradient: Annotated[str | None, arg(help=f"Of the attack in training: {GRADIENTS}")] = None
    solver: Annotated[str | None, arg(help=f"{SOLVERS}; default: the recipe's.")] = None
    clean: bool = False
    """Train without attacks."""
    wandb: bool = False
    """Log to Weights & Biases too, where it is installed."""
    resume: bool = False
    """Insist on going on: an --out without a checkpoint is an error. (By default one is used if it is there.)"""

    def run(self) -> None:
        names = ("objective", "states", "gradient", "attack_gradient")
        flags = {name: getattr(self, name) for name in names}
        chosen = self.changed(**flags)
        if self.solver is not None:
            chosen = chosen.changed({"model_options": {"solver": self.solver}})
        if self.clean:
            chosen = chosen.changed({"phases": clean(chosen.training).phases})
        checked_device(self.device)
        if self.resume and not (self.out / CHECKPOINT).exists():
            raise ValueError(f"--resume, but {self.out} holds no {CHECKPOINT}; allowed: the folder of a run.")
        with (
            launched(self.device) as distributed,
            bar("training") if distributed.main else nullcontext() as progress,
        ):
            folder = self.out / "model"
            _, trainer = train(
                chosen, self.out, folder, distributed=distributed, progress=progress, wandb=self.wandb
            )
        if distributed.main:
            print(f"{folder}\n{summary(trainer.history)}")


@dataclass(kw_only=True)
class Reproduce(OfRecipe):
    """Train the rows of a recipe's table, evaluate them, and write table, results and figures.

    For example:
      robustdeq reproduce digits
      robustdeq reproduce digits --full --out runs/digits-full
      robustdeq reproduce digits --seed 1 --out runs/digits-1
      robustdeq reproduce cifar10-small --data path/to/cifar10 --set test_points=1000 --jobs 1 --out runs/cifar10

    Given again, it picks up what is done.
    """

    out: Path | None = None
    """Output folder; default runs/RECIPE."""
    full: bool = False
    """AutoAttack standard on every test image instead of the recipe's short form (hours on a CPU)."""
    jobs: int = 3
    """Rows that are worked on at the same time, each in a process of its own with its share of the cores."""

    def run(self) -> None:
        check_count("reproduce", "jobs", self.jobs)
        chosen = self.changed()
        out = Path("runs") / chosen.name if self.out is None else self.out
        device = str(checked_device(self.device))
        with bars() as report:
            table = Reproduction(recipe=chosen, out=out, device=device, jobs=self.jobs, full=self.full).run(report)
        print(table)
        print(f"{out}: table.md, results.json, models/, figures/")


@dataclass(kw_only=True)
class Convert:
    """Turn a checkpoint of the papers' authors into a model folder (config.json, model.safetensors).

    For example:
      robustdeq convert checkpoint.pth --out models/deq-large

    """

    file: Positional[Path]
    """A checkpoint with the authors' keys; it is read without unpickling code."""
    out: Path
    """Folder to be written."""

    def run(self) -> None:
        model = load_official(self.file)
        save_model(model, self.out)
        print(f"{self.out}: {sum(p.numel() for p in model.parameters()):,} parameters")
