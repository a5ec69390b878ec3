"""Whether the dynamics have a limit: the Jacobian's spectral radius at z^[N], and the end states of random starts.

Legend of shapes: B batch, D packed state size, S starts, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from ..attacks import predictions
from ..checks import check_count, check_indices, check_number
from ..dynamics import drive
from ..dynamics.solver import length
from ..models.modes import evaluating, images_only
from ..seeds import generator
from .dynamics import Tabular, dynamics_of


@dataclass(frozen=True)
class SpectralRadius(Tabular):
    """radius: (B,), the largest modulus of an eigenvalue; NaN where f is not finite. drift: (B,), by what share the
    estimate moved between the two halves of what it is the mean of: how far the iteration is from settled."""

    radius: Tensor
    drift: Tensor


def spectral_radius(
    model: nn.Module, x: Tensor, *, iterations: int = 60, seed: int = 0, indices: Tensor | None = None
) -> SpectralRadius:
    """Of J = df/dz at z^[T], for images x (B, C, H, W), by power iteration. Below 1, plain iteration that is near the
    fixed point comes nearer.

    model: a DEQ, or a defended one, whose f is then that of the last step. J^T has the eigenvalues of J, and its
    product with a vector is one reverse pass: an image costs one evaluation of f and ``iterations`` passes, 4 or more.
    The radius is the mean growth (geometric) over the second half of them: where a complex pair leads, single growths
    oscillate for ever, while the error of their mean falls like 1 / iterations. indices: (B,) the samples' numbers in
    their data set, which with the seed decide a sample's first vector.
    """
    check_count("spectral_radius", "iterations", iterations, 4)
    check_indices(x, indices)
    whole, deq = dynamics_of("spectral_radius", model)
    with evaluating(whole), torch.inference_mode(False), images_only(deq):
        trajectory = whole.trajectory(x)
        z = trajectory.states[-1].detach().clone().requires_grad_()
        with torch.enable_grad():
            f_z = deq.map((trajectory.inputs or (x,))[-1])(z)
        w, logs = _normal(z, seed, 0, indices), []
        for _ in range(iterations):
            # An f that does not depend on z has no graph, and the Jacobian 0.
            w = torch.autograd.grad(f_z, z, w, retain_graph=True)[0] if f_z.requires_grad else torch.zeros_like(w)
            growth = length(w)
            w = w / growth.clamp_min(torch.finfo(growth.dtype).tiny).to(w.dtype)[:, None]
            logs.append(growth.log())
    # The first half of the growths is not looked at: there the other eigenvalues have not died away.
    half, last_quarter = iterations // 2, iterations - iterations // 4
    radius = torch.stack(logs[half:]).mean(dim=0).exp()
    before, after = (torch.stack(some).mean(dim=0) for some in (logs[half:last_quarter], logs[last_quarter:]))
    drift = torch.where(radius > 0, (after - before).expm1().abs(), 0.0)
    finite = f_z.detach().isfinite().all(dim=1)
    return SpectralRadius(torch.where(finite, radius, torch.nan), torch.where(finite, drift, torch.nan))


@dataclass(frozen=True)
class PathIndependence(Tabular):
    """Where B samples end from S random starts and from zero, after N steps each.

    started, ended: (B,) the mean distance of two of the S + 1 starts, and of two of their ends, as a share of
    ||z^[N]|| from zero; ended 0 is one state whatever the start. agree: (B,) share of the random starts whose
    prediction is that from zero. prediction: (B,) int64, from zero.
    """

    started: Tensor
    ended: Tensor
    agree: Tensor
    prediction: Tensor


@torch.no_grad()
def path_independence(
    model: nn.Module, x: Tensor, *, starts: int = 4, scale: float = 1.0, seed: int = 0, indices: Tensor | None = None
) -> PathIndependence:
    """Whether images x (B, C, H, W) come to one state from random z^[0] (Anil et al. 2022, arXiv 2211.09961).

    model: a DEQ; of a defended one, the DEQ in it. starts: how many. A start is Gaussian, with ``scale`` times the root
    mean square of the sample's z^[N] from zero. indices: see ``spectral_radius``. It costs (starts + 1) N evaluations
    of f.
    """
    check_count("path_independence", "starts", starts)
    check_number("path_independence", "scale", scale, 0, low_open=True)
    check_indices(x, indices)
    _, deq = dynamics_of("path_independence", model)
    with evaluating(deq):
        f, zero = deq.map(x), deq.zeros(x)
        ends = [drive(deq.solver, f, zero, deq.steps).z]
        size = length(ends[0])
        spread = scale * (size / ends[0].shape[1] ** 0.5).to(zero.dtype)[:, None]
        begins = [zero, *(spread * _normal(zero, seed, 1 + start, indices) for start in range(starts))]
        ends += [drive(deq.solver, f, begin, deq.steps).z for begin in begins[1:]]
        labels = [predictions(deq.read(z)) for z in ends]
    agree = torch.stack([(of == labels[0]) & (of >= 0) for of in labels[1:]]).to(size.dtype).mean(dim=0)
    return PathIndependence(_apart(begins, size), _apart(ends, size), agree, labels[0])


def _apart(states: Sequence[Tensor], size: Tensor) -> Tensor:
    """The mean distance of two of the states, each (B, D), as a share of ``size`` (B,)."""
    distances = [length(one - other) for one, other in combinations(states, 2)]
    return torch.stack(distances).mean(dim=0) / size.clamp_min(1e-9)


def _normal(z: Tensor, seed: int, draw: int, indices: Tensor | None) -> Tensor:
    """N(0, 1) numbers of the shape of z (B, D); a sample's depend on seed, draw and its number alone, not its batch."""
    numbers = range(len(z)) if indices is None else indices.tolist()
    rows = [torch.randn(z.shape[1], generator=generator(seed, draw, number)) for number in numbers]
    return torch.stack(rows).to(z) if rows else torch.zeros_like(z)
