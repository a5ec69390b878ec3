"""Along the states z^[t]: the entropy of the prediction (P23 sec. 3.1), and clean and robust accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..defences import entropy
from ..evaluation import Readouts
from ..models.modes import evaluating, unwrapped


@torch.no_grad()
def entropy_along(model: nn.Module, x: Tensor) -> Tensor:
    """Entropy in nats of the prediction at z^[1], ..., z^[T], (T, B), for images x (B, C, H, W).

    model: a DEQ, or a defended one, with a ``trajectory``.
    """
    deq: Any = unwrapped(model)
    with evaluating(deq):
        trajectory = deq.trajectory(x)
        return torch.stack([entropy(trajectory.logits(t)) for t in range(1, len(trajectory.states) + 1)])


@dataclass(frozen=True)
class StateAccuracy:
    """Correct predictions at z^[t], t = 1..T, of ``points`` images.

    clean: on the images. robust: on images attacked at that very state through its exact gradient. transferred: on
    images attacked at z^[N], the state that the model deploys.
    """

    points: int
    clean: list[int]
    robust: list[int]
    transferred: list[int]


def state_accuracy(readouts: Readouts) -> StateAccuracy:
    """The curves of ``evaluation.readouts``."""
    clean, robust, transferred = (
        [shares[name].count for shares in readouts.states] for name in ("clean", "own", "transfer")
    )
    return StateAccuracy(readouts.states[0]["clean"].total, clean, robust, transferred)
