"""Regularisers of a training step: the Jacobian of the cell, and adversarial weight perturbation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checks import Count, Natural, NonNegative, Share, check_count
from ..dynamics import Solver, drive
from ..models.deq import DEQClassifier
from ..models.modes import statistics_kept
from ..options import checked


@checked
@dataclass(frozen=True, kw_only=True)
class JacobianPenalty:
    """Hutchinson estimate of ||J_f(z)||_F^2 / dim(z) at z^[t], on a random share of the steps (MDEQ; P23 sec. 4).

    weight: 2.0 for PGD-AT, 0.4 for TRADES in the papers; 0 turns it off. share: of the steps that pay it. probes: of
    the estimate. low, high: on such a step N is drawn from {low, ..., high}. until: the epoch after which it is off.
    """

    weight: NonNegative = 0.0
    share: Share = 0.02
    probes: Count = 2
    low: Count = 6
    high: Count = 9
    until: Natural | None = None

    def __post_init__(self) -> None:
        check_count("JacobianPenalty", "high", self.high, self.low)

    def draw(self, epoch: int, generator: torch.Generator) -> int | None:
        """N of a step that pays the penalty; None for one that does not."""
        pays = float(torch.rand((), generator=generator)) < self.share
        steps = int(torch.randint(self.low, self.high + 1, (), generator=generator))
        off = not self.weight or (self.until is not None and epoch >= self.until)
        return None if off or not pays else steps

    def __call__(
        self, model: DEQClassifier, x: Tensor, steps: int, generator: torch.Generator, solver: Solver | None = None
    ) -> Tensor:
        """weight * E ||v^T J_f||^2 / dim(z), v ~ N(0, I), at z^[steps] of images x (B, C, H, W); a scalar.

        solver: instead of the model's. BatchNorm's statistics are left as they are.
        """
        with statistics_kept(model):
            f = model.map(x)
        with torch.no_grad():
            z = drive(solver or model.solver, f, model.zeros(x), steps).z
        z.requires_grad_()
        f_z = f(z)
        total = x.new_zeros(())
        for _ in range(self.probes):
            probe = torch.randn(z.shape, generator=generator).to(z)
            (pulled,) = torch.autograd.grad(f_z, z, probe, create_graph=True)
            total = total + pulled.square().sum() / z.numel()
        return self.weight * total / self.probes


@contextmanager
def perturbed(model: nn.Module, slopes: Sequence[Tensor | None], size: float) -> Iterator[None]:
    """Adversarial weight perturbation (Wu et al. 2020): weights moved up the loss inside, put back exactly afterwards.

    slopes: d loss / d p of every parameter. A weight of more than one dimension moves by ``size`` times its own norm.
    """
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.no_grad():
        for parameter, slope in zip(model.parameters(), slopes):
            if slope is not None and parameter.dim() > 1:
                parameter += size * parameter.norm() * slope / (slope.norm() + 1e-12)
    torch.clear_autocast_cache()  # it holds casts of the weights as they were
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), kept):
                parameter.copy_(value)
        torch.clear_autocast_cache()
