"""Maps whose fixed points are known in closed form, and the solvers that every law is proved for.

Legend of shapes: B batch, D state size.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from robustdeq.dynamics import Anderson, Broyden, Map, Picard, Reversible, Solver

SOLVERS: dict[str, Solver] = {
    "picard": Picard(),
    "picard-damped": Picard(damping=0.6),
    "anderson": Anderson(),
    "anderson-short": Anderson(memory=2, mixing=0.7),
    "broyden": Broyden(),
    "broyden-short": Broyden(memory=2),
    "reversible": Reversible(),
}
"""The short memories drop columns after three steps."""


def each(solvers: dict[str, Solver]) -> pytest.MarkDecorator:
    """Run a test once for every solver of a table."""
    return pytest.mark.parametrize("solver", solvers.values(), ids=solvers)


every_solver = each(SOLVERS)


@dataclass(frozen=True)
class Affine:
    """f(z) = A z + u, so z* = (I - A)^-1 u. a: (D, D); u: (B, D)."""

    a: Tensor
    u: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return z @ self.a.mT + self.u

    @property
    def solution(self) -> Tensor:
        eye = torch.eye(len(self.a), dtype=self.a.dtype)
        return torch.linalg.solve(eye - self.a, self.u.mT).mT


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


@dataclass
class Counted:
    """A map that counts its evaluations."""

    f: Map
    calls: int = 0

    def __call__(self, z: Tensor) -> Tensor:
        self.calls += 1
        return self.f(z)


@dataclass(frozen=True)
class Spoiled:
    """``f``, but one row is given to ``bad`` instead."""

    f: Map
    row: int
    bad: Map

    def __call__(self, z: Tensor) -> Tensor:
        here = (torch.arange(len(z)) == self.row)[:, None]
        return torch.where(here, self.bad(z), self.f(z))


def to_nan(z: Tensor) -> Tensor:
    return torch.full_like(z, torch.nan)


def explosion(z: Tensor) -> Tensor:
    """No fixed point; a plain iteration overflows within a dozen steps."""
    return 10 + 100 * z * z


BAD = pytest.mark.parametrize("bad", [to_nan, explosion])


def affine(size: int, batch: int = 3, *, seed: int = 0, norm: float = 0.8, dtype=torch.float64) -> Affine:
    """A random affine map; its matrix has the spectral norm ``norm``."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(size, size, generator=generator, dtype=dtype)
    return Affine(norm * a / torch.linalg.matrix_norm(a, 2), torch.randn(batch, size, generator=generator, dtype=dtype))


def rotation(angle: float, batch: int = 3) -> Affine:
    """Rotation of the plane by ``angle`` around (I - R)^-1 u: no contraction, |eigenvalues| = 1."""
    cos, sin = math.cos(angle), math.sin(angle)
    return Affine(torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64), affine(2, batch).u)


def tanh(size: int, batch: int = 3, *, seed: int = 0, norm: float = 0.8, grad: bool = False) -> Tanh:
    """A random contraction with a tanh; ``grad`` makes W and u ask for a gradient."""
    p = affine(size, batch, seed=seed, norm=norm)
    return Tanh(p.a.requires_grad_(grad), p.u.requires_grad_(grad))


def zeros(f: Affine | Tanh) -> Tensor:
    """z^[0] = 0 for a map."""
    return torch.zeros_like(f.u).detach()


def assert_same(a: Any, b: Any) -> None:
    """Equal bits in every field (NaN equals NaN)."""
    assert type(a) is type(b)
    if dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    elif isinstance(a, Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    else:
        assert a == b


def assert_near(a: Tensor, b: Tensor, tolerance: float) -> None:
    """Equal within ``tolerance``, absolutely and relatively."""
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
