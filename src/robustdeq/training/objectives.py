"""What a training step minimises: PGD-AT, TRADES or MART, read at the states that a sampler draws (P23 sec. 3.3, 4)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks import PGD, Threat
from ..checks import Decay, NonNegative
from ..options import Registry


@dataclass(frozen=True)
class Losses:
    """total: the scalar to be minimised. correct_adv: (B,) bool, correct on the attacked images."""

    total: Tensor
    correct_adv: Tensor


class Objective(ABC):
    """What is climbed by the attack (in eval mode) and what is descended by the update (in train mode)."""

    name: ClassVar[str]

    def attack(self, threat: Threat, steps: int, step_size: float, seed: int) -> PGD:
        """The attack of a training step that has one: from a uniform start, up the cross-entropy."""
        return PGD(threat, step_size, steps, seed=seed, start="uniform", keep="last")

    @abstractmethod
    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Losses:
        """x, x_adv: (B, C, H, W) in [0, 1]; y: (B,) int64."""


OBJECTIVES: Registry[Objective] = Registry("objective", Objective)
"""The objectives by name."""


@OBJECTIVES.register
@dataclass(frozen=True)
class PGDAT(Objective):
    """Cross-entropy at the images of a PGD attack (Madry et al. 2018). One step is FGSM with a random start, none is
    training on clean images."""

    name: ClassVar[str] = "pgd-at"
    label_smoothing: Decay = 0.0

    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Losses:
        logits = model(x_adv)
        total = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        return Losses(total, logits.detach().argmax(1) == y)


@OBJECTIVES.register
@dataclass(frozen=True)
class TRADES(Objective):
    """CE(x) + weight KL(p(x) || p(x_adv)) (Zhang et al. 2019); the attack climbs the KL from x + 0.001 N(0, 1)."""

    name: ClassVar[str] = "trades"
    weight: NonNegative = 6.0
    label_smoothing: Decay = 0.0

    def attack(self, threat: Threat, steps: int, step_size: float, seed: int) -> PGD:
        return PGD(threat, step_size, steps, seed=seed, loss="kl", start="gaussian", keep="last")

    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Losses:
        logits, logits_adv = model(x), model(x_adv)
        # The gradient passes both: p(x) is drawn to p(x_adv), too, as in the authors' code.
        divergence = F.kl_div(logits_adv.log_softmax(1), logits.log_softmax(1), reduction="batchmean", log_target=True)
        total = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing) + self.weight * divergence
        return Losses(total, logits_adv.detach().argmax(1) == y)


@OBJECTIVES.register
@dataclass(frozen=True)
class MART(Objective):
    """BCE(p(x_adv)) + weight KL(p(x) || p(x_adv)) (1 - p_y(x)), where BCE(p) = -log p_y - log(1 - max_{k != y} p_k)
    (Wang et al. 2020); the attack climbs the cross-entropy."""

    name: ClassVar[str] = "mart"
    weight: NonNegative = 5.0

    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Losses:
        logits, logits_adv = model(x), model(x_adv)
        log_p, log_q, label = logits.log_softmax(1), logits_adv.log_softmax(1), y[:, None]
        other = log_q.detach().scatter(1, label, -torch.inf).argmax(1, keepdim=True)
        # log(1 - q_other) as the logarithm of a sum over the rest: 1 - q_other itself rounds to 0.
        boosted = -log_q.gather(1, label) - log_q.scatter(1, other, -torch.inf).logsumexp(1, keepdim=True)
        divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1, keepdim=True)
        total = (boosted + self.weight * divergence * (1 - log_p.gather(1, label).exp())).mean()
        return Losses(total, logits_adv.detach().argmax(1) == y)
