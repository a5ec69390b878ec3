"""A DEQ with a certificate: a strongly monotone convolutional cell (monDEQ: Winston, Kolter 2020, arXiv 2006.08591).

z = ReLU(W z + U x + b) with W = (1 - m) I - A^T A + B - B^T has one solution for any A and B, since I - W is strongly
monotone with the modulus m. All convolutions have circular padding, so that their norms are known.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import Count, ImageShape, Positive, check_count, check_dtype
from ..dynamics import SOLVERS, Picard
from ..gradients import GRADIENTS
from ..options import OneOf, checked, describe
from ..text import shown
from .cell import Cell
from .deq import DEQClassifier, StateLayout
from .fit import check_sides
from .norms import OUTWARD, circular, gram_bound, step_size, transfer, transposed
from .zoo import architecture


def norm_bound(kernel: Tensor, grid: tuple[int, int]) -> Tensor:
    """Of a circular convolution, by so few squarings as every forward can afford. How tight it is changes the map, and
    not whether the certificate holds."""
    return gram_bound(transfer(kernel, grid), squarings=4)


class LinearInjection(nn.Module):
    """u = U x + b: blocks of pixels become channels, then a convolution. (B, C, H, W) to (B, C_0, H / s, W / s)."""

    def __init__(self, channels_in: int, channels: int, stride: int, normalised: bool) -> None:
        super().__init__()
        self.stride, self.normalised = stride, normalised
        conv = nn.Conv2d(channels_in * stride**2, channels, 3)
        self.weight, self.bias = conv.weight, nn.Parameter(torch.zeros(channels))

    def kernel(self, grid: tuple[int, int]) -> Tensor:
        """The convolution that is deployed, on a grid (H, W)."""
        if not self.normalised:
            return self.weight
        return self.weight / norm_bound(self.weight, grid)

    def forward(self, x: Tensor) -> Tensor:
        check_dtype(x, self.weight)
        if len(x):  # torch leaves no images as they are
            x = F.pixel_unshuffle(x, self.stride)
        else:
            side = self.stride
            x = x.new_zeros(0, x.shape[1] * side**2, x.shape[2] // side, x.shape[3] // side)
        return circular(x, self.kernel((x.shape[2], x.shape[3]))) + self.bias[:, None, None]


class MonotoneCell(Cell):
    """f(z; u) = ReLU(z - a ((I - W) z - u)), the forward-backward step, whose fixed point is that of ReLU(W z + u). A
    contraction for any A and B, since a is made of their norms (``norms.step_size``). Packed (B, D) to packed (B, D).
    """

    one_for_all = True

    def __init__(self, layout: StateLayout, modulus: float) -> None:
        super().__init__()
        ((channels, height, width),) = layout.shapes
        self.layout, self.grid, self.modulus = layout, (height, width), modulus
        self.a = nn.Conv2d(channels, channels, 3, bias=False).weight
        self.b = nn.Parameter(0.5 * nn.Conv2d(channels, channels, 3, bias=False).weight.detach())

    def constants(self, z: Tensor) -> tuple[Tensor, ...]:
        """Kernels of A and A^T, that of K = B^T - B, and the step a."""
        skew = transposed(self.b) - self.b
        return self.a, transposed(self.a), skew, self._step(skew)[0]

    def prepare(self, z: Tensor, constants: Any = None) -> tuple[Tensor, ...]:
        """z - a (I - W) z, and a."""
        down, up, skew, step = self.constants(z) if constants is None else constants
        (h,) = self.layout.unpack(z)
        moved = self.modulus * h + circular(circular(h, down), up) + circular(h, skew)
        return h - step * moved, step

    def finish(self, prepared: tuple[Tensor, ...], u: Tensor, constants: Any = None) -> Tensor:
        h, step = prepared
        return F.relu(h + step * u).flatten(1)

    @torch.no_grad()
    def rate(self) -> tuple[float, float]:
        """Proven bounds in float64 of how far a step moves the states of two injections apart, here the step a, and of
        what it leaves of the distance of two states, ||I - a (I - W)||."""
        exact = copy.deepcopy(self).double()
        skew = transposed(exact.b) - exact.b
        step, rate = exact._step(skew)  # holds for all cells of such norms
        whole, identity = exact._blocks(skew)
        return float(step), min(float(rate), float(gram_bound(identity - step * whole))) * OUTWARD

    def _blocks(self, skew: Tensor) -> tuple[Tensor, Tensor]:
        """I - W in Fourier space, (F, C, C), and I, (C, C)."""
        blocks = transfer(self.a, self.grid)
        identity = torch.eye(blocks.shape[2], dtype=blocks.dtype, device=blocks.device)
        return self.modulus * identity + blocks.mH @ blocks + transfer(skew, self.grid), identity

    def _step(self, skew: Tensor) -> tuple[Tensor, Tensor]:
        """The step a, and a bound of what it leaves of a distance."""
        return step_size(self.modulus, norm_bound(self.a, self.grid).square(), norm_bound(skew, self.grid))


class ReflectedCell(MonotoneCell):
    """f(v; u) = 2 V (|v| + a u) - |v| with V = (I + a (I - W))^-1, the Peaceman-Rachford step of the same equation
    (Winston, Kolter 2020, section 4): at its fixed point ReLU(v) is z. V acts on every frequency by itself.

    The two reflections of the method are |v| = 2 ReLU(v) - v and C = 2 V - I, so that f = C |v| + 2 a V u. With
    y = (I + a M) x and M = I - W, ||C y||^2 = ||x - a M x||^2 = ||y||^2 - 4 a <x, M x>: a contraction for any a > 0.
    """

    def constants(self, z: Tensor) -> tuple[Tensor, ...]:
        """V in Fourier space, (F, C, C) complex, and a, which is 1 / sqrt(m (m + ||A^T A||)): the best without B."""
        gram = norm_bound(self.a, self.grid).square()
        step = (self.modulus * (self.modulus + gram)).rsqrt()
        whole, identity = self._blocks(transposed(self.b) - self.b)
        return torch.linalg.inv(identity + step * whole), step

    def prepare(self, z: Tensor, constants: Any = None) -> tuple[Tensor, ...]:
        """|v|, V and a."""
        return (self.layout.unpack(z)[0].abs(), *(self.constants(z) if constants is None else constants))

    def finish(self, prepared: tuple[Tensor, ...], u: Tensor, constants: Any = None) -> Tensor:
        h, inverse, step = prepared
        if not len(u):  # no Fourier transform takes no images
            return h[:0].flatten(1)
        waves = torch.fft.rfft2((h + step * u).to(step.dtype)).flatten(2)
        solved = torch.einsum("foi,bif->bof", inverse, waves).unflatten(2, (self.grid[0], -1))
        return (2 * torch.fft.irfft2(solved, s=self.grid) - h).flatten(1).to(h.dtype)

    @torch.no_grad()
    def rate(self) -> tuple[float, float]:
        """See ``MonotoneCell``: 2 a ||V|| and ||C||."""
        exact = copy.deepcopy(self).double()
        skew = transposed(exact.b) - exact.b
        inverse, step = exact.constants(exact.a)
        identity = torch.eye(inverse.shape[2], dtype=inverse.dtype, device=inverse.device)
        pushed = 2 * float(step) * min(float(gram_bound(inverse)), 1 / (1 + float(step) * self.modulus))
        # ||(I + a M) x|| is at most ``longest`` times ||x||.
        longest = 1 + step * (self.modulus + norm_bound(exact.a, self.grid).square() + norm_bound(skew, self.grid))
        rate = (1 - 4 * step * self.modulus / longest.square()).sqrt()
        return pushed * OUTWARD, min(float(rate), float(gram_bound(2 * inverse - identity))) * OUTWARD


SPLITTINGS = {"forward-backward": MonotoneCell, "peaceman-rachford": ReflectedCell}
"""Ways to step to the same fixed point."""


class LinearReadout(nn.Module):
    """Packed state (B, D) to logits (B, K): means over windows, then a linear map. rectified: of ReLU(state)."""

    def __init__(self, layout: StateLayout, pool: int, classes: int, largest: float | None, rectified: bool) -> None:
        super().__init__()
        ((channels, height, width),) = layout.shapes
        self.layout, self.pool, self.largest, self.rectified = layout, pool, largest, rectified
        self.linear = nn.Linear(channels * height * width // pool**2, classes)

    @property
    def weight(self) -> Tensor:
        """The linear map that is deployed, (K, D / pool^2); no two rows are farther apart than ``largest``."""
        rows = self.linear.weight
        if self.largest is None:
            return rows
        return rows * (self.largest / (2 * (rows - rows.mean(0)).norm(dim=1).amax().clamp_min(1e-12)))

    def forward(self, z: Tensor) -> Tensor:
        (h,) = self.layout.unpack(F.relu(z) if self.rectified else z)
        return F.linear(F.avg_pool2d(h, self.pool).flatten(1), self.weight, self.linear.bias)


class MonDEQ(DEQClassifier):
    """A monotone DEQ, which knows a bound of its slope in the image (L2), of the map that is deployed."""

    inject: LinearInjection
    cell: MonotoneCell
    readout: LinearReadout

    @torch.no_grad()
    def slopes(self, steps: int | None = None) -> Tensor:
        """Proven upper bounds (K, K), float64 on the CPU, of the Lipschitz constant of logit i - logit j after N steps
        from zero, over images (L2) and over all of space.

        A step moves two states of the images x, y from the distance d to at most rho d + a ||U|| ||x - y||, since ReLU
        moves nothing apart; so N steps from zero have the constant a ||U|| (1 + rho + ... + rho^(N - 1)). (By
        Peaceman-Rachford 2 a ||V|| stands for a; see ``rate`` of the cell.) steps: instead of N. Computed in float64,
        and rounded outwards (``norms.OUTWARD``). ValueError for a solver other than Picard.
        """
        rows, reach = self._reach(steps)
        return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") * reach * OUTWARD

    @torch.no_grad()
    def lipschitz(self, steps: int | None = None) -> float:
        """A proven upper bound of the Lipschitz constant (L2) of all logits as a vector; see ``slopes``."""
        rows, reach = self._reach(steps)
        return float(gram_bound(rows[None].to(torch.complex128))) * reach * OUTWARD

    def _reach(self, steps: int | None) -> tuple[Tensor, float]:
        """In float64 the rows (K, D / pool^2) of the readout, as a map of the state, and the bound for z^[N]."""
        steps = self.steps if steps is None else steps
        check_count("lipschitz", "steps", steps)
        if not isinstance(self.solver, Picard):
            given = f"with the solver {shown(describe(self.solver))}"
            raise ValueError(f"lipschitz: a {type(self).__name__} {given}; allowed: picard, of which a bound is known.")
        exact, damping = copy.deepcopy(self).double().cpu().eval(), self.solver.damping
        pushed, rate = exact.cell.rate()
        injected = float(gram_bound(transfer(exact.inject.kernel(exact.cell.grid), exact.cell.grid)))
        reach = 0.0
        for _ in range(steps):
            reach = ((1 - damping + damping * rate) * reach + damping * pushed * injected) * OUTWARD
        return exact.readout.weight / exact.readout.pool, reach  # the mean over p x p numbers has the norm 1 / p


@checked
@dataclass(frozen=True, kw_only=True)
class MonDEQConfig:
    """Everything that makes a monotone DEQ.

    image_shape: (C, H, W). channels: of the state, which has the resolution H / stem_stride. pool: side of the windows
    of the state that the readout sees as their mean. modulus: m, of the strong monotonicity.
    bound: of ||U|| max_ij ||w_i - w_j|| / m, w the rows of the readout: the largest slope of a difference of two logits
    that the fixed point can have (Pabbaraju, Winston, Kolter 2021). U and w are scaled to it, so that training widens
    margins in units of what a change of the image can do. None: they are free. splitting: in ``SPLITTINGS``; the same
    fixed point, in fewer steps by Peaceman-Rachford. solver: ``picard``, the only one of which a bound is known; steps,
    gradient: see DEQClassifier.
    """

    image_shape: ImageShape = (3, 32, 32)
    num_classes: Count = 10
    channels: Count = 64
    stem_stride: Count = 2
    pool: Count = 4
    modulus: Positive = 1.0
    bound: Positive | None = None
    splitting: Annotated[str, OneOf("splitting", SPLITTINGS)] = "forward-backward"
    solver: Annotated[Any, SOLVERS] = "picard"
    steps: Count = 8
    gradient: Annotated[Any, GRADIENTS] = "unrolled"

    def __post_init__(self) -> None:
        check_sides("mondeq", self.image_shape, self.stem_stride * self.pool)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the state."""
        _, height, width = self.image_shape
        return self.channels, height // self.stem_stride, width // self.stem_stride


PRESETS: dict[str, dict[str, Any]] = {
    "mondeq-nano": dict(image_shape=(1, 8, 8), channels=32, pool=1, bound=8.0),
    "mondeq-small": dict(bound=8.0),
}


@architecture(MonDEQConfig, PRESETS)
def build_mondeq(config: MonDEQConfig) -> MonDEQ:
    """With fresh weights from torch's global generator."""
    layout, bound = StateLayout([config.state_shape]), config.bound
    largest = None if bound is None else bound * config.modulus * config.pool
    # In this order, since each draws its weights.
    inject = LinearInjection(config.image_shape[0], config.channels, config.stem_stride, bound is not None)
    cell = SPLITTINGS[config.splitting](layout, config.modulus)
    readout = LinearReadout(layout, config.pool, config.num_classes, largest, isinstance(cell, ReflectedCell))
    return MonDEQ(
        inject, cell, readout, [config.state_shape], solver=config.solver, steps=config.steps,
        gradient=config.gradient, image_shape=config.image_shape,
    )  # fmt: skip
