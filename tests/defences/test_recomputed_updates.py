"""The end-to-end gradient makes the graph of an update again in the backward pass: it is the same, in less memory."""

import pytest
import torch
from small_models import SOLVERS, images_for, left_untouched, lived_in, nano, own

from robustdeq import EntropyReduction
from robustdeq.counting import Memory
from robustdeq.defences import SmoothSign, entropy_reduction

MODELS = {"own": own, "nano": nano}
every_model = pytest.mark.parametrize("kind", MODELS)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(entropy_reduction, "KEPT", 0)


def gradients(model, x, method):
    """Of the images and of every parameter."""
    x = x.clone().requires_grad_()
    logits = method(model).end_to_end(x, SmoothSign())
    return torch.autograd.grad((logits * torch.linspace(-1, 1, logits.shape[1])).sum(), [x, *model.parameters()])


@pytest.mark.parametrize(("kind", "solver"), [*(("own", solver) for solver in SOLVERS), ("nano", "broyden")])
def test_gradient_is_that_of_the_whole_graph(kind, solver, monkeypatch):
    model = MODELS[kind](solver=solver, steps=5, dtype=torch.float64)
    x, method = images_for(model), EntropyReduction(eps=0.09, step_size=0.02, updates=3)
    found = gradients(model, x, method)
    monkeypatch.setattr(entropy_reduction, "checkpoint", lambda update, *args, **_: update(*args))
    for mine, plain in zip(found, gradients(model, x, method)):
        torch.testing.assert_close(mine, plain, rtol=1e-12, atol=1e-14)


@every_model
def test_an_update_keeps_no_more_than_its_image(kind):
    """Between the forward and the backward pass, the solver's own graph being the same."""
    model = MODELS[kind](steps=4)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x = images_for(model).requires_grad_()
    held = {}
    for updates in (2, 4, 6):  # the first one's graph is kept
        with Memory() as live:
            logits = EntropyReduction(updates=updates)(model).end_to_end(x, SmoothSign())
            held[updates] = live.held
            assert logits.requires_grad
            del logits
    image = x.numel() * x.element_size()
    assert held[4] - held[2] <= 2 * image and held[6] - held[4] <= 2 * image


def test_a_backward_pass_in_train_mode_is_that_of_eval_mode():
    """The forward is in eval mode whatever the model's; so is the graph that is made again."""
    model = nano(steps=4, dropout=0.3, dtype=torch.float64)
    x, method = images_for(model), EntropyReduction(updates=2)
    wanted = gradients(model, x, method)[0]
    defended = method(lived_in(model))
    at = x.clone().requires_grad_()
    with left_untouched(defended):
        logits = defended.end_to_end(at, SmoothSign())
        found = torch.autograd.grad((logits * torch.linspace(-1, 1, logits.shape[1])).sum(), at)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("steps", "every", "updates", "blocks"), [(8, 2, 9, 3), (5, 2, 3, 2), (6, 6, 3, 0), (4, 1, 0, 0)]
)
def test_updates_are_counted_apart_from_evaluations(steps, every, updates, blocks):
    """Every call of ``finish`` is one or the other, those that make a graph again among them."""
    model = own(steps=steps)
    defended, x = EntropyReduction(updates=updates, every=every)(model), images_for(model, 3).requires_grad_()
    torch.autograd.grad(defended(x).sum(), x)
    assert (model.tally.evaluations, model.tally.updates) == (3 * steps, 3 * blocks * updates)
    torch.autograd.grad(defended.end_to_end(x, SmoothSign()).sum(), x)
    assert model.tally.evaluations == 2 * 3 * steps
    assert model.tally.evaluations + model.tally.updates == 3 * model.cell.finished
