"""What a step pays or does beside its objective: the Jacobian penalty, the deviation of attacked from clean dynamics,
adversarial weight perturbation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checks import Count, Natural, NonNegative, Share, check_count
from ..distributed import Distributed
from ..dynamics import Solver, drive
from ..dynamics.solver import length
from ..models.cell import CellMap
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
        """weight * E ||v^T J_f||^2 / dim(z), v ~ N(0, I), at z^[steps] of images x (B, C, H, W); a scalar. solver:
        instead of the model's. BatchNorm's statistics are left as they are."""
        with statistics_kept(model):
            f = model.map(x)
        with torch.no_grad():  # what is penalised is f at this state, not the way to it
            z = drive(solver or model.solver, f, model.zeros(x), steps).z
        z.requires_grad_()
        f_z = f(z)
        total = x.new_zeros(())
        for _ in range(self.probes):
            probe = torch.randn(z.shape, generator=generator).to(z)  # E ||v^T J||^2 = ||J||_F^2
            (pulled,) = torch.autograd.grad(f_z, z, probe, create_graph=True)
            total = total + pulled.square().sum() / z.numel()
        return self.weight * total / self.probes


def state_deviation(
    model: DEQClassifier, x: Tensor, x_adv: Tensor, steps: int, solver: Solver | None = None,
    start: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean over the samples and t in 1..steps of ||z~^[t] - z^[t]|| / ||z^[t]||, z of images x and z~ of x_adv, both
    (B, C, H, W) in [0, 1]; a scalar, with the gradient through both solves. Times a Lipschitz constant of f it bounds
    P23's accumulation term, ||f(z~; x) - f(z; x)||.

    solver: instead of the model's. start: z^[0] of both, (B, D), instead of zero. Dropout masks are the same for both,
    and BatchNorm's statistics are left as they are.
    """
    z, states = model.zeros(x) if start is None else start, ([], [])
    with statistics_kept(model):
        f = model.map(x)
        f_adv = CellMap(model.cell, model.inject(x_adv), f.constants, model.tally)  # the same masks of dropout
    for moved, kept in zip((f, f_adv), states):
        drive(solver or model.solver, moved, z, steps, observers=[lambda state, kept=kept: kept.append(state.z)])
    ratios = [length(z_adv - z) / (length(z) + 1e-9) for z, z_adv in zip(*states)]
    return torch.stack(ratios).mean()


@contextmanager
def perturbed(model: nn.Module, loss: Callable[[], Tensor], size: float, distributed: Distributed) -> Iterator[None]:
    """Adversarial weight perturbation (Wu et al. 2020): weights moved up ``loss`` inside, put back exactly afterwards.
    Each of more than one dimension moves by ``size`` times its own norm; a frozen one stays."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.dim() > 1]
    kept = [weight.detach().clone() for weight in weights]
    with statistics_kept(model):
        slopes = torch.autograd.grad(loss(), weights, materialize_grads=True)
    with torch.no_grad():
        for weight, slope in zip(weights, map(distributed.all_reduce, slopes)):
            weight += size * weight.norm() * slope / (slope.norm() + 1e-12)
    torch.clear_autocast_cache()  # it holds casts of the weights as they were
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, kept):
                weight.copy_(value)
        torch.clear_autocast_cache()
