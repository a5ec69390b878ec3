"""DEQClassifier: any injection, cell and readout, joined by a solver and a gradient.

Legend of shapes: B batch, D packed state size, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..dynamics import SOLVERS, Map, Solver, Trajectory, drive
from ..dynamics.solver import check_count
from ..gradients import GRADIENTS, Gradient
from ..options import build
from .hub import HubModule


class StateLayout:
    """Where the parts of a state lie in a packed row of D numbers."""

    def __init__(self, shapes: Sequence[Sequence[int]]) -> None:
        self.shapes = tuple(tuple(int(n) for n in shape) for shape in shapes)
        self.sizes = tuple(math.prod(shape) for shape in self.shapes)
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"state_shapes={shapes!r}; allowed: at least one shape of positive sizes.")
        self.size = sum(self.sizes)

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        """A list of (B, *shape_i) to (B, D)."""
        given = tuple(tuple(part.shape[1:]) for part in parts)
        if given != self.shapes:
            raise ValueError(f"pack: parts of shape {given}; allowed: {self.shapes}.")
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def unpack(self, z: Tensor) -> list[Tensor]:
        """(B, D) to a list of (B, *shape_i); views of ``z``."""
        if z.dim() != 2 or z.shape[1] != self.size:
            raise ValueError(f"unpack: a state of shape {tuple(z.shape)}; allowed: (batch, {self.size}).")
        return [part.view(len(z), *shape) for part, shape in zip(z.split(self.sizes, dim=1), self.shapes)]


class Cell(nn.Module):
    """f(z; u), split at the injection: finish(prepare(z), u) == cell(z, u).

    ``constants`` is what stays the same during one solve, such as normalised weights and dropout masks: a flat tuple of
    tensors (or None in a place), made once and handed to every call.
    """

    def constants(self, z: Tensor) -> tuple[Tensor | None, ...] | None:
        return None

    def prepare(self, z: Tensor, constants: Any = None) -> Any:
        """The part of f that does not depend on u. z: packed (B, D)."""
        raise NotImplementedError

    def finish(self, prepared: Any, u: Any, constants: Any = None) -> Tensor:
        """The rest of f, packed (B, D)."""
        raise NotImplementedError

    def forward(self, z: Tensor, u: Any, constants: Any = None) -> Tensor:
        if constants is None:
            constants = self.constants(z)
        return self.finish(self.prepare(z, constants), u, constants)


class PlainCell(Cell):
    """A user's module ``forward(z, u)`` as a cell; all of it depends on u."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def prepare(self, z: Tensor, constants: Any = None) -> Tensor:
        return z

    def finish(self, prepared: Tensor, u: Any, constants: Any = None) -> Tensor:
        return self.module(prepared, u)


class CellMap:
    """f(.; u) of one forward, with the cell's constants made once.

    ``at(u)`` is the same map for another injection. ``prepare(z)`` is remembered for the last z only, so a regulator that
    tries several injections at one state, and the solver step that follows, pay for it once.
    """

    def __init__(self, cell: Cell, u: Any, constants: Any) -> None:
        self.cell, self.u, self.constants = cell, u, constants
        self._seen: tuple[Tensor, Any] | None = None

    def __call__(self, z: Tensor) -> Tensor:
        return self.cell.finish(self.prepare(z), self.u, self.constants)

    def prepare(self, z: Tensor) -> Any:
        if self._seen is not None and self._seen[0] is z:
            return self._seen[1]
        return self.cell.prepare(z, self.constants)

    def at(self, u: Any, z: Tensor | None = None, prepared: Any = None) -> CellMap:
        """The map for the injection ``u``; ``prepared`` is what ``prepare(z)`` gave, where it is known."""
        other = CellMap(self.cell, u, self.constants)
        if z is not None:
            other._seen = (z, prepared)
        return other

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors this map closes over that may need a gradient."""
        given = [self.u] if isinstance(self.u, Tensor) else list(self.u)
        return (*given, *(c for c in self.constants or () if c is not None), *self.cell.parameters())


class DEQClassifier(HubModule):
    """A deep equilibrium classifier: logits = readout(z^[N]), z^[t+1] = one solver step on f(.; inject(x)).

    inject: module, image (B, C, H, W) in [0, 1] to the injection u.
    cell: a ``Cell``, or any module with ``forward(z, u)``, packed state (B, D) to packed state (B, D).
    readout: module, packed state (B, D) to logits (B, K).
    state_shapes: shapes of the parts of the state, without the batch, e.g. ``[(32, 32, 32), (64, 16, 16)]``.
    solver: ``picard | anderson | broyden | reversible``, or ``{"name": ..., option: value}``, or a Solver.
    steps: N. gradient: ``unrolled | phantom | implicit | simultaneous``, likewise, or a Gradient.
    image_shape: (C, H, W) that images must have; None accepts any.

    In eval mode the value is readout(z^[N]) with N evaluations of f, with and without a gradient. In train mode it is what
    the gradient prescribes.
    """

    def __init__(
        self,
        inject: nn.Module,
        cell: nn.Module,
        readout: nn.Module,
        state_shapes: Sequence[Sequence[int]],
        *,
        solver: Any = "picard",
        steps: int = 8,
        gradient: Any = "unrolled",
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_count("DEQClassifier", "steps", steps)
        self.layout = StateLayout(state_shapes)
        self.inject = inject
        self.cell = cell if isinstance(cell, Cell) else PlainCell(cell)
        self.readout = readout
        self.solver: Solver = build("solver", solver, SOLVERS)
        self.gradient: Gradient = build("gradient", gradient, GRADIENTS)
        self.steps = steps
        self.image_shape = None if image_shape is None else tuple(image_shape)

    def forward(self, x: Tensor, steps: int | None = None) -> Tensor:
        """Logits (B, K) of images x (B, C, H, W) in [0, 1]. steps: read z^[steps] instead of z^[N]."""
        check_images(x, self.image_shape)
        steps = self.steps if steps is None else steps
        check_count("DEQClassifier", "steps", steps)
        z = self.gradient(self.solver, self.map(x), self.zeros(x), steps, training=self.training)
        return self.readout(z)

    def map(self, x: Tensor) -> CellMap:
        """f(.; inject(x)), with what stays the same during a solve computed once."""
        return CellMap(self.cell, self.inject(x), self.cell.constants(self.zeros(x)))

    def zeros(self, x: Tensor) -> Tensor:
        """z^[0], packed (B, D), of the images' dtype and device."""
        return x.new_zeros(len(x), self.layout.size)

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        """A list of (B, *shape_i), finest first, to (B, D)."""
        return self.layout.pack(parts)

    def unpack(self, z: Tensor) -> list[Tensor]:
        """(B, D) to a list of (B, *shape_i), finest first."""
        return self.layout.unpack(z)

    @torch.no_grad()
    def trajectory(self, x: Tensor, steps: int | None = None, *, tolerance: float | None = None, throw: bool = False) -> Trajectory:
        """The neural dynamics of images x, recorded, without a graph.

        steps: how many (default N). tolerance: relative residual at which a sample stops (default: none stops).
        throw: raise SolveError if a sample diverges or is not finite.
        """
        check_images(x, self.image_shape)
        steps = self.steps if steps is None else steps
        check_count("trajectory", "steps", steps)
        found = drive(self.solver, self.map(x), self.zeros(x), steps, tolerance=tolerance, record=True, throw=throw)
        return found.reading(self.readout)


def check_images(x: Tensor, shape: Sequence[int] | None = None) -> None:
    """Raise a ValueError unless x is a floating batch (B, C, H, W) in [0, 1], of the given (C, H, W) if there is one.

    The range is looked at on the CPU only, since a look costs a synchronisation on a GPU; attacks and evaluation check it
    once at their door on every device.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        given = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"images are {given}; allowed: a floating-point tensor in [0, 1] (uint8 / 255).")
    if x.dim() != 4 or (shape is not None and tuple(x.shape[1:]) != tuple(shape)):
        wanted = "(batch, channels, height, width)" if shape is None else f"(batch, {', '.join(map(str, shape))})"
        raise ValueError(f"images have shape {tuple(x.shape)}; allowed: {wanted}.")
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        check_range(x)


def check_range(x: Tensor, slack: float = 1e-5) -> None:
    """Raise a ValueError if a pixel lies outside [0, 1] by more than rounding. A NaN is left to the solver's status."""
    if not x.numel():
        return
    low, high = (float(v) for v in x.detach().aminmax())
    if low < -slack or high > 1 + slack:
        raise ValueError(f"images lie in [{low:.4g}, {high:.4g}]; allowed: [0, 1] (divide 8-bit pixels by 255).")


__all__ = ["Cell", "CellMap", "DEQClassifier", "Map", "PlainCell", "StateLayout", "check_images", "check_range"]
