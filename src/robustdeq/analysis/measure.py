"""All that is looked at for one model, on clean, attacked, evading and regulated images, a batch at a time.

Legend of shapes: B batch, T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..attacks import PGD, Threat
from ..checks import check_count
from ..defences import EntropyReduction
from ..evaluation.entries import exact
from ..evaluation.images import Points, batches, loaded
from ..files import read_tensors, write_tensors
from ..models import DEQClassifier
from .convergence import PathIndependence, SpectralRadius, path_independence, spectral_radius
from .detector import Evading
from .dynamics import Deviation, States, deviation, stacked, states_along

if TYPE_CHECKING:
    from pandas import DataFrame

CLEAN, ATTACKED, EVADING = "clean", "attacked", "evading"
REGULATED_CLEAN, REGULATED = "regulated clean", "regulated attacked"
BESIDE = {ATTACKED: CLEAN, EVADING: CLEAN, REGULATED: REGULATED_CLEAN}
"""Beside which images a detector sees the attacked ones."""
KINDS: dict[str, type] = {"states": States, "deviations": Deviation, "radii": SpectralRadius, "paths": PathIndependence}


@dataclass(frozen=True)
class Measured:
    """B samples under one model. labels: (B,) int64. The others by what the images are:

    clean: as they were given. attacked: PGD that takes all its steps, misclassified or not: an attack that stops where
    a sample falls stops at the decision boundary, where every prediction is unsure. evading: of an attack that knows an
    entropy detector. regulated clean, regulated attacked: the clean and the attacked images behind entropy reduction;
    these were made without it. Their deviation is from the clean dynamics of the bare model, as that of the attacked.
    """

    labels: Tensor
    states: Mapping[str, States]
    deviations: Mapping[str, Deviation]
    radii: Mapping[str, SpectralRadius]
    paths: Mapping[str, PathIndependence]

    def right(self, inputs: str, t: int | None = None) -> Tensor:
        """(B,) bool: classified correctly at z^[t], by default at the last."""
        prediction = self.states[inputs].prediction
        return prediction[len(prediction) - 1 if t is None else t - 1] == self.labels

    def frame(self, kind: str) -> DataFrame:
        """Of ``states``, ``deviations``, ``radii`` or ``paths``: the table of each, with a column ``inputs``."""
        return stacked(((name, table.frame()) for name, table in getattr(self, kind).items()), "inputs")

    def quantiles(self) -> DataFrame:
        """Over the samples, a row for each kind of inputs, term, t and level."""
        along = [*self.states.items(), *self.deviations.items()]
        return stacked(((name, table.quantiles()) for name, table in along), "inputs")

    def tensors(self) -> dict[str, Tensor]:
        """Flat, for a file; ``of`` reads it back."""
        flat = {"labels": self.labels}
        for kind in KINDS:
            for inputs, table in getattr(self, kind).items():
                flat |= {f"{kind}/{inputs}/{name}": values for name, values in vars(table).items()}
        return flat

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Measured:
        """What ``tensors`` of it, by their places, make again."""
        columns: dict[str, dict[str, dict[str, Tensor]]] = {kind: {} for kind in KINDS}
        for key, values in tensors.items():
            if key != "labels":
                kind, inputs, name = key.split("/")
                columns[kind].setdefault(inputs, {})[name] = values
        tables = {kind: {name: KINDS[kind](**of) for name, of in columns[kind].items()} for kind in KINDS}
        return cls(tensors["labels"], **tables)

    @classmethod
    def joined(cls, batches: Sequence[Measured]) -> Measured:
        """One batch of several. What is along t, (T, B, ...), is joined in its second dimension."""
        flat = [batch.tensors() for batch in batches]
        dims = {key: 0 if value.dim() == 1 else 1 for key, value in flat[0].items()}
        return cls.of({key: torch.cat([one[key] for one in flat], dim=dim) for key, dim in dims.items()})


@dataclass(frozen=True)
class Measure:
    """measured = measure(model, x, y, indices): everything of ``Measured``, on images x (B, C, H, W) of labels y (B,).

    threat: of both attacks, whose ``steps`` steps have a quarter of its eps. method: the entropy reduction of the
    regulated images; None: there are none. starts: of path independence. indices: (B,) the samples' numbers in their
    data set; no number of a sample depends on its batch.
    """

    threat: Threat
    steps: int = 20
    method: EntropyReduction | None = None
    starts: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("Measure", "steps", self.steps)
        check_count("Measure", "starts", self.starts)

    def __call__(self, model: DEQClassifier, x: Tensor, y: Tensor, indices: Tensor) -> Measured:
        step, draws, view = self.threat.eps / 4, {"seed": self.seed, "indices": indices}, exact(model)
        x_adv = PGD(self.threat, step, self.steps, seed=self.seed, keep="highest")(view, x, y, indices=indices)
        evading = Evading(self.threat, step, self.steps, seed=self.seed)(view, x, y, indices=indices)
        images = {CLEAN: x, ATTACKED: x_adv}
        states = {name: states_along(model, of) for name, of in {**images, EVADING: evading}.items()}
        deviations = {ATTACKED: deviation(model, x, x_adv)}
        if self.method is not None:
            defended: nn.Module = self.method(model)
            for name, of in ((REGULATED_CLEAN, x), (REGULATED, x_adv)):
                states[name] = states_along(defended, of)
                deviations[name] = deviation(defended, x, of, reference=model)
        radii = {name: spectral_radius(model, of, **draws) for name, of in images.items()}
        paths = {name: path_independence(model, of, starts=self.starts, **draws) for name, of in images.items()}
        return Measured(y, states, deviations, radii, paths)


def measured(
    measure: Measure, model: DEQClassifier, points: Points, folder: Path, *, batch_size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Measured:  # fmt: skip
    """Batch by batch, each kept in a file in ``folder``, and read from there where it is made already. On the CPU.

    points: labelled images, such as an ``ImageSet``. The folder must be of this measure, model and images alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measured_batches, todo = [], "remove it, and it is made anew"
    for rows in batches(len(points), batch_size):
        file = folder / f"{rows.start:06}.safetensors"
        if not file.exists():
            progress(rows.start)
            x, y = loaded(points, rows, model)
            indices = torch.arange(rows.start, rows.stop, device=x.device)
            write_tensors(file, measure(model, x, y, indices).tensors())
        tensors, _ = read_tensors(file, todo)
        try:
            measured_batches.append(Measured.of(tensors))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} holds no measured batch of this version; {todo}.") from error
        progress(rows.stop)
    return Measured.joined(measured_batches)
