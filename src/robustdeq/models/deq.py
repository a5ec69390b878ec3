"""DEQClassifier: any injection, cell and readout, joined by a solver and a gradient.

Legend of shapes: B batch, D packed state size, K classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..checks import Counts, ImageShape, Length, check_count, check_images, described
from ..dynamics import SOLVERS, Solver, Trajectory, drive
from ..files import first_line
from ..gradients import GRADIENTS, Gradient, Steps
from ..options import checked, convert
from .cell import Cell, CellMap, PlainCell, Tally
from .fit import asked, check_logits, check_module
from .modes import trackable
from .zoo import HubModule


class StateLayout:
    """Where the parts of a state lie in a packed row of D numbers."""

    def __init__(self, shapes: Sequence[Sequence[int]]) -> None:
        self.shapes = convert("DEQClassifier", "state_shapes", shapes, Annotated[Sequence[Counts], Length()])
        self.sizes = tuple(math.prod(shape) for shape in self.shapes)
        self.size = sum(self.sizes)
        check_count("DEQClassifier", "size of the state", self.size, high=2**31 - 1)

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        """A list of (B, *shape_i) to (B, D)."""
        listed = isinstance(parts, Sequence) and all(isinstance(part, Tensor) for part in parts)
        shapes = tuple(tuple(part.shape[1:]) for part in parts) if listed else type(parts).__name__
        if shapes != self.shapes:
            raise ValueError(f"pack: parts of shape {shapes}; allowed: {self.shapes}.")
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def unpack(self, z: Tensor) -> list[Tensor]:
        """(B, D) to a list of (B, *shape_i); views of ``z``."""
        if not isinstance(z, Tensor) or z.dim() != 2 or z.shape[1] != self.size:
            given = f"a state of shape {tuple(z.shape)}" if isinstance(z, Tensor) else described(z)
            raise ValueError(f"unpack: {given}; allowed: (batch, {self.size}).")
        return [part.view(len(z), *shape) for part, shape in zip(z.split(self.sizes, dim=1), self.shapes)]


@dataclass(frozen=True, kw_only=True)
class ClassifierTrajectory(Trajectory):
    """The dynamics of a classifier, whose states can be read out.

    readout: a packed state (B, D) to logits (B, K). inputs: inputs[t-1] is the image that step t used, (B, C, H, W),
    where a regulator changes it; else None.
    """

    readout: Callable[[Tensor], Tensor]
    inputs: tuple[Tensor, ...] | None = None

    def logits(self, t: int) -> Tensor:
        """readout(z^[t]), (B, K), for t in 1..T."""
        check_count("logits", "t", t, high=len(self.states))
        return self.readout(self.states[t - 1])

    def all_logits(self) -> Tensor:
        """readout(z^[1]), ..., readout(z^[T]), (T, B, K)."""
        return torch.stack([self.readout(z) for z in self.states])


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
        self, inject: nn.Module, cell: nn.Module, readout: nn.Module, state_shapes: Sequence[Sequence[int]], *,
        solver: Any = "picard", steps: int = 8, gradient: Any = "unrolled", image_shape: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        check_count("DEQClassifier", "steps", steps)
        for role, module in (("inject", inject), ("cell", cell), ("readout", readout)):
            check_module("DEQClassifier", role, module)
        # In this order the parameters are numbered in an optimizer's state, and summed where gradients are clipped.
        self.inject = inject
        self.cell = cell if isinstance(cell, Cell) else PlainCell(cell)
        self.readout = readout
        self.layout = StateLayout(state_shapes)
        self.solver: Solver = SOLVERS.resolve(solver)
        self.gradient: Gradient = GRADIENTS.resolve(gradient)
        self.steps, self.tally = steps, Tally()
        self.image_shape = convert("DEQClassifier", "image_shape", image_shape, ImageShape | None)

    def forward(
        self, x: Tensor, steps: Steps | None = None, gradient: Gradient | None = None, solver: Solver | None = None,
        start: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits (B, K) of images x (B, C, H, W) in [0, 1].

        steps: read z^[steps] instead of z^[N]; one number >= 1, or (B,) int64, one for every sample; or a tuple of m
        numbers, ascending, of several states of one solve: logits (m B, K), the first state's first. gradient, solver:
        to use instead of the model's own. start: z^[0], packed (B, D), instead of zero.
        """
        check_images(x, self.image_shape)
        steps = self.steps if steps is None else steps
        if not isinstance(steps, Tensor | tuple):
            check_count("DEQClassifier", "steps", steps)
        rule = self.gradient if gradient is None else GRADIENTS.resolve(gradient)
        solver = self.solver if solver is None else SOLVERS.resolve(solver)
        z = self.zeros(x) if start is None else start
        if not isinstance(z, Tensor) or z.shape != (len(x), self.layout.size):
            wanted = f"a state ({len(x)}, {self.layout.size})"
            raise ValueError(f"DEQClassifier: start is {described(z)}; allowed: {wanted}.")
        return self.read(rule(solver, self.map(x), z, steps, training=self.training))

    def read(self, z: Tensor) -> Tensor:
        """readout(z), which must be logits: (B, D) to (B, K)."""
        logits = asked("DEQClassifier: the readout", self.readout, z)
        check_logits("DEQClassifier", self.readout, logits, len(z), classes=1)
        return logits

    def map(self, x: Tensor) -> CellMap:
        """f(.; inject(x)), with what stays the same during a solve computed once."""
        u, count = asked("DEQClassifier: inject", self.inject, trackable(x)), len(x)
        # One row for all images would be spread over the batch without a word; several rows an image may be meant.
        several = isinstance(u, Tensor) and count > 1 and count not in u.shape
        if several and (u.dim() < 2 or len(u) % count or not len(u)):
            gives = f"{type(self.inject).__name__} gives {described(u)}"
            raise ValueError(f"DEQClassifier: inject, a {gives} for {count} images; allowed: a row for each image.")
        constants = asked("DEQClassifier: the cell", self.cell, self.zeros(x), self.cell.constants)
        return CellMap(self.cell, u, constants, self.tally)

    def compile(self, *args: Any, **options: Any) -> None:
        """``torch.compile`` of the forward, where this machine has a compiler for the model's device; else a warning of
        one line, and the model stays as it is. Inside what is compiled, backward passes are not counted."""
        device = next(self.parameters()).device
        try:
            torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
        except Exception as error:  # whatever a missing or broken compiler makes of it
            why = f"torch.compile does not work for {device.type} here ({first_line(error)})"
            warnings.warn(f"{why}: the model stays as it is.", stacklevel=2)
        else:
            super().compile(*args, **options)

    def zeros(self, x: Tensor) -> Tensor:
        """z^[0], packed (B, D), of the images' dtype and device: one row of zeros seen B times, so never written to."""
        return x.new_zeros(1, self.layout.size).expand(len(x), -1)

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
        """The neural dynamics of images x, recorded, without a graph. (In train mode batch statistics are taken, and
        kept, as in any forward.)

        steps: how many (default N). tolerance: relative residual at which a sample stops (default: none stops).
        throw: raise SolveError if a sample diverges or is not finite.
        """
        check_images(x, self.image_shape)
        steps = self.steps if steps is None else steps
        check_count("trajectory", "steps", steps)
        solve = drive(self.solver, self.map(x), self.zeros(x), steps, tolerance=tolerance, record=True, throw=throw)
        return ClassifierTrajectory(**vars(solve), readout=self.read)
