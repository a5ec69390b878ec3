"""Every cell of the project, and one put together by its user, keeps the laws; a cell that breaks one is found out."""

import pytest
import torch
from small_models import TanhCell, images, images_for, nano, own
from torch import nn

from robustdeq.models import Cell, PlainCell, create_model
from robustdeq.testing import CellLaws


def state(rows, size, seed=0):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


class TestMDEQCell(CellLaws):
    @pytest.fixture(autouse=True, params=[0.0, 0.3], ids=["plain", "dropout"])
    def choose(self, request):
        self.dropout = request.param

    def case(self):
        model = nano(dropout=self.dropout)
        return model.cell, state(3, model.layout.size), model.inject(images_for(model))


class TestMonotoneCell(CellLaws):
    @pytest.fixture(autouse=True, params=[(8, 8), (2, 6)], ids=["square", "smaller than its kernels"])
    def choose(self, request):
        self.shape = (1, *request.param)

    splitting = "forward-backward"

    def case(self):
        model = create_model("mondeq-nano", image_shape=self.shape, channels=3, seed=0, splitting=self.splitting)
        return model.cell, state(3, model.layout.size), model.inject(images(shape=self.shape))


class TestReflectedCell(TestMonotoneCell):
    splitting = "peaceman-rachford"


class TestSplitCell(CellLaws):
    def case(self):
        model = own()
        assert isinstance(model.cell, TanhCell)
        return model.cell, state(3, 12), model.inject(images_for(model))


class TestPlainCell(CellLaws):
    """A user's module, whose injection is a dict."""

    class Own(nn.Module):
        def forward(self, z, u):
            return torch.tanh(0.5 * z * u["gain"] + u["shift"])

    def case(self):
        return PlainCell(self.Own()), state(3, 4), {"gain": state(3, 4, 1), "shift": state(3, 4, 2)}


class Split(Cell):
    def constants(self, z):
        return (z.new_full((), 0.5),)

    def prepare(self, z, constants=None):
        return (self.constants(z) if constants is None else constants)[0] * z

    def finish(self, prepared, u, constants=None):
        return torch.tanh(prepared + u)


class Unequal(Split):
    def forward(self, z, u, constants=None):
        return torch.tanh(0.5 * z + u) + 1e-6


class Anew(Split):
    """Without constants at hand it makes other ones than ``constants``."""

    def prepare(self, z, constants=None):
        return 0.4 * z if constants is None else constants[0] * z

    def forward(self, z, u, constants=None):
        return self.finish(self.prepare(z, constants), u, constants)


class InPlace(Split):
    def finish(self, prepared, u, constants=None):
        with torch.no_grad():
            prepared += 1e-3
        return torch.tanh(prepared + u)


class Sociable(Split):
    def finish(self, prepared, u, constants=None):
        return torch.tanh(prepared + u + 0.1 * prepared.mean(dim=0))


class Hidden(Split):
    """No gradient in eval mode."""

    def finish(self, prepared, u, constants=None):
        moved = super().finish(prepared, u)
        return moved if self.training else moved.detach() + 0 * u


class Masked(Split):
    """A gradient that is not that of the value."""

    def finish(self, prepared, u, constants=None):
        moved = super().finish(prepared, u)
        return moved.detach() + 0.5 * (prepared + u - (prepared + u).detach())


class Reading(Split):
    def finish(self, prepared, u, constants=None):
        return super().finish(prepared, u) if float(prepared.detach().nan_to_num().abs().max()) < 1e9 else u


@pytest.mark.parametrize(
    ("cell", "law"),
    [
        (Unequal, "test_the_halves_make_the_whole_in_either_mode"),
        (Anew, "test_the_halves_make_the_whole_in_either_mode"),
        (InPlace, "test_a_prepared_state_serves_every_injection_and_nothing_is_changed"),
        (Sociable, "test_a_row_depends_on_no_other"),
        (Hidden, "test_the_gradient_in_eval_mode_is_that_of_finite_differences"),
        (Masked, "test_the_gradient_in_eval_mode_is_that_of_finite_differences"),
        (Reading, "test_it_reads_no_value"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_a_cell_that_breaks_a_law_is_found_out(cell, law):
    for kind in (Split, cell):
        laws = CellLaws()
        laws.case = lambda kind=kind: (kind(), state(3, 4), state(3, 4, 1))
        if kind is Split:
            getattr(laws, law)()
    with pytest.raises((AssertionError, RuntimeError)):
        getattr(laws, law)()
