"""Modules that do not fit together in a DEQClassifier: one line that names the module, what it was given and gave."""

import numpy as np
import pytest
import torch
from small_models import PAIRS, TanhCell, images, nano, own
from torch import nn

from robustdeq import Cell, DEQClassifier, create_model
from robustdeq.attacks import IntermediateState
from robustdeq.defences import EarlyState, Ensemble, EntropyReduction
from robustdeq.models import PlainCell, PreActResNet

X = images(3)


class Through(nn.Module):
    """A linear layer whose value goes through a function; further arguments are added to it."""

    def __init__(self, size_in, size, last=None):
        super().__init__()
        self.linear, self.last = nn.Linear(size_in, size), last

    def forward(self, x, *others):
        value = sum(others, self.linear(x.flatten(1)))
        return value if self.last is None else self.last(value)


def made(shapes=((12,),), inject=None, cell=None, readout=None, **options):
    inject, cell = inject or Through(16, 12), cell or TanhCell(12)
    return DEQClassifier(inject, cell, readout or nn.Linear(12, 3), shapes, steps=2, **options)


def refused(call, match):
    with pytest.raises(ValueError, match=match) as seen:
        call()
    assert len(str(seen.value).splitlines()) <= 2


@pytest.mark.parametrize("module", [None, 5, "x", [], {}, lambda z: z, nn.Linear, torch.zeros(3), True])
@pytest.mark.parametrize("name", ["inject", "cell", "readout"])
def test_a_part_is_a_module(name, module):
    parts = {"inject": nn.Identity(), "cell": TanhCell(2), "readout": nn.Identity(), name: module}
    why = f"DEQClassifier: {name} is .*; allowed: a torch.nn.Module"
    refused(lambda: DEQClassifier(**parts, state_shapes=[(2,)]), why)
    refused(lambda: PlainCell(module), "PlainCell: module is .*; allowed: a torch.nn.Module")


WRONG_SHAPES = [
    None, 5, "12", [], [()], [(0,)], [(-1,)], [(12.0,)], [("12",)], [(True,)], [12], (12,), [None], {"a": (12,)},
    np.array([[12]]), torch.tensor([[12]]), [(2**40,)], [(2**70,)],
]  # fmt: skip


@pytest.mark.parametrize("shapes", WRONG_SHAPES, ids=str)
def test_wrong_state_shapes(shapes):
    refused(lambda: made(shapes), "DEQClassifier: (state_shapes|size of the state)")


@pytest.mark.parametrize(
    "shape",
    [5, "abc", [], (1, 4), (1, 4, 4, 4), (0, 4, 4), (-1, 4, 4), (1.0, 4.0, 4.0), (True, 4, 4), ("1", "4", "4"), {1, 4}],
    ids=str,
)
def test_wrong_image_shape(shape):
    refused(lambda: made(image_shape=shape), "DEQClassifier: image_shape=.*; allowed")


GIVES = {
    "tuple": lambda t: (t,),
    "dict": lambda t: {"z": t},
    "NoneType": lambda t: None,
    r"\(3,\)": lambda t: t[:, 0],
    r"\(1, \d+\)": lambda t: t[:1],
    r"\(3, \d+, 1\)": lambda t: t[..., None],
    "torch.int64": lambda t: t.long(),
    "torch.complex64": lambda t: t + 0j,
    r"\(\)": lambda t: t.sum(),
}
ASKED = {
    "forward": lambda model: model(X),
    "train": lambda model: model.train()(X),
    "trajectory": lambda model: model.trajectory(X).logits(1),
    "defended": lambda model: EntropyReduction(updates=1, every=1)(model)(X),
    "early": lambda model: EarlyState(model, 1)(X),
    "ensemble": lambda model: Ensemble(model)(X),
    "view": lambda model: IntermediateState(model, 1)(X),
}
ask = pytest.mark.parametrize("ask", ASKED.values(), ids=list(ASKED))


@ask
@pytest.mark.parametrize(("kind", "last"), GIVES.items())
def test_a_readout_gives_logits(kind, last, ask):
    model = made(readout=Through(12, 3, last)).eval()
    refused(lambda: ask(model), rf"DEQClassifier: Through gives .*{kind}.*; allowed: a floating-point tensor of logits")


@ask
@pytest.mark.parametrize(("kind", "last"), [*GIVES.items(), ("float64", torch.Tensor.double)])
def test_a_cell_gives_a_state_like_its_own(kind, last, ask):
    model = made(cell=Through(12, 12, last)).eval()
    refused(lambda: ask(model), rf"f gives .*{kind}.* for torch.float32 of shape \(3, 12\).*; allowed: a function")


@ask
@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"inject": Through(15, 12)}, r"inject, a Through .* \(3, 1, 4, 4\).*shapes cannot be multiplied"),
        ({"inject": Through(16, 11)}, r"the cell, a TanhCell .* \(3, 12\).* beside u, .*\(3, 11\)"),
        ({"cell": TanhCell(11)}, r"the cell, a TanhCell .* \(3, 12\).*shapes cannot be multiplied"),
        ({"readout": nn.Linear(11, 3)}, r"the readout, a Linear .* \(3, 12\).*shapes cannot be multiplied"),
        ({"shapes": [(13,)]}, r"the cell, a TanhCell .* \(3, 13\)"),
        ({"inject": Through(16, 12).double()}, "inject, a Through with weights of torch.float64.*torch.float32"),
        ({"cell": TanhCell(12).double()}, "the cell, a TanhCell with weights of torch.float64"),
        ({"readout": nn.Linear(12, 3).double()}, "the readout, a Linear with weights of torch.float64"),
        ({"readout": nn.Linear(12, 3).to("meta")}, "the readout, a Linear with weights of torch.float32 on meta"),
        ({"cell": nn.Linear(12, 12)}, "the cell, a PlainCell .*positional argument"),
        ({"cell": nn.Module()}, "the cell, a PlainCell, .*forward"),
        ({"cell": Cell()}, "the cell, a Cell, .*Cell has no prepare"),
    ],
)
def test_parts_that_do_not_fit_each_other(parts, why, ask):
    refused(lambda: ask(made(**parts).eval()), f"DEQClassifier: {why}")


@ask
@pytest.mark.parametrize("last", [lambda u: u[:1], lambda u: u.mean(0, keepdim=True), lambda u: u[0, :4], torch.sum])
def test_one_injection_for_all_images_is_no_injection(last, ask):
    """It would be spread over the batch, and a sample depend on the others (law 2)."""
    model = made(shapes=[(4,)], inject=Through(16, 4, last), cell=TanhCell(4), readout=nn.Linear(4, 3)).eval()
    refused(lambda: ask(model), "inject, a Through gives .*for 3 images; allowed: a row for each image")


def test_an_injection_may_have_rows_of_its_own():
    """Several a sample, as tokens have them, or the batch in another place."""
    for last, back in ((lambda u: u.view(-1, 6), lambda u: u.view(-1, 12)), (lambda u: u.mT, lambda u: u.mT)):
        cell = Through(12, 12)
        cell.forward = lambda z, u, back=back, linear=cell.linear: linear(z) + back(u)
        assert made(inject=Through(16, 12, last), cell=cell)(X).shape == (3, 3)


def test_errors_of_a_module_s_own_stay_what_they_are():
    def broken(value):
        raise RuntimeError("broken down")

    for name, size_in, size in (("inject", 16, 12), ("cell", 12, 12), ("readout", 12, 3)):
        with pytest.raises(RuntimeError, match=r"^broken down$"):
            made(**{name: Through(size_in, size, broken)})(X)


@pytest.mark.parametrize(("solver", "gradient"), PAIRS)
@pytest.mark.parametrize("training", [False, True])
def test_no_images_with_steps_of_their_own(solver, gradient, training):
    model, none = own(solver=solver, gradient=gradient).train(training), images(0)
    assert model(none).shape == (0, 3)
    assert model(none, steps=torch.zeros(0, dtype=torch.int64)).shape == (0, 3)
    refused(lambda: model(none, steps=torch.ones(1, dtype=torch.int64)), r"steps are torch.int64 of shape \(1,\)")


@pytest.mark.parametrize("parts", [None, 5, "ab", torch.zeros(3, 12), [None], [torch.zeros(3, 11)], {}], ids=str)
def test_pack_takes_the_parts_of_a_state(parts):
    refused(lambda: own().pack(parts), r"pack: parts of shape .*; allowed: \(\(12,\),\)")


@pytest.mark.parametrize("z", [None, 5, [[0.0] * 12], torch.zeros(12), torch.zeros(3, 11)], ids=str)
def test_unpack_takes_a_packed_state(z):
    refused(lambda: own().unpack(z), r"unpack: .*; allowed: \(batch, 12\)")


@pytest.mark.parametrize("make", [own, nano, lambda: create_model("resnet18", channels=(8, 16), stem=8).eval()])
def test_images_of_inference_mode_are_taken_outside_of_it(make):
    model = make()
    assert isinstance(model, DEQClassifier | PreActResNet)
    x = images(2, shape=model.image_shape)
    with torch.inference_mode():
        copy, inside = x.clone(), model(x)
    assert torch.equal(model(copy), model(x)) and torch.equal(model(x), inside)
