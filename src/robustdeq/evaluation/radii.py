"""Two ways to an L2 radius around an image in which the prediction cannot change: by sampling, by a proven slope."""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

from ..attacks import predictions
from ..checks import Count, Number, Seed
from ..defences.smoothing import SmoothedClassifier, ballots
from ..models.modes import evaluating
from ..options import checked
from ..seeds import generator

CHOOSE, COUNT = 0, 1
"""What noise is drawn for."""
INWARD = 1 - 1e-9
"""Times a radius that was computed in float64: more than its rounding errors, which are some 1e-15 an operation."""


class Found(NamedTuple):
    """Of one image. prediction: -1 for none. radius: 0 where the prediction is wrong or nothing is certified. votes, of
    draws: for the prediction; 0 of 0 where none were needed."""

    prediction: int
    radius: float
    votes: int = 0
    draws: int = 0


class Method(ABC):
    """found = method.rows(x, y, indices): a ``Found`` of each image x (B, C, H, W) in [0, 1] of label y (B,) int64.

    name: of the method. indices: (B,) the images' numbers in their set; nothing of an image depends on the others.
    """

    name: ClassVar[str]

    @abstractmethod
    def rows(self, x: Tensor, y: Tensor, indices: Tensor) -> Iterator[Found]:
        """In order."""

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What tells it from another of its kind; JSON."""


@checked
@dataclass(frozen=True)
class Sampled(Method):
    """CERTIFY of Cohen, Rosenfeld, Kolter 2019 (arXiv 1902.02918): the class that most of ``n0`` noisy copies are given
    is counted among ``n`` others; p, the lower end of Clopper and Pearson's interval at ``alpha``, gives the radius
    sigma Phi^-1(p) where p > 1/2, which is wrong with a probability of at most alpha; else it abstains, radius 0.

    Counting ends early only where it can change nothing: the class chosen is wrong, so that the radius is 0, or p could
    not pass 1/2 if all the copies left voted for it. Whatever is not 0 has been counted on all n copies, so that alpha
    is spent once. together: copies in one forward of the model; logits are rounded otherwise in other numbers.
    """

    name: ClassVar[str] = "smoothing"
    smoothed: SmoothedClassifier
    n0: Count = 100
    n: Count = 10_000
    alpha: Annotated[float, Number(0, 1, low_open=True, high_open=True)] = 0.001
    seed: Seed = 0
    together: Count = 1000

    def __post_init__(self) -> None:
        if least(self.n, self.alpha) > self.n:
            enough = next(n for n in range(self.n, 10**9) if least(n, self.alpha) <= n)
            given = f"n={self.n} with alpha={self.alpha:g}, which certifies nothing even if all votes agree"
            raise ValueError(f"certify: {given}; allowed: n >= {enough}.")

    @property
    def options(self) -> dict[str, Any]:
        of_noise = {name: getattr(self.smoothed.method, name) for name in ("sigma", "clip")}
        return of_noise | {name: getattr(self, name) for name in ("n0", "n", "alpha", "seed", "together")}

    def rows(self, x: Tensor, y: Tensor, indices: Tensor) -> Iterator[Found]:
        for image, label, index in zip(x, y.tolist(), indices.tolist()):
            chosen = sum(self._votes(image, self.n0, index, CHOOSE))
            assert isinstance(chosen, Tensor)
            prediction = int(chosen.argmax()) if chosen.sum() else -1
            if prediction != label:
                yield Found(prediction, 0.0)
                continue
            votes = draws = 0
            for counted in self._votes(image, self.n, index, COUNT):
                votes += int(counted[prediction])
                draws = min(draws + self.together, self.n)
                if votes + self.n - draws < least(self.n, self.alpha):
                    break
            yield Found(prediction, radius(votes, self.n, self.alpha, self.smoothed.method.sigma), votes, draws)

    def _votes(self, image: Tensor, count: int, index: int, purpose: int) -> Iterator[Tensor]:
        """Of ``count`` noisy copies of an image (C, H, W): votes (K,), some copies at a time. Noise is drawn on the CPU
        and in float32, so that it is the same on every device."""
        stream = generator(self.seed, index, purpose)
        for first in range(0, count, self.together):
            shape = (min(self.together, count - first), *image.shape)
            noise = torch.randn(shape, generator=stream, dtype=torch.float32, device="cpu").to(image)
            yield ballots(self.smoothed.respond(image + self.smoothed.method.sigma * noise)).sum(0)


@functools.cache
def least(n: int, alpha: float) -> int:
    """The fewest votes of n of which Clopper and Pearson's lower end at alpha lies above 1/2; n + 1 where none do."""
    low, high = n // 2, n + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if lower(middle, n, alpha) > 0.5 else (middle, high)
    return high


def lower(votes: int, n: int, alpha: float) -> float:
    """The lower end of Clopper and Pearson's one-sided interval: a larger probability would give at least so many votes
    of n with a probability of at least alpha (``binomtest(...).proportion_ci(1 - 2 alpha, "exact").low``)."""
    return float(beta.ppf(alpha, votes, n - votes + 1)) if votes else 0.0


def radius(votes: int, n: int, alpha: float, sigma: float) -> float:
    """sigma Phi^-1(p) of the lower end p, 0 where p <= 1/2."""
    return max(0.0, sigma * float(norm.ppf(lower(votes, n, alpha)))) * INWARD


@checked
@dataclass(frozen=True)
class Bounded(Method):
    """The margin to the nearest other class over the slope that bounds it: min over j of (z_y - z_j) / L_yj.

    model: has ``slopes()``, (K, K) float64: proven upper bounds L_ij of the Lipschitz constant (L2) of z_i - z_j over
    images. Logits are those of a copy in float64, and the deployed forward has to agree on the class: the bound is of
    the map in exact arithmetic.
    """

    name: ClassVar[str] = "lipschitz"
    model: nn.Module
    exact: Any = field(init=False)
    slopes: Any = field(init=False)

    def __post_init__(self) -> None:
        slopes, model = self.model.slopes(), self.model  # type: ignore[operator]
        fitting = isinstance(slopes, Tensor) and slopes.dim() == 2 and slopes.shape[0] == slopes.shape[1]
        if not fitting or slopes.dtype != torch.float64 or not (slopes >= 0).all():
            wanted = "a float64 tensor (K, K) of numbers >= 0"
            raise ValueError(f"certify: slopes() of {type(model).__name__} gives {slopes!r:.60}; allowed: {wanted}.")
        tally = getattr(model, "tally", None)  # what the copy spends is counted as well
        exact = copy.deepcopy(model, {} if tally is None else {id(tally): tally}).double().eval()
        object.__setattr__(self, "exact", exact)
        object.__setattr__(self, "slopes", slopes)

    @property
    def options(self) -> dict[str, Any]:
        return {"largest slope": float(self.slopes.max())}

    def rows(self, x: Tensor, y: Tensor, indices: Tensor) -> Iterator[Found]:
        with evaluating(self.model):
            predicted = predictions(self.model(x))
        logits = self.exact(x.double())
        margins = logits.gather(1, y[:, None]) - logits
        radii = margins / self.slopes.to(x.device)[y].clamp_min(torch.finfo(torch.float64).tiny)
        radii = radii.scatter(1, y[:, None], torch.inf).amin(1).nan_to_num(0, 1e30).clamp(0, 1e30) * INWARD
        for prediction, label, at in zip(predicted.tolist(), y.tolist(), radii.tolist()):
            yield Found(prediction, at if prediction == label else 0.0)
