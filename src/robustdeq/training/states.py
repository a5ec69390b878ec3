"""Which z^[t] the loss of adversarial training looks at (P23 sec. 3.3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ..options import OneOf, Registry

SHARED_BY = {"batch": None, "sample": None}


class StateSampler(ABC):
    """Draws the number of solver steps of one forward of adversarial training."""

    name: ClassVar[str]

    @abstractmethod
    def draw(self, steps: int, generator: torch.Generator, count: int = 1) -> int | Tensor:
        """t in 1..steps for a batch of ``count`` samples: one number, or (count,) int64. generator: on the CPU."""


STATE_SAMPLERS: Registry[StateSampler] = Registry("state sampler", StateSampler)


@STATE_SAMPLERS.register
@dataclass(frozen=True)
class FinalState(StateSampler):
    """t = N always: plain adversarial training."""

    name: ClassVar[str] = "final"

    def draw(self, steps: int, generator: torch.Generator, count: int = 1) -> int:
        return steps


@STATE_SAMPLERS.register
@dataclass(frozen=True)
class RandomState(StateSampler):
    """t ~ Uniform{1..N}, drawn anew for every forward, the attack's and the update's. per: ``batch``, one t for all its
    samples (the paper), or ``sample``, one for each; then a forward costs the steps of the largest."""

    name: ClassVar[str] = "random"
    per: Annotated[str, OneOf("RandomState per", SHARED_BY)] = "batch"

    def draw(self, steps: int, generator: torch.Generator, count: int = 1) -> int | Tensor:
        if self.per == "sample":
            return torch.randint(1, steps + 1, (count,), generator=generator)
        return int(torch.randint(1, steps + 1, (), generator=generator))
