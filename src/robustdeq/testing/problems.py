"""Maps whose fixed points are known in closed form, ways to spoil them, and comparisons to the bit.

B batch, D state size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
    """``f``, but for one row, where it is ``bad``."""
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


def assert_same(a: Any, b: Any) -> None:
    """Equal bits in every field (NaN equals NaN)."""
    assert type(a) is type(b), f"{type(a).__name__} and {type(b).__name__}"
    if dataclasses.is_dataclass(a):
        a, b = (tuple(getattr(value, field.name) for field in dataclasses.fields(value)) for value in (a, b))
    if isinstance(a, Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    elif isinstance(a, tuple):
        assert len(a) == len(b), f"{len(a)} and {len(b)} parts"
        for x, y in zip(a, b):
            assert_same(x, y)
    else:
        assert a == b, f"{a!r} and {b!r}"


def assert_near(a: Tensor, b: Tensor, tolerance: float) -> None:
    """Equal within ``tolerance``, absolutely and relatively."""
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_refused(words: str, call: Callable[..., Any], *args: Any) -> None:
    """A ValueError that has these words in it."""
    try:
        call(*args)
    except ValueError as error:
        assert words in str(error), str(error)
    else:
        raise AssertionError(f"no ValueError of {args}")


@contextmanager
def left_untouched(model: nn.Module) -> Iterator[None]:
    """Fail unless modes, parameters, buffers, requires_grad flags and .grad are the same afterwards, bit for bit."""
    before = _contents(model)
    yield
    assert_same(_contents(model), before)


def _contents(model: nn.Module) -> tuple[Any, ...]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    grads = [(name, None if t.grad is None else t.grad.clone()) for name, t in tensors.items()]
    values = [(name, t.requires_grad, t.detach().clone()) for name, t in tensors.items()]
    return (*values, *grads, *((name, part.training) for name, part in model.named_modules()))
