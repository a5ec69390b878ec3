"""What a model's states say along t: the prediction at every z^[t], its entropy, and how far the state is from resting.

Legend of shapes: B batch, D packed state size, K classes, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..attacks import predictions
from ..defences import entropy
from ..dynamics import residual
from ..models.deq import ClassifierTrajectory
from ..models.modes import evaluating
from .dynamics import QUANTILES, Maps, along, dynamics_of, quantiles

if TYPE_CHECKING:
    from pandas import DataFrame


@torch.no_grad()
def probabilities_along(model: nn.Module, x: Tensor) -> Tensor:
    """Class probabilities at z^[1], ..., z^[T], (T, B, K), for images x (B, C, H, W). model: see ``entropy_along``."""
    whole, _ = dynamics_of("probabilities_along", model)
    with evaluating(whole):
        return _logits(whole.trajectory(x)).softmax(dim=2)


@torch.no_grad()
def entropy_along(model: nn.Module, x: Tensor) -> Tensor:
    """Entropy in nats of the prediction at z^[1], ..., z^[T], (T, B), for images x (B, C, H, W) (P23 sec. 3.1).

    model: a DEQ, or a defended one, with a ``trajectory``.
    """
    whole, _ = dynamics_of("entropy_along", model)
    with evaluating(whole):
        return _entropies(_logits(whole.trajectory(x)))


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
        columns = {name: getattr(self, name) for name in ("prediction", "entropy", "residual")}
        return along(columns | {f"p{k}": p for k, p in enumerate(self.probabilities.unbind(dim=2))})

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
        logits = _logits(trajectory)
        maps = Maps(deq, trajectory, x)
        residuals = [residual(maps(t)(z), z) for t, z in enumerate(trajectory.states, start=1)]
    predicted = torch.stack([predictions(of) for of in logits])
    return States(logits.softmax(dim=2), _entropies(logits), predicted, torch.stack(residuals))


def _logits(trajectory: ClassifierTrajectory) -> Tensor:
    """(T, B, K)"""
    return torch.stack([trajectory.logits(t) for t in range(1, len(trajectory.states) + 1)])


def _entropies(logits: Tensor) -> Tensor:
    return torch.stack([entropy(of) for of in logits])
