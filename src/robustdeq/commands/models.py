"""The verbs that look at a model: evaluate, attack, convert."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import Positional, arg

from ..attacks import LOSSES, PGD, Linf, Threat, ThroughGradient
from ..checks import Count, Distance, Natural, PositiveDistance, Seed
from ..data import load
from ..defences import EntropyReduction
from ..distributed import available, launched
from ..evaluation import SUITES, Entry, Evaluation, evaluate, readouts
from ..files import held, tidy, write_json, write_tensors, write_text
from ..gradients import GRADIENTS
from ..models import load_model, load_official, save_model, structure
from ..options import check_options, settings
from ..progress import bar
from ..text import printable
from .shared import Command

BUDGETS = ("steps", "step_size", "points", "iterations", "queries", "attacks", "states", "restarts")
"""What a user may set of a suite; a suite refuses those it does not have."""
IMAGES = ("image_size", "streaming", "image_column", "label_column")


@dataclass(kw_only=True)
class OnModel(Command):
    """Options of the verbs that look at a saved model and at test images."""

    model: Positional[str]
    """A folder that save_model or `robustdeq train` wrote, or a hub id."""
    out: Path
    """Folder for what is found."""
    data: str = "digits"
    """Source whose test split is used: digits, a folder of parquet files or images, or a name on the hub."""
    image_size: Count | None = None
    """Bring images to this many pixels a side; default as stored."""
    image_column: str | None = None
    """Which column holds the images, where the set does not say so."""
    label_column: str | None = None
    """Which column holds the labels, such as coarse_label of CIFAR-100."""
    streaming: bool = False
    """Read images from disk batch by batch instead of holding the set in memory."""
    subset: Count | None = None
    """Take only the first so many test images (they are in random order, unless streamed)."""
    batch_size: Count = 100
    seed: Seed = 0

    def model_and_sets(self, device: torch.device, *names: str) -> tuple[torch.nn.Module, list[Any]]:
        """The model on the device, and of the splits named the first ``subset`` images each."""
        options: dict[str, Any] = {name: getattr(self, name) for name in IMAGES}
        splits = load(self.data, **options)
        if self.subset is not None and self.subset > len(splits.test):
            raise ValueError(f"--subset {self.subset}; allowed: 1..{len(splits.test)}.")
        sets = [getattr(splits, name) for name in names]
        if self.subset is not None:  # a streamed set is not taken into memory as a whole
            sets = [images.take(slice(self.subset)) for images in sets]
        return load_model(self.model).to(device), [images.to(device) for images in sets]


@dataclass(kw_only=True)
class _OnModel(OnModel):
    """And a ball."""

    eps: PositiveDistance | None = None
    """Radius of the L-inf ball, pixels in [0, 1], a number or a fraction; default 0.15 for digits, 8/255 for others."""

    def load(self, device: torch.device, *names: str) -> tuple[torch.nn.Module, Threat, list[Any]]:
        """The model on the device, the threat, and of the splits named the first ``subset`` images each."""
        model, sets = self.model_and_sets(device, *names)
        eps = (0.15 if self.data == "digits" else 8 / 255) if self.eps is None else self.eps
        return model, Linf(eps), sets


@dataclass(kw_only=True)
class Evaluate(_OnModel):
    """Attack a model and count what stands; print a table with exact 95% intervals, and red flags.

    For example:
      robustdeq evaluate runs/mine/model --suite quick --out runs/mine/quick
      robustdeq evaluate runs/mine/model --suite paper --set 'states=["Munroll-7-5", 4]' --out runs/mine/paper
      robustdeq evaluate runs/mine/model --suite standard --subset 100 --out runs/mine/standard
      robustdeq evaluate runs/mine/model --defend --suite adaptive --set iterations=20 queries=500 --out runs/all
      robustdeq evaluate runs/mine/model --surrogate runs/b/model --surrogate runs/c/model --out runs/mine/transferred
      robustdeq evaluate runs/mine/model --images --out runs/bare
      robustdeq evaluate runs/mine/model --defend --beside runs/bare --images --out runs/defended
      robustdeq evaluate runs/mine/model --beside runs/defended --out runs/bare-again
      robustdeq evaluate runs/mine/model --states --out runs/mine/states
      torchrun --nproc-per-node 2 -m robustdeq evaluate runs/mine/model --device cuda --out runs/mine/quick

    Given again, by any number of processes, the same command goes on from the last batch.
    """

    suite: Annotated[str, arg(help=
        f"{' | '.join(SUITES)}. quick: PGD-20 with two gradients and two losses; paper: through intermediate states; "
        "standard: quick and AutoAttack; adaptive: everything, a defended model under four threat settings"
    )] = "quick"  # fmt: skip
    set: tuple[str, ...] = ()
    """Options of the suite as NAME=VALUE: steps, step_size, points, iterations, queries, attacks, states, restarts."""
    checks: Natural = 50
    """Look for red flags on the first so many samples; 0 for none."""
    images: bool = False
    """Keep the adversarial images, a file for each batch, in out/images."""
    defend: bool = False
    """Put input entropy reduction on the model, with the ball of --eps."""
    beside: Path | None = None
    """With --defend: the folder of an evaluation of the bare model, without it of the defended one. Its All is printed
    too, and the images that it kept (--images) are tried on this one."""
    surrogate: tuple[str, ...] = ()
    """A model trained independently, as MODEL is given: images made against it are tried on this one, in a column of
    their own. May be given several times."""
    states: bool = False
    """Instead of a suite: every z^[t], the ensemble, and the early state chosen on held-out images."""

    def run(self) -> None:
        options = settings(self.set)
        check_options("evaluate --set", options, ("steps", "step_size") if self.states else BUDGETS)
        others = self.defend, self.images, self.suite != "quick", self.beside is not None, self.surrogate
        if self.states and any(others):
            given = "--defend, --images, --suite, --beside or --surrogate"
            raise ValueError(f"evaluate --states with {given}; allowed: --states alone.")
        beside = Evaluation.read(self.beside) if self.beside is not None else None
        if beside is not None and not self.defend and beside.record.identity.defence is None:
            raise ValueError("evaluate --beside of a bare model without --defend; allowed: both, or a defended one's.")
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
        if self.surrogate:
            device = options["distributed"].device
            options = {**options, "surrogates": [load_model(path).to(device) for path in self.surrogate]}
        return evaluate(
            model, test, suite=self.suite, threat=threat, batch_size=self.batch_size, seed=self.seed, out=self.out,
            images=self.images, checks=self.checks, samples=f"the first {len(test)} test images of {test.source}",
            beside=beside, **options,
        )  # fmt: skip

    def _readouts(self, options: dict[str, Any]) -> str:
        if options["progress"] is not None:  # dozens of short evaluations would each tell what they cost
            options = {**options, "progress": options["progress"].__call__}
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

    steps: Count = 20
    step_size: Distance | None = None
    """In pixels of [0, 1]; default a quarter of eps."""
    restarts: Count = 1
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
        write_tensors(file, tensors)
        print(f"{evaluation.table()}\n{printable(str(file))}")

    def _seen(self, model: torch.nn.Module) -> torch.nn.Module:
        if not structure(model).states and self.gradient != "unrolled":
            raise ValueError(f"--gradient {self.gradient} of a {type(model).__name__}; allowed: of a DEQ.")
        return ThroughGradient(model, self.gradient) if structure(model).states else model


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
        with held(self.out):
            tidy(self.out)
            save_model(model, self.out)
        print(f"{printable(str(self.out))}: {sum(p.numel() for p in model.parameters()):,} parameters")
