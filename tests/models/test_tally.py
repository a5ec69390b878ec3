"""What a model has spent, counted: evaluations of f, backward passes, f-units."""

import pytest
import torch
from small_models import SOLVERS, own, whole_map

import robustdeq as rd
from robustdeq.attacks import PGD, JointOptimisation, Linf
from robustdeq.dynamics import drive
from robustdeq.gradients import Implicit, Phantom, Unrolled
from robustdeq.models.modes import images_only

STEPS, BATCH = 5, 3
X = torch.rand(BATCH, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2])


def spent(gradient, wanted, **options):
    """f-units an image of one loss and its backward pass."""
    model, x = own(3, steps=STEPS, gradient=gradient, **options), X.clone().requires_grad_(wanted != "weights")
    if wanted == "image":
        with images_only(model):
            torch.autograd.grad(model(x).square().sum(), x)
    else:
        model(x).square().sum().backward()
    return model.tally.units / BATCH


@pytest.mark.parametrize("wanted, passes", [("image", 1), ("weights", 2), ("both", 2)])
@pytest.mark.parametrize(
    "gradient, forward, backward",
    [
        (Unrolled(), STEPS, STEPS), (Unrolled(segment=2), 2 * STEPS, STEPS), (Phantom(unroll=3), STEPS + 4, 4),
        (Implicit(solver="picard", steps=4), STEPS + 1, None),
    ],
    ids=lambda value: getattr(value, "name", ""),
)  # fmt: skip
def test_a_backward_pass_is_one_unit_or_two_where_the_weights_take_part(gradient, forward, backward, wanted, passes):
    if backward is None:  # four products with the Jacobian, and one pass to the rest
        assert spent(gradient, wanted) == forward + 5 * passes
    else:
        assert spent(gradient, wanted) == forward + backward * passes


def test_a_solve_that_runs_backwards_evaluates_f_again():
    solver = {"name": "reversible", "mixing": 0.8}
    assert spent(Unrolled(), "image", solver=solver) == 2 * STEPS + STEPS
    assert spent(Unrolled(), "weights", solver=solver) == 2 * STEPS + 2 * STEPS


def test_without_a_gradient_nothing_is_passed_back():
    model = own(3, steps=STEPS)
    with torch.no_grad():
        model(X)
    assert (model.tally.units, model.tally.evaluations) == (BATCH * STEPS, BATCH * STEPS)


def test_what_attacks_cost():
    """PGD: a forward and a backward pass a step, and one forward at the end; joint: two units an iteration."""
    model = own(3, steps=STEPS).eval()
    PGD(Linf(0.1), 0.02, 4, keep="highest")(model, X, Y)
    assert model.tally.units == BATCH * (4 * 2 * STEPS + STEPS)
    model.tally.evaluations = model.tally.backward = 0
    JointOptimisation(Linf(0.1), iterations=7, finish=0)(model, X, Y)
    assert model.tally.units == BATCH * (2 * 7 + STEPS)


def test_a_solve_may_begin_elsewhere():
    model = own(3, steps=STEPS).eval()
    z = model.trajectory(X, steps=2).z
    torch.testing.assert_close(model(X, start=z, steps=3), model(X))
    for wrong in (z[:2], z[:, :-1], 5):
        with pytest.raises(ValueError, match=r"start is .*; allowed: a state \(3, "):
            model(X, start=wrong)


def test_the_log_of_a_run_tells_what_it_cost(tmp_path):
    train = rd.data.digits().train.take(slice(32))
    phase = rd.training.Phase(epochs=1, attack_steps=2)
    config = rd.training.TrainConfig(phases=(phase,), batch_size=16)
    trainer = rd.training.Trainer(own(10, side=8, steps=STEPS), train, config, tmp_path)
    trainer.run()
    assert trainer.history[-1]["units_per_image"] == 2 * 2 * STEPS + 3 * STEPS
    assert trainer.history[-1]["evaluations_per_image"] == 3 * STEPS


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solve_to_a_tolerance_costs_what_each_sample_takes_and_gives_what_a_whole_one_does(solver):
    """The map that is not cut down evaluates all samples at every step."""
    model = own(3, steps=40, solver=solver, dtype=torch.float64)
    x = X.double().repeat(4, 1, 1, 1) * torch.linspace(0.01, 1, 4 * BATCH, dtype=torch.float64).view(-1, 1, 1, 1)
    found = model.trajectory(x, tolerance=0.03)
    assert len(set(found.evaluations.tolist())) > 1
    assert model.tally.evaluations == found.evaluations.sum()
    with torch.no_grad():
        whole = drive(model.solver, whole_map(model, x), model.zeros(x), 40, tolerance=0.03, record=True)
    for part in ("z", "residuals", "status", "evaluations", "best", "best_residual"):
        torch.testing.assert_close(getattr(found, part), getattr(whole, part), rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        on = drive(model.solver, model.map(x), found, 40, tolerance=1e-3)
    assert (on.evaluations > found.evaluations).all() and (on.best_residual < found.best_residual).all()
