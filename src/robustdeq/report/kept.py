"""The model and the images of an evaluation, found again and verified: nothing is shown that is not what was judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_images
from ..data import load
from ..data.sources import OPTIONS
from ..defences import METHODS
from ..evaluation.identity import Described, Identity, on_record, same_logits
from ..files import first_line, read_json
from ..models import load_model
from ..models.modes import evaluating
from ..models.structure import structure
from ..options import make
from .runs import Assessed, Run


class Missing(ValueError):
    """What a report cannot show, and what to do so that it can."""


class Kept:
    """Models and image sets by where they lie, each read once. models: folders, hub ids, or models; data: sources of
    ``data.load``, that the user named; plans: config.json or recipe.json of the runs, which name a source too."""

    def __init__(
        self, models: Iterable[str | Path | nn.Module], data: str | None, plans: Iterable[Mapping[str, Any]]
    ) -> None:
        self.models, self.data, self.plans = [*models], data, [*plans]
        self._models: dict[str, nn.Module | None] = {}  # None: cannot be read
        self._sets: dict[str, Any] = {}  # an ImageSet, or why it cannot be read

    @classmethod
    def beside(cls, runs: Iterable[Run], models: Iterable[str | Path | nn.Module], data: str | None) -> Kept:
        """What the user named, which must be readable, and what the trainings among the runs made and came from."""
        models, trained = [*models], [training for run in runs for training in run.trainings]
        kept = cls([*models, *(one.folder / "model" for one in trained)], data, [one.plan for one in trained])
        kept._models = {str(place): load_model(place) for place in models if not isinstance(place, nn.Module)}
        if data is not None:
            kept._sets[_key(data, {})] = load(data).test
        return kept

    def images(self, assessed: Assessed) -> tuple[Any, str]:
        """The test images that were judged, an ``ImageSet``, and their source; a Missing where no source holds them."""
        identity, tried = assessed.evaluation.record.identity, []
        for source, options in self._sources(assessed):
            if (key := _key(source, options)) not in self._sets:
                try:
                    self._sets[key] = load(source, **options).test
                except (ValueError, TypeError, OSError) as error:
                    self._sets[key] = first_line(error)
            images = self._sets[key]
            if isinstance(images, str):
                tried.append(images)
            elif len(images) >= identity.points:
                taken = images.take(slice(identity.points))
                if taken.digest() == identity.images:
                    return taken, source
                tried.append(f"those of {source} are others")
        why = "; ".join(dict.fromkeys(tried)) or "no source known"
        todo = "give --data with the source they were taken from"
        raise Missing(f"the images that were judged were not found ({why}); {todo}.")

    def _sources(self, assessed: Assessed) -> Iterator[tuple[str, dict[str, Any]]]:
        """Any that the user named, and those of the plans that need no network: of all trainings, and of the runs that
        the model may come from."""
        plans = [*self.plans]
        for place in dict.fromkeys(folder for near in assessed.near for folder in (near, near.parent)):
            if (file := place / "config.json").exists():
                with suppress(ValueError):
                    plans.append(read_json(file, ""))
        for plan in plans:
            source = plan.get("data") if isinstance(plan, dict) else None
            if isinstance(source, str) and (source in ("digits", self.data) or Path(source).is_dir()):
                options = {name: plan[name] for name in OPTIONS if plan.get(name) is not None}
                yield source, {**options, "seed": plan.get("data_seed", 0)}
        if self.data is not None:
            yield self.data, {}
        if "digits" in assessed.evaluation.record.samples:
            yield "digits", {}

    def model(self, assessed: Assessed, x: Tensor) -> tuple[nn.Module, str]:
        """The deployed model, with its defence, and where it lay, if anywhere; a Missing where none gives the logits of
        the record.

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
                return _defended(bare, identity.defence), "" if isinstance(place, nn.Module) else str(place)
        others = f"; {tried} others were" if tried else ""
        raise Missing(f"the model that was judged was not found{others}; give --model with its folder.")

    def _load(self, place: str | Path | nn.Module) -> nn.Module | None:
        if isinstance(place, nn.Module):
            return structure(place, opaque=True).bare
        if isinstance(place, Path) and not (place / "model.safetensors").exists():
            return None
        if (key := str(place)) not in self._models:
            self._models[key] = None
            with suppress(ValueError, OSError):
                self._models[key] = load_model(place)
        return self._models[key]


def _key(source: str, options: Mapping[str, Any]) -> str:
    return repr((source, sorted(options.items())))


@torch.no_grad()
def _same(model: nn.Module, x: Tensor, identity: Identity) -> bool:
    """Whether the model's logits are those on record, but for the rounding of another machine."""
    try:
        check_images(x, getattr(model, "image_shape", None))
        with evaluating(model):
            return same_logits(on_record(model(x)), identity.logits)
    except (ValueError, RuntimeError):
        return False


def _defended(bare: nn.Module, defence: Described | None) -> nn.Module:
    if defence is None:
        return bare
    if defence.name not in METHODS:
        raise Missing(f"its defence, {defence.name}, is put on in Python only.")
    return make(METHODS[defence.name], defence.settings)(bare)
