"""The verbs that look at a saved model: evaluate and attack."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import save
from tyro.conf import Positional, arg

from ..attacks import LOSSES, PGD, Linf, Threat, ThroughGradient
from ..data import load
from ..defences import EntropyReduction
from ..distributed import Distributed, launched
from ..evaluation import SUITES, Entry, Evaluation, evaluate, readouts
from ..files import write_bytes, write_json, write_text
from ..gradients import GRADIENTS
from ..models import load_model, structure
from ..options import check_options, settings
from ..progress import bar
from .device import Device, checked_device

BUDGETS = ("steps", "step_size", "points", "iterations", "queries", "attacks", "states", "restarts")
"""What a user may set of a suite; a suite refuses those it does not have."""


@dataclass(kw_only=True)
class OnModel:
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
        splits = load(
            self.data, image_size=self.image_size, streaming=self.streaming, image_column=self.image_column,
            label_column=self.label_column,
        )  # fmt: skip
        total = len(splits.test)
        if self.subset is not None and not 1 <= self.subset <= total:
            raise ValueError(f"--subset {self.subset}; allowed: 1..{total}.")
        threat = Linf((0.15 if self.data == "digits" else 8 / 255) if self.eps is None else self.eps)
        return load_model(self.model).to(device), threat, [self._first(getattr(splits, n), device) for n in names]

    def _first(self, images: Any, device: torch.device) -> Any:
        few = self.subset is not None and self.subset < len(images)
        return (images.take(slice(self.subset)) if few else images).to(device)


@dataclass(kw_only=True)
class Evaluate(OnModel):
    """Attack a model and count what stands; print a table with exact 95% intervals, and red flags.

    For example:
      robustdeq evaluate runs/mine/model --suite quick --out runs/mine/quick
      robustdeq evaluate runs/mine/model --suite paper --set 'states=["Munroll-7-5", 4]' --out runs/mine/paper
      robustdeq evaluate runs/mine/model --suite standard --subset 100 --out runs/mine/standard
      robustdeq evaluate runs/mine/model --defend --suite adaptive --set iterations=20 queries=500 --out runs/all
      robustdeq evaluate runs/mine/model --states --out runs/mine/states
      torchrun --nproc-per-node 2 -m robustdeq evaluate runs/mine/model --device cuda --out runs/mine/quick

    An interrupted evaluation goes on from its last batch when the same command is given again, by any number of
    processes.
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
        if self.beside is not None:
            if not self.defend:
                raise ValueError("evaluate --beside without --defend; allowed: both.")
            Evaluation.read(self.beside)
        checked_device(self.device)
        work, name = (self._readouts, "states") if self.states else (self._evaluation, self.suite)
        with launched(self.device) as distributed:
            with bar(name) if distributed.main else nullcontext() as progress:
                table = work(distributed, options, progress)
            if distributed.main:
                write_text(self.out / "table.md", table + "\n")
                print(table)

    def _evaluation(self, distributed: Distributed, options: dict[str, Any], progress: Any) -> str:
        model, threat, (test,) = self.load(distributed.device, "test")
        if self.defend:
            model = EntropyReduction(eps=threat.eps, step_size=threat.eps / 4)(model)
        evaluation = evaluate(
            model, test, suite=self.suite, threat=threat, batch_size=self.batch_size, seed=self.seed, out=self.out,
            images=self.images, checks=self.checks, samples=_samples(test), distributed=distributed, progress=progress,
            **options,
        )  # fmt: skip
        return evaluation.table(None if self.beside is None else Evaluation.read(self.beside))

    def _readouts(self, distributed: Distributed, options: dict[str, Any], progress: Any) -> str:
        model, threat, (test, held_out) = self.load(distributed.device, "test", "validation")
        accuracies = readouts(
            model, test, held_out, threat=threat, batch_size=self.batch_size, seed=self.seed, out=self.out,
            samples=_samples(test), distributed=distributed, progress=progress, **options,
        )  # fmt: skip
        if distributed.main:
            write_json(self.out / "readouts.json", accuracies.to_dict())
        return accuracies.table()


def _samples(test: Any) -> str:
    return f"the first {len(test)} test images of {test.source}"


@dataclass(kw_only=True)
class Attack(OnModel):
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
    loss: Annotated[str, arg(help=" | ".join(LOSSES))] = "ce"
    gradient: Annotated[str, arg(help=str(GRADIENTS))] = "unrolled"

    def run(self) -> None:
        model, threat, (test,) = self.load(checked_device(self.device), "test")
        size = threat.eps / 4 if self.step_size is None else self.step_size
        attack = PGD(threat, size, self.steps, restarts=self.restarts, seed=self.seed, loss=self.loss)
        entry = Entry(f"pgd-{self.steps}", "PGD", attack, self._view)
        with bar("attack") as progress:
            evaluation = evaluate(
                model, test, suite=[entry], threat=threat, batch_size=self.batch_size, seed=self.seed,
                out=self.out, images=True, checks=0, progress=progress,
            )  # fmt: skip
        file = self.out / "images.safetensors"
        whole = test.take(slice(None))
        tensors = {"images": whole.images(), "adversarial": evaluation.images[entry.name][:], "labels": whole.labels,
                   "robust": evaluation.robust[entry.name]}  # fmt: skip
        write_bytes(file, save({key: value.cpu().contiguous() for key, value in tensors.items()}))
        print(evaluation.table())
        print(file)

    def _view(self, model: torch.nn.Module) -> torch.nn.Module:
        if structure(model).states:
            return ThroughGradient(model, self.gradient)
        if self.gradient != "unrolled":
            raise ValueError(f"--gradient {self.gradient} of a {type(model).__name__}; allowed: of a DEQ.")
        return model
