"""What a training step minimises: PGD-AT or TRADES, read at the states that a sampler draws (P23 sec. 3.3, 4)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

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

    @abstractmethod
    def attack(self, threat: Threat, steps: int, step_size: float, seed: int) -> PGD:
        """The attack of one training step."""

    @abstractmethod
    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Losses:
        """x, x_adv: (B, C, H, W) in [0, 1]; y: (B,) int64."""


OBJECTIVES: Registry[Objective] = Registry("objective", Objective)


@OBJECTIVES.register
@dataclass(frozen=True)
class PGDAT(Objective):
    """Cross-entropy at the images of a PGD attack from a uniform start (Madry et al. 2018).

    With one attack step it is FGSM with a random start; with none it is training on clean images.
    """

    name: ClassVar[str] = "pgd-at"
    label_smoothing: Decay = 0.0

    def attack(self, threat: Threat, steps: int, step_size: float, seed: int) -> PGD:
        return PGD(threat, step_size, steps, seed=seed, start="uniform" if steps else "clean", keep="last")

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
        return PGD(threat, step_size, steps, seed=seed, loss="kl", start="gaussian" if steps else "clean", keep="last")

    def losses(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Losses:
        logits, logits_adv = model(x), model(x_adv)
        divergence = F.kl_div(logits_adv.log_softmax(1), logits.log_softmax(1), reduction="batchmean", log_target=True)
        total = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing) + self.weight * divergence
        return Losses(total, logits_adv.detach().argmax(1) == y)
