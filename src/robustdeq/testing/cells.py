"""The laws of a cell f(z; u) that is split at the injection: finish(prepare(z), u) == cell(z, u)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ..models.deq import Cell
from .compare import assert_near, assert_same


class CellLaws:
    """What every cell keeps. Inherit from it and write ``case``; all of it is asked in float64."""

    def case(self) -> tuple[Cell, Tensor, Any]:
        """The cell, a packed state z (B, D) and an injection u (tensors of B rows), B >= 2, no two rows alike."""
        raise NotImplementedError

    def _exact(self) -> tuple[Cell, Tensor, Any]:
        cell, z, u = self.case()
        z, u = tree_map(lambda part: part.detach().double(), (z, u))
        return copy.deepcopy(cell).double().eval(), z, u

    def test_the_halves_make_the_whole_in_either_mode(self) -> None:
        cell, z, u = self._exact()
        for training in (True, False):
            cell.train(training)
            constants = cell.constants(z)  # dropout masks among them
            whole = cell(z, u, constants)
            assert whole.shape == z.shape and whole.dtype == z.dtype
            assert_same(cell.finish(cell.prepare(z, constants), u, constants), whole)
        assert_same(cell(z, u), whole)  # in eval mode constants made once are those made anew
        assert_same(cell.finish(cell.prepare(z), u), whole)

    def test_a_prepared_state_serves_every_injection_and_nothing_is_changed(self) -> None:
        """Prepared without a graph, too, it has the value and the gradient of the whole."""
        cell, z, u = self._exact()
        before = copy.deepcopy((z, *tree_flatten(u)[0]))
        with torch.no_grad():
            prepared = cell.prepare(z)
        for scale in (1.0, -0.5, 1.0):
            at = tree_map(lambda part, scale=scale: (scale * part).requires_grad_(), u)
            both = cell.finish(prepared, at), cell(z, at)
            slopes = [torch.autograd.grad(out.pow(3).sum(), tree_flatten(at)[0]) for out in both]
            assert_same(*(out.detach() for out in both))
            assert_same(*slopes)
        assert_same((z, *tree_flatten(u)[0]), before)

    def test_a_row_depends_on_no_other(self) -> None:
        cell, z, u = self._exact()
        whole = cell(z, u)
        for row in range(len(z)):
            assert_near(cell(z[[row]], tree_map(lambda part, row=row: part[[row]], u)), whole[[row]], 1e-9)
        assert_same(cell(z.index_fill(0, torch.tensor([0]), torch.nan), u)[1:], whole[1:])

    def test_the_gradient_in_eval_mode_is_that_of_finite_differences(self) -> None:
        cell, z, u = self._exact()
        parts, spec = tree_flatten(u)
        inputs = [part.requires_grad_() for part in (z, *parts)]
        slopes = torch.autograd.grad(cell(z, u).pow(3).sum(), inputs)  # a normalised state keeps its sum and its length
        assert all(slope.flatten(1).norm(dim=1).min() > 0 for slope in slopes)
        apply = lambda z, *parts: cell(z, tree_unflatten(list(parts), spec))  # noqa: E731
        assert torch.autograd.gradcheck(apply, inputs, fast_mode=True, atol=1e-4)

    def test_it_reads_no_value(self) -> None:
        """On the meta device there is none."""
        cell, z, u = self._exact()
        assert cell.to("meta")(z.to("meta"), tree_map(lambda part: part.to("meta"), u)).is_meta
