"""The map of a DEQ: a cell, one forward's map f(.; u) of it, and what its evaluations are counted by.

Legend of shapes: B batch, D packed state size.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from .fit import asked, check_module


class Cell(nn.Module):
    """f(z; u), split at the injection: finish(prepare(z), u) == cell(z, u).

    ``constants`` is what stays the same during one solve, such as normalised weights and dropout masks: a flat tuple of
    tensors (or None in a place), made once and handed to every call.

    one_for_all: where the rows of z are equal, ``finish`` takes what ``prepare`` gave of one of them for all: the first
    step of a solve, from z^[0] = 0, then costs the rest of f only.
    """

    one_for_all: ClassVar[bool] = False

    def constants(self, z: Tensor) -> tuple[Tensor | None, ...] | None:
        """What one solve from z (B, D) uses at every step, in eval mode for whichever samples; None for nothing."""
        return None

    def prepare(self, z: Tensor, constants: Any = None) -> Any:
        """The part of f that does not depend on u. z: packed (B, D)."""
        raise NotImplementedError(f"{type(self).__name__} has no prepare")

    def finish(self, prepared: Any, u: Any, constants: Any = None) -> Tensor:
        """The rest of f, packed (B, D)."""
        raise NotImplementedError(f"{type(self).__name__} has no finish")

    def forward(self, z: Tensor, u: Any, constants: Any = None) -> Tensor:
        """f(z; u), packed (B, D)."""
        if constants is None:
            constants = self.constants(z)
        return self.finish(self.prepare(z, constants), u, constants)


class PlainCell(Cell):
    """A user's module ``forward(z, u)`` as a cell; all of it depends on u."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = check_module("PlainCell", "module", module)

    def prepare(self, z: Tensor, constants: Any = None) -> Tensor:
        return z

    def finish(self, prepared: Tensor, u: Any, constants: Any = None) -> Tensor:
        return self.module(prepared, u)


class Tally:
    """Counts one for each sample of a batch: evaluations of f, and updates of the input between two of them.

    An update costs the half of f that depends on u, the injection and a readout, forward and back. backward: backward
    passes through an evaluation of f, one to the state and the image, two where weights ask for a gradient.
    """

    def __init__(self) -> None:
        self.evaluations = self.updates = self.backward = 0

    @property
    def units(self) -> int:
        """f-units: what an attack or a training has cost, in evaluations of f."""
        return self.evaluations + self.backward

    def watch(self, f_z: Tensor, passes: int) -> None:
        """Count ``passes`` whenever a gradient passes ``f_z``."""

        def passed(grad: Tensor | None) -> None:
            self.backward += 0 if grad is None else passes * len(grad)

        if getattr(f_z, "requires_grad", False) and not torch.compiler.is_compiling():
            f_z.register_hook(passed)


class CellMap:
    """f(.; u) of one forward, with the cell's constants made once; ``at`` is the same map for another injection.

    A regulator that tries several injections at one state hands on what it prepared there, so that it and the solver
    step that follows pay for that once.
    """

    def __init__(self, cell: Cell, u: Any, constants: Any, tally: Tally | None = None) -> None:
        self.cell, self.u, self.constants = cell, u, constants
        self.tally = Tally() if tally is None else tally
        self.passes = 1 + any(parameter.requires_grad for parameter in cell.parameters())
        self._prepared: tuple[Tensor | None, Any] = (None, None)

    def __call__(self, z: Tensor) -> Tensor:
        self.tally.evaluations += len(z)
        f_z = asked("DEQClassifier: the cell", self.cell, z, self._evaluate, self.u)
        self.tally.watch(f_z, self.passes)
        return f_z

    def _evaluate(self, z: Tensor) -> Tensor:
        return self.cell.finish(self.prepare(z), self.u, self.constants)

    def prepare(self, z: Tensor) -> Any:
        """The cell's ``prepare`` at z (B, D); at the same tensor it is computed once."""
        if self._prepared[0] is z:
            return self._prepared[1]
        # A stride of 0 says that all rows are one row in memory (``zeros``); a gradient to z is wanted row by row.
        equal = self.cell.one_for_all and len(z) > 1 and z.stride(0) == 0 and not z.requires_grad
        return self.cell.prepare(z[:1] if equal else z, self.constants)

    def at(self, u: Any, z: Tensor, prepared: Any) -> CellMap:
        """The map for the injection ``u``; ``prepared`` is what ``prepare(z)`` gave."""
        other = CellMap(self.cell, u, self.constants, self.tally)
        other._prepared = (z, prepared)
        return other

    def rows(self, rows: Tensor, count: int) -> CellMap | None:
        """The map of some of ``count`` samples, (R,) their numbers; None where u does not tell whose is what, such as
        several tensors, and in train mode, where a mask may be drawn for every sample."""
        if self.cell.training or not isinstance(self.u, Tensor) or len(self.u) != count:
            return None
        return CellMap(self.cell, self.u[rows], self.constants, self.tally)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors this map closes over that may need a gradient."""
        leaves = [leaf for leaf in tree_leaves((self.u, self.constants)) if isinstance(leaf, Tensor)]
        return (*leaves, *self.cell.parameters())

    def detached(self) -> CellMap:
        """The same map, cut off from the graphs that made u and the constants; its ``tensors`` are leaves."""
        held = (self.u, self.constants)
        u, constants = tree_map_only(Tensor, lambda t: t.detach().requires_grad_(t.requires_grad), held)
        return CellMap(self.cell, u, constants, self.tally)
