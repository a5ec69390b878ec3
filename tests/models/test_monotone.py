"""The monotone cell keeps its theorems: one fixed point, a contraction, and a slope that no two images exceed."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import images
from torch import nn

import robustdeq as rd
from robustdeq.dynamics import drive
from robustdeq.models import load_model, save_model
from robustdeq.models.monotone import SPLITTINGS
from robustdeq.testing import assert_refused

STEPS = (1, 2, 3, 8, 30)


def small(seed=0, scale=1.0, skew=1.0, **options):
    """In float64, with weights of any size."""
    options = {"image_shape": (1, 4, 4), "channels": 4, "num_classes": 3, "stem_stride": 1, "pool": 2, **options}
    model = rd.create_model("mondeq-nano", seed=seed, **options).double().eval()
    with torch.no_grad():
        model.cell.a.mul_(scale)
        model.cell.b.mul_(skew)
        model.inject.bias.normal_(generator=torch.Generator().manual_seed(seed))
    return model


REFLECTED = {"splitting": "peaceman-rachford"}
FORWARD = {
    "as made": small(),
    "free": small(1, bound=None),
    "stiff": small(2, 6.0),
    "skew": small(3, 1.0, 3.0, modulus=0.5),
    "folded and damped": small(4, 3.0, 3.0, image_shape=(2, 4, 8), stem_stride=2, pool=1,
                               solver={"name": "picard", "damping": 0.6}),
}  # fmt: skip
MODELS = {
    **FORWARD,
    "reflected": small(5, **REFLECTED),
    "reflected, stiff and skew": small(6, 4.0, 3.0, modulus=0.5, **REFLECTED),
    "reflected, folded and damped": small(7, 2.0, 2.0, image_shape=(2, 4, 8), stem_stride=2, pool=1, bound=None,
                                          solver={"name": "picard", "damping": 0.6}, **REFLECTED),
}  # fmt: skip


def states(count, model, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(count, model.layout.size, generator=draw, dtype=torch.float64)


def anywhere(count, model, seed=0, spread=1.0):
    draw = torch.Generator().manual_seed(seed)
    return spread * torch.rand(count, *model.image_shape, generator=draw, dtype=torch.float64)


def logits(model, x, steps):
    """Also beyond the box, where the bound holds as well."""
    with rd.checks.beyond_the_box():
        return model(x, steps=steps)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31), st.floats(0.01, 30), st.floats(0, 30), st.floats(0.05, 4), st.sampled_from([(4, 4), (2, 6)])
)  # fmt: skip
def test_the_cell_is_strongly_monotone_and_a_step_contracts_at_the_proven_rate(seed, scale, skew, modulus, sides):
    model = small(seed, scale, skew, modulus=modulus, image_shape=(1, *sides))
    one, two = states(50, model, 1), states(50, model, 2)
    (h, step), (_, rate) = model.cell.prepare(one), model.cell.rate()
    moved = (one - h.flatten(1)) / step  # (I - W) z
    rounding = 1e-9 * moved.norm(dim=1) * one.norm(dim=1)
    assert ((moved * one).sum(1) >= modulus * one.square().sum(1) - rounding).all()
    u = model.inject(anywhere(50, model))
    apart = (model.cell(one, u) - model.cell(two, u)).norm(dim=1) / (one - two).norm(dim=1)
    assert rate < 1 and (apart <= rate).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.floats(0.01, 30), st.floats(0, 30), st.floats(0.05, 4), st.sampled_from([(4, 4), (2, 6)])
)  # fmt: skip
def test_a_reflected_step_contracts_and_moves_injections_apart_as_proven(seed, scale, skew, modulus, sides):
    model = small(seed, scale, skew, modulus=modulus, image_shape=(1, *sides), **REFLECTED)
    one, two, (pushed, rate) = states(50, model, 1), states(50, model, 2), model.cell.rate()
    u, other = model.inject(anywhere(50, model)), model.inject(anywhere(50, model, 1))
    with torch.no_grad():
        apart = (model.cell(one, u) - model.cell(two, u)).norm(dim=1) / (one - two).norm(dim=1)
        moved = (model.cell(one, u) - model.cell(one, other)).norm(dim=1) / (u - other).flatten(1).norm(dim=1)
    assert rate < 1 and (apart <= rate).all() and (moved <= pushed * (1 + 1e-9)).all()


@pytest.mark.parametrize("name", FORWARD)
def test_the_reflected_steps_go_to_the_same_fixed_point_and_sooner(name):
    """The same weights: z = ReLU(v), and after N = 8 steps a smaller error."""
    forward = FORWARD[name]
    options = {name: of for name, of in forward.config.items() if name not in ("model", "splitting", "solver")}
    plain, reflected = (
        rd.create_model("mondeq-nano", **options, splitting=splitting).double().eval() for splitting in SPLITTINGS
    )
    for model in (plain, reflected):
        model.load_state_dict(forward.state_dict())
    x = anywhere(5, forward)
    with torch.no_grad():
        ends = {}
        for model in (plain, reflected):
            v = model.trajectory(x, 8).states[-1], drive(model.solver, model.map(x), model.zeros(x), 20_000).z
            ends[model] = [torch.relu(state) for state in v]
    assert torch.allclose(ends[plain][1], ends[reflected][1], atol=1e-7)
    errors = {model: float((few - many).norm()) for model, (few, many) in ends.items()}
    assert errors[reflected] < errors[plain]


@pytest.mark.parametrize("name", FORWARD)
def test_the_rate_is_reached(name):
    """By the linear part of a step, on the state that it moves least."""
    cell = MODELS[name].cell
    size = cell.layout.size
    with torch.no_grad():
        linear = cell.prepare(torch.eye(size, dtype=torch.float64))[0].flatten(1).mT
    known = float(torch.linalg.matrix_norm(linear, 2))
    step, rate = cell.rate()
    assert known <= rate <= 1.01 * known and rate < 1
    assert step == pytest.approx(float(cell.constants(cell.a)[3].detach()), rel=1e-12)


@pytest.mark.parametrize("name", FORWARD)
def test_there_is_one_fixed_point_from_wherever_it_starts(name):
    model = MODELS[name]
    steps = math.ceil(math.log(1e-12) / math.log(1 - model.solver.damping * (1 - model.cell.rate()[1])))
    u, z = model.inject(anywhere(5, model)), states(5, model)
    other = torch.zeros_like(z)
    with torch.no_grad():
        for _ in range(steps):
            z, other = (state + model.solver.damping * (model.cell(state, u) - state) for state in (z, other))
        assert (z - other).norm() < 1e-8 * (1 + z.norm())
        moved = (z - model.cell.prepare(z)[0].flatten(1)) / model.cell.constants(z)[3]
        assert torch.allclose(z, torch.relu(z - moved + u.flatten(1)), atol=1e-8)  # z = ReLU(W z + u)


@pytest.mark.parametrize("name", MODELS)
def test_no_pair_of_images_exceeds_the_bound(name):
    """All pairs of 1,415 images, a million of them; as many that lie close together; for every N."""
    model = MODELS[name]
    x = torch.cat([anywhere(700, model, 0), anywhere(715, model, 1, 30.0)])
    near = x + 1e-4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    far = torch.cdist(x.flatten(1), x.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    for steps in STEPS:
        with torch.no_grad():
            one, two = logits(model, x, steps), logits(model, near, steps)
        bound, slopes = model.lipschitz(steps), model.slopes(steps)
        apart = torch.cdist(one, one, compute_mode="donot_use_mm_for_euclid_dist")
        assert (apart <= bound * far).all()
        assert ((one - two).norm(dim=1) <= bound * (x - near).flatten(1).norm(dim=1)).all()
        for i in range(3):
            for j in range(i):
                gap = one[:, i] - one[:, j]
                assert ((gap[:, None] - gap).abs() <= slopes[i, j] * far).all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_gradient_ascent_on_the_ratio_does_not_exceed_the_bound(name, steps):
    model = MODELS[name]
    free = copy.deepcopy(model).requires_grad_(False)
    pair = torch.stack([anywhere(32, model, 3), anywhere(32, model, 4)]).requires_grad_()
    optimizer, bound, best = torch.optim.Adam([pair], lr=0.05), model.lipschitz(steps), 0.0
    for _ in range(60):
        apart = (logits(free, pair[0], steps) - logits(free, pair[1], steps)).norm(dim=1)
        ratio = apart / (pair[0] - pair[1]).flatten(1).norm(dim=1)
        best = max(best, float(ratio.max().detach()))
        optimizer.zero_grad()
        (-ratio.clamp_min(1e-30).log().sum()).backward()
        optimizer.step()
    assert 0.02 * bound < best <= bound


def test_the_bound_is_tight_on_a_linear_cell():
    """All ReLUs are active, and one state is moved least by every step: the constant one, which A does not see."""
    model = small(0, image_shape=(2, 4, 4), channels=2, num_classes=32, pool=1, bound=None)
    with torch.no_grad():
        model.cell.a.sub_(model.cell.a.mean(dim=(2, 3), keepdim=True))
        model.cell.b.zero_()
        model.inject.weight.zero_()[[0, 1], [0, 1], 1, 1] = 1.0
        model.inject.bias.fill_(50.0)
        nn.init.orthogonal_(model.readout.linear.weight)
    x = anywhere(1, model)
    for steps in STEPS:
        slope = torch.autograd.functional.jacobian(lambda x, steps=steps: model(x, steps=steps), x).reshape(32, 32)
        exact = float(torch.linalg.matrix_norm(slope, 2))
        assert exact <= model.lipschitz(steps) <= 1.05 * exact


@pytest.mark.parametrize("name", ["as made", "stiff", "skew", "folded and damped"])
def test_the_bound_of_the_config_is_that_of_the_fixed_point(name):
    """||U|| max ||w_i - w_j|| / m: at most what was asked for, whatever the weights are."""
    model = MODELS[name]
    with torch.no_grad():
        rows = model.readout.weight / model.readout.pool
    largest = float(torch.cdist(rows, rows).max())
    kernel = model.inject.kernel(model.cell.grid)
    injected = float(rd.models.norms.gram_bound(rd.models.norms.transfer(kernel.detach(), model.cell.grid)))
    assert 0.5 * 8.0 < injected * largest / model.cell.modulus <= 8.0 * (1 + 1e-6)
    free = small(1, bound=None)
    assert free.readout.weight is free.readout.linear.weight


def test_more_steps_and_more_damping_raise_the_bound_as_they_should():
    model = MODELS["as made"]
    bounds = [model.lipschitz(steps) for steps in range(1, 40)]
    assert bounds == sorted(bounds)
    _, rate = model.cell.rate()
    assert bounds[-1] <= bounds[0] / (1 - rate) * (1 + 1e-6)
    assert bounds[1] == pytest.approx(bounds[0] * (1 + rate), rel=1e-6)
    assert model.lipschitz() == bounds[7]
    whole = rd.create_model("mondeq-nano", seed=0, steps=1)
    damped = rd.create_model("mondeq-nano", seed=0, steps=1, solver={"name": "picard", "damping": 0.5})
    assert damped.lipschitz() == pytest.approx(0.5 * whole.lipschitz(), rel=1e-6)


@pytest.mark.parametrize("splitting", SPLITTINGS)
def test_every_part_of_the_package_takes_it_as_any_deq(splitting, tmp_path):
    model = rd.create_model("mondeq-nano", seed=0, splitting=splitting).eval()
    again = load_model(save_model(model, tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters()))
    assert again.lipschitz() == model.lipschitz()
    x = images(4, shape=(1, 8, 8))
    y = model(x).argmax(1)
    path = model.trajectory(x)
    assert torch.equal(path.logits(8), model(x).detach()) and (path.residuals[-1] < 0.1).all()
    found = rd.evaluate(model, x, y, suite="quick", threat=rd.L2(0.5), steps=3, checks=4)
    assert {"PGD", "joint"} <= set(found.columns.values())
    for gradient in ("phantom", "implicit", "simultaneous"):
        at = x.clone().requires_grad_()
        exact = torch.autograd.grad(model(at, steps=60)[:, 0].sum(), at)[0]
        rule = rd.gradients.GRADIENTS[gradient]()
        other = torch.autograd.grad(model(at, steps=60, gradient=rule)[:, 0].sum(), at)[0]
        assert nn.functional.cosine_similarity(exact.flatten(), other.flatten(), dim=0) > 0.8


@pytest.mark.parametrize("splitting", SPLITTINGS)
def test_no_certified_sample_is_broken_at_its_radius(splitting):
    """By PGD on two losses and by the joint attack, with the radius of each sample."""
    model = rd.create_model("mondeq-nano", seed=0, splitting=splitting).eval()
    x = images(6, shape=(1, 8, 8))
    y = model(x).argmax(1)
    certificate = rd.certify(model, x, y)
    assert (certificate.radius > 0).all() and torch.equal(certificate.predictions, y)
    for row, radius in enumerate(certificate.radius.tolist()):
        threat, few = rd.L2(radius), slice(row, row + 1)
        attacks = [rd.attacks.PGD(threat, radius / 4, 10, loss=loss) for loss in ("ce", "cw")]
        for attack in (*attacks, rd.attacks.JointOptimisation(threat, 10)):
            x_adv = attack(model, x[few], y[few])
            assert threat.contains(x[few], x_adv).all() and model(x_adv).argmax(1) == y[row]


def test_what_has_no_bound_says_so_in_a_line():
    assert_refused("allowed: picard", rd.create_model("mondeq-nano", solver="broyden").lipschitz)
    assert_refused("steps=0", rd.create_model("mondeq-nano").lipschitz, 0)
    assert_refused("divisible by 8", lambda: rd.create_model("mondeq-small", image_shape=(3, 28, 28)))
    assert_refused("modulus=0", lambda: rd.create_model("mondeq-nano", modulus=0))
    assert_refused("bound=-1", lambda: rd.create_model("mondeq-nano", bound=-1))


@pytest.mark.parametrize("splitting", SPLITTINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_gives_about_the_same(splitting, dtype):
    model, x = rd.create_model("mondeq-nano", seed=0, splitting=splitting).eval(), images(3, shape=(1, 8, 8))
    exact, half = model(x), copy.deepcopy(model).to(dtype)(x.to(dtype))
    assert half.dtype == dtype
    assert torch.allclose(half.float(), exact, atol=0.1 * exact.detach().std().item())


@pytest.mark.parametrize("splitting", SPLITTINGS)
@pytest.mark.parametrize("stride", [1, 2])
def test_no_images_have_no_logits(splitting, stride):
    model = rd.create_model("mondeq-nano", seed=0, splitting=splitting, stem_stride=stride).eval()
    assert model(images(3, shape=(1, 8, 8))[:0]).shape == (0, 10)
