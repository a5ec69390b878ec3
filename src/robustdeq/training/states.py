"""Which z^[t] the loss of adversarial training looks at (P23 sec. 3.3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ..checks import Count, Length, NonNegative, check_count
from ..options import OneOf, Registry
from ..text import shown

SHARED_BY = {"batch": None, "sample": None}


class StateSampler(ABC):
    """Draws the number of solver steps of one forward of adversarial training."""

    name: ClassVar[str]

    @abstractmethod
    def draw(self, steps: int, generator: torch.Generator, count: int = 1) -> int | Tensor:
        """t for a batch of ``count`` samples: one number, or (count,) int64. steps: N. generator: on the CPU."""

    def shares(self, steps: int) -> Mapping[int, float]:
        """w_t by t, ascending in 1..steps: the loss of an update is the sum over t of w_t times that at z^[t], all of
        one solve. Empty: a forward of the update looks at what ``draw`` says, as one of the attack always does."""
        return {}


STATE_SAMPLERS: Registry[StateSampler] = Registry("state sampler", StateSampler)
"""The state samplers by name."""


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
    """t ~ Uniform{low..high}, drawn anew for every forward, the attack's and the update's (P23: 1..N). per: ``batch``,
    one t for all its samples (the paper), or ``sample``, one for each; then a forward costs the steps of the largest.
    low: N where N is smaller. high: in every phase, also beyond its N; None: N."""

    name: ClassVar[str] = "random"
    per: Annotated[str, OneOf("RandomState per", SHARED_BY)] = "batch"
    low: Count = 1
    high: Count | None = None

    def __post_init__(self) -> None:
        if self.high is not None:
            check_count("RandomState", "high", self.high, self.low)

    def draw(self, steps: int, generator: torch.Generator, count: int = 1) -> int | Tensor:
        high = self.high or steps
        low = min(self.low, high)
        if self.per == "sample":
            return torch.randint(low, high + 1, (count,), generator=generator)
        return int(torch.randint(low, high + 1, (), generator=generator))


@STATE_SAMPLERS.register
@dataclass(frozen=True)
class SeveralStates(StateSampler):
    """The loss of an update at several states of one solve: the weighted mean over t. Its attack looks at z^[N].

    weights: of the last states, that of z^[N] last, relative to their sum; where N is smaller the first ones fall away.
    None: w_t = t, t in 1..N. It needs the gradient ``unrolled``, which keeps the graph of every state.
    """

    name: ClassVar[str] = "several"
    weights: Annotated[Sequence[NonNegative], Length()] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and not self.weights[-1]:
            raise ValueError(
                f"SeveralStates: weights={shown(self.weights)}; allowed: the last one, of z^[N], positive."
            )

    def draw(self, steps: int, generator: torch.Generator, count: int = 1) -> int:
        return steps

    def shares(self, steps: int) -> Mapping[int, float]:
        weights = range(1, steps + 1) if self.weights is None else self.weights[-steps:]
        first = steps + 1 - len(weights)
        return {t: weight / sum(weights) for t, weight in enumerate(weights, first) if weight}
