"""Joint inference and input optimisation: one fixed point of state, adjoint and image."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import robustdeq as rd
from robustdeq.attacks import JointOptimisation
from robustdeq.attacks.losses import LOSSES, Goal
from robustdeq.dynamics import Anderson, Picard, drive
from robustdeq.testing import assert_near

SIDE, STATE, CLASSES = 3, 6, 3


class LinearCell(rd.Cell):
    """f(z; u) = A z + u, a contraction."""

    def __init__(self, generator):
        super().__init__()
        a = torch.randn(STATE, STATE, generator=generator, dtype=torch.float64)
        self.a = nn.Parameter(0.6 * a / torch.linalg.matrix_norm(a, 2))

    def prepare(self, z, constants=None):
        return z @ self.a.mT

    def finish(self, prepared, u, constants=None):
        return prepared + u


def linear(steps=60, classes=CLASSES, seed=0):
    """A DEQ whose logits are M x at the fixed point, and M (K, CHW)."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    inject = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, STATE, bias=False, dtype=torch.float64))
    readout = nn.Linear(STATE, classes, bias=False, dtype=torch.float64)
    cell = LinearCell(generator)
    model = rd.DEQClassifier(inject, cell, readout, [(STATE,)], steps=steps).eval()
    inverse = torch.linalg.inv(torch.eye(STATE, dtype=torch.float64) - cell.a)
    return model, (readout.weight @ inverse @ inject[1].weight).detach()


def points(model, count=8, low=0.3, high=0.7):
    generator = torch.Generator().manual_seed(1)
    x = low + (high - low) * torch.rand(count, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return x, model(x).argmax(1)


@pytest.mark.parametrize("solver", [Picard(), Anderson(memory=3)], ids=["picard", "anderson"])
@pytest.mark.parametrize("threat", [rd.Linf(0.05), rd.L2(0.05)], ids=["Linf", "L2"])
def test_on_a_linear_model_it_finds_the_worst_case(threat, solver):
    """Of two classes the loss rises along one direction, and the worst image of the ball is known."""
    model, matrix = linear(classes=2)
    x, y = points(model)
    slope = torch.where(y[:, None] == 0, matrix[1] - matrix[0], matrix[0] - matrix[1]).view(x.shape)
    length = slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    wanted = x + threat.eps * (slope.sign() if threat.name == "Linf" else slope / length)
    attack = JointOptimisation(threat, iterations=120, step=0.3, last_step=0.1, solver=solver)
    assert (attack(model, x, y) - wanted).abs().max() < 1e-4


def test_its_state_is_the_fixed_point_and_its_adjoint_the_implicit_one():
    model, _ = linear()
    x, y = points(model)
    attack = JointOptimisation(rd.Linf(0.05), iterations=150, last_step=1e-12, loss="ce")
    images, z, mu = attack.run(model, x, Goal(y), x)
    a, readout = model.cell.a.detach(), model.readout
    inverse = torch.linalg.inv(torch.eye(STATE, dtype=torch.float64) - a)
    assert (z - model.inject(images) @ inverse.mT).abs().max() < 1e-9
    at = z.clone().requires_grad_()
    slope = torch.autograd.grad(nn.functional.cross_entropy(readout(at), y, reduction="sum"), at)[0]
    assert (mu - slope @ inverse).abs().max() < 1e-9


@pytest.mark.parametrize("loss", ["ce", "dlr-targeted", "ce-targeted"])
def test_every_sample_has_its_own_run(loss):
    """In any batch, in any order, and with any number of runs side by side: the same image."""
    model, _ = linear(classes=5)
    x, y = points(model, 12, 0.0, 1.0)
    attack = JointOptimisation(rd.Linf(0.02), iterations=15, loss=loss, restarts=2, targets=3)
    whole = attack(model, x, y, indices=torch.arange(12))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    for other, rows in ((attack, order), (replace(attack, stack=1), order[:5]), (replace(attack, stack=6), order[5:6])):
        assert (other(model, x[rows], y[rows], indices=rows) - whole[rows]).abs().max() < 1e-12
    assert attack.threat.contains(x, whole).all()


def test_evaluations_are_counted_and_the_fallen_cost_nothing_more():
    model, _ = linear(steps=4, classes=5)
    x, y = points(model)
    attack = JointOptimisation(rd.Linf(1e-6), iterations=10, restarts=3, stack=1, finish=2)
    model.tally.evaluations = 0
    attack(model, x, y)
    assert model.tally.evaluations == len(x) * (3 * (10 + 4) + 3 * 4)
    model.tally.evaluations = 0
    attack(model, x, (y + 1) % 5)  # all wrong from the first run on
    assert model.tally.evaluations == len(x) * (10 + 4)


@pytest.mark.parametrize("loss", ["cw", "cw-targeted"])
def test_at_the_end_the_best_image_of_a_sample_is_moved_on_by_pgd_at_its_own_goal(loss):
    """On a truncated solve the exact gradient is another one; what it reaches is never worse, and often better."""
    model, _ = linear(steps=2, classes=5)
    x, y = points(model, 12)
    attack = JointOptimisation(rd.Linf(0.02), iterations=6, loss=loss, finish=0)
    before, after = (replace(attack, finish=finish)(model, x, y) for finish in (0, 20))
    rise = LOSSES["cw"](model(after), Goal(y)) - LOSSES["cw"](model(before), Goal(y))
    assert (rise > -1e-12).all() and (rise > 1e-6).any()


def test_a_network_without_states_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double()
    for other in (model, rd.EntropyReduction(eps=0.1)(linear()[0])):
        with pytest.raises(ValueError, match="allowed: a DEQ, undefended"):
            JointOptimisation(rd.Linf(0.1))(other, *points(model))


@pytest.mark.parametrize("solver", [Picard(0.7), Anderson(memory=2)], ids=["picard", "anderson"])
def test_the_solver_moves_state_and_adjoint_and_the_image_takes_plain_steps(solver):
    model, _ = linear(classes=2)
    x, y = points(model)
    attack = JointOptimisation(rd.L2(0.05), 5, solver=solver, loss="cw", state_damping=0.5, adjoint_damping=0.7)
    found, z, mu = attack.run(model, x, Goal(y), x)
    a, inject, readout = model.cell.a.detach(), model.inject[1].weight.detach(), model.readout.weight.detach()
    up = torch.where(y[:, None] == 0, readout[1] - readout[0], readout[0] - readout[1])
    images, zeros = [x], torch.zeros(len(x), 2 * STATE, dtype=torch.float64)

    def f(pair):
        z, mu = pair.chunk(2, dim=1)
        moved = z + 0.5 * (z @ a.mT + images[-1].flatten(1) @ inject.mT - z), mu + 0.7 * (mu @ a + up - mu)
        eta = attack.threat.eps * attack.step * (attack.last_step / attack.step) ** ((len(images) - 1) / 4)
        slope = (mu @ inject).view(x.shape)
        images.append(attack.threat.project(x, attack.threat.ascend(images[-1], slope, eta)))
        return torch.cat(moved, dim=1)

    assert_near(torch.cat([z, mu], dim=1), drive(solver, f, zeros, 5).z, 1e-9)
    assert_near(found, images[-1], 1e-9)


class Cut(nn.Module):
    """A part of a model that no gradient passes."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, *args, **options):
        return self.part(*args, **options).detach()


class CutCell(LinearCell):
    def finish(self, prepared, u, constants=None):
        return super().finish(prepared, u, constants).detach()


@pytest.mark.parametrize("part", ["inject", "cell", "readout"])
def test_a_gradient_that_is_cut_is_told_and_in_an_evaluation_a_red_flag(part):
    model, _ = linear(steps=4)
    model.cell = CutCell(torch.Generator().manual_seed(0)) if part == "cell" else model.cell
    if part != "cell":
        setattr(model, part, Cut(getattr(model, part)))
    x = torch.rand(6, 1, SIDE, SIDE, dtype=torch.float64)
    y = model(x).argmax(1).detach()
    with pytest.raises(ValueError, match="JointOptimisation: DEQClassifier gives logits without a gradient; allowed"):
        JointOptimisation(rd.Linf(0.1), 2)(model, x, y)
    found = rd.evaluate(model, x, y, suite="quick", threat=rd.Linf(0.1), steps=1, checks=6)
    assert "gradients" in {flag.name for flag in found.flags if flag.fired}


@pytest.mark.parametrize("loss", ["ce", "cw", "dlr", "pm", "cw-targeted"])
def test_labels_that_are_no_class_are_refused(loss):
    model, _ = linear(steps=4)
    x, y = torch.rand(2, 1, SIDE, SIDE, dtype=torch.float64), torch.tensor([0, CLASSES])
    with pytest.raises(ValueError, match=rf"labels lie in 0\.\.{CLASSES}; allowed: 0\.\.{CLASSES - 1}\."):
        JointOptimisation(rd.Linf(0.1), 2, loss=loss)(model, x, y)
