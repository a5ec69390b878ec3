"""Proven upper bounds of the spectral norm of convolutions with circular padding, and how they are stepped.

Legend: H, W the grid, F frequencies (half of them: a real kernel has conjugate pairs), C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OUTWARD = 1 + 1e-9
"""Times a bound that was computed in float64: more than its rounding errors. A squaring in ``gram_bound`` has the
relative error C 2^-53 or so, of which the root that is taken at the end leaves less than 1e-12 in all."""


def circular(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolution (as torch has it: cross-correlation) with odd kernels (C_out, C_in, k, k) and circular padding."""
    across, down = kernel.shape[3] // 2, kernel.shape[2] // 2
    return F.conv2d(F.pad(x, (across, across, down, down), mode="circular"), kernel)


def transposed(kernel: Tensor) -> Tensor:
    """The kernel whose circular convolution is the transpose of that of ``kernel``."""
    return kernel.transpose(0, 1).flip(2, 3)


def transfer(kernel: Tensor, grid: tuple[int, int]) -> Tensor:
    """The blocks (F, C_out, C_in), complex, that ``circular`` is made of in Fourier space on a grid (H, W): a wave
    v e^(i w n) becomes (block(w) v) e^(i w n). So its singular values are those of the blocks (Sedghi, Gupta, Long
    2019, arXiv 1805.10408)."""
    height, width = grid
    kernel = kernel.to(torch.promote_types(kernel.dtype, torch.float32))  # complex numbers have no smaller parts
    waves = []
    for size, count, taps in ((height, height, kernel.shape[2]), (width, width // 2 + 1, kernel.shape[3])):
        frequency = torch.arange(count, dtype=torch.float64, device=kernel.device) * (2 * torch.pi / size)
        place = torch.arange(taps, dtype=torch.float64, device=kernel.device) - taps // 2
        angle = frequency[:, None] * place
        waves.append(torch.complex(angle.cos().to(kernel.dtype), angle.sin().to(kernel.dtype)))
    blocks = torch.einsum("oipq,hp->hoiq", kernel.to(waves[0].dtype), waves[0])
    return torch.einsum("hoiq,wq->hwoi", blocks, waves[1]).flatten(0, 1)


def gram_bound(blocks: Tensor, squarings: int = 10) -> Tensor:
    """An upper bound of the largest singular value of any of the blocks (F, m, n): a number, differentiable.

    ||A||^(2 2^k) = ||(A* A)^(2^k)|| is at most the Frobenius norm of that power (Delattre et al. 2023, arXiv
    2305.16173), so whenever it ends it ends above the truth: by a factor of at most n^(1/2^(k+2)), 1.001 for n = 64
    and ten squarings. (A power iteration that ends early ends below it.)
    """
    adjoint = blocks.mH
    power = blocks @ adjoint if blocks.shape[1] < blocks.shape[2] else adjoint @ blocks
    logarithm = power.new_zeros(len(power), dtype=power.real.dtype)
    for _ in range(squarings):
        size = _length(power)  # taken out before each squaring, or it would overflow; its logarithm keeps count
        power = power / size[:, None, None]
        power, logarithm = power @ power, 2 * (logarithm + size.log())
    return ((logarithm + _length(power).log()) / 2 ** (squarings + 1)).exp().amax()


def _length(blocks: Tensor) -> Tensor:
    """Frobenius norms (F,), of blocks of zeros almost zero."""
    squares = torch.view_as_real(blocks).square().flatten(1).sum(1)
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()


def step_size(modulus: float, gram: Tensor, skew: Tensor) -> tuple[Tensor, Tensor]:
    """Of forward steps z - a M z with M = m I + S + K, where S is positive with ||S|| <= gram, and K = -K^T with
    ||K|| <= skew: the step a, and a bound below 1 of ||I - a M||, for any S and K of such norms.

    Let p = m + gram, r = skew / sqrt(p m) and x of length 1. P = m I + S has ||P x||^2 <= (p + m) <x, P x> - p m, and
    for any t > 0 is ||M x||^2 <= (1 + t) ||P x||^2 + (1 + 1 / t) skew^2. With a = 2 / ((1 + t) (p + m)) the terms in
    <x, P x> cancel in ||x - a M x||^2 = 1 - 2 a <x, P x> + a^2 ||M x||^2, and t = r^2 + r sqrt(1 + r^2), the best,
    leaves 1 - 4 p m / (p + m)^2 / (r + sqrt(1 + r^2))^2. Without skew that is ((p - m) / (p + m))^2. It is summed up
    from positive terms: r + sqrt(1 + r^2) = e^asinh(r).
    """
    top = modulus + gram
    r = skew / (top * modulus).sqrt()
    root = (1 + r.square()).sqrt()
    step = 2 / ((top + modulus) * root * (root + r))
    whole = (top + modulus).square()
    return step, ((gram.square() - 4 * top * modulus * torch.expm1(-2 * r.asinh())) / whole).sqrt()
