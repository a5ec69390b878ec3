"""Prediction entropy along the dynamics (P23 sec. 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.classifier import DEQClassifier
from ..models.modes import evaluating
from ..regulation import RegulatedClassifier, entropy


@torch.no_grad()
def entropy_along(model: DEQClassifier | RegulatedClassifier, x: Tensor) -> Tensor:
    """Entropy in nats of the prediction at z^[1], ..., z^[T], (T, B), for images x (B, C, H, W)."""
    with evaluating(model):
        found = model.trajectory(x)
        return torch.stack([entropy(found.logits(t)) for t in range(1, len(found.states) + 1)])
