"""The laws of a cell and of a defence."""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ..defences import Defended, SmoothSign
from ..models.cell import Cell
from ..models.structure import structure
from .problems import assert_near, assert_refused, assert_same, left_untouched


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

    def test_one_row_stands_for_all_equal_ones_where_it_says_so(self) -> None:
        cell, z, u = self._exact()
        if not cell.one_for_all:
            return
        for training in (True, False):
            cell.train(training)
            constants = cell.constants(z)
            rows, row = z[:1].repeat(len(z), 1), z[:1]
            both = cell(rows, u, constants), cell.finish(cell.prepare(row, constants), u, constants)
            sums = [out.pow(3).sum() for out in both]
            slopes = [torch.autograd.grad(sum_, list(cell.parameters()), retain_graph=True) for sum_ in sums]
            for one, other in zip((both[0], *slopes[0]), (both[1], *slopes[1])):
                assert_near(one, other, 1e-9)

    def test_a_row_depends_on_no_other(self) -> None:
        """Nor do the constants of a solve in eval mode, which serve any of its samples."""
        cell, z, u = self._exact()
        whole, constants = cell(z, u), cell.constants(z)
        for row in range(len(z)):
            alone = z[[row]], tree_map(lambda part, row=row: part[[row]], u)
            for found in (cell(*alone), cell(*alone, constants)):
                assert_near(found, whole[[row]], 1e-9)
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


class DefenceLaws:
    """What every defence keeps. Inherit from it and write ``case``.

    tolerance: to which an image is treated alike in any batch, in float64.
    """

    tolerance: float = 1e-9

    def case(self) -> tuple[Any, Tensor]:
        """The defended model in eval mode, and images (B, C, H, W) in [0, 1], with B >= 2."""
        raise NotImplementedError

    def _logits(self, defended: Any, x: Tensor) -> list[Tensor]:
        """By every way that has a gradient: the deployed one, and of a ``Defended`` the one end to end."""
        return [defended(x), *([defended.end_to_end(x, SmoothSign())] if isinstance(defended, Defended) else [])]

    def test_the_deployed_value_has_the_same_bits_with_and_without_a_gradient(self) -> None:
        """Whatever torch's global generator has drawn before, and nothing is drawn from it."""
        defended, x = self.case()
        with torch.no_grad():
            deployed = defended(x)
        assert deployed.dim() == 2 and len(deployed) == len(x)
        with torch.random.fork_rng(devices=[]):
            state = torch.manual_seed(1).get_state()
            for logits in (*self._logits(defended, x), *self._logits(defended, x.clone().requires_grad_())):
                assert_same(logits.detach(), deployed)
            assert torch.equal(torch.random.get_rng_state(), state), "torch's global generator was used"

    def test_it_has_a_gradient_in_eval_mode(self) -> None:
        defended, x = self.case()
        x = x.clone().requires_grad_()
        for logits in self._logits(defended, x):
            slope = torch.autograd.grad((logits * torch.arange(logits.shape[1])).sum(), x)[0].flatten(1)
            assert slope.isfinite().all() and (slope.norm(dim=1) > 0).all()

    def test_an_image_is_treated_alike_in_any_batch(self) -> None:
        defended, x = self.case()
        defended, x = copy.deepcopy(defended).double(), x.double()
        with torch.no_grad():
            whole = defended(x)
            for row in range(len(x)):
                assert_near(defended(x[[row]]), whole[[row]], self.tolerance)
            assert_same(defended(x.index_fill(0, torch.tensor([0]), torch.nan))[1:], whole[1:])
            assert defended(x[:0]).shape == (0, whole.shape[1])

    def test_it_leaves_the_model_and_the_images_as_they_were(self) -> None:
        defended, x = self.case()
        before = x.clone()
        for index, parameter in enumerate(defended.parameters()):
            parameter.requires_grad_(index % 2 == 0)
        with left_untouched(defended):
            self._logits(defended, x)
            torch.autograd.grad(self._logits(defended, x.requires_grad_())[-1].sum(), x)
        assert_same(x.detach(), before)

    def test_images_that_are_none_are_refused(self) -> None:
        defended, x = self.case()
        for bad in (x + 1, x - 1, (255 * x).byte(), x[0]):
            assert_refused("allowed", defended, bad)

    def test_its_settings_are_json_and_attacks_can_see_it(self) -> None:
        defended, _ = self.case()
        assert json.loads(json.dumps(defended.settings, allow_nan=False)) == defended.settings
        seen = structure(defended)
        assert seen.deployed is defended and not seen.opaque and seen.deq is structure(defended.model).deq
        assert defended in (seen.defence, seen.readout)
