"""How a perturbed image moves the dynamics, and where that comes from (P23 sec. 3.1; ||.|| is Euclidean, per sample).

    || f(z~; x~) - f(z; x) ||  <=  || f(z~; x~) - f(z~; x) ||  +  || f(z~; x) - f(z; x) ||
              total                        perturbation                  accumulation

Entropy reduction works on the perturbation, the loss at random states on the accumulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..checks import check_images, described
from ..dynamics.solver import length
from ..models.modes import evaluating
from .dynamics import QUANTILES, Maps, along, dynamics_of, quantiles

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Deviation:
    """Of B samples at t = 1..T, each (T, B) and at least float32; total <= perturbation + accumulation up to rounding.

    total, perturbation, accumulation: Euclidean norms in the space of states. distance: ||z~^[t] - z^[t]|| / ||z^[t]||.
    """

    total: Tensor
    perturbation: Tensor
    accumulation: Tensor
    distance: Tensor

    def frame(self) -> DataFrame:
        """A row for each sample and t: sample, t, total, perturbation, accumulation, distance."""
        return along(vars(self))

    def quantiles(self, levels: Sequence[float] = QUANTILES) -> DataFrame:
        """Over the samples, a row for each term, t and level: term, t, quantile, value."""
        return quantiles(vars(self), levels)


@torch.no_grad()
def deviation(model: nn.Module, x: Tensor, x_adv: Tensor, *, reference: nn.Module | None = None) -> Deviation:
    """The deviation of the dynamics of x_adv from those of x, images (B, C, H, W) in [0, 1], at every t.

    model: a DEQ, or one behind entropy reduction. There x and x_adv stand for the images that step t used. reference:
    whose clean dynamics those of ``model`` are compared with, of the same cell and N; default ``model`` itself. The
    bare model as the reference of a defended one says how much of an attack's deviation the defence takes back.
    """
    whole, deq = dynamics_of("deviation", model)
    clean_whole, clean_deq = (whole, deq) if reference is None else dynamics_of("deviation", reference)
    if clean_deq.cell is not deq.cell or clean_deq.steps != deq.steps:
        given = f"another cell or number of steps ({clean_deq.steps}, not {deq.steps})"
        raise ValueError(f"deviation: the reference has {given}; allowed: the same weights for as many steps.")
    check_images(x, deq.image_shape)
    if not isinstance(x_adv, Tensor) or (x_adv.shape, x_adv.dtype) != (x.shape, x.dtype):
        wanted = f"images as x is, {described(x)}"
        raise ValueError(f"deviation: x_adv is {described(x_adv)}; allowed: {wanted}.")
    with evaluating(whole), evaluating(clean_whole):
        clean, moved = clean_whole.trajectory(x), whole.trajectory(x_adv)
        f, f_adv = Maps(clean_deq, clean, x), Maps(deq, moved, x_adv)
        rows = []
        for t, (z, z_adv) in enumerate(zip(clean.states, moved.states), start=1):
            here, between, there = f(t)(z), f(t)(z_adv), f_adv(t)(z_adv)
            distance = length(z_adv - z) / length(z).clamp_min(1e-9)
            rows.append((length(there - here), length(there - between), length(between - here), distance))
    return Deviation(*(torch.stack(column) for column in zip(*rows)))
