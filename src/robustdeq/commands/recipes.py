"""The verbs that run a recipe: train, reproduce."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from ..checks import Count, Seed
from ..distributed import available, launched
from ..dynamics import SOLVERS
from ..gradients import GRADIENTS
from ..options import parsed, settings
from ..progress import bar, bars
from ..recipe import Recipe, clean, train
from ..recipes import RECIPES, recipe
from ..reproduction import Repeated, Reproduction
from ..text import printable
from ..training import CHECKPOINT, MART, OBJECTIVES, STATE_SAMPLERS, TRADES, TrainConfig, summary
from .shared import Command


@dataclass(kw_only=True)
class _OfRecipe(Command):
    """Options of the verbs that run a recipe."""

    recipe: Positional[Annotated[str, arg(help=f"{' | '.join(RECIPES)}, or the config.json of a run")]]
    data: str | None = None
    """digits, a folder of parquet files or images, or a name on the Hugging Face hub; default: the recipe's."""
    set: tuple[str, ...] = ()
    """Any field of the training config as NAME=VALUE, the value in JSON or a plain word; also model, model_options,
    validation, data_seed, image_size, streaming, image_column, label_column, defence, auto_attacks, auto_points and
    test_points."""
    seed: Seed | None = None

    def changed(self, **flags: Any) -> Recipe:
        """The recipe with what the flags and --set say of it; to say one thing twice is a mistake."""
        flags |= {"data": self.data, "seed": self.seed}
        flags = {name: value for name, value in flags.items() if value is not None}
        values = settings(self.set, Recipe, TrainConfig)
        if twice := [name for name in flags if name in values]:
            raise ValueError(f"--{twice[0].replace('_', '-')} and --set {twice[0]}=; allowed: one of them.")
        return recipe(self.recipe).changed({**values, **flags})


@dataclass(kw_only=True)
class Train(_OfRecipe):
    """Train one model of a recipe and save it.

    For example:
      robustdeq train digits --out runs/mine
      robustdeq train digits --states random --objective trades --out runs/trades
      robustdeq train cifar10-small --data path/to/cifar10 --out runs/small
      robustdeq train cifar10-small --set learning_rate=2e-3 awp=0.005 'jacobian={"weight": 1}' --out runs/b
      robustdeq train runs/mine/config.json --out runs/again
      torchrun --nproc-per-node 8 -m robustdeq train cifar10-large-fast --device cuda --out runs/large

    A killed run goes on from its last checkpoint when the same command is given again.
    """

    shares: ClassVar[bool] = True
    out: Path
    """Folder for config.json, checkpoints, log and the model (out/model; the best on held-out images, if judged)."""
    objective: Annotated[str | None, arg(help=str(OBJECTIVES))] = None
    states: Annotated[str | None, arg(help=f"Which z^[t] the loss looks at: {STATE_SAMPLERS}")] = None
    gradient: Annotated[str | None, arg(help=f"Of the update: {GRADIENTS}")] = None
    attack_gradient: Annotated[str | None, arg(help=f"Of the attack in training: {GRADIENTS}")] = None
    solver: Annotated[str | None, arg(help=f"{SOLVERS}, or in JSON with options; default: the recipe's.")] = None
    clean: bool = False
    """Train without attacks."""
    compile: bool = False
    """Compile the model's forward where this machine can: the same numbers but for rounding, after a minute or two of
    compiling. Backward passes are then not counted in the log's f-units."""
    graphs: bool = False
    """Record an update's forwards and backward passes once as CUDA graphs: no time goes into launching kernels."""
    wandb: bool = False
    """Log to Weights & Biases too, where it is installed."""
    resume: bool = False
    """Insist on going on: an --out without a checkpoint is an error. (By default one is used if it is there.)"""

    def run(self) -> None:
        flags = ("objective", "states", "gradient", "attack_gradient")
        chosen = self.changed(**{name: parsed(getattr(self, name)) for name in flags})
        settled = settings(self.set)
        if self.solver is not None:
            if "solver" in (settled.get("model_options") or {}):  # of a dict: `changed` has refused anything else
                raise ValueError("--solver and --set model_options= with a solver; allowed: one of them.")
            chosen = chosen.changed({"model_options": {"solver": parsed(self.solver)}})
        if self.clean:
            if "phases" in settled:
                raise ValueError("--clean and --set phases=; allowed: one of them (attack_steps=0 is a clean phase).")
            paired = isinstance(chosen.training.objective, TRADES | MART)
            self.check_idle("--clean", "without it", "attack_gradient", *(["objective"] if paired else []))
            chosen = replace(chosen, training=clean(chosen.training))
        if self.resume and not (self.out / CHECKPOINT).exists():
            raise ValueError(f"--resume, but {self.out} holds no {CHECKPOINT}; allowed: the folder of a run.")
        folder = self.out / "model"
        with launched(self.device) as distributed, bar("training", distributed.main) as progress:
            history = train(
                chosen, self.out, folder, distributed=distributed, progress=progress, wandb=self.wandb,
                compiled=self.compile, graphs=self.graphs,
            )  # fmt: skip
        if distributed.main:
            print(f"{printable(str(folder))}\n{summary(history)}")


@dataclass(kw_only=True)
class Reproduce(_OfRecipe):
    """Train the rows of a recipe's table, evaluate them, and write table, results and figures.

    For example:
      robustdeq reproduce digits
      robustdeq reproduce digits --full --out runs/digits-full
      robustdeq reproduce digits --seed 1 --out runs/digits-1
      robustdeq reproduce cifar10-small --data path/to/cifar10 --seeds 3 --set test_points=1000 auto_points=1000

    Given again, it picks up what is done.
    """

    out: Path | None = None
    """Output folder; default runs/RECIPE."""
    full: bool = False
    """AutoAttack standard on every test image instead of the recipe's short form (hours on a CPU)."""
    seeds: Count = 1
    """How many seeds, from --seed on: each in a folder of its own in --out, and one table of all."""
    jobs: Count = 3
    """Rows that are worked on at the same time, each in a process of its own with its share of the cores."""

    def run(self) -> None:
        chosen = self.changed()
        out = Path("runs") / chosen.name if self.out is None else self.out
        options: dict[str, Any] = {
            "recipe": chosen, "out": out, "device": str(available(self.device)), "jobs": self.jobs, "full": self.full,
        }  # fmt: skip
        job = Reproduction(**options) if self.seeds == 1 else Repeated(seeds=self.seeds, **options)
        with bars() as report:
            table = job.run(report)
        inside = "results.json, models/, figures/" if self.seeds == 1 else "a folder a seed"
        print(f"{table}\n{printable(str(out))}: table.md, report.html, {inside}")
