"""The verbs of the command line: one dataclass each, whose fields are its flags and whose docstring is its help."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from safetensors.torch import save

from .attacks import PGD, Linf, Threat, ThroughGradient
from .data import load
from .dynamics.solver import check_count
from .evaluation import Entry, Evaluation, evaluate, readouts
from .files import claim, write_bytes, write_json, write_text
from .models import DEQClassifier, create_model, load_model, load_official, save_model
from .options import check_options, settings
from .processes import Processes, launched
from .progress import bar, bars
from .recipes import Recipe, clean, recipe
from .regulation import EntropyReduction
from .reproduction import Settings, reproduce
from .training import CHECKPOINT, Trainer, summary

Device = Literal["cpu", "cuda"]
BUDGETS = ("steps", "step_size", "points", "iterations", "queries", "attacks", "states", "restarts")
"""What a user may set of a suite; a suite refuses those it does not have."""


@dataclass(kw_only=True)
class Train:
    """Train one model of a recipe and save it.

    For example:
      robustdeq train digits --out runs/mine
      robustdeq train digits --states random --objective trades --out runs/trades
      robustdeq train cifar10-small --data path/to/cifar10 --out runs/small
      robustdeq train cifar10-small --set learning_rate=2e-3 ema=0.995 'jacobian={"weight": 1}' --out runs/other
      robustdeq train runs/mine/config.json --out runs/again
      torchrun --nproc-per-node 8 -m robustdeq train cifar10-large-fast --device cuda --out runs/large

    A killed run goes on from its last checkpoint when the same command is given again.
    """

    recipe: tyro.conf.Positional[str]
    """digits | smoke | cifar10-small | cifar10-large | cifar10-large-fast | cifar100-large | imagenet-64, or a run's
    config.json"""
    out: Path
    """Folder for config.json, checkpoints, log and the model (out/model; the best on held-out images, if judged)."""
    data: str | None = None
    """digits, a folder of parquet files or images, or a name on the Hugging Face hub; default: the recipe's."""
    objective: str | None = None
    """pgd-at | trades"""
    states: str | None = None
    """Which z^[t] the loss looks at: final | random"""
    gradient: str | None = None
    """Of the update: unrolled | phantom | implicit | simultaneous"""
    attack_gradient: str | None = None
    """Of the attack in training; the same choices."""
    solver: str | None = None
    """picard | anderson | broyden | reversible; default: the recipe's."""
    clean: bool = False
    """Train without attacks."""
    set: tuple[str, ...] = ()
    """Any field of the training config as NAME=VALUE, the value in JSON or a plain word; also model, model_options,
    validation, data_seed, image_size and streaming."""
    wandb: bool = False
    """Log to Weights & Biases too, where it is installed."""
    resume: bool = False
    """Insist on going on: an --out without a checkpoint is an error. (By default one is used if it is there.)"""
    seed: int | None = None
    device: Device = "cpu"

    def run(self) -> None:
        chosen = self._resolved()
        _device(self.device)
        if self.resume and not (self.out / CHECKPOINT).exists():
            raise ValueError(f"--resume, but {self.out} holds no {CHECKPOINT}; allowed: the folder of a run.")
        with launched(self.device) as processes:
            self._train(chosen, processes)

    def _train(self, chosen: Recipe, processes: Processes) -> None:
        data = chosen.load()
        model = create_model(
            chosen.model, len(data.train.classes), seed=chosen.training.seed, **chosen.model_options
        ).to(processes.device)
        trainer = Trainer(
            model, data.train.to(processes.device), chosen.training, self.out, data.validation.to(processes.device),
            wandb=self.wandb, processes=processes,
        )  # fmt: skip
        processes.first_only(lambda: claim(self.out / "config.json", chosen.plan()))
        with bar("training") if processes.first else nullcontext() as progress:
            model = trainer.run(progress)
        if processes.first:
            save_model(load_model(trainer.best) if trainer.best.exists() else model, self.out / "model")
            print(f"{self.out / 'model'}\n{summary(trainer.history)}")

    def _resolved(self) -> Recipe:
        chosen = recipe(self.recipe)
        if self.clean:
            chosen = replace(chosen, training=clean(chosen.training))
        names = ("objective", "states", "gradient", "attack_gradient", "seed")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.data is not None:
            given["data"] = self.data
        chosen = chosen.changed({**settings(self.set), **given})
        return chosen if self.solver is None else chosen.changed({"model_options": {"solver": self.solver}})


@dataclass(kw_only=True)
class _OnModel:
    """Options of the verbs that look at a saved model."""

    model: tyro.conf.Positional[str]
    """A folder that save_model or `robustdeq train` wrote, or a hub id."""
    out: Path
    """Folder for what is found."""
    data: str = "digits"
    """Source whose test split is used: digits, a folder of parquet files or images, or a name on the hub."""
    eps: float | None = None
    """Radius of the L-inf ball, pixels in [0, 1]; default 0.15 for digits, 8/255 for others."""
    image_size: int | None = None
    """Bring images to this many pixels a side; default as stored."""
    streaming: bool = False
    """Read images from disk batch by batch instead of holding the set in memory."""
    subset: int | None = None
    """Take only the first so many test images (they are in random order, unless streamed)."""
    batch_size: int = 100
    seed: int = 0
    device: Device = "cpu"

    def load(self, device: torch.device, *names: str) -> tuple[torch.nn.Module, Threat, list[Any]]:
        """The model on the device, the threat, and of the splits named the first ``subset`` images each."""
        splits = load(self.data, image_size=self.image_size, streaming=self.streaming)
        total = len(splits.test)
        if self.subset is not None and not 1 <= self.subset <= total:
            raise ValueError(f"--subset {self.subset}; allowed: 1..{total}.")
        threat = Linf((0.15 if self.data == "digits" else 8 / 255) if self.eps is None else self.eps)
        return load_model(self.model).to(device), threat, [self._part(getattr(splits, n), device) for n in names]

    def _part(self, images: Any, device: torch.device) -> Any:
        few = self.subset is not None and self.subset < len(images)
        return (images.take(slice(self.subset)) if few else images).to(device)


@dataclass(kw_only=True)
class Evaluate(_OnModel):
    """Attack a model and count what stands; print a table with exact 95% intervals, and red flags.

    For example:
      robustdeq evaluate runs/mine/model --suite quick --out runs/mine/quick
      robustdeq evaluate runs/mine/model --suite paper --set 'states=["Munroll-7-5", 4]' --out runs/mine/paper
      robustdeq evaluate runs/mine/model --suite standard --subset 100 --out runs/mine/standard
      robustdeq evaluate runs/mine/model --defend --suite adaptive --set iterations=20 queries=500 --out runs/mine/all
      robustdeq evaluate runs/mine/model --states --out runs/mine/states
      torchrun --nproc-per-node 2 -m robustdeq evaluate runs/mine/model --device cuda --out runs/mine/quick

    An interrupted evaluation goes on from its last batch when the same command is given again, by any number of
    processes.
    """

    suite: str = "quick"
    """quick (PGD-20 with two gradients) | paper (through intermediate states) | standard (quick and AutoAttack) |
    adaptive (everything; a defended model under four threat settings)"""
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
        if self.beside is not None:
            if not self.defend:
                raise ValueError("evaluate --beside without --defend; allowed: both.")
            Evaluation.read(self.beside)
        _device(self.device)
        with launched(self.device) as processes:
            work = self._readouts if self.states else self._evaluation
            with bar("states" if self.states else self.suite) if processes.first else nullcontext() as progress:
                table = work(processes, options, progress)
            if processes.first:
                write_text(self.out / "table.md", table + "\n")
                print(table)

    def _evaluation(self, processes: Processes, options: dict[str, Any], progress: Any) -> str:
        model, threat, (test,) = self.load(processes.device, "test")
        if self.defend:
            model = EntropyReduction(eps=threat.eps, step_size=threat.eps / 4)(model)
        found = evaluate(
            model, test, suite=self.suite, threat=threat, batch_size=self.batch_size, seed=self.seed, out=self.out,
            images=self.images, checks=self.checks, chosen=_chosen(test), processes=processes, progress=progress,
            **options,
        )  # fmt: skip
        return found.table(None if self.beside is None else Evaluation.read(self.beside))

    def _readouts(self, processes: Processes, options: dict[str, Any], progress: Any) -> str:
        model, threat, (test, held_out) = self.load(processes.device, "test", "validation")
        found = readouts(
            model, test, held_out, threat=threat, batch_size=self.batch_size, seed=self.seed, out=self.out,
            chosen=_chosen(test), processes=processes, progress=progress, **options,
        )  # fmt: skip
        if processes.first:
            write_json(self.out / "readouts.json", found.to_dict())
        return found.table()


def _chosen(test: Any) -> str:
    return f"the first {len(test)} test images of {test.source}"


@dataclass(kw_only=True)
class Attack(_OnModel):
    """Make adversarial images with PGD and save them (images.safetensors: images, adversarial, labels, robust).

    For example:
      robustdeq attack runs/mine/model --out runs/mine/attacked
      robustdeq attack runs/mine/model --steps 50 --loss dlr --gradient phantom --subset 100 --out runs/mine/attacked

    That file is made in memory, so give --subset for a large set; out/images holds the same a batch at a time.
    """

    steps: int = 20
    step_size: float | None = None
    """In pixels of [0, 1]; default a quarter of eps."""
    restarts: int = 1
    loss: str = "ce"
    """ce | kl | dlr | dlr-targeted | ce-targeted"""
    gradient: str = "unrolled"
    """unrolled | phantom | implicit | simultaneous"""

    def run(self) -> None:
        model, threat, (test,) = self.load(_device(self.device), "test")
        size = threat.eps / 4 if self.step_size is None else self.step_size
        attack = PGD(threat, size, self.steps, restarts=self.restarts, seed=self.seed, loss=self.loss)
        entry = Entry(f"pgd-{self.steps}", "PGD", attack, self._view)
        with bar("attack") as progress:
            found = evaluate(
                model, test, suite=[entry], threat=threat, batch_size=self.batch_size, seed=self.seed,
                out=self.out, images=True, checks=0, progress=progress,
            )  # fmt: skip
        file = self.out / "images.safetensors"
        whole = test.take(slice(None))
        tensors = {"images": whole.images(), "adversarial": found.images[entry.name][:], "labels": whole.labels,
                   "robust": found.robust[entry.name]}  # fmt: skip
        write_bytes(file, save({key: value.cpu().contiguous() for key, value in tensors.items()}))
        print(found.table())
        print(file)

    def _view(self, model: torch.nn.Module) -> torch.nn.Module:
        if isinstance(model, DEQClassifier):
            return ThroughGradient(model, self.gradient)
        if self.gradient != "unrolled":
            raise ValueError(f"--gradient {self.gradient} of a {type(model).__name__}; allowed: of a DEQ.")
        return model


@dataclass(kw_only=True)
class Reproduce:
    """Train the rows of a recipe's table, evaluate them, and write table, results and figures.

    For example:
      robustdeq reproduce digits
      robustdeq reproduce digits --full --out runs/digits-full
      robustdeq reproduce digits --seed 1 --out runs/digits-1

    Given again, it picks up what is done.
    """

    recipe: tyro.conf.Positional[str]
    """A recipe whose data fits a CPU: digits | smoke | cifar10-small"""
    out: Path | None = None
    """Output folder; default runs/RECIPE."""
    full: bool = False
    """AutoAttack standard on every test image instead of the recipe's short form (hours on a CPU)."""
    jobs: int = 3
    """Rows that are worked on at the same time, each in a process of its own with its share of the cores."""
    seed: int = 0
    device: Device = "cpu"

    def run(self) -> None:
        check_count("reproduce", "jobs", self.jobs)
        check_count("reproduce", "seed", self.seed, 0)
        recipe(self.recipe)
        out = Path("runs") / self.recipe if self.out is None else self.out
        settings = Settings(
            recipe=self.recipe,
            out=out,
            seed=self.seed,
            device=str(_device(self.device)),
            jobs=self.jobs,
            full=self.full,
        )
        with bars() as report:
            table = reproduce(settings, report)
        print(table)
        print(f"{out}: table.md, results.json, models/, figures/")


@dataclass(kw_only=True)
class Convert:
    """Turn a checkpoint of the papers' authors into a model folder (config.json, model.safetensors).

    For example:
      robustdeq convert checkpoint.pth --out models/deq-large

    """

    file: tyro.conf.Positional[Path]
    """A checkpoint with the authors' keys; it is read without unpickling code."""
    out: Path
    """Folder to be written."""

    def run(self) -> None:
        model = load_official(self.file)
        save_model(model, self.out)
        print(f"{self.out}: {sum(p.numel() for p in model.parameters()):,} parameters")


def _device(name: str):
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but this torch sees no CUDA device; allowed here: cpu.")
    return torch.device(name)
