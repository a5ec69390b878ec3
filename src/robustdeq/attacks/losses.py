"""What an attack maximises: functions of logits (B, K) and labels (B,) to one number a sample, (B,)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..checks import described
from ..models.modes import evaluating


class Goal(NamedTuple):
    """What a loss is about. y: (B,) true labels. target: (B,) wrong labels, of a targeted loss alone. clean: (B, K)
    log-probabilities of the image, of the KL alone."""

    y: Tensor
    target: Any = None
    clean: Any = None

    @classmethod
    def stacked(cls, goals: Sequence[Goal]) -> Goal:
        """Of the samples of all goals, one after the other; all are of one kind."""
        columns: list[Any] = [None if column[0] is None else torch.cat(column) for column in zip(*goals)]
        return cls(*columns)

    def rows(self, keep: Tensor) -> Goal:
        """The goal of the kept samples."""
        return tree_map_only(Tensor, lambda column: column[keep], self)


def cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    return F.cross_entropy(logits, goal.y, reduction="none")


def kl(logits: Tensor, goal: Goal) -> Tensor:
    """KL(p(x) || p(x')), the attack of TRADES."""
    return F.kl_div(logits.log_softmax(1), goal.clean, reduction="none", log_target=True).sum(1)


def dlr(logits: Tensor, goal: Goal) -> Tensor:
    """Difference of logits ratio (Croce and Hein 2020, eq. 6); the denominator is 1 with fewer than three classes."""
    top = logits.topk(min(3, logits.shape[1]), dim=1).values
    other = top[:, 1].where(logits.argmax(1) == goal.y, top[:, 0])
    scale = top[:, 0] - top[:, 2] + 1e-12 if logits.shape[1] > 2 else 1.0
    return -(_pick(logits, goal.y) - other) / scale


def cw(logits: Tensor, goal: Goal) -> Tensor:
    """Margin of the logits (Carlini and Wagner 2017): the largest of another class less that of the label."""
    return logits.scatter(1, goal.y[:, None], -torch.inf).max(1).values - _pick(logits, goal.y)


def pm(logits: Tensor, goal: Goal) -> Tensor:
    """Margin of the probabilities (Xie et al. 2024, arXiv 2411.15210), in [-1, 1]."""
    return cw(logits.softmax(1), goal)


def dlr_targeted(logits: Tensor, goal: Goal) -> Tensor:
    """Targeted difference of logits ratio (Croce and Hein 2020, eq. 7); needs four classes."""
    top = logits.topk(4, dim=1).values
    return -(_pick(logits, goal.y) - _pick(logits, goal.target)) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def cw_targeted(logits: Tensor, goal: Goal) -> Tensor:
    """The target's logit less that of the label."""
    return _pick(logits, goal.target) - _pick(logits, goal.y)


def ce_targeted(logits: Tensor, goal: Goal) -> Tensor:
    """Log-probability of the target: a confident wrong class."""
    return -F.cross_entropy(logits, goal.target, reduction="none")


def _pick(logits: Tensor, index: Tensor) -> Tensor:
    return logits.gather(1, index[:, None]).squeeze(1)


LOSSES = {
    "ce": cross_entropy, "kl": kl, "dlr": dlr, "pm": pm, "cw": cw, "dlr-targeted": dlr_targeted,
    "cw-targeted": cw_targeted, "ce-targeted": ce_targeted,
}  # fmt: skip
"""The losses by name: (logits (B, K), goal) to (B,), to be raised; ``-targeted``: towards a wrong class."""


def predictions(logits: Tensor) -> Tensor:
    """argmax, (B,); -1, a class of nobody, where a logit is not finite."""
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ValueError(f"predictions: logits are {described(logits)}; allowed: a tensor (B, K).")
    return torch.where(logits.isfinite().all(dim=1), logits.argmax(1), -1)


@torch.no_grad()
def right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(B,) bool: which images the model classifies as y (B,), in eval mode."""
    with evaluating(model):
        return predictions(model(x)) == y
