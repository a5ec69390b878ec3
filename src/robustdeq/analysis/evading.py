"""An attack that knows the detector: misclassified images whose prediction is as sure as that of clean ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ..attacks import LOSSES, PGD, Threat, predictions
from ..attacks.door import at_the_door, logits_of
from ..attacks.losses import Goal
from ..attacks.starts import ORDERS, goals
from ..attacks.threat import OfThreat
from ..checks import Count, Distance, NonNegative, Seed
from ..defences import entropy
from ..options import OneOf, checked


@checked
@dataclass(frozen=True)
class Evading:
    """x_adv = attack(model, x, y): misclassified and calm, for a detector that looks at the prediction's entropy.

    First PGD of ``steps`` on cross-entropy; then from its image, for each of ``targets`` wrong classes, as many signed
    steps on log p(target) - weight * entropy, which shrink to zero. Of all iterates that the model misclassifies a
    sample keeps the one of lowest entropy; where there is none, the image of PGD. order: of the targets, in ``ORDERS``.
    """

    threat: Annotated[Threat, OfThreat()]
    step_size: Distance = 2 / 255
    steps: Count = 20
    weight: NonNegative = 1.0
    targets: Count = 3
    order: Annotated[str, OneOf("order", ORDERS)] = "likeliest"
    seed: Seed = 0
    loss = "ce-targeted"
    """Of the second part; no option."""

    @at_the_door
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, indices: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) for x in [0, 1] and labels y (B,) int64. indices: see ``PGD``."""
        far = PGD(self.threat, self.step_size, self.steps, seed=self.seed, keep="highest")
        start = far(model, x, y, indices=indices)
        best, lowest = start.clone(), x.new_full((len(x),), torch.inf)
        for goal in goals(self, model, start, y):
            x_adv = start
            for step in range(self.steps + 1):
                logits, height, slope = self._slope(model, x_adv, goal)
                calmer = (predictions(logits) != y) & (height < lowest)
                best[calmer], lowest[calmer] = x_adv[calmer], height[calmer]
                size = self.step_size * (1 - step / self.steps)
                x_adv = self.threat.project(x, self.threat.ascend(x_adv, slope, size))
        return best

    def _slope(self, model: nn.Module, x_adv: Tensor, goal: Goal) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and entropies (B,) of x_adv, and the slope of what is climbed."""
        at = x_adv.detach().requires_grad_()
        logits = logits_of(self, model, at)
        height = entropy(logits)
        aim = LOSSES[self.loss](logits, goal) - self.weight * height
        slope = torch.autograd.grad(aim.sum(), at)[0].nan_to_num(0, 0, 0)
        return logits.detach(), height.detach().to(x_adv.dtype), slope
