"""Which z^[t] the loss of adversarial training looks at (P23 sec. 3.3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..options import registry


class StateSampler(ABC):
    """Draws the number of solver steps of one forward of adversarial training."""

    name: ClassVar[str]

    @abstractmethod
    def draw(self, steps: int, generator: torch.Generator) -> int:
        """t in 1..steps. generator: on the CPU."""


@dataclass(frozen=True)
class FinalState(StateSampler):
    """t = N always: plain adversarial training."""

    name: ClassVar[str] = "final"

    def draw(self, steps: int, generator: torch.Generator) -> int:
        return steps


@dataclass(frozen=True)
class RandomState(StateSampler):
    """t ~ Uniform{1..N}, drawn anew for every forward, the attack's and the update's."""

    name: ClassVar[str] = "random"

    def draw(self, steps: int, generator: torch.Generator) -> int:
        return int(torch.randint(1, steps + 1, (), generator=generator))


STATE_SAMPLERS = registry(FinalState, RandomState)
