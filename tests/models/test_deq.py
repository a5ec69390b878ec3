"""DEQClassifier: the value of a forward, its gradient, its trajectory, and a model of a user's own."""

import os
import subprocess
import sys

import pytest
import torch
from small_models import PAIRS, SOLVERS
from torch import nn

from robustdeq.checks import check_images
from robustdeq.dynamics import Status, drive
from robustdeq.gradients import GRADIENTS, Phantom
from robustdeq.models import Cell, CellMap, ClassifierTrajectory, DEQClassifier, StateLayout, create_model

RULES = list(GRADIENTS)


class TanhCell(nn.Module):
    """A user's own cell, f(z; u) = tanh(A z + u)."""

    def __init__(self, size):
        super().__init__()
        self.mix = nn.Linear(size, size)

    def forward(self, z, u):
        return torch.tanh(0.5 * self.mix(z) + u)


def own_model(**options):
    torch.manual_seed(0)
    inject = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
    return DEQClassifier(inject, TanhCell(16), nn.Linear(16, 3), state_shapes=[(16,)], **options)


def nano(**options):
    return create_model("mdeq-nano", seed=0, **options).eval()


def images(count=3, seed=0, shape=(1, 8, 8)):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("solver", "gradient"), PAIRS)
def test_eval_has_one_value_with_and_without_a_gradient(solver, gradient):
    """Law 5: eval never takes the gradient away, and the gradient never changes the value."""
    model = nano(solver=solver, gradient=gradient)
    x = images().requires_grad_()
    with torch.no_grad():
        plain = model(x)
    logits = model(x)
    assert torch.equal(logits, plain)
    (slope,) = torch.autograd.grad(logits[:, 0].sum(), x)
    assert (slope.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("gradient", RULES)
def test_gradient_of_a_call_can_differ_from_the_model_s_own(gradient):
    x = images().requires_grad_()
    borrowed = nano()(x, gradient=GRADIENTS[gradient]())
    (wanted,) = torch.autograd.grad(nano(gradient=gradient)(x)[:, 1].sum(), x)
    (found,) = torch.autograd.grad(borrowed[:, 1].sum(), x)
    assert torch.equal(found, wanted)


def test_unrolled_gradient_is_that_of_the_deployed_value():
    """Directional derivative of the logits by central differences, in float64."""
    model = nano(solver="broyden", steps=4).double()
    x, direction = images().double().mul(0.8).add(0.1).requires_grad_(), images(seed=1).double() - 0.5
    (slope,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    h = 1e-6
    with torch.no_grad():
        difference = (model(x + h * direction) - model(x - h * direction))[:, 0].sum() / (2 * h)
    torch.testing.assert_close((slope * direction).sum(), difference, rtol=1e-5, atol=1e-8)


def test_reversible_gradient_of_every_weight_is_the_unrolled_one():
    """Normalised weights are made once a forward and must be counted once; float64, with dropout's mask held."""
    model = nano(solver="reversible", steps=6, dropout=0.2).double().train()
    x = images().double().requires_grad_()
    found = []
    for run_backwards in (True, False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            f = model.map(x)
        if run_backwards:
            z = model.gradient(model.solver, f, model.zeros(x), model.steps, training=True)
        else:
            z = drive(model.solver, f, model.zeros(x), model.steps).z
        found.append(torch.autograd.grad(z.square().mean(), [x, *model.inject.parameters(), *model.cell.parameters()]))
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_eval_compiles_without_a_break(solver):
    """Law 4: nothing in a forward of N steps looks at a number on the host."""
    model = nano(solver=solver)
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


@pytest.mark.parametrize("gradient", RULES)
@pytest.mark.parametrize("steps", [1, 5])
def test_eval_costs_n_evaluations(gradient, steps, monkeypatch):
    calls = []
    finish = CellMap.__call__
    monkeypatch.setattr(CellMap, "__call__", lambda f, z: calls.append(1) or finish(f, z))
    model = nano(gradient=gradient, steps=steps)
    with torch.no_grad():
        model(images())
    assert len(calls) == steps
    calls.clear()
    model(images())
    more = {"unrolled": 0, "phantom": 1 + Phantom().unroll, "implicit": 1, "simultaneous": 1}
    assert len(calls) == steps + more[gradient]


def test_train_mode_of_phantom_reads_h_k():
    """The papers' training forward: readout(h_K), h_0 = f(z^[N])."""
    model = own_model(gradient={"name": "phantom", "unroll": 3, "damping": 0.5}, steps=4).train()
    x = images()
    f = model.map(x)
    h = f(model.trajectory(x).z)
    for _ in range(3):
        h = 0.5 * h + 0.5 * f(h)
    torch.testing.assert_close(model(x), model.readout(h))


@pytest.mark.parametrize(("solver", "gradient"), PAIRS)
def test_a_model_of_ones_own_trains(solver, gradient):
    """Every parameter has a gradient by every rule, and a step along it lowers the loss."""
    model = own_model(solver=solver, gradient=gradient).train()
    x, y = images(16), torch.arange(16) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(2):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_a_cell_split_by_its_user_is_prepared_once_a_state():
    class Split(Cell):
        def prepare(self, z, constants=None):
            calls.append(1)
            return 0.5 * z

        def finish(self, prepared, u, constants=None):
            return torch.tanh(prepared + u)

    calls = []
    f = CellMap(Split(), torch.ones(1, 2), None)
    z = torch.zeros(1, 2)
    prepared = f.prepare(z)
    for shift in (0.0, 1.0, 2.0):
        other = f.at(f.u + shift, z, prepared)
        assert torch.equal(other(z), torch.tanh(torch.ones(1, 2) + shift))
    assert len(calls) == 1
    assert torch.equal(other(z + 1), torch.tanh(0.5 * (z + 1) + 3))
    assert len(calls) == 2


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict"])
def test_detached_map_is_the_same_map_over_leaves(kind):
    """``tensors`` and ``detached().tensors`` correspond one to one, for any injection."""
    weight = torch.ones(2, requires_grad=True)
    a, b = 2 * weight, torch.ones(2)
    u = {"tensor": a, "tuple": (a, b), "dict": {"a": a, "b": b}}[kind]

    class Own(nn.Module):
        def forward(self, z, u):
            return z + (u if kind == "tensor" else u[0] + u[1] if kind == "tuple" else u["a"] + u["b"])

    f = DEQClassifier(nn.Identity(), Own(), nn.Identity(), [(2,)]).cell
    f = CellMap(f, u, (3 * weight, None))
    apart = f.detached()
    assert torch.equal(apart(torch.zeros(1, 2)), f(torch.zeros(1, 2)))
    assert len(f.tensors) == len(apart.tensors)
    for one, other in zip(f.tensors, apart.tensors):
        assert torch.equal(one, other) and other.is_leaf and one.requires_grad == other.requires_grad


class Biased(nn.Module):
    """An injection of two tensors: of every sample its own row, and of all the same one, of D numbers."""

    def __init__(self):
        super().__init__()
        self.flat, self.bias = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), nn.Parameter(torch.linspace(-2, 2, 4))

    def forward(self, x):
        return self.flat(x), self.bias


class Slow(nn.Module):
    """Comes to rest in as many steps as the injection says, another number for every sample."""

    def forward(self, z, u):
        return torch.sigmoid(u[0]) * z + torch.sigmoid(u[1])


def test_what_an_injection_shares_is_not_cut_like_samples():
    """Four samples, of four numbers each, stop one after another (law 2)."""
    torch.manual_seed(0)
    model, x = DEQClassifier(Biased(), Slow(), nn.Linear(4, 3), [(4,)], steps=100).eval(), images(4)
    together = model.trajectory(x, tolerance=1e-4)
    assert len(set(together.evaluations.tolist())) > 1
    for row, one in enumerate(x):
        alone = model.trajectory(one[None], tolerance=1e-4)
        torch.testing.assert_close(together.z[row], alone.z[0])
        assert together.evaluations[row] == alone.evaluations[0]


def test_a_nan_does_not_hide_what_else_is_wrong_with_the_images():
    x = images()
    x[0, 0, 0, 0] = torch.nan
    assert nano()(x)[1:].isfinite().all()
    x[1] *= 255
    with pytest.raises(ValueError, match=r"images lie in \[0.*, 2[45].*\]; allowed: \[0, 1\] \(divide"):
        nano()(x)


@pytest.mark.parametrize("solver", SOLVERS)
def test_trajectory_is_what_the_model_does(solver):
    model = nano(solver=solver)
    x = images()
    found = model.trajectory(x)
    assert len(found.states) == model.steps
    assert all(state.shape == (3, model.layout.size) and not state.requires_grad for state in found.states)
    assert found.residuals.shape == (model.steps, 3)
    assert found.status.tolist() == [Status.BUDGET_SPENT] * 3
    assert found.evaluations.tolist() == [model.steps] * 3
    with torch.no_grad():
        for t in (1, model.steps):
            assert torch.equal(found.logits(t), model(x, steps=t))


@pytest.mark.parametrize("t", [0, 9, -1, 1.0, "1", None])
def test_a_step_that_was_not_taken_has_no_logits(t):
    with pytest.raises(ValueError, match=r"logits: t=.*; allowed: (a whole number in )?1\.\.8"):
        nano().trajectory(images()).logits(t)


def test_a_trajectory_that_is_gone_on_with_still_reads_logits():
    model, x = nano(), images()
    part = model.trajectory(x, steps=3)
    with torch.no_grad():
        found = drive(model.solver, model.map(x), part, 2)
    assert isinstance(found, ClassifierTrajectory) and found.inputs is None
    assert len(found.states) == len(found.residuals) == 5
    assert torch.equal(found.logits(5), model.trajectory(x, steps=5).logits(5))


def test_residual_of_a_trajectory_belongs_to_the_state_its_step_started_from():
    model = own_model(steps=3)
    x = images()
    found, u = model.trajectory(x), model.inject(x)
    for t, z in enumerate([model.zeros(x), *found.states[:2]]):
        f_z = model.cell(z, u)
        torch.testing.assert_close(found.residuals[t], (f_z - z).norm(dim=1) / (f_z.norm(dim=1) + 1e-9))


def test_first_state_of_an_undamped_solver_is_f_of_zero():
    for solver in ("picard", "anderson", "broyden"):
        model = nano(solver=solver)
        x = images()
        with torch.no_grad():
            first = model.cell(model.zeros(x), model.inject(x))
        torch.testing.assert_close(model.trajectory(x, steps=1).states[0], first)


def test_a_nan_image_spoils_no_other_sample():
    model = nano(solver="anderson")
    x = images(4)
    x[2, 0, 0, 0] = float("nan")
    found = model.trajectory(x)
    assert found.status.tolist() == [Status.BUDGET_SPENT] * 2 + [Status.NON_FINITE, Status.BUDGET_SPENT]
    assert found.logits(model.steps).isfinite().all(dim=1).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (torch.full((2, 1, 8, 8), 1.01), r"\[1.01, 1.01\]; allowed: \[0, 1\]"),
        (torch.full((2, 1, 8, 8), -0.01), r"\[-0.01, -0.01\]; allowed: \[0, 1\]"),
        (torch.zeros(1, 8, 8), r"\(1, 8, 8\); allowed: \(batch, 1, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8), r"\(2, 3, 8, 8\); allowed: \(batch, 1, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r"uint8; allowed: a floating-point tensor"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.float64), r"float64; allowed: torch.float32"),
        ([[0.0]], r"list; allowed: a floating-point tensor"),
    ],
)
def test_bad_images_are_refused(bad, why):
    model = nano()
    for call in (model, model.trajectory):
        with pytest.raises(ValueError, match=why):
            call(bad)


def test_images_of_any_shape_where_the_model_names_none():
    check_images(torch.zeros(2, 5, 7, 9))
    with pytest.raises(ValueError, match=r"\(batch, channels, height, width\)"):
        check_images(torch.zeros(2, 5))
    check_images(torch.zeros(0, 1, 8, 8), (1, 8, 8))


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "8"])
def test_bad_steps_are_refused(steps):
    with pytest.raises(ValueError, match=r"steps=.*allowed: a whole number >= 1"):
        nano()(images(), steps=steps)
    with pytest.raises(ValueError, match=r"steps=.*allowed: a whole number >= 1"):
        nano().trajectory(images(), steps=steps)
    with pytest.raises(ValueError, match=r"steps=.*allowed: a whole number >= 1"):
        own_model(steps=steps)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"solver": "broydn"}, "unknown solver 'broydn' \\(did you mean 'broyden'\\?\\); allowed: anderson"),
        ({"gradient": "phantm"}, "unknown gradient 'phantm' \\(did you mean 'phantom'\\?\\); allowed: unrolled"),
        ({"solver": {"name": "picard", "dampin": 1}}, "unknown option 'dampin' \\(did you mean 'damping'\\?\\)"),
        ({"gradient": Phantom}, "unknown gradient"),
    ],
)
def test_a_misspelt_choice_is_answered_with_the_nearest(options, why):
    with pytest.raises(ValueError, match=why):
        own_model(**options)


def test_layout_refuses_what_does_not_fit():
    layout = StateLayout([(2, 3), (4,)])
    with pytest.raises(ValueError, match=r"allowed: \(batch, 10\)"):
        layout.unpack(torch.zeros(2, 9))
    with pytest.raises(ValueError, match=r"allowed: \(\(2, 3\), \(4,\)\)"):
        layout.pack([torch.zeros(1, 3, 2), torch.zeros(1, 4)])
    for shapes in ([], [()], [(0,)], 5, [5], "ab"):
        with pytest.raises(ValueError, match="allowed"):
            StateLayout(shapes)


def test_the_parameters_are_numbered_from_the_image_to_the_logits():
    """An optimizer's state in a checkpoint is numbered so, and a clipped gradient's last bits depend on it."""
    owners = [name.split(".")[0] for name, _ in create_model("mdeq-nano", seed=0).named_parameters()]
    assert list(dict.fromkeys(owners)) == ["inject", "cell", "readout"]


WITHOUT_A_COMPILER = """
import torch, warnings, robustdeq as rd
model, x = rd.create_model("mdeq-nano", seed=0).eval(), torch.rand(2, 1, 8, 8)
before = model(x)
with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always")
    model.compile()
print(*(str(one.message) for one in heard if "does not work" in str(one.message)), torch.equal(model(x), before))
"""


def test_without_a_compiler_a_model_stays_as_it_is_and_one_line_says_so(tmp_path):
    machine = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", WITHOUT_A_COMPILER], env=machine, capture_output=True, text=True)
    assert done.stdout.startswith("torch.compile does not work for cpu here (") and done.stdout.endswith(" True\n")
    assert done.stdout.count("\n") == 1
