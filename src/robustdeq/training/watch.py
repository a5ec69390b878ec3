"""Watching a run: PGD on held-out images with two gradients, and what should worry a reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..attacks import PGD, Threat, ThroughGradient, predictions
from ..data import ImageSet
from ..models.classifier import DEQClassifier
from ..models.modes import evaluating
from ..seeds import mix

APART = 0.05
"""Robust accuracies under two gradients that differ by more are a sign of masking."""


@dataclass(frozen=True)
class Watch:
    """Judges a model on the first ``points`` images of a held-out set with PGD of ``steps`` steps."""

    images: ImageSet
    threat: Threat
    points: int
    steps: int
    seed: int
    batch_size: int = 250

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """clean, and robust accuracy under each gradient, in [0, 1]; ``robust`` is the smallest."""
        gradients = ("unrolled", "phantom") if isinstance(model, DEQClassifier) else ("exact",)
        counts = dict.fromkeys(("clean", *gradients), 0)
        total = min(self.points, len(self.images))
        attack = PGD(self.threat, self.threat.eps / 4, self.steps, seed=mix(self.seed) % 2**31)
        for start in range(0, total, self.batch_size):
            rows = slice(start, min(start + self.batch_size, total))
            x, y = self.images.images(rows), self.images.labels[rows]
            right = _correct(model, x, y)
            counts["clean"] += int(right.sum())
            for name in gradients if right.any() else ():
                view = ThroughGradient(model, name) if isinstance(model, DEQClassifier) else model
                indices = torch.arange(rows.start, rows.stop)[right.cpu()]
                x_adv = attack(view, x[right], y[right], indices=indices)
                counts[name] += int(_correct(model, x_adv, y[right]).sum())
        shares = {name: count / total for name, count in counts.items()}
        return {**shares, "robust": min(shares[name] for name in gradients)}


def warnings(history: list[dict[str, Any]]) -> list[str]:
    """What the last epoch's row gives cause to say. Rows without a validation are passed over."""
    rows = [row for row in history if "validation" in row]
    if not rows or rows[-1] is not history[-1]:
        return []
    found, last = [], rows[-1]["validation"]
    if "phantom" in last and abs(last["unrolled"] - last["phantom"]) > APART:
        found.append(
            f"robust accuracy is {100 * last['unrolled']:.1f}% under the unrolled and {100 * last['phantom']:.1f}% "
            "under the phantom gradient: one of them is masked"
        )
    if len(rows) > 1:
        before = rows[-2]
        rises = rows[-1]["accuracy_adv"] > before["accuracy_adv"] + 0.01
        if rises and last["robust"] < before["validation"]["robust"] - APART:
            found.append("robust accuracy rises in training and falls on held-out images: catastrophic overfitting")
    return found


@torch.no_grad()
def _correct(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with evaluating(model):
        return predictions(model(x)) == y
