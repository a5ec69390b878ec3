"""A number a sample, such as the entropy of its prediction, as a detector of attacked images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy.stats import norm, rankdata
from torch import Tensor

from ..checks import described

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Detector:
    """The receiver operating characteristic of "attacked if the score is at least the threshold".

    threshold: (R,) float64, falling, the first infinite. false_alarms, hits: (R,) shares of the clean and of the
    attacked scores that are called attacked. auc: the area below, which is the probability that an attacked score
    exceeds a clean one, a tie counting one half; NaN where either kind is missing. interval: of 95%, see ``detector``.
    """

    threshold: Tensor
    false_alarms: Tensor
    hits: Tensor
    auc: float
    interval: tuple[float, float]

    def frame(self) -> DataFrame:
        """A row for each threshold: threshold, false_alarms, hits."""
        from pandas import DataFrame

        return DataFrame({name: getattr(self, name).numpy() for name in ("threshold", "false_alarms", "hits")})

    def hits_at(self, false_alarms: float) -> float:
        """The largest share of attacked images found with at most this share of false alarms."""
        return float(self.hits[self.false_alarms <= false_alarms].max())

    def __str__(self) -> str:
        return f"{self.auc:.3f} [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"


def detector(clean: Tensor, attacked: Tensor, *, pairs: Tensor | None = None) -> Detector:
    """How well a score tells attacked (A,) from clean (C,) images; the higher, the more it looks attacked.

    pairs: (A,) int64, which clean score is of the same image. Scores of an image and of what was made of it are not
    independent, and the interval takes account of that; without pairs all are taken for independent.

    interval: DeLong's (DeLong, DeLong, Clarke-Pearson 1988), of which paired scores make a clustered one (Obuchowski
    1997), cut to [0, 1]. Where the two kinds do not overlap at all DeLong's has no width; then the exact interval of
    min(A, C) disjoint pairs of which every one is in order.
    """
    for name, scores in (("clean", clean), ("attacked", attacked)):
        if not isinstance(scores, Tensor) or scores.dim() != 1 or scores.isnan().any():
            wanted = "a tensor of one number for each image, none of them NaN"
            raise ValueError(f"detector: {name} is {described(scores)}; allowed: {wanted}.")
    if pairs is not None and (pairs.shape != attacked.shape or (len(pairs) and int(pairs.max()) >= len(clean))):
        wanted = f"for each of {len(attacked)} attacked scores one of 0..{len(clean) - 1}"
        raise ValueError(f"detector: pairs are {described(pairs)}; allowed: {wanted}.")
    clean, attacked = clean.detach().double().cpu(), attacked.detach().double().cpu()
    scores = torch.cat([clean, attacked])
    threshold = torch.cat([scores.new_full((1,), torch.inf), scores.unique().flip(0)])
    false_alarms, hits = (_share_from(scores, threshold) for scores in (clean, attacked))
    if not len(clean) or not len(attacked):
        return Detector(threshold, false_alarms, hits, float("nan"), (0.0, 1.0))
    below, above = _placements(clean, attacked)
    auc = float(below.mean())
    return Detector(threshold, false_alarms, hits, auc, _interval(auc, below, above, pairs))


def _share_from(scores: Tensor, thresholds: Tensor) -> Tensor:
    """Share of the scores that are at least each threshold."""
    order = scores.sort().values
    return (len(scores) - torch.searchsorted(order, thresholds).double()) / max(len(scores), 1)


def _placements(clean: Tensor, attacked: Tensor) -> tuple[Tensor, Tensor]:
    """Of each attacked score the share of the clean ones below it, (A,); of each clean score the share of the attacked
    ones above it, (C,). From midranks: a tie counts one half. The mean of either is the AUC."""
    ranks = torch.from_numpy(rankdata(torch.cat([attacked, clean]).numpy()))
    own = [torch.from_numpy(rankdata(scores.numpy())) for scores in (attacked, clean)]
    below = (ranks[: len(attacked)] - own[0]) / len(clean)
    above = 1 - (ranks[len(attacked) :] - own[1]) / len(attacked)
    return below, above


def _interval(auc: float, below: Tensor, above: Tensor, pairs: Tensor | None) -> tuple[float, float]:
    fewest = min(len(below), len(above))
    if auc in (0.0, 1.0):
        bound = 0.025 ** (1 / fewest)
        return (bound, 1.0) if auc == 1 else (0.0, 1 - bound)
    # What an image contributes to the AUC's error, to first order: by its clean score and by its attacked ones.
    error_clean, error_attacked = (above - auc) / len(above), (below - auc) / len(below)
    if pairs is None:
        squares = error_clean.square().sum() + error_attacked.square().sum()
    else:
        squares = error_clean.index_add(0, pairs.cpu(), error_attacked).square().sum()
    half = float(norm.ppf(0.975)) * float(squares * fewest / max(fewest - 1, 1)) ** 0.5
    return max(0.0, auc - half), min(1.0, auc + half)
