"""The verbs of the command line: one dataclass each, whose fields are its flags and whose docstring is its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from safetensors.torch import save
from tyro.conf import Positional, arg

from .attacks import LOSSES, PGD, Linf, Threat, ThroughGradient
from .checks import check_count
from .data import load
from .defences import EntropyReduction
from .distributed import available, launched
from .dynamics import SOLVERS
from .evaluation import SUITES, Entry, Evaluation, evaluate, readouts
from .files import write_bytes, write_json, write_text
from .gradients import GRADIENTS
from .models import load_model, load_official, save_model, structure
from .options import check_options, parsed, settings
from .progress import bar, bars
from .recipe import Recipe, clean, train
from .recipes import RECIPES, recipe
from .reproduction import Reproduction
from .training import CHECKPOINT, OBJECTIVES, STATE_SAMPLERS, TrainConfig, summary

Device = Literal["cpu", "cuda"]
BUDGETS = ("steps", "step_size", "points", "iterations", "queries", "attacks", "states", "restarts")
"""What a user may set of a suite; a suite refuses those it does not have."""
IMAGES = ("image_size", "streaming", "image_column", "label_column")


@dataclass(kw_only=True)
class _OfRecipe:
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
    solver: Annotated[str | None, arg(help=f"{SOLVERS}, or in JSON with options; default: the recipe's.")] = None
    clean: bool = False
    """Train without attacks."""
    wandb: bool = False
    """Log to Weights & Biases too, where it is installed."""
    resume: bool = False
    """Insist on going on: an --out without a checkpoint is an error. (By default one is used if it is there.)"""

    def run(self) -> None:
        flags = ("objective", "states", "gradient", "attack_gradient")
        chosen = self.changed(**{name: parsed(getattr(self, name)) for name in flags})
        if self.solver is not None:
            if any("solver" in word for word in self.set if word.startswith("model_options=")):
                raise ValueError("--solver and --set model_options= with a solver; allowed: one of them.")
            chosen = chosen.changed({"model_options": {"solver": parsed(self.solver)}})
        chosen = chosen.changed({"phases": clean(chosen.training).phases}) if self.clean else chosen
        if self.resume and not (self.out / CHECKPOINT).exists():
            raise ValueError(f"--resume, but {self.out} holds no {CHECKPOINT}; allowed: the folder of a run.")
        folder = self.out / "model"
        with launched(self.device) as distributed, bar("training", distributed.main) as progress:
            history = train(chosen, self.out, folder, distributed=distributed, progress=progress, wandb=self.wandb)
        if distributed.main:
            print(f"{folder}\n{summary(history)}")


@dataclass(kw_only=True)
class _OnModel:
    """Options of the verbs that look at a saved model."""

    model: Positional[str]
    """A folder that save_model or `robustdeq train` wrote, or a hub id."""
    out: Path
    """Folder for what is found."""
    data: str = "digits"
    """Source whose test split is used: digits, a folder of parquet files or images, or a name on the hub."""
    eps: float | None = None
    """Radius of the L-inf ball, pixels in [0, 1]; default 0.15 for digits, 8/255 for others."""
    image_size: int | None = None
    """Bring images to this many pixels a side; default as stored."""
    image_column: str | None = None
    """Which column holds the images, where the set does not say so."""
    label_column: str | None = None
    """Which column holds the labels, such as coarse_label of CIFAR-100."""
    streaming: bool = False
    """Read images from disk batch by batch instead of holding the set in memory."""
    subset: int | None = None
    """Take only the first so many test images (they are in random order, unless streamed)."""
    batch_size: int = 100
    seed: int = 0
    device: Device = "cpu"

    def load(self, device: torch.device, *names: str) -> tuple[torch.nn.Module, Threat, list[Any]]:
        """The model on the device, the threat, and of the splits named the first ``subset`` images each."""
        options: dict[str, Any] = {name: getattr(self, name) for name in IMAGES}
        splits = load(self.data, **options)
        if self.subset is not None and not 1 <= self.subset <= len(splits.test):
            raise ValueError(f"--subset {self.subset}; allowed: 1..{len(splits.test)}.")
        eps = (0.15 if self.data == "digits" else 8 / 255) if self.eps is None else self.eps
        sets = [getattr(splits, name) for name in names]
        if self.subset is not None:  # a streamed set is not taken into memory as a whole
            sets = [images.take(slice(self.subset)) for images in sets]
        return load_model(self.model).to(device), Linf(eps), [images.to(device) for images in sets]


@dataclass(kw_only=True)
class Evaluate(_OnModel):
    """Attack a model and count what stands; print a table with exact 95% intervals, and red flags.

    For example:
      robustdeq evaluate runs/mine/model --suite quick --out runs/mine/quick
      robustdeq evaluate runs/mine/model --suite paper --set 'states=["Munroll-7-5", 4]' --out runs/mine/paper
      robustdeq evaluate runs/mine/model --suite standard --subset 100 --out runs/mine/standard
      robustdeq evaluate runs/mine/model --defend --suite adaptive --set iterations=20 queries=500 --out runs/all
      robustdeq evaluate runs/mine/model --states --out runs/mine/states
      torchrun --nproc-per-node 2 -m robustdeq evaluate runs/mine/model --device cuda --out runs/mine/quick

    Given again, by any number of processes, the same command goes on from the last batch.
    """

    suite: Annotated[str, arg(help=
        f"{' | '.join(SUITES)}. quick: PGD-20 with two gradients; paper: through intermediate states; standard: quick "
        "and AutoAttack; adaptive: everything, a defended model under four threat settings"
    )] = "quick"  # fmt: skip
    set: tuple[str, ...] = ()
    """Options of the suite as NAME=VALUE: steps, step_size, points, iterations, queries, attacks, states, restarts."""
    checks: int = 50
    """Look for red flags on the first so many samples; 0 for none."""
    images: bool = False
    """Keep the adversarial images, a file for each batch, in out/images."""
    defend: bool = False
    """Put input entropy reduction on the model, with the ball of --eps."""
    beside: Path | None = None
    """With --defend: the folder of an evaluation of the bare model, whose All is printed too."""
    states: bool = False
    """Instead of a suite: every z^[t], the ensemble, and the early state chosen on held-out images."""

    def run(self) -> None:
        options = settings(self.set)
        check_options("evaluate --set", options, ("steps", "step_size") if self.states else BUDGETS)
        if self.states and (self.defend or self.images or self.suite != "quick"):
            raise ValueError("evaluate --states with --defend, --images or --suite; allowed: --states alone.")
        if self.beside is not None and not self.defend:
            raise ValueError("evaluate --beside without --defend; allowed: both.")
        beside = Evaluation.read(self.beside) if self.beside is not None else None
        name = "states" if self.states else self.suite
        with launched(self.device) as distributed, bar(name, distributed.main) as progress:
            options |= {"distributed": distributed, "progress": progress}
            table = self._readouts(options) if self.states else self._evaluation(options, beside).table(beside)
        if distributed.main:
            write_text(self.out / "table.md", table + "\n")
            print(table)

    def _evaluation(self, options: dict[str, Any], beside: Evaluation | None) -> Evaluation:
        model, threat, (test,) = self.load(options["distributed"].device, "test")
        if self.defend:
            model = EntropyReduction(eps=threat.eps, step_size=threat.eps / 4)(model)
        return evaluate(
            model, test, suite=self.suite, threat=threat, batch_size=self.batch_size, seed=self.seed, out=self.out,
            images=self.images, checks=self.checks, samples=f"the first {len(test)} test images of {test.source}",
            beside=beside, **options,
        )  # fmt: skip

    def _readouts(self, options: dict[str, Any]) -> str:
        model, threat, (test, held_out) = self.load(options["distributed"].device, "test", "validation")
        accuracies = readouts(
            model, test, held_out, threat=threat, batch_size=self.batch_size, seed=self.seed, out=self.out,
            samples=f"the first {len(test)} test images of {test.source}", **options,
        )  # fmt: skip
        if options["distributed"].main:
            write_json(self.out / "readouts.json", accuracies.to_dict())
        return accuracies.table()


@dataclass(kw_only=True)
class Attack(_OnModel):
    """Make adversarial images with PGD and save them (images.safetensors: images, adversarial, labels, robust).

    For example:
      robustdeq attack runs/mine/model --out runs/mine/attacked
      robustdeq attack runs/mine/model --steps 50 --loss dlr --gradient phantom --subset 100 --out runs/mine/attacked

    That file is made in memory: give --subset for a large set. out/images holds the same, a batch a file.
    """

    steps: int = 20
    step_size: float | None = None
    """In pixels of [0, 1]; default a quarter of eps."""
    restarts: int = 1
    loss: Annotated[str, arg(help=" | ".join(LOSSES))] = "ce"
    gradient: Annotated[str, arg(help=str(GRADIENTS))] = "unrolled"

    def run(self) -> None:
        model, threat, (test,) = self.load(available(self.device), "test")
        size = threat.eps / 4 if self.step_size is None else self.step_size
        attack = PGD(threat, size, self.steps, restarts=self.restarts, seed=self.seed, loss=self.loss)
        entry = Entry(f"pgd-{self.steps}", "PGD", attack, self._seen)
        with bar("attack") as progress:
            evaluation = evaluate(
                model, test, suite=[entry], threat=threat, batch_size=self.batch_size, seed=self.seed,
                out=self.out, images=True, checks=0, progress=progress,
                samples=f"the first {len(test)} test images of {test.source}",
            )  # fmt: skip
        file, whole = self.out / "images.safetensors", test.take(slice(None))
        tensors = {"images": whole.images(), "labels": whole.labels, "robust": evaluation.robust[entry.name]}
        tensors["adversarial"] = evaluation.images[entry.name][:]
        write_bytes(file, save({key: value.cpu().contiguous() for key, value in tensors.items()}))
        print(f"{evaluation.table()}\n{file}")

    def _seen(self, model: torch.nn.Module) -> torch.nn.Module:
        if not structure(model).states and self.gradient != "unrolled":
            raise ValueError(f"--gradient {self.gradient} of a {type(model).__name__}; allowed: of a DEQ.")
        return ThroughGradient(model, self.gradient) if structure(model).states else model


@dataclass(kw_only=True)
class Reproduce(_OfRecipe):
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
        options = {"device": str(available(self.device)), "jobs": self.jobs, "full": self.full}
        with bars() as report:
            table = Reproduction(recipe=chosen, out=out, **options).run(report)
        print(f"{table}\n{out}: table.md, results.json, models/, figures/")


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
        save_model(model := load_official(self.file), self.out)
        print(f"{self.out}: {sum(p.numel() for p in model.parameters()):,} parameters")
