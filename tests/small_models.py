"""Models that are small enough to be attacked a thousand times, and what several rooms ask of them.

Legend of shapes: B batch, D state size, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from robustdeq import Cell, DEQClassifier, create_model
from robustdeq.attacks import View
from robustdeq.data import digits
from robustdeq.dynamics import SOLVERS as KINDS
from robustdeq.dynamics import Map
from robustdeq.gradients import GRADIENTS
from robustdeq.testing import left_untouched as left_untouched

SOLVERS = list(KINDS)
PAIRS = [
    (solver, gradient)
    for solver, kind in KINDS.items()
    for gradient in GRADIENTS
    if gradient != "simultaneous" or kind.estimates_inverse
]
"""Every solver with every gradient that it allows, by name."""


class TanhCell(Cell):
    """A user's own split cell, f(z; u) = tanh(A z + u), that counts the calls of its two halves."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mix = nn.Linear(size, size)
        self.prepared = self.finished = 0

    def prepare(self, z: Tensor, constants: Any = None) -> Tensor:
        self.prepared += 1
        return self.mix(z)

    def finish(self, prepared: Tensor, u: Tensor, constants: Any = None) -> Tensor:
        self.finished += 1
        return torch.tanh(prepared + u)


def own(
    classes: int = 3, *, side: int = 4, sharpness: float = 4.0, dtype: torch.dtype = torch.float32, **options: Any
) -> DEQClassifier:
    """A user's own smooth DEQ for images (1, side, side); ``sharpness`` scales the logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inject = nn.Sequential(nn.Flatten(), nn.Linear(side**2, 12))
        readout = nn.Linear(12, classes)
        options = {"steps": 5, "image_shape": (1, side, side), **options}
        model = DEQClassifier(inject, TanhCell(12), readout, state_shapes=[(12,)], **options)
    with torch.no_grad():
        readout.weight.mul_(sharpness)
        readout.bias.zero_()
    return model.to(dtype).eval()


def fitted(model: DEQClassifier, parameters: Iterable[nn.Parameter], *, lr: float, updates: int) -> DEQClassifier:
    """The model for digits after a moment of Adam on the first 400 of them, in eval mode."""
    train = digits().train
    x, y = train.images(slice(400)), train.labels[:400]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    model.train()
    for _ in range(updates):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def nano(*, dtype: torch.dtype = torch.float32, **options: Any) -> DEQClassifier:
    """mdeq-nano in eval mode, with weights of seed 0, for images (1, 8, 8)."""
    model = create_model("mdeq-nano", seed=0, **options)
    assert isinstance(model, DEQClassifier)
    return model.to(dtype).eval()


def images(
    count: int = 3, *, seed: int = 0, shape: tuple[int, ...] = (1, 4, 4), dtype: torch.dtype = torch.float32
) -> Tensor:
    """Uniform images (B, C, H, W) in [0, 1)."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def images_for(model: DEQClassifier, count: int = 3, *, seed: int = 0) -> Tensor:
    """Images of the shape and dtype of a model made here."""
    dtype = next(model.parameters()).dtype
    return images(count, seed=seed, shape=model.image_shape, dtype=dtype)


def whole_map(model: DEQClassifier, x: Tensor) -> Map:
    """f(.; inject(x)), every evaluation a whole cell: nothing of it is kept."""
    u = model.inject(x)
    return lambda z: model.cell(z, u)


class Linear(nn.Module):
    """logits = W x + b. weight: (K, C H W)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(len(weight)) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.mT + self.bias

    @classmethod
    def random(cls, classes: int, *, seed: int = 0, size: int = 16) -> Linear:
        return cls(torch.randn(classes, size, generator=torch.Generator().manual_seed(seed)))

    @classmethod
    def binary(cls, w: Tensor, b: float = 0.0) -> Linear:
        """Logits (m, -m) with the margin m = (w x + b) / 2: class 0 where w x + b > 0."""
        bias = torch.tensor([b, -b], dtype=w.dtype)
        return cls(torch.stack([w, -w]) / 2, bias / 2)


class Hiding(nn.Module):
    """A user's module around another, which tells nobody what is in it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Shifted(View):
    """A view with the logits of ``deployed`` plus a constant: other predictions, the same Jacobian."""

    accepts = nn.Module
    faithful = False

    def __init__(self, deployed: nn.Module, *shift: float) -> None:
        super().__init__(deployed)
        self.shift = torch.tensor(shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.deployed(x) + self.shift


class Watched(nn.Module):
    """``inner``, noting of every forward the images and whether a parameter asks for a gradient; may break down."""

    def __init__(self, inner: nn.Module, fail_at: int | None = None) -> None:
        super().__init__()
        self.inner, self.fail_at = inner, fail_at
        self.seen: list[Tensor] = []
        self.asking: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        if len(self.seen) == self.fail_at:
            raise RuntimeError("broken down")
        self.seen.append(x.detach().clone())
        self.asking.append(any(parameter.requires_grad for parameter in self.parameters()))
        return self.inner(x)


def lived_in(model: nn.Module) -> nn.Module:
    """The same model as training leaves it: train mode but for one part, one frozen parameter, one gradient kept."""
    model.train()
    next(iter(model.children())).eval()
    first, second, *_ = model.parameters()
    first.requires_grad_(False)
    second.grad = torch.ones_like(second)
    return model
