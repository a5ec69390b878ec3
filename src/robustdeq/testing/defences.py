"""The laws of a test-time defence and of a readout: it is measured as it is deployed, and hides no gradient."""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from torch import Tensor

from ..defences import Defended, SmoothSign
from ..models.structure import structure
from .compare import assert_near, assert_refused, assert_same, left_untouched


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
