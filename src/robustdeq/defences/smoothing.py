"""Randomised smoothing: the class that most noisy copies of an image are given (Cohen, Rosenfeld, Kolter 2019, arXiv
1902.02918)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checks import Count, PositiveDistance, Seed, beyond_the_box, check_images
from ..models.fit import asked, check_logits
from ..models.modes import borrowed, evaluating, trackable, unwrapped
from ..models.structure import Defended, structure
from ..options import checked
from ..seeds import generator

TOGETHER = 1000
"""Noisy images in one forward of the model below."""


@checked
@dataclass(frozen=True)
class Smoothing:
    """Smoothing, to be put on a model: ``smoothed = Smoothing(sigma)(model)``. Its logits are shares of votes.

    g(x) = the class likeliest under model(x + sigma N(0, I)), a class that ``certify`` can prove stable around x.
    sigma: in pixels of [0, 1], greater than 0. draws: noisy copies that vote in a forward. classes: how many the model
    has to have; None takes what it gives. clip: cut the copies to [0, 1], which is then part of the map that is
    smoothed (and certified); without it noise leaves the box, as in the paper. seed: of one noise for all images, with
    which the forward is a fixed function; None draws anew in every forward, from torch's global generator, and an
    evaluation raises its red flag ``random``. Raises a ValueError for any other value.
    """

    sigma: PositiveDistance
    classes: Count | None = None
    draws: Count = 100
    clip: bool = False
    seed: Seed | None = None

    def __call__(self, model: nn.Module) -> SmoothedClassifier:
        return SmoothedClassifier(unwrapped(model), self)


class SmoothedClassifier(Defended):
    """A classifier behind randomised smoothing. Images (B, C, H, W) lie in [0, 1] and are checked; their noisy copies
    are not. The model is in eval mode during a forward."""

    method: Smoothing

    def __init__(self, model: nn.Module, method: Smoothing) -> None:
        if not isinstance(method, Smoothing):
            raise ValueError(f"SmoothedClassifier: the method is a {type(method).__name__}; allowed: a Smoothing.")
        super().__init__(model, method)

    def forward(self, x: Tensor) -> Tensor:
        """Shares of the votes (B, K), in float32 at least, of images x (B, C, H, W) in [0, 1]; NaN where no copy has
        finite logits.

        The gradient is that of the mean probabilities, with the noise held constant (Salman et al. 2019, arXiv
        1906.04584, eq. 5): votes have none.
        """
        check_images(x, getattr(self.model, "image_shape", None))
        x, read = trackable(x), self._piece
        pieces = list(self._noise(x))
        if torch.is_grad_enabled() and len(pieces) > 1:  # the graph of one piece at a time
            deq = structure(self.model, opaque=True).deq
            owners, own = [] if deq is None else [deq], None if deq is None else deq.gradient  # as it is by now
            again = lambda: (nullcontext(), borrowed(owners, gradient=own))  # noqa: E731
            read = functools.partial(checkpoint, read, use_reentrant=False, preserve_rng_state=False, context_fn=again)
        votes, probabilities = (torch.stack(sums).sum(0) for sums in zip(*(read(x, noise) for noise in pieces)))
        wide = torch.promote_types(x.dtype, torch.float32)  # half precision would make a majority a draw
        shares = torch.where(votes.sum(1, keepdim=True) > 0, votes.to(wide) / self.method.draws, torch.nan)
        if not torch.is_grad_enabled():
            return shares
        mean = probabilities / self.method.draws
        return shares + (mean - mean.detach())  # the value of the votes, the gradient of the mean

    def respond(self, noisy: Tensor) -> Tensor:
        """Logits (n, K) that the model below gives copies (n, C, H, W) with noise, wherever their pixels lie."""
        noisy = noisy.clamp(0, 1) if self.method.clip else noisy
        with evaluating(self.model), beyond_the_box():
            logits = asked("Smoothing: the model", self.model, noisy)
        check_logits("Smoothing", self.model, logits, len(noisy), self.method.classes or 2)
        if self.method.classes not in (None, logits.shape[1]):
            given = f"classes={self.method.classes} of a model with {logits.shape[1]}"
            raise ValueError(f"Smoothing: {given}; allowed: None, or {logits.shape[1]}.")
        return logits

    def _piece(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Votes and sums of probabilities, (B, K) both, of the copies with ``noise``, (D, B or 1, C, H, W)."""
        logits = self.respond((x + self.method.sigma * noise).flatten(0, 1))
        shape = (len(noise), len(x), logits.shape[1])
        probabilities = logits.softmax(1).nan_to_num(0, 0, 0) if torch.is_grad_enabled() else torch.zeros_like(logits)
        return ballots(logits).view(shape).sum(0), probabilities.view(shape).sum(0)

    def _noise(self, x: Tensor) -> Iterator[Tensor]:
        """Standard normal, (D, B or 1, C, H, W) at a time."""
        draws, seed, each = self.method.draws, self.method.seed, max(1, TOGETHER // max(len(x), 1))
        if seed is not None:  # on the CPU and in float32: the same on every device, and for any batch
            kind: dict[str, Any] = {"dtype": torch.float32, "generator": generator(seed)}
            yield from torch.randn(draws, 1, *x.shape[1:], **kind).to(x).split(each)
            return
        for first in range(0, draws, each):
            yield torch.randn(min(each, draws - first), *x.shape, dtype=x.dtype, device=x.device)


def ballots(logits: Tensor) -> Tensor:
    """A vote for the class of the largest logit, (n, K) int64; none where a logit is not finite."""
    finite = logits.isfinite().all(dim=1, keepdim=True)
    return F.one_hot(logits.nan_to_num(0, 0, 0).argmax(1), logits.shape[1]) * finite
