"""Threat models: the ball around an image, always cut with the box [0, 1]. Images are (B, C, H, W)."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ..checks import Distance, Pixels, described
from ..options import Fits, Registry


@dataclass(frozen=True)
class Threat(ABC):
    """All x' with ||x' - x|| <= eps and pixels in [0, 1]."""

    eps: Distance
    name: ClassVar[str]

    @abstractmethod
    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """||x_adv - x|| per sample, (B,)."""

    @abstractmethod
    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """A point of the ball and the box near ``x_adv``."""

    @abstractmethod
    def ascend(self, x_adv: Tensor, slope: Tensor, size: float) -> Tensor:
        """The steepest step of length ``size`` up the slope, before projection."""

    @abstractmethod
    def dual(self, slope: Tensor) -> Tensor:
        """How much a linear function of this slope rises over a distance of 1, at most, (B,)."""

    @abstractmethod
    def spread(self, x: Tensor, uniform: Tensor) -> Tensor:
        """A random point of the ball from ``uniform`` numbers in [0, 1) of the images' shape."""

    def contains(self, x: Tensor, x_adv: Tensor, slack: float = 1e-6) -> Tensor:
        """(B,) bool: inside the ball and the box up to rounding; False for a NaN."""
        if not (isinstance(x, Tensor) and isinstance(x_adv, Tensor)) or x.shape != x_adv.shape:
            kinds = f"{described(x)} and {described(x_adv)}"
            raise ValueError(f"{type(self).__name__}: images are {kinds}; allowed: two tensors of one shape.")
        inside = self.distance(x, x_adv) <= self.eps + slack * max(1.0, self.eps)
        low, high = x_adv.flatten(1).aminmax(dim=1)
        return inside & (low >= -slack) & (high <= 1 + slack)


OfThreat = Annotated[Threat, Fits(lambda threat: isinstance(threat, Threat), "Linf(eps) or L2(eps)")]
"""Of an attack's field, which has no default, since a robust accuracy without a threat means nothing."""
THREATS: Registry[Threat] = Registry("threat", Threat)
"""The threat models by name."""


@THREATS.register
@dataclass(frozen=True)
class Linf(Threat):
    """max |x' - x| <= eps, in pixel units of [0, 1]."""

    eps: Annotated[float, Pixels(0, 1)]
    name: ClassVar[str] = "Linf"

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        return (x_adv - x).flatten(1).abs().amax(dim=1)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x_adv, x - self.eps), x + self.eps).clamp(0, 1)

    def ascend(self, x_adv: Tensor, slope: Tensor, size: float) -> Tensor:
        return x_adv + size * slope.sign()

    def dual(self, slope: Tensor) -> Tensor:
        return slope.flatten(1).abs().sum(dim=1)

    def spread(self, x: Tensor, uniform: Tensor) -> Tensor:
        return self.project(x, x + self.eps * (2 * uniform - 1))


@THREATS.register
@dataclass(frozen=True)
class L2(Threat):
    """||x' - x||_2 <= eps, in pixel units of [0, 1]."""

    name: ClassVar[str] = "L2"

    def __post_init__(self) -> None:
        if self.eps >= 8:
            reach = "is most of the way between any two images, whose pixels lie in [0, 1]"
            warnings.warn(f"L2: eps={self.eps:g} {reach}; did you mean {self.eps:g}/255?", stacklevel=4)

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        return (x_adv - x).flatten(1).norm(dim=1, dtype=torch.float64)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        shift = x_adv - x
        length = self.distance(x, x_adv).view(-1, 1, 1, 1)  # of many pixels float32 would sum up too little
        return (x + shift * (self.eps / length.clamp_min(1e-12)).clamp_max(1).to(x.dtype)).clamp(0, 1)

    def ascend(self, x_adv: Tensor, slope: Tensor, size: float) -> Tensor:
        largest = slope.flatten(1).abs().amax(dim=1).view(-1, 1, 1, 1)
        slope = slope / torch.where(largest > 0, largest, 1)  # or the squares of its norm would underflow
        return x_adv + size * (slope / slope.flatten(1).norm(dim=1).clamp_min(1).view(-1, 1, 1, 1))

    def dual(self, slope: Tensor) -> Tensor:
        return slope.flatten(1).norm(dim=1)

    def spread(self, x: Tensor, uniform: Tensor) -> Tensor:
        # In a cube whose points have the length eps on average, cut to the ball.
        return self.project(x, x + (2 * uniform - 1) * self.eps * (3 / x.shape[1:].numel()) ** 0.5)
