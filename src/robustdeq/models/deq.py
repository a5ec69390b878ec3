"""DEQClassifier: any injection, cell and readout, joined by a solver and a gradient.

Legend of shapes: B batch, D packed state size, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..checks import Counts, Length, check_count, check_images
from ..dynamics import SOLVERS, Solver, Trajectory, drive
from ..gradients import GRADIENTS, Gradient, Steps
from ..options import checked, convert
from .zoo import HubModule


class StateLayout:
    """Where the parts of a state lie in a packed row of D numbers."""

    def __init__(self, shapes: Sequence[Sequence[int]]) -> None:
        self.shapes = convert("DEQClassifier", "state_shapes", shapes, Annotated[Sequence[Counts], Length()])
        self.sizes = tuple(math.prod(shape) for shape in self.shapes)
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


class Tally:
    """Counts one for each sample of a batch: evaluations of f, and updates of the input between two of them.

    An update costs the half of f that depends on u, the injection and a readout, forward and back.
    """

    def __init__(self) -> None:
        self.evaluations = self.updates = 0


class CellMap:
    """f(.; u) of one forward, with the cell's constants made once.

    ``at(u)`` is the same map for another injection. ``prepare(z)`` is remembered for the last z only, so a regulator
    that tries several injections at one state, and the solver step that follows, pay for it once.
    """

    def __init__(self, cell: Cell, u: Any, constants: Any, tally: Tally | None = None) -> None:
        self.cell, self.u, self.constants = cell, u, constants
        self.tally = Tally() if tally is None else tally
        self._seen: tuple[Tensor, Any] | None = None

    def __call__(self, z: Tensor) -> Tensor:
        self.tally.evaluations += len(z)
        return self.cell.finish(self.prepare(z), self.u, self.constants)

    def prepare(self, z: Tensor) -> Any:
        if self._seen is not None and self._seen[0] is z:
            return self._seen[1]
        return self.cell.prepare(z, self.constants)

    def at(self, u: Any, z: Tensor | None = None, prepared: Any = None) -> CellMap:
        """The map for the injection ``u``; ``prepared`` is what ``prepare(z)`` gave, where it is known."""
        other = CellMap(self.cell, u, self.constants, self.tally)
        if z is not None:
            other._seen = (z, prepared)
        return other

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors this map closes over that may need a gradient."""
        made = [leaf for leaf in tree_leaves((self.u, self.constants)) if isinstance(leaf, Tensor)]
        return (*made, *self.cell.parameters())

    def detached(self) -> CellMap:
        """The same map, cut off from the graphs that made u and the constants; its ``tensors`` are leaves."""
        u, constants = tree_map(_leaf, (self.u, self.constants))
        return CellMap(self.cell, u, constants, self.tally)


def _leaf(tensor: Any) -> Any:
    return tensor.detach().requires_grad_(tensor.requires_grad) if isinstance(tensor, Tensor) else tensor


@dataclass(frozen=True)
class ClassifierTrajectory(Trajectory):
    """The dynamics of a classifier.

    readout: turns a packed state into logits. inputs: inputs[t-1] is the image that step t used, (B, C, H, W), where a
    regulator changes it; else None.
    """

    readout: Callable[[Tensor], Tensor] | None = None
    inputs: tuple[Tensor, ...] | None = None

    @classmethod
    def of(
        cls, trajectory: Trajectory, readout: Callable[[Tensor], Tensor], inputs: tuple[Tensor, ...] | None = None
    ) -> ClassifierTrajectory:
        return cls(**vars(trajectory), readout=readout, inputs=inputs)

    def logits(self, t: int) -> Tensor:
        """readout(z^[t]), (B, K), for t in 1..T."""
        check_count("logits", "t", t, high=len(self.states))
        assert self.readout is not None  # ``of`` sets it
        return self.readout(self.states[t - 1])


@checked
class DEQClassifier(HubModule):
    """A deep equilibrium classifier: logits = readout(z^[N]), z^[t+1] = one solver step on f(.; inject(x)).

    inject: module, image (B, C, H, W) in [0, 1] to the injection u.
    cell: a ``Cell``, or any module with ``forward(z, u)``, packed state (B, D) to packed state (B, D).
    readout: module, packed state (B, D) to logits (B, K).
    state_shapes: shapes of the parts of the state, without the batch, e.g. ``[(32, 32, 32), (64, 16, 16)]``.
    solver: a name in ``SOLVERS``, or ``{"name": ..., option: value}``, or a Solver. steps: N. gradient: likewise of
    ``GRADIENTS``, or a Gradient.
    image_shape: (C, H, W) that images must have; None accepts any.

    In eval mode the value is readout(z^[N]) with N evaluations of f, with and without a gradient. In train mode it is
    what the gradient prescribes.
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
        self.solver: Solver = SOLVERS.resolve(solver)
        self.gradient: Gradient = GRADIENTS.resolve(gradient)
        self.steps = steps
        self.image_shape = None if image_shape is None else tuple(image_shape)
        self.tally = Tally()

    def forward(
        self, x: Tensor, steps: Steps | None = None, gradient: Gradient | None = None, solver: Solver | None = None
    ) -> Tensor:
        """Logits (B, K) of images x (B, C, H, W) in [0, 1].

        steps: read z^[steps] instead of z^[N]; one number >= 1, or (B,) int64, one for every sample. gradient, solver:
        to use instead of the model's own.
        """
        check_images(x, self.image_shape)
        steps = self.steps if steps is None else steps
        _check_steps(x, steps)
        rule = self.gradient if gradient is None else GRADIENTS.resolve(gradient)
        solver = self.solver if solver is None else SOLVERS.resolve(solver)
        return self.readout(rule(solver, self.map(x), self.zeros(x), steps, training=self.training))

    def map(self, x: Tensor) -> CellMap:
        """f(.; inject(x)), with what stays the same during a solve computed once."""
        return CellMap(self.cell, self.inject(x), self.cell.constants(self.zeros(x)), self.tally)

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
    def trajectory(
        self, x: Tensor, steps: int | None = None, *, tolerance: float | None = None, throw: bool = False
    ) -> ClassifierTrajectory:
        """The neural dynamics of images x, recorded, without a graph.

        steps: how many (default N). tolerance: relative residual at which a sample stops (default: none stops).
        throw: raise SolveError if a sample diverges or is not finite.
        """
        check_images(x, self.image_shape)
        steps = self.steps if steps is None else steps
        check_count("trajectory", "steps", steps)
        solve = drive(self.solver, self.map(x), self.zeros(x), steps, tolerance=tolerance, record=True, throw=throw)
        return ClassifierTrajectory.of(solve, self.readout)


def _check_steps(x: Tensor, steps: Steps) -> None:
    if not isinstance(steps, Tensor):
        check_count("DEQClassifier", "steps", steps)
    elif steps.dtype != torch.int64 or steps.shape != x.shape[:1] or int(steps.min()) < 1:
        given = f"{steps.dtype} of shape {tuple(steps.shape)}"
        raise ValueError(f"DEQClassifier: steps are {given}; allowed: a number, or int64 >= 1 of shape ({len(x)},).")
