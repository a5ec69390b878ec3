"""Frozen and EndToEnd: one value, the deployed one, and two gradients, proved without the code under test. Static."""

import pytest
import torch
from small_models import SOLVERS, images_for, nano, own, whole_map

from robustdeq import EntropyReduction, Linf
from robustdeq.attacks import PGD, AutoAttack, EndToEnd, Frozen, Static, ThroughGradient, predictions
from robustdeq.defences import SmoothSign

METHOD = EntropyReduction(eps=0.09, step_size=0.02, updates=3, every=2)  # only the last updates meet the ball
MODELS = {"own": own, "nano": nano}
VIEWS = {"frozen": Frozen, "end-to-end": EndToEnd}


def slope(view, x):
    """d (sum of some logits) / d x."""
    x = x.clone().requires_grad_()
    logits = view(x)
    return torch.autograd.grad((logits * torch.linspace(-1, 1, logits.shape[1])).sum(), x)[0]


def naive_end_to_end(model, x, method, temperature):
    """P23 sec. 3.2 with a graph: whole cells, the entropy differentiated at z held fixed, tanh behind every sign."""
    adjusted = x
    state = model.solver.init(model.zeros(x))
    for t in range(1, model.steps + 1):
        state = model.solver.step(whole_map(model, adjusted), state)
        if t % method.every == 0 and t < model.steps:
            for _ in range(method.updates):
                offset = torch.zeros_like(x, requires_grad=True)  # so that only this way into f is differentiated
                p = model.readout(model.cell(state.z, model.inject(adjusted + offset))).softmax(dim=1)
                g = torch.autograd.grad(-(p * p.log()).sum(), offset, create_graph=True)[0]
                soft = torch.tanh(g / (temperature * g.detach().abs().mean(dim=(1, 2, 3), keepdim=True)))
                moved = adjusted - method.step_size * (g.sign().detach() + (soft - soft.detach()))
                moved = torch.maximum(torch.minimum(moved, x + method.eps), x - method.eps)
                adjusted = moved.clamp(0, 1)
    return model.readout(state.z)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", VIEWS)
def test_has_the_deployed_bits_with_and_without_a_gradient(name, kind):
    """(With every solver: ``DefenceLaws``.)"""
    model = MODELS[kind](solver="broyden", steps=5)
    defended = METHOD(model)
    x = images_for(model)
    with torch.no_grad():
        deployed = defended(x)
        assert torch.equal(VIEWS[name](defended)(x), deployed)
    assert torch.equal(VIEWS[name](defended)(x), deployed)
    assert torch.equal(VIEWS[name](defended)(x.clone().requires_grad_()), deployed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(VIEWS[name](defended)(x), deployed)
    assert torch.equal(VIEWS[name](defended)(x.clone().requires_grad_()), deployed)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_frozen_gradient_holds_the_offsets_constant(solver, kind):
    """Central differences of a forward whose x' - x are the recorded ones; no pixel is near the box's edge."""
    model = MODELS[kind](solver=solver, steps=5, dtype=torch.float64)
    defended = METHOD(model)
    x = images_for(model) * 0.8 + 0.1
    offsets = [used - x for used in defended.trajectory(x).inputs]
    assert any((offset != 0).any() for offset in offsets)

    def held(x):
        state = model.solver.init(model.zeros(x))
        for offset in offsets:
            state = model.solver.step(whole_map(model, x + offset), state)
        logits = model.readout(state.z)
        return (logits * torch.linspace(-1, 1, logits.shape[1])).sum(dim=1)

    direction = images_for(model, seed=1) - 0.5
    h = 1e-6
    with torch.no_grad():
        difference = (held(x + h * direction) - held(x - h * direction)) / (2 * h)
    found = (slope(Frozen(defended), x) * direction).sum(dim=(1, 2, 3))
    torch.testing.assert_close(found, difference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_end_to_end_gradient_is_that_of_the_naive_loop(solver, temperature):
    model = own(solver=solver, steps=5, dtype=torch.float64)
    x = images_for(model)
    found = slope(EndToEnd(METHOD(model), temperature), x)
    wanted = slope(lambda at: naive_end_to_end(model, at, METHOD, temperature), x)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", MODELS)
def test_end_to_end_gradient_is_another_one_and_finite(kind):
    """With the papers' 30 updates, in float32."""
    model = MODELS[kind](steps=8)
    defended = EntropyReduction(eps=0.1)(model)
    x = images_for(model)
    frozen, through = slope(Frozen(defended), x), slope(EndToEnd(defended), x)
    assert through.isfinite().all()
    assert (through.flatten(1).norm(dim=1) > 0).all()
    assert (through - frozen).norm() > 0.01 * frozen.norm()


def test_end_to_end_gradient_of_a_saturated_prediction_is_finite():
    """Where the entropy and its gradient are zero in float32, so is the scale of the surrogate."""
    model = own(sharpness=1e4)
    x = images_for(model)
    assert slope(EndToEnd(METHOD(model)), x).isfinite().all()


@pytest.mark.parametrize("name", VIEWS)
def test_gradient_of_a_sample_does_not_depend_on_its_batch(name):
    model = own(solver="broyden", dtype=torch.float64)
    view = VIEWS[name](METHOD(model))
    x = images_for(model, 4)
    together = slope(view, x)
    alone = torch.cat([slope(view, x[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", VIEWS)
def test_an_attack_that_sees_the_defence_is_the_stronger(name):
    """A static attack, on the model without the defence, leaves samples standing that an informed one breaks."""
    model = own(classes=4, steps=6)
    defended = METHOD(model)
    x = images_for(model, 48)
    attack = PGD(Linf(0.1), step_size=0.02, steps=10)
    with torch.no_grad():
        y = predictions(defended(x))
        static, informed = (
            int((predictions(defended(attack(view, x, y))) == y).sum()) for view in (model, VIEWS[name](defended))
        )
    assert informed < static < len(x)


def test_smooth_sign_is_sign_with_the_slope_of_tanh():
    g = torch.tensor([0.5, -2.0, 0.0, 1.5], dtype=torch.float64).view(1, 1, 2, 2).requires_grad_()
    sign = SmoothSign(temperature=2.0)(g)
    assert torch.equal(sign, g.sign())
    scale = 2.0 * 1.0  # the mean of |g| is 1
    wanted = (1 - torch.tanh(g / scale) ** 2) / scale
    torch.testing.assert_close(torch.autograd.grad(sign.sum(), g)[0], wanted, rtol=1e-9, atol=1e-12)


def test_smooth_sign_of_one_sample_has_its_own_scale():
    g = torch.tensor([1e-6, 1.0]).view(2, 1, 1, 1).requires_grad_()
    slopes = torch.autograd.grad(SmoothSign()(g).sum(), g)[0].flatten()
    assert slopes[0] == pytest.approx(1e6 * float(slopes[1]), rel=1e-3)


@pytest.mark.parametrize("temperature", [0, -1.0, float("inf"), "1"])
def test_bad_temperatures_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        EndToEnd(METHOD(own()), temperature)


@pytest.mark.parametrize("gradient", ["unrolled", "phantom"])
@pytest.mark.parametrize("keep", ["worst", "highest"])
def test_static_is_the_bare_model_and_never_asks_the_defence(gradient, keep):
    model = own(steps=4)
    defended, bare = METHOD(model), ThroughGradient(model, gradient)
    defended.register_forward_pre_hook(lambda *_: pytest.fail("the defence was asked"))
    view, x, y = Static(defended, gradient), images_for(model), torch.arange(3)
    assert view.deployed is model and view.settings == bare.settings
    assert torch.equal(slope(view, x), slope(bare, x))
    for attack in (PGD(Linf(0.1), 0.03, 4, keep=keep), AutoAttack(Linf(0.1), attacks=["apgd-ce"], iterations=3)):
        assert torch.equal(attack(view, x, y), attack(bare, x, y))
    assert model.tally.updates == 0


def test_static_is_unrolled_unless_another_gradient_is_chosen():
    assert Static(METHOD(own())).settings == {"gradient": {"name": "unrolled", "segment": None}}


@pytest.mark.parametrize("view", [*VIEWS.values(), Static])
def test_an_undefended_model_is_refused(view):
    with pytest.raises(ValueError, match="DEQClassifier; allowed: Defended"):
        view(own())
