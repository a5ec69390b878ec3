"""What several verbs have in common."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub import constants as hub
from tyro.conf import Positional

from ..attacks import THREATS, Threat
from ..checks import Count, PositiveDistance, Seed
from ..data import load
from ..data.sources import SHORT
from ..distributed import processes
from ..evaluation.certificate import CERTIFICATE
from ..evaluation.identity import PLAN
from ..evaluation.readouts import READOUTS
from ..evaluation.record import RECORD
from ..files import read_json, write_text
from ..models import load_model
from ..models.zoo import TRAINED, check_trained, model_folder
from ..options import describe
from ..text import printable

TABLES = {
    RECORD: "an evaluation", CERTIFICATE: "a certification", READOUTS: "readouts of every state",
    PLAN: "an analysis", "recipe.json": "a reproduction", "seeds.json": "reproductions",
}  # fmt: skip
"""Files that tell whose a folder's table.md is."""


@dataclass(kw_only=True)
class Command:
    """Options of every verb that computes. shares: several processes of a launcher share its work."""

    shares: ClassVar[bool] = False

    device: Literal["cpu", "cuda"] = "cpu"
    offline: bool = False
    """Ask no hub for anything: folders, and what is in the caches already. (So does HF_HUB_OFFLINE=1.)"""

    def __post_init__(self) -> None:
        if not self.shares and (count := processes()) > 1:
            given = f"{type(self).__name__.lower()}: in {count} processes"
            raise ValueError(f"{given}; allowed: one (train, evaluate and certify share their work).")
        if self.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"  # for `datasets`, which is imported later, and for other processes
            hub.HF_HUB_OFFLINE = True

    def check_idle(self, where: str, allowed: str, *names: str) -> None:
        """A ValueError if one of these flags says something, which it does to nobody there."""
        own = type(self).__dataclass_fields__
        if idle := [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) != own[name].default]:
            given = f"{type(self).__name__.lower()} {where} with {', '.join(idle)}"
            raise ValueError(f"{given}, which has no effect there; allowed: {allowed}.")


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
    """Take only the first so many test images. (Those of the digits and of a folder of images are in random order,
    others as they are stored: if that is by class, the first ones are no fair sample.)"""
    data_seed: Seed | None = None
    """How the source is cut where it has no test or validation set; default as for the model's training, or 0."""
    batch_size: Count = 100
    seed: Seed = 0
    doubts = ()  # what a reader of the results must know of model and images; a line each, at the end

    def load(self, device: torch.device, *names: str) -> tuple[torch.nn.Module, list[Any]]:
        """The model on the device, and of the splits named the first ``subset`` images each."""
        folder = model_folder(self.model)
        plan = self._plan(folder)
        trained = plan.get("data_seed", 0 if plan else None)
        seed = (trained or 0) if self.data_seed is None else self.data_seed
        self.doubts = self._doubts(plan)
        if trained != seed and (self.data == "digits" or "validation" in names):  # which the seed cuts
            told = f"{self.model} was trained on images cut by --data-seed {trained}"
            told = told if plan else f"nothing beside {self.model} says which images it was trained on"
            self.doubts += (f"{told}; they may be among those that it is judged on, cut by --data-seed {seed}",)
        splits = load(
            self.data, seed=seed, validation=plan.get("validation"), image_size=self.image_size,
            streaming=self.streaming, image_column=self.image_column, label_column=self.label_column,
        )  # fmt: skip
        if self.subset is not None and self.subset > len(splits.test):
            raise ValueError(f"--subset {self.subset}; allowed: 1..{len(splits.test)}.")
        sets = [getattr(splits, name) for name in names]
        if self.subset is not None:  # a streamed set is not taken into memory as a whole
            sets = [images.take(slice(self.subset)) for images in sets]
        return load_model(folder).to(device), [images.to(device) for images in sets]

    def _doubts(self, plan: dict[str, Any]) -> tuple[str, ...]:
        """plan: of the run that made the model."""
        return ()

    def _plan(self, folder: Path) -> dict[str, Any]:
        """What the run that made the model says of its data, where that is these: in the model's folder, or nearby."""
        near = (folder / TRAINED, folder.parent / "config.json", folder.parent.parent / "recipe.json")
        for file in near:  # of train and reproduce, as they write it and as they wrote it
            if file.exists():
                plan = read_json(file, "remove it, or say --data-seed")
                if file.name == TRAINED:
                    check_trained(file, plan)
                if isinstance(plan, dict) and _source(plan.get("data")) == _source(self.data):
                    return plan
        return {}

    def check_place(self, own: str) -> None:
        """A ValueError if --out holds what another verb makes, whose table.md would be lost. own: this one's file."""
        for file, of in TABLES.items():
            if file != own and (self.out / file).exists():
                raise ValueError(f"{printable(str(self.out))} is the folder of {of}; give another --out.")

    def conclude(self, table: str) -> None:
        """Print the table and leave it in the folder, when everything else is there."""
        write_text(self.out / "table.md", table + "\n")
        print(table)
        for doubt in self.doubts:
            warnings.warn(printable(doubt), stacklevel=2)


@dataclass(kw_only=True)
class InBall(OnModel):
    """Options of the verbs that attack: the ball as well."""

    threat: Literal["Linf", "L2"] = "Linf"
    eps: PositiveDistance | None = None
    """Radius of the ball, in pixels of [0, 1], a number or a fraction; of Linf by default 0.15 for digits, 8/255 for
    others."""

    @property
    def ball(self) -> Threat:
        if self.threat != "Linf" and (asked := [name for name in ("defend", "sweep") if getattr(self, name, False)]):
            given = f"--{asked[0]} with --threat {self.threat}"
            raise ValueError(f"{given}; allowed: Linf, the ball of input entropy reduction.")
        if self.threat == "L2" and self.eps is None:
            raise ValueError("--threat L2 without --eps; allowed: its radius, such as --eps 0.5.")
        return THREATS[self.threat]((0.15 if self.data == "digits" else 8 / 255) if self.eps is None else self.eps)

    def _doubts(self, plan: dict[str, Any]) -> tuple[str, ...]:
        trained, ball = plan.get("threat"), describe(self.ball)
        if trained is None or trained == ball:
            return ()
        one, other = (" ".join(map(str, of.values())) for of in (trained, ball))
        return (f"the model was trained in the ball {one}, and is attacked in {other}",)


def _source(data: Any) -> Any:
    """The same for a source of images however it is written: a path to its folder, a name or the short one."""
    if not isinstance(data, str):  # as somebody wrote it into a file
        return data
    return Path(data).resolve() if Path(data).is_dir() else SHORT.get(data, data)


def samples(images: Any) -> str:
    """Of a test set, for a record: which images they are."""
    return f"the first {len(images)} test images of {images.source}"
