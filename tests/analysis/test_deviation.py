"""The deviation of perturbed dynamics: its bound, its terms one by one, and whose inputs they are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SOLVERS, images_for, nano, own

import robustdeq as rd
from robustdeq.analysis import deviation, states_along, variant
from robustdeq.testing import left_untouched

SHARP = own(sharpness=8.0, dtype=torch.float64)
TERMS = ("total", "perturbation", "accumulation", "distance")


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(0, 1), defended=st.booleans())
def test_the_bound_holds_at_every_point(solver, seed, size, defended):
    model = variant(SHARP, solver=solver)
    x, other = images_for(model, 4, seed=seed), images_for(model, 4, seed=seed + 1)
    moving = rd.EntropyReduction(eps=0.1, step_size=0.05, updates=2)(model) if defended else model
    found = deviation(moving, x, x + size * (other - x))
    assert (found.total <= (found.perturbation + found.accumulation) * (1 + 1e-12) + 1e-12).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_term_is_what_its_formula_says(solver):
    model = variant(SHARP, solver=solver)
    x, x_adv = images_for(model, seed=1), images_for(model, seed=2)
    u, u_adv = model.inject(x), model.inject(x_adv)
    clean, moved = model.trajectory(x).states, model.trajectory(x_adv).states
    found = deviation(model, x, x_adv)
    assert found.total.shape == (model.steps, len(x))
    for t, (z, z_adv) in enumerate(zip(clean, moved)):
        f = model.cell
        for name, of in zip(TERMS, (f(z_adv, u_adv) - f(z, u), f(z_adv, u_adv) - f(z_adv, u), f(z_adv, u) - f(z, u))):
            torch.testing.assert_close(getattr(found, name)[t], of.norm(dim=1))
        torch.testing.assert_close(found.distance[t], (z_adv - z).norm(dim=1) / z.norm(dim=1))


def test_dynamics_do_not_deviate_from_themselves():
    model = nano()
    x = images_for(model)
    assert not any(values.any() for values in vars(deviation(model, x, x)).values())


def test_without_updates_a_defence_deviates_as_the_bare_model():
    x, x_adv = images_for(SHARP, seed=1), images_for(SHARP, seed=2)
    bare, idle = (deviation(m, x, x_adv) for m in (SHARP, rd.EntropyReduction(updates=0)(SHARP)))
    for name in TERMS:
        assert torch.equal(getattr(bare, name), getattr(idle, name))


def test_of_a_defended_model_the_inputs_are_those_that_each_step_used():
    defended = rd.EntropyReduction(eps=0.2, step_size=0.1, updates=3)(SHARP)
    x, x_adv = images_for(SHARP, seed=1), images_for(SHARP, seed=2)
    clean, moved, f = SHARP.trajectory(x), defended.trajectory(x_adv), SHARP.cell
    found = deviation(defended, x, x_adv, reference=SHARP)
    for t, (z, z_adv, used) in enumerate(zip(clean.states, moved.states, moved.inputs)):
        u, u_adv = SHARP.inject(x), SHARP.inject(used)
        torch.testing.assert_close(found.total[t], (f(z_adv, u_adv) - f(z, u)).norm(dim=1))
        torch.testing.assert_close(found.accumulation[t], (f(z_adv, u) - f(z, u)).norm(dim=1))
    assert not torch.equal(moved.inputs[-1], x_adv)  # or this would test nothing


def test_a_sample_deviates_alike_in_any_batch_and_the_model_is_left_as_it_was():
    model = own(dtype=torch.float64).train()
    x, x_adv = images_for(model, 5, seed=1), images_for(model, 5, seed=2)
    with left_untouched(model):
        whole = deviation(model, x, x_adv)
    alone = deviation(model, x[3:4], x_adv[3:4])
    for name in TERMS:
        torch.testing.assert_close(getattr(whole, name)[:, 3:4], getattr(alone, name), rtol=1e-12, atol=0)


def test_the_tables_hold_the_tensors():
    x, x_adv = images_for(SHARP, 3, seed=1), images_for(SHARP, 3, seed=2)
    found = deviation(SHARP, x, x_adv)
    frame = found.frame()
    assert list(frame.columns) == ["sample", "t", *TERMS] and len(frame) == found.total.numel()
    for row in frame.itertuples():
        assert row.total == found.total[row.t - 1, row.sample]
    table = found.quantiles((0.5, 1.0)).set_index(["term", "t", "quantile"])["value"]
    assert table["distance", 2, 1.0] == found.distance[1].max()
    assert table["total", 5, 0.5] == found.total[4].median()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, x: deviation(m, x, x[:1]), "x_adv is .*allowed: images as x is"),
        (lambda m, x: deviation(m, x, None), "x_adv is a NoneType; allowed"),
        (lambda m, x: deviation(m, x, x.double() + 1), "x_adv is|images lie in"),
        (lambda m, x: deviation(torch.nn.Linear(2, 2), x, x), "deviation: the model is a Linear; allowed: a DEQ"),
        (lambda m, x: deviation(m, x, x, reference=own()), "another cell or number of steps"),
        (lambda m, x: deviation(m, x, x, reference=variant(m, steps=2)), "number of steps"),
        (lambda m, x: states_along(rd.defences.EarlyState(m, 2), x), "states_along: the model is a EarlyState"),
        (lambda m, x: variant(rd.EntropyReduction()(m), steps=3), "variant: the model is a RegulatedClassifier"),
        (lambda m, x: variant(m, solver="broydn"), "did you mean 'broyden'"),
        (lambda m, x: variant(m, steps=0), "variant: steps=0; allowed"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_in_a_line(make, message):
    model = own()
    with pytest.raises(ValueError, match=message) as seen:
        make(model, images_for(model))
    assert len(str(seen.value).splitlines()) == 1
