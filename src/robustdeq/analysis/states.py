"""Clean and robust accuracy of every state z^[t], each attacked for itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attacks import PGD, EarlyState, predictions
from ..models.classifier import DEQClassifier
from ..models.modes import evaluating


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


def state_accuracy(model: DEQClassifier, attack: PGD, x: Tensor, y: Tensor, x_adv: Tensor) -> StateAccuracy:
    """x, x_adv: (B, C, H, W) in [0, 1], x_adv attacked at z^[N]; y: (B,) int64."""
    clean, robust, transferred = [], [], []
    indices = torch.arange(len(x))
    for state in range(1, model.steps + 1):
        early = EarlyState(model, state)
        clean.append(_correct(early, x, y))
        robust.append(_correct(early, attack(early, x, y, indices=indices), y))
        transferred.append(_correct(early, x_adv, y))
    return StateAccuracy(len(x), clean, robust, transferred)


@torch.no_grad()
def _correct(model: torch.nn.Module, x: Tensor, y: Tensor) -> int:
    with evaluating(model):
        return int((predictions(model(x)) == y).sum())
