"""Maps whose fixed points are known in closed form, and ways to spoil them. (B batch, D state size.)"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..dynamics import Map


@dataclass(frozen=True)
class Affine:
    """f(z) = A z + u, so z* = (I - A)^-1 u. a: (D, D); u: (B, D)."""

    a: Tensor
    u: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return z @ self.a.mT + self.u

    @property
    def solution(self) -> Tensor:
        return torch.linalg.solve(torch.eye(len(self.a), dtype=self.a.dtype) - self.a, self.u.mT).mT


@dataclass(frozen=True)
class Tanh:
    """f(z) = tanh(W z + u). weight: (D, D); u: (B, D)."""

    weight: Tensor
    u: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.mT + self.u)

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.u

    def detached(self) -> Tanh:
        return Tanh(*(tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self.tensors))


def spoiled(f: Map, row: int, bad: Map) -> Map:
    """``f``, but one row is given to ``bad`` instead."""
    return lambda z: torch.where((torch.arange(len(z)) == row)[:, None], bad(z), f(z))


def to_nan(z: Tensor) -> Tensor:
    return torch.full_like(z, torch.nan)


def explosion(z: Tensor) -> Tensor:
    """No fixed point; a plain iteration overflows within a dozen steps."""
    return 10 + 100 * z * z


def affine(size: int, batch: int = 3, *, seed: int = 0, norm: float = 0.8, dtype=torch.float64) -> Affine:
    """A random affine map; its matrix has the spectral norm ``norm``."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(size, size, generator=generator, dtype=dtype)
    return Affine(norm * a / torch.linalg.matrix_norm(a, 2), torch.randn(batch, size, generator=generator, dtype=dtype))


def tanh(size: int, batch: int = 3, *, seed: int = 0, norm: float = 0.8, grad: bool = False) -> Tanh:
    """A random contraction with a tanh; ``grad`` makes W and u ask for a gradient."""
    p = affine(size, batch, seed=seed, norm=norm)
    return Tanh(p.a.requires_grad_(grad), p.u.requires_grad_(grad))


def varied() -> Tanh:
    """Seven samples that converge at different rates: large injections saturate the tanh."""
    f = tanh(5, 7, norm=0.95)
    return Tanh(f.weight, f.u * torch.linspace(0.1, 4, 7, dtype=torch.float64)[:, None])


def zeros(f: Affine | Tanh) -> Tensor:
    """z^[0] = 0 for a map."""
    return torch.zeros_like(f.u).detach()
