"""Whose dynamics are looked at, driven by which solver, under which images; and tensors along t as tables."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..checks import check_count
from ..dynamics import SOLVERS, Map, Solver
from ..models import DEQClassifier, structure
from ..models.deq import ClassifierTrajectory
from ..models.modes import unwrapped

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


class Maps:
    """maps(t): f(.; inject(x')), x' the image that step t of a trajectory used; made anew only where x' has changed.

    x: the images (B, C, H, W) whose trajectory it is.
    """

    def __init__(self, deq: DEQClassifier, trajectory: ClassifierTrajectory, x: Tensor) -> None:
        self.deq, self.images = deq, trajectory.inputs or (x,) * len(trajectory.states)
        self._last: tuple[Any, Any] = (None, None)

    def __call__(self, t: int) -> Map:
        image = self.images[t - 1]
        if self._last[0] is not image:
            self._last = (image, self.deq.map(image))
        return self._last[1]


def along(columns: Mapping[str, Tensor]) -> DataFrame:
    """Tensors (T, B) by name as a long table: sample 0..B-1, t 1..T, and a column each; a sample's rows together."""
    from pandas import DataFrame

    steps, count = next(iter(columns.values())).shape
    t, sample = torch.meshgrid(torch.arange(1, steps + 1), torch.arange(count), indexing="ij")
    flat = {name: values.detach().cpu().mT.flatten().numpy() for name, values in columns.items()}
    return DataFrame({"sample": sample.mT.flatten().numpy(), "t": t.mT.flatten().numpy(), **flat})


def each(columns: Mapping[str, Tensor]) -> DataFrame:
    """Tensors (B,) by name as a table with a row for each sample 0..B-1."""
    from pandas import DataFrame

    flat = {name: values.detach().cpu().numpy() for name, values in columns.items()}
    return DataFrame({"sample": range(len(next(iter(flat.values())))), **flat})


def quantiles(columns: Mapping[str, Tensor], levels: Sequence[float] = QUANTILES) -> DataFrame:
    """Over the samples of tensors (T, B) by name: a row for each term, t and level, with its value. NaN has no say."""
    from pandas import DataFrame

    rows = []
    for name, values in columns.items():
        table = values.detach().double().nanquantile(torch.tensor(levels).to(values.device).double(), dim=1)
        rows += [
            (name, t, level, value)
            for t, column in enumerate(table.mT.tolist(), start=1)
            for level, value in zip(levels, column)
        ]
    return DataFrame(rows, columns=["term", "t", "quantile", "value"])
