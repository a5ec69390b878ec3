"""Optimizers by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..dynamics.solver import check_number
from ..options import checked, registry


class Optimizer(ABC):
    """Makes torch's optimizer for some parameters."""

    name: ClassVar[str]

    @abstractmethod
    def make(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> torch.optim.Optimizer:
        """The learning rate is set before every step."""


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam; weight decay is an L2 term."""

    name: ClassVar[str] = "adam"

    def make(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, weight_decay=weight_decay)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay."""

    name: ClassVar[str] = "adamw"

    def make(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, weight_decay=weight_decay)


@checked
@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    name: ClassVar[str] = "sgd"
    momentum: float = 0.9
    nesterov: bool = True

    def __post_init__(self) -> None:
        check_number("SGD", "momentum", self.momentum, 0, 1, high_open=True)

    def make(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> torch.optim.Optimizer:
        nesterov = self.nesterov and self.momentum > 0
        return torch.optim.SGD(parameters, lr=1.0, momentum=self.momentum, nesterov=nesterov, weight_decay=weight_decay)


OPTIMIZERS = registry(Adam, AdamW, SGD)
