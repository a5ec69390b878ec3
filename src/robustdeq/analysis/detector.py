"""A number a sample, such as the entropy of its prediction, as a detector of attacked images or of wrong predictions;
and an attack that knows the detector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from scipy.stats import norm, rankdata, spearmanr
from torch import Tensor, nn

from ..attacks import LOSSES, PGD, predictions
from ..attacks.door import at_the_door, logits_of
from ..attacks.starts import ORDERS, goals
from ..attacks.threat import OfThreat
from ..checks import Count, NonNegative, Seed, StepSize, check_number, described, set_step_size
from ..defences import entropy
from ..options import OneOf, checked

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
        """The largest share of attacked images found with at most this share of false alarms; NaN where the area is."""
        check_number("hits_at", "false_alarms", false_alarms, 0, 1)
        return float(self.hits[self.false_alarms <= false_alarms].max()) if self.auc == self.auc else math.nan

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
    if pairs is not None and not isinstance(pairs, Tensor):
        raise ValueError(f"detector: pairs are {described(pairs)}; allowed: a tensor (A,) int64, or None.")
    if pairs is not None and (pairs.shape != attacked.shape or (len(pairs) and int(pairs.max()) >= len(clean))):
        wanted = f"for each of {len(attacked)} attacked scores one of 0..{len(clean) - 1}"
        raise ValueError(f"detector: pairs are {described(pairs)}; allowed: {wanted}.")
    clean, attacked = clean.detach().double().cpu(), attacked.detach().double().cpu()
    scores = torch.cat([clean, attacked])
    threshold = torch.cat([scores.new_full((1,), torch.inf), scores.unique().flip(0)])
    false_alarms, hits = (
        (len(kind) - torch.searchsorted(kind.sort().values, threshold).double()) / max(len(kind), 1)
        for kind in (clean, attacked)
    )
    auc, interval = _area(clean, attacked, pairs) if len(clean) and len(attacked) else (float("nan"), (0.0, 1.0))
    return Detector(threshold, false_alarms, hits, auc, interval)


def _area(clean: Tensor, attacked: Tensor, pairs: Tensor | None) -> tuple[float, tuple[float, float]]:
    """The AUC and its interval, by placements: of each attacked score the share of the clean ones below it, (A,); of
    each clean score the share of the attacked ones above it, (C,). The mean of either is the AUC."""
    # From midranks: in all scores less those in one's own kind, so that a tie counts one half.
    ranks = torch.from_numpy(rankdata(torch.cat([attacked, clean]).numpy()))
    within = [torch.from_numpy(rankdata(scores.numpy())) for scores in (attacked, clean)]
    below = (ranks[: len(attacked)] - within[0]) / len(clean)
    above = 1 - (ranks[len(attacked) :] - within[1]) / len(attacked)
    auc, fewest = float(below.mean()), min(len(clean), len(attacked))
    if auc in (0.0, 1.0):
        bound = 0.025 ** (1 / fewest)
        return auc, (bound, 1.0) if auc == 1 else (0.0, 1 - bound)
    # What an image contributes to the AUC's error, to first order: by its clean score and by its attacked ones.
    error_clean, error_attacked = (above - auc) / len(above), (below - auc) / len(below)
    if pairs is None:
        squares = error_clean.square().sum() + error_attacked.square().sum()
    else:
        squares = error_clean.index_add(0, pairs.cpu(), error_attacked).square().sum()
    # By n / (n - 1) a variance of so few is that of a sample and not of all there is.
    half = float(norm.ppf(0.975)) * float(squares * fewest / max(fewest - 1, 1)) ** 0.5
    return auc, (max(0.0, auc - half), min(1.0, auc + half))


@dataclass(frozen=True)
class Association:
    """How a number a sample goes with being right. rho: Spearman's rank correlation with right = 1, wrong = 0; NaN
    where all samples are right, or all wrong. wrong: the number as a detector of wrong predictions."""

    rho: float
    wrong: Detector


def association(values: Tensor, right: Tensor) -> Association:
    """values: (B,) numbers; those that are not finite have no say. right: (B,) bool."""
    finite = values.isfinite()
    values, right = values[finite].double().cpu(), right[finite].cpu()
    rho = float("nan")
    if len(values) > 1 and right.any() and not right.all() and bool((values != values[0]).any()):
        result: Any = spearmanr(values.numpy(), right.double().numpy())
        rho = float(result.statistic)
    return Association(rho, detector(values[right], values[~right]))


@checked
@dataclass(frozen=True)
class Evading:
    """x_adv = attack(model, x, y): misclassified and calm, for a detector that looks at the prediction's entropy.

    First PGD of ``steps`` on cross-entropy; then from its image, for each of ``targets`` wrong classes, as many signed
    steps on log p(target) - weight * entropy, which shrink to zero. Of all iterates that the model misclassifies a
    sample keeps the one of lowest entropy; where there is none, the image of PGD. step_size: default eps / 4. order: of
    the targets, in ``ORDERS``.
    """

    threat: OfThreat
    step_size: StepSize = None  # type: ignore[assignment]
    steps: Count = 20
    weight: NonNegative = 1.0
    targets: Count = 3
    order: Annotated[str, OneOf("order", ORDERS)] = "likeliest"
    seed: Seed = 0
    loss = "ce-targeted"
    """Of the second part; no option."""

    def __post_init__(self) -> None:
        set_step_size(self, self.threat.eps)

    @at_the_door
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, indices: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) for x in [0, 1] and labels y (B,) int64. indices: see ``PGD``."""
        far = PGD(self.threat, self.step_size, self.steps, seed=self.seed, keep="highest")
        start = far(model, x, y, indices=indices)
        best, lowest = start.clone(), x.new_full((len(x),), torch.inf)
        for goal in goals(self, model, start, y):
            x_adv = start
            for step in range(self.steps + 1):
                at = x_adv.detach().requires_grad_()
                logits = logits_of(self, model, at)
                height = entropy(logits)
                climbed = LOSSES[self.loss](logits, goal) - self.weight * height
                slope = torch.autograd.grad(climbed.sum(), at)[0].nan_to_num(0, 0, 0)
                height = height.detach().to(x.dtype)
                calmer = (predictions(logits.detach()) != y) & (height < lowest)
                best[calmer], lowest[calmer] = x_adv[calmer], height[calmer]
                size = self.step_size * (1 - step / self.steps)
                x_adv = self.threat.project(x, self.threat.ascend(x_adv, slope, size))
        return best
