"""Projected gradient descent (Madry et al. 2018): the losses, starts and restarts of evaluation and of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ..checks import Count, Natural, NonNegative, check_images, check_indices, check_labels, check_range
from ..models.modes import images_only
from ..options import OneOf, checked
from ..seeds import generator
from .losses import LOSSES, Goal, predictions
from .threat import OfThreat, Threat
from .views import View, summands

STARTS = {
    "uniform": "in the ball, see Threat.spread",
    "gaussian": "x + 0.001 N(0, 1), as TRADES",
    "clean": "the image itself",
}
KEEPS = {
    "worst": "a misclassified iterate where one was met, else the one of highest loss",
    "highest": "the iterate of highest loss, misclassified or not",
    "last": "the last iterate of one run",
}


@checked
@dataclass(frozen=True)
class PGD:
    """x_adv = attack(model, x, y): ``steps`` ascents of length ``step_size`` on a loss, projected to the threat model.

    threat: ``Linf(eps)`` or ``L2(eps)``. loss: ``ce | kl | dlr | dlr-targeted | ce-targeted``. targets: a targeted loss
    aims at this many of the likeliest wrong classes, one after the other. start: ``uniform | gaussian | clean``.
    keep: ``worst`` gives a misclassified iterate where one was met, else the one of highest loss, and a sample that is
    broken is not worked on any more. ``highest`` takes every step of every restart and target and gives the iterate of
    highest loss, for images that must hold elsewhere: with ``ce-targeted`` one of a confident wrong class. ``last``
    gives the last iterate of one run, as training needs it.

    The gradient is taken through whatever module is given. A view (see ``attacks.views``) names the model that is
    really deployed, and that model alone decides what counts as misclassified.
    """

    threat: Annotated[Threat, OfThreat()]
    step_size: NonNegative = 2 / 255
    steps: Natural = 10
    restarts: Count = 1
    seed: Natural = 0
    loss: Annotated[str, OneOf("loss", LOSSES)] = "ce"
    targets: Count = 9
    start: Annotated[str, OneOf("start", STARTS)] = "uniform"
    keep: Annotated[str, OneOf("keep", KEEPS)] = "worst"

    def __post_init__(self) -> None:
        if self.keep == "last" and (self.restarts > 1 or self.targeted):
            wanted = "'worst', 'highest', or one restart of an untargeted loss"
            raise ValueError(f"PGD: keep='last', restarts={self.restarts}, loss={self.loss!r}; allowed: {wanted}.")

    @property
    def targeted(self) -> bool:
        return self.loss.endswith("targeted")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, indices: Tensor | None = None) -> Tensor:
        """Adversarial images (B, C, H, W) for images x in [0, 1] and labels y (B,) int64; no gradient is left behind.

        indices: (B,) the samples' numbers in their data set. The random start of a sample depends on the seed and on
        its number alone, so it is the same in any batch; without numbers it depends on the sample's place in the batch.
        """
        check_images(x)
        check_range(x)
        check_labels(x, y)
        check_indices(x, indices)
        x = x.detach()
        if not len(x):
            return x.clone()
        with images_only(model):
            if self.keep == "last":
                return self._last(model, x, self._goals(model, x, y)[0], self._begin(x, 0, indices))
            return self._best(model, x, y, indices)

    def _best(self, model: nn.Module, x: Tensor, y: Tensor, indices: Tensor | None) -> Tensor:
        """The kept image of the highest loss, over all restarts and goals."""
        best = x.clone()
        best_loss = x.new_full((len(x),), -torch.inf)
        goals = self._goals(model, x, y)
        for restart in range(self.restarts):
            begin = self._begin(x, restart, indices)
            for goal in goals:
                rows = torch.nonzero(best_loss < torch.inf).flatten()
                if not len(rows):
                    return best
                found, loss = self._run(model, x[rows], goal.rows(rows), begin[rows])
                better = loss > best_loss[rows]
                best[rows[better]], best_loss[rows[better]] = found[better], loss[better]
        return best

    def _run(self, model: nn.Module, x: Tensor, goal: Goal, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """One run from ``x_adv``: the kept images and their losses (B,), infinite where the sample is broken."""
        kept, kept_loss = x_adv.clone(), x.new_full((len(x),), -torch.inf)
        rows = torch.arange(len(x), device=x.device)
        for step in range(self.steps + 1):
            logits, loss, slope = self._slope(model, x_adv, goal, first=step == 0, wanted=step < self.steps)
            broken = self._broken(model, x_adv, logits, goal.y)
            loss = loss.nan_to_num(-torch.inf).masked_fill(broken, torch.inf)
            better = loss > kept_loss[rows]
            kept[rows[better]], kept_loss[rows[better]] = x_adv[better], loss[better]
            if broken.any():
                stands = ~broken
                rows, x, x_adv, goal, slope = rows[stands], x[stands], x_adv[stands], goal.rows(stands), slope[stands]
            if not len(rows) or step == self.steps:
                break
            x_adv = self.threat.project(x, self.threat.ascend(x_adv, slope, self.step_size))
        return kept, kept_loss

    def _last(self, model: nn.Module, x: Tensor, goal: Goal, x_adv: Tensor) -> Tensor:
        for step in range(self.steps):
            _, _, slope = self._slope(model, x_adv, goal, first=step == 0, wanted=True)
            x_adv = self.threat.project(x, self.threat.ascend(x_adv, slope, self.step_size))
        return x_adv

    def _slope(
        self, model: nn.Module, x_adv: Tensor, goal: Goal, *, first: bool, wanted: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, losses, and d loss / d x_adv (zeros when not wanted; zero where it is not finite).

        Of several views the first one's logits, and the sums. first: look at the labels' range now that the number of
        classes is known; that costs a synchronisation.
        """
        seen = [self._look(view, x_adv, goal, first, wanted) for view in summands(model)]
        logits, losses, slopes = zip(*seen)
        return logits[0], torch.stack(losses).sum(0), torch.stack(slopes).sum(0)

    def _look(
        self, view: nn.Module, x_adv: Tensor, goal: Goal, first: bool, wanted: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        at = x_adv.detach().requires_grad_(wanted)
        with torch.set_grad_enabled(wanted):
            logits = view(at)
            if first:
                check_labels(x_adv, goal.y, logits.shape[1])
            loss = LOSSES[self.loss](logits, goal)
            slope = torch.autograd.grad(loss.sum(), at)[0] if wanted else torch.zeros_like(at)
        return logits.detach(), loss.detach(), slope.nan_to_num(0, 0, 0)

    def _broken(self, model: nn.Module, x_adv: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """(B,) where the deployed model errs, and the sample is done; nowhere when the highest loss is wanted."""
        if self.keep == "highest":
            return torch.zeros_like(y, dtype=torch.bool)
        view = summands(model)[0]  # whose logits they are
        if isinstance(view, View) and not view.faithful:
            with torch.no_grad():
                logits = view.deployed(x_adv)
        return predictions(logits) != y

    def _goals(self, model: nn.Module, x: Tensor, y: Tensor) -> list[Goal]:
        """One goal, or one for each target. The logits of the image are computed once an attack."""
        if self.loss not in ("kl", "dlr-targeted", "ce-targeted"):
            return [Goal(y)]
        with torch.no_grad():
            logits = model(x)
        classes = logits.shape[1]
        check_labels(x, y, classes)
        if self.loss == "kl":
            return [Goal(y, clean=logits.log_softmax(1))]
        if self.loss == "dlr-targeted" and classes < 4:
            wanted = "at least 4, or loss='ce-targeted'"
            raise ValueError(f"PGD: loss='dlr-targeted' on {classes} classes; allowed: {wanted}.")
        wrong = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)
        return [Goal(y, target=wrong[:, rank]) for rank in range(min(self.targets, classes - 1))]

    def _begin(self, x: Tensor, restart: int, indices: Tensor | None) -> Tensor:
        if self.start == "clean":
            return x.clone()
        if self.start == "gaussian":
            return self.threat.project(x, x + 0.001 * numbered(torch.randn, x, self.seed, restart, indices))
        return self.threat.spread(x, numbered(torch.rand, x, self.seed, restart, indices))


def numbered(draw, x: Tensor, seed: int, restart: int, indices: Tensor | None) -> Tensor:
    """Random numbers of the shape of x; those of a sample depend on (seed, restart, its index) alone.

    Without indices one generator serves the whole batch. Drawn on the CPU, so that every device sees the same numbers.
    """
    if indices is None:
        return draw(x.shape, generator=generator(seed, restart, 0)).to(x)
    rows = [draw(x.shape[1:], generator=generator(seed, restart, 1 + index)) for index in indices.tolist()]
    return torch.stack(rows).to(x)
