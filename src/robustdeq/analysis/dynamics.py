"""The dynamics of a DEQ along t: what its states say, and where a perturbed image moves them.

Legend of shapes: B batch, D packed state size, K classes, T steps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..attacks import predictions
from ..checks import check_count, check_images, described
from ..defences import entropy
from ..dynamics import SOLVERS, Map, Solver, residual
from ..dynamics.solver import length
from ..models import DEQClassifier, structure
from ..models.deq import ClassifierTrajectory
from ..models.modes import evaluating, unwrapped

if TYPE_CHECKING:
    from pandas import DataFrame

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def dynamics_of(owner: str, model: nn.Module) -> tuple[Any, DEQClassifier]:
    """The module whose ``trajectory`` is looked at, and the DEQ in it. owner: who asks, for the ValueError."""
    whole: Any = unwrapped(model)
    deq = structure(whole, opaque=True).deq
    if deq is None or not hasattr(whole, "trajectory"):
        raise ValueError(f"{owner}: the model is a {type(whole).__name__}; allowed: a DEQ, or a defended one.")
    return whole, deq


def variant(model: nn.Module, *, solver: Any = None, steps: int | None = None) -> DEQClassifier:
    """The same weights and the same counts of work, driven by another solver, or for another number of steps N.

    solver: a name in ``SOLVERS``, its options, or a Solver. The weights are shared, not copied.
    """
    deq = unwrapped(model)
    if not isinstance(deq, DEQClassifier):
        raise ValueError(f"variant: the model is a {type(deq).__name__}; allowed: a DEQClassifier.")
    other = copy.copy(deq)  # another module object around the same submodules
    other.solver = deq.solver if solver is None else SOLVERS.resolve(solver)
    other.steps = deq.steps if steps is None else steps
    check_count("variant", "steps", other.steps)
    return other


def longest(model: DEQClassifier, solver: Solver) -> int | None:
    """The largest N of which the solver has an exact gradient with this model's dtype; None: any."""
    weight = next(model.parameters(), torch.empty(0))
    return solver.max_steps(weight.dtype) if solver.runs_backwards else None


def maps_along(deq: DEQClassifier, trajectory: ClassifierTrajectory, x: Tensor) -> Iterator[Map]:
    """f(.; inject(x')) of each of the T steps, x' the image that it used; made anew only where x' has changed.

    x: the images (B, C, H, W) whose trajectory it is.
    """
    last, f = None, None
    for image in trajectory.inputs or (x,) * len(trajectory.states):
        if f is None or image is not last:
            last, f = image, deq.map(image)
        yield f


def frame(columns: Mapping[str, Tensor]) -> DataFrame:
    """Tensors (B,) or (T, B) by name as a table: sample 0..B-1, of the latter t 1..T, and a column each; a sample's
    rows together."""
    from pandas import DataFrame

    first = next(iter(columns.values()))
    samples = {"sample": torch.arange(first.shape[-1])}
    if first.dim() == 2:
        steps = torch.arange(1, len(first) + 1)
        samples = {"sample": samples["sample"].repeat_interleave(len(steps)), "t": steps.repeat(first.shape[1])}
    every = {**samples, **columns}
    return DataFrame({name: values.detach().cpu().t().flatten().numpy() for name, values in every.items()})


class Tabular:
    """Tensors of samples, the fields of a dataclass, as a table."""

    def frame(self) -> DataFrame:
        """A row for each sample, or each sample and t: sample, t, and a column for every field."""
        return frame(vars(self))


def stacked(tables: Iterable[tuple[str, DataFrame]], column: str) -> DataFrame:
    """Tables one below the other, the name of each in a new first column."""
    from pandas import concat

    names, frames = zip(*tables)
    return concat(frames, keys=names, names=[column]).reset_index(level=0).reset_index(drop=True)


def quantiles(columns: Mapping[str, Tensor], levels: Sequence[float] = QUANTILES) -> DataFrame:
    """Over the samples of tensors (T, B) by name: a row for each term, t and level, with its value. NaN has no say."""
    from pandas import DataFrame

    rows = []
    for name, values in columns.items():
        if not values.shape[1]:
            raise ValueError(f"quantiles: {name} of 0 samples; allowed: 1 or more.")
        table = values.detach().double().nanquantile(torch.tensor(levels).to(values.device).double(), dim=1)
        for t, column in enumerate(table.mT.tolist(), start=1):
            rows += [(name, t, level, value) for level, value in zip(levels, column)]
    return DataFrame(rows, columns=["term", "t", "quantile", "value"])


@torch.no_grad()
def probabilities_along(model: nn.Module, x: Tensor) -> Tensor:
    """Class probabilities at z^[1], ..., z^[T], (T, B, K), for images x (B, C, H, W). model: see ``entropy_along``."""
    whole, _ = dynamics_of("probabilities_along", model)
    with evaluating(whole):
        return whole.trajectory(x).all_logits().softmax(dim=2)


@torch.no_grad()
def entropy_along(model: nn.Module, x: Tensor) -> Tensor:
    """Entropy in nats of the prediction at z^[1], ..., z^[T], (T, B), for images x (B, C, H, W) (P23 sec. 3.1).

    model: a DEQ, or a defended one, with a ``trajectory``.
    """
    whole, _ = dynamics_of("entropy_along", model)
    with evaluating(whole):
        return torch.stack([entropy(logits) for logits in whole.trajectory(x).all_logits()])


@dataclass(frozen=True)
class States:
    """The states z^[1], ..., z^[T] of B images, read out.

    probabilities: (T, B, K). entropy: (T, B) in nats, in 0..log K. prediction: (T, B) int64, -1 where a logit is not
    finite. residual: (T, B), ||f(z; x) - z|| / ||f(z; x)|| at z^[t], under the image that step t used.
    """

    probabilities: Tensor
    entropy: Tensor
    prediction: Tensor
    residual: Tensor

    def frame(self) -> DataFrame:
        """A row for each sample and t: sample, t, prediction, entropy, residual, and p0, p1, ... of the classes."""
        classes = {f"p{k}": p for k, p in enumerate(self.probabilities.unbind(dim=2))}
        return frame({"prediction": self.prediction, "entropy": self.entropy, "residual": self.residual, **classes})

    def quantiles(self, levels: Sequence[float] = QUANTILES) -> DataFrame:
        """Of entropy and residual over the samples, a row for each term, t and level: term, t, quantile, value."""
        return quantiles({"entropy": self.entropy, "residual": self.residual}, levels)


@torch.no_grad()
def states_along(model: nn.Module, x: Tensor) -> States:
    """What is to be read off the dynamics of images x (B, C, H, W). It costs 2 T evaluations of f.

    model: a DEQ, or a defended one.
    """
    whole, deq = dynamics_of("states_along", model)
    with evaluating(whole):
        trajectory = whole.trajectory(x)
        logits = trajectory.all_logits()
        residuals = [residual(f(z), z) for f, z in zip(maps_along(deq, trajectory, x), trajectory.states)]
    entropies, labels = ([read(row) for row in logits] for read in (entropy, predictions))
    return States(logits.softmax(dim=2), torch.stack(entropies), torch.stack(labels), torch.stack(residuals))


@dataclass(frozen=True)
class Deviation(Tabular):
    """How far a perturbed image x~ moves the dynamics, and what of that is its own doing (P23 sec. 3.1).

        || f(z~; x~) - f(z; x) ||  <=  || f(z~; x~) - f(z~; x) ||  +  || f(z~; x) - f(z; x) ||
                  total                        perturbation                  accumulation

    Entropy reduction works on the perturbation, the loss at random states on the accumulation. Each is a Euclidean norm
    of B samples at t = 1..T, (T, B) and at least float32. distance: ||z~^[t] - z^[t]|| / ||z^[t]||.
    """

    total: Tensor
    perturbation: Tensor
    accumulation: Tensor
    distance: Tensor

    def quantiles(self, levels: Sequence[float] = QUANTILES) -> DataFrame:
        """Over the samples, a row for each term, t and level: term, t, quantile, value."""
        return quantiles(vars(self), levels)


@torch.no_grad()
def deviation(model: nn.Module, x: Tensor, x_adv: Tensor, *, reference: nn.Module | None = None) -> Deviation:
    """The deviation of the dynamics of x_adv from those of x, images (B, C, H, W) in [0, 1], at every t.

    model: a DEQ, or one behind entropy reduction. There x and x_adv stand for the images that step t used. reference:
    whose clean dynamics those of ``model`` are compared with, of the same cell and N; default ``model`` itself. The
    bare model as the reference of a defended one says how much of an attack's deviation the defence takes back.
    """
    whole, deq = dynamics_of("deviation", model)
    clean_whole, clean_deq = (whole, deq) if reference is None else dynamics_of("deviation", reference)
    if clean_deq.cell is not deq.cell or clean_deq.steps != deq.steps:
        given = f"another cell or number of steps ({clean_deq.steps}, not {deq.steps})"
        raise ValueError(f"deviation: the reference has {given}; allowed: the same weights for as many steps.")
    check_images(x, deq.image_shape)
    if not isinstance(x_adv, Tensor) or (x_adv.shape, x_adv.dtype) != (x.shape, x.dtype):
        wanted = f"images as x is, {described(x)}"
        raise ValueError(f"deviation: x_adv is {described(x_adv)}; allowed: {wanted}.")
    with evaluating(whole), evaluating(clean_whole):
        clean, moved = clean_whole.trajectory(x), whole.trajectory(x_adv)
        steps = zip(clean.states, moved.states, maps_along(clean_deq, clean, x), maps_along(deq, moved, x_adv))
        rows = []
        for z, z_adv, f, f_adv in steps:
            here, between, there = f(z), f(z_adv), f_adv(z_adv)
            distance = length(z_adv - z) / length(z).clamp_min(1e-9)
            rows.append((length(there - here), length(there - between), length(between - here), distance))
    return Deviation(*(torch.stack(column) for column in zip(*rows)))
