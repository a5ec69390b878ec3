"""The model and the images of an evaluation, found again and verified: nothing is shown that is not what was judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_images
from ..data import load
from ..defences import EntropyReduction
from ..evaluation.record import Identity
from ..files import first_line, read_json
from ..models import load_model
from ..models.modes import evaluating
from ..options import make
from .runs import Assessed, Run

OPTIONS = ("validation", "image_size", "image_column", "label_column", "streaming")
"""Of ``data.load``, as a training run wrote them down."""


class Missing(ValueError):
    """What a report cannot show, and what to do so that it can."""


class Kept:
    """Models and image sets by where they lie, each read once. models: folders or hub ids, data: sources of
    ``data.load``, that the user named; plans: config.json or recipe.json of the runs, which name a source too."""

    def __init__(self, models: Iterable[str | Path], data: str | None, plans: Iterable[Mapping[str, Any]]) -> None:
        self.models, self.data, self.plans = [*models], data, [*plans]
        self._loaded: dict[str, nn.Module | ValueError] = {}
        self._sets: dict[str, Any] = {}  # None: cannot be read

    @classmethod
    def beside(cls, runs: Iterable[Run], models: Iterable[str | Path], data: str | None) -> Kept:
        """What the user named, which must be readable, and what the trainings among the runs made and came from."""
        models, trained = [*models], [training for run in runs for training in run.trainings]
        kept = cls([*models, *(one.folder / "model" for one in trained)], data, [one.plan for one in trained])
        for place in models:
            kept._loaded[str(place)] = load_model(place)
        if data is not None:
            kept._sets[_key(data, {})] = load(data).test
        return kept

    def images(self, assessed: Assessed) -> tuple[Any, str]:
        """The test images that were judged, an ``ImageSet``, and their source; a Missing where no source holds them."""
        identity, tried = assessed.evaluation.record.identity, []
        for source, options in self._sources(assessed):
            key = _key(source, options)
            if key not in self._sets:
                try:
                    self._sets[key] = load(source, **options).test
                except (ValueError, TypeError, OSError) as error:
                    self._sets[key] = None
                    tried.append(first_line(error))
            images = self._sets[key]
            if images is not None and len(images) >= identity.points:
                taken = images.take(slice(identity.points))
                if taken.digest() == identity.images:
                    return taken, source
                tried.append(f"those of {source} are others")
        todo = "give --data with the source they were taken from"
        raise Missing(f"the images that were judged were not found ({'; '.join(tried) or 'no source known'}); {todo}.")

    def _sources(self, assessed: Assessed) -> Iterator[tuple[str, dict[str, Any]]]:
        """Any that the user named, and those of the plans that need no network."""
        for plan in [*self.plans, *_plans(assessed)]:
            source = plan.get("data")
            if isinstance(source, str) and (source in ("digits", self.data) or Path(source).is_dir()):
                options = {name: plan[name] for name in OPTIONS if plan.get(name) is not None}
                yield source, {**options, "seed": plan.get("data_seed", 0)}
        if self.data is not None:
            yield self.data, {}
        if "digits" in assessed.evaluation.record.samples:
            yield "digits", {}

    def model(self, assessed: Assessed, x: Tensor) -> tuple[nn.Module, str]:
        """The deployed model, with its defence, and where it lay; a Missing where none gives the logits of the record.

        x: the first of the images that were judged, (1, C, H, W).
        """
        identity, tried = assessed.evaluation.record.identity, 0
        if assessed.evaluation.record.opaque:
            raise Missing("the model is opaque, so its states cannot be seen.")
        if identity.readout is not None:
            raise Missing(f"its readout, {identity.readout.name}, is put together in Python only.")
        for place in [*self.models, *assessed.near]:
            bare = self._load(place)
            tried += bare is not None
            if bare is not None and _same(bare, x, identity):
                return _defended(bare, identity), str(place)
        others = f"; {tried} others were" if tried else ""
        raise Missing(f"the model that was judged was not found{others}; give --model with its folder.")

    def _load(self, place: str | Path) -> nn.Module | None:
        if isinstance(place, Path) and not (place / "model.safetensors").exists():
            return None
        if (key := str(place)) not in self._loaded:
            try:
                self._loaded[key] = load_model(place)
            except (ValueError, OSError) as error:
                self._loaded[key] = ValueError(first_line(error))
        loaded = self._loaded[key]
        return None if isinstance(loaded, ValueError) else loaded


def _key(source: str, options: Mapping[str, Any]) -> str:
    return repr((source, sorted(options.items())))


def _plans(assessed: Assessed) -> Iterator[dict[str, Any]]:
    """Of the runs that the model may come from."""
    for place in dict.fromkeys(folder for near in assessed.near for folder in (near, near.parent)):
        if (file := place / "config.json").exists():
            try:
                plan = read_json(file, "")
            except ValueError:
                continue
            if isinstance(plan, dict):
                yield plan


@torch.no_grad()
def _same(model: nn.Module, x: Tensor, identity: Identity) -> bool:
    """Whether the model's logits are those on record, but for the rounding of another machine."""
    try:
        check_images(x, getattr(model, "image_shape", None))
        with evaluating(model):
            logits = model(x)[0].double().nan_to_num(0, 0, 0)
    except (ValueError, RuntimeError):
        return False
    wanted = torch.tensor(identity.logits, dtype=torch.float64)
    scale = float(wanted.abs().max()) if len(wanted) else 0.0
    return logits.shape == wanted.shape and bool(((logits - wanted).abs() <= 1e-3 * scale).all())


def _defended(bare: nn.Module, identity: Identity) -> nn.Module:
    defence = identity.defence
    if defence is None:
        return bare
    if defence.name != "RegulatedClassifier":
        raise Missing(f"its defence, {defence.name}, is put on in Python only.")
    return make(EntropyReduction, defence.settings)(bare)
