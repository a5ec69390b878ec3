"""What a defence costs: a defended forward against a bare one."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from ..models.modes import evaluating
from ..regulation import RegulatedClassifier

POINTS, REPEATS = 100, 3


@torch.no_grad()
def cost(defended: RegulatedClassifier, x: Tensor) -> dict[str, float]:
    """Multipliers of the defended forward against the bare one, on the first images of x (B, C, H, W).

    seconds: paired and interleaved, the best of each. evaluations: of f. updates: of the input, for each sample.
    """
    x = x[:POINTS]
    modules = (defended.model, defended)
    best, counted = [float("inf")] * 2, [(0, 0)] * 2
    with evaluating(defended):
        for _ in range(REPEATS):
            for i, module in enumerate(modules):
                before, began = _count(defended), time.perf_counter()
                module(x).sum().item()  # waits for the device
                best[i] = min(best[i], time.perf_counter() - began)
                after = _count(defended)
                counted[i] = (after[0] - before[0], after[1] - before[1])
    return {
        "points": len(x),
        "seconds": best[1] / best[0],
        "evaluations": counted[1][0] / counted[0][0],
        "updates": counted[1][1] / len(x),
    }


def _count(defended: Any) -> tuple[int, int]:
    return defended.model.tally.evaluations, defended.model.tally.updates
