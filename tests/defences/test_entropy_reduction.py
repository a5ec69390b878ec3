"""Input entropy reduction: what is computed (P23 sec. 3.2), and what it leaves alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SOLVERS, Linear, images_for, left_untouched, lived_in, nano, own, whole_map

from robustdeq import EntropyReduction, create_model
from robustdeq.defences import entropy

SHORT = EntropyReduction(eps=0.05, step_size=0.02, updates=3, every=2)
MODELS = {"own": own, "nano": nano}


def naive_entropy(logits):
    p = logits.softmax(dim=1)
    return -(p * p.log()).sum(dim=1)


def naive(model, x, method):
    """P23 sec. 3.2, word for word: every f is a whole cell, nothing is kept. The logits, and the x' of every step."""
    adjusted, inputs = x, []
    state = model.solver.init(model.zeros(x))
    for t in range(1, model.steps + 1):
        inputs.append(adjusted)
        state = model.solver.step(whole_map(model, adjusted), state)
        if t % method.every == 0 and t < model.steps:
            for _ in range(method.updates):
                at = adjusted.detach().requires_grad_()
                h = naive_entropy(model.readout(model.cell(state.z.detach(), model.inject(at)))).sum()
                moved = adjusted - method.step_size * torch.autograd.grad(h, at)[0].sign()
                adjusted = moved.clamp(x - method.eps, x + method.eps).clamp(0, 1).detach()
    return model.readout(state.z), inputs


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("method", [SHORT, EntropyReduction(updates=2, every=3)], ids=["every 2", "every 3"])
def test_is_the_naive_loop(kind, solver, method):
    model = MODELS[kind](solver=solver, steps=5, dtype=torch.float64)
    x = images_for(model)
    defended = method(model)
    logits, inputs = naive(model, x, method)
    found = defended.trajectory(x)
    assert len(found.inputs) == model.steps
    for mine, theirs in zip(found.inputs, inputs):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.logits(model.steps), logits, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(defended(x), logits, rtol=1e-5, atol=1e-5)
        assert torch.equal(defended(x), found.logits(model.steps))
    assert (found.inputs[-1] != x).any()


def test_is_the_naive_loop_with_the_papers_numbers():
    """N = 8, T_f = 2, R = 10, beta = 2/255, eps = 8/255, in float32."""
    model = own(solver="broyden", steps=8)
    x = images_for(model, 6)
    logits, inputs = naive(model, x, EntropyReduction())
    found = EntropyReduction()(model).trajectory(x)
    for mine, theirs in zip(found.inputs, inputs):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.logits(8), logits, rtol=1e-5, atol=1e-5)


@given(
    eps=st.floats(0, 1),
    step_size=st.floats(0, 1),
    updates=st.integers(0, 4),
    every=st.integers(1, 5),
    seed=st.integers(0, 999),
    edge=st.sampled_from([0.0, 0.3, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_inputs_stay_in_the_ball_and_change_only_after_a_block(eps, step_size, updates, every, seed, edge):
    """edge: the share of the pixels that are black or white."""
    model = own(solver="broyden")
    x = images_for(model, seed=seed)
    x = torch.where(images_for(model, seed=seed + 1) < edge, x.round(), x)
    inputs = EntropyReduction(eps, step_size, updates, every)(model).trajectory(x).inputs
    for t, used in enumerate(inputs):  # used by step t + 1
        assert used.min() >= 0 and used.max() <= 1
        assert (used.double() - x.double()).abs().max() <= eps + 1e-7
        if t == 0 or t % every or not updates:
            assert torch.equal(used, inputs[max(t - 1, 0)])
    if eps > 1e-3 and step_size > 1e-3 and updates and every < model.steps:
        assert (inputs[every] != x).any()
    assert torch.equal(inputs[0], x)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_without_room_or_updates_it_is_the_plain_model(kind, solver):
    """Equal bits; so no update is made after the last step either, where every = N would make one."""
    model = MODELS[kind](solver=solver, steps=4)
    x = images_for(model)
    with torch.no_grad():
        plain = model(x)
        for options in ({"updates": 0}, {"eps": 0}, {"step_size": 0}, {"every": 4}):
            assert torch.equal(EntropyReduction(**{"updates": 2, **options})(model)(x), plain), options
        assert not torch.equal(EntropyReduction(updates=2)(model)(x), plain)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("steps", "every", "updates"), [(8, 2, 10), (5, 2, 3), (6, 6, 3), (3, 1, 2), (4, 2, 0)])
def test_costs_n_evaluations_and_one_preparation_a_step(solver, steps, every, updates):
    """The half of f that depends on z alone is shared by the updates and the next step."""
    model = own(solver=solver, steps=steps)
    x = images_for(model, 7)
    blocks = sum(1 for t in range(1, steps) if t % every == 0)
    with torch.no_grad():
        EntropyReduction(updates=updates, every=every)(model)(x)
    assert model.cell.prepared == steps
    assert model.cell.finished == steps + blocks * updates
    assert model.tally.evaluations == steps * len(x)


@pytest.mark.parametrize("kind", MODELS)
def test_a_block_lowers_the_entropy_it_looks_at(kind):
    """H(readout(f(z; inject(x')))), z held fixed, of every sample."""
    model = MODELS[kind](steps=6)
    x = images_for(model, 8)
    found = EntropyReduction(eps=0.1, step_size=0.004, updates=10, every=2)(model).trajectory(x)
    with torch.no_grad():
        for t in (2, 4):
            z = found.states[t - 1]
            before, after = (entropy(model.readout(model.cell(z, model.inject(found.inputs[i])))) for i in (t - 1, t))
            assert (after < before).all()


def test_the_prediction_has_a_lower_entropy():
    model = own(classes=5, steps=8)
    x = images_for(model, 32)
    with torch.no_grad():
        plain, defended = entropy(model(x)), entropy(EntropyReduction()(model)(x))
    assert (defended < plain).all()


@pytest.mark.parametrize("kind", MODELS)
def test_leaves_the_model_as_it_was(kind):
    """Also one in train mode, which is read as in eval mode: BatchNorm counts nothing, dropout drops nothing."""
    options = {"dropout": 0.3} if kind == "nano" else {}
    model = MODELS[kind](steps=4, **options)
    x = images_for(model, 4)
    wanted = SHORT(model)(x)
    defended = SHORT(lived_in(model))
    with left_untouched(defended):
        assert torch.equal(defended(x), wanted)
        found = defended.trajectory(x)
        assert torch.equal(found.logits(4), wanted)
        torch.autograd.grad(defended(x.requires_grad_()).sum(), x)


def test_leaves_the_model_as_it_was_when_it_breaks_down():
    model = lived_in(own())
    readout, model.readout = model.readout, Linear.random(3, size=5)
    defended = SHORT(model)
    with left_untouched(defended), pytest.raises(ValueError, match=r"the readout, a Linear .*cannot take"):
        defended(images_for(model))
    model.readout = readout
    assert defended(images_for(model)).shape == (3, 3)


def test_works_in_inference_mode():
    model = own()
    x = images_for(model)
    with torch.no_grad():
        wanted = SHORT(model)(x)
    with torch.inference_mode():
        assert torch.equal(SHORT(model)(x), wanted)
        made_inside = x + 0
        found = SHORT(model).trajectory(made_inside)
        assert torch.equal(found.logits(5), wanted)


def test_one_image_and_none():
    model = own()
    assert SHORT(model)(images_for(model, 1)).shape == (1, 3)
    assert SHORT(model)(images_for(model, 0)).shape == (0, 3)


@given(logits=st.lists(st.floats(-30, 30), min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_entropy_is_shannon_s(logits):
    h = float(entropy(torch.tensor([logits], dtype=torch.float64)))
    weights = [math.exp(v - max(logits)) for v in logits]
    wanted = -sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights)
    assert h == pytest.approx(wanted, abs=1e-9)
    assert -1e-12 <= h <= math.log(len(logits)) + 1e-12


def test_entropy_of_the_extremes_is_exact_and_has_a_gradient():
    logits = torch.tensor([[0.0, 0, 0], [1e5, 0, 0]], requires_grad=True)
    h = entropy(logits)
    assert h.tolist() == [pytest.approx(math.log(3)), 0.0]
    assert torch.autograd.grad(h.sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"eps": -0.1}, r"eps=-0.1; allowed: a number in \[0, 1\]"),
        ({"eps": 8}, r"eps=8; allowed: a number in \[0, 1\]"),
        ({"eps": float("nan")}, "eps=nan"),
        ({"step_size": -1 / 255}, "step_size"),
        ({"updates": -1}, "updates=-1; allowed: a whole number >= 0"),
        ({"updates": 2.0}, "updates=2.0"),
        ({"every": 0}, "every=0; allowed: a whole number >= 1"),
    ],
)
def test_bad_options_are_named(options, why):
    with pytest.raises(ValueError, match=why):
        EntropyReduction(**options)


def test_unknown_options_and_unfit_models_are_refused():
    with pytest.raises((TypeError, ValueError), match="epsilon"):
        EntropyReduction(epsilon=8 / 255)
    with pytest.raises(ValueError, match=r"every=6; allowed: 1..5, the model's number of steps"):
        EntropyReduction(every=6)(own(steps=5))
    with pytest.raises(ValueError, match="PreActResNet; allowed: a DEQClassifier"):
        EntropyReduction()(create_model("resnet18", seed=0))
    with pytest.raises(ValueError, match="RegulatedClassifier; allowed: a DEQClassifier"):
        EntropyReduction()(EntropyReduction()(own()))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (torch.full((2, 1, 8, 8), 1.5), r"allowed: \[0, 1\]"),
        (torch.zeros(2, 1, 8, 9), r"\(2, 1, 8, 9\); allowed: \(batch, 1, 8, 8\)"),
        (torch.zeros(1, 8, 8), "allowed: "),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "torch.uint8; allowed: a floating-point tensor"),
    ],
)
def test_bad_images_are_named(bad, why):
    defended = SHORT(nano())
    for forward in (defended, defended.trajectory):
        with pytest.raises(ValueError, match=why):
            forward(bad)
