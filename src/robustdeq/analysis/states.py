"""The entropy of the prediction along the states z^[t] (P23 sec. 3.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..defences import entropy
from ..models.modes import evaluating, unwrapped


@torch.no_grad()
def entropy_along(model: nn.Module, x: Tensor) -> Tensor:
    """Entropy in nats of the prediction at z^[1], ..., z^[T], (T, B), for images x (B, C, H, W).

    model: a DEQ, or a defended one, with a ``trajectory``.
    """
    deq: Any = unwrapped(model)
    if not hasattr(deq, "trajectory"):
        raise ValueError(f"entropy_along: the model is a {type(deq).__name__}; allowed: a DEQ, or a defended one.")
    with evaluating(deq):
        trajectory = deq.trajectory(x)
        return torch.stack([entropy(trajectory.logits(t)) for t in range(1, len(trajectory.states) + 1)])
