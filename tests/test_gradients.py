"""Gradients through a solve: exact where they claim it, alike where theory says so, and never absent in eval mode."""

from dataclasses import dataclass

import pytest
import torch
from problems import SOLVERS, WITH_INVERSE, each, every_solver
from torch import Tensor, nn

from robustdeq.dynamics import Broyden, Picard, Reversible, SolverState, drive
from robustdeq.gradients import GRADIENTS, Implicit, Phantom, SimultaneousAdjoint, Unrolled
from robustdeq.models.zoo import create_model
from robustdeq.testing import assert_near, assert_same
from robustdeq.testing.problems import Tanh, affine, tanh, zeros

PAIRS = [(rule(), solver) for rule in GRADIENTS.values() for solver in SOLVERS.values()]
PAIRS = [(rule, solver) for rule, solver in PAIRS if rule.name != "simultaneous" or solver.estimates_inverse]
every_pair = pytest.mark.parametrize("rule, solver", PAIRS, ids=repr)
every_rule = pytest.mark.parametrize("rule", [rule() for rule in GRADIENTS.values()], ids=GRADIENTS)


def gradients(rule, solver, f: Tanh, steps: int, **options) -> tuple[Tensor, ...]:
    """d/dW and d/du of a function of the state that is not symmetric in its entries."""
    z = rule(solver, f, zeros(f), steps, **options)
    return torch.autograd.grad((z * torch.arange(1, 1 + z.shape[1])).sum() + z.pow(3).sum(), f.tensors)


def plain(solver, f: Tanh, steps: int) -> tuple[Tensor, ...]:
    """The same by the graph of all steps: this map has no ``detached``, so nothing is run backwards."""

    class Plain:
        tensors, u = f.tensors, f.u

        def __call__(self, z):
            return f(z)

    return gradients(Unrolled(), solver, Plain(), steps)


@every_solver
@pytest.mark.parametrize("segment", [1, 3, 20])
def test_recomputation_in_segments_changes_no_bit(solver, segment):
    """(That the bits are those of finite differences: ``SolverLaws``.)"""
    f = tanh(5, grad=True)
    rule = Unrolled(segment=segment)
    assert_same(rule(solver, f, zeros(f), 8), Unrolled()(solver, f, zeros(f), 8))
    assert_same(gradients(rule, solver, f, 8), gradients(Unrolled(), solver, f, 8))


def test_recomputation_keeps_less():
    f = tanh(5, grad=True)
    assert saved(Unrolled(segment=6), Broyden(), f, 36) < saved(Unrolled(), Broyden(), f, 36) / 4


@each(WITH_INVERSE)
def test_the_simultaneous_adjoint_approaches_the_unrolled_gradient(solver):
    f = tanh(4, grad=True, norm=0.6)
    for exact, found in zip(gradients(Unrolled(), solver, f, 40), gradients(SimultaneousAdjoint(), solver, f, 40)):
        assert_near(found, exact, 1e-6)


@each(WITH_INVERSE)
def test_the_simultaneous_adjoint_moves_with_the_solvers_own_estimate(solver):
    """w <- w - B_t^T (J_g^T w + dL/dz), step by step, on a map whose J_g = A - I is the same everywhere."""
    f = affine(4)
    f.u.requires_grad_()
    found = torch.autograd.grad(SimultaneousAdjoint()(solver, f, zeros(f), 4).sum(), f.u)[0]
    state, w = solver.init(zeros(f)), zeros(f)
    for _ in range(4):
        state = solver.step(f, state)
        w = w - solver.transposed_inverse(state, w @ f.a - w + 1)
    assert_near(found, w.detach(), 1e-12)


@every_solver
@pytest.mark.parametrize("adjoint", ["picard", "anderson", "broyden", "reversible"])
def test_the_implicit_gradient_is_the_unrolled_one_at_a_fixed_point(solver, adjoint):
    f = tanh(4, grad=True, norm=0.3)
    few = {"anderson": 12, "broyden": 12}  # they end after about 2 d = 8; the others converge linearly
    steps, rule = few.get(solver.name, 80), Implicit(solver=adjoint, steps=few.get(adjoint, 80))
    for exact, found in zip(plain(solver, f, steps), gradients(rule, solver, f, steps)):
        assert_near(found, exact, 1e-6)


@each(WITH_INVERSE)
def test_an_adjoint_that_begins_with_the_solvers_estimate_is_nearer_after_a_step(solver):
    """w_0 = -B^T dL/dz, B ~ (J - I)^-1."""
    f = tanh(4, grad=True, norm=0.3)
    exact = gradients(Implicit(solver="broyden", steps=12), solver, f, 12)
    errors = [
        sum((a - b).square().sum() for a, b in zip(exact, gradients(rule, solver, f, 12)))
        for rule in (Implicit(solver="picard", steps=1), Implicit(solver="picard", steps=1, reuse=True))
    ]
    assert errors[1] < 0.9 * errors[0]


def test_an_adjoint_cannot_begin_with_an_estimate_that_the_solver_has_not():
    with pytest.raises(ValueError, match="estimates no inverse Jacobian; allowed: "):
        Implicit(reuse=True)(Reversible(), f := tanh(4, grad=True), zeros(f), 3)


@pytest.mark.parametrize("damping", [0.5, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_the_phantom_gradient_of_many_steps_approaches_both(damping, training):
    f = tanh(4, grad=True, norm=0.6)
    found = gradients(Phantom(unroll=100, damping=damping), Broyden(), f, 20, training=training)
    for phantom, implicit in zip(found, gradients(Implicit(steps=20), Broyden(), f, 20)):
        assert_near(phantom, implicit, 1e-6)


def test_the_implicit_gradient_is_that_of_the_implicit_function_theorem():
    """At a fixed point z = tanh(W z + u): dz/du = (I - D W)^-1 D with D = diag(1 - z^2)."""
    f = tanh(3, 1, grad=True)
    z = Implicit()(Broyden(), f, zeros(f), 20)
    d = torch.diag(1 - z[0].detach() ** 2)
    expected = torch.linalg.solve(torch.eye(3, dtype=torch.float64) - d @ f.weight.detach(), d)
    rows = [torch.autograd.grad(z[0, i], f.u, retain_graph=True)[0][0] for i in range(3)]
    assert_near(torch.stack(rows), expected, 1e-9)


def test_the_phantom_gradient_is_that_of_its_recurrence():
    f = tanh(3, grad=True)
    z = drive(Broyden(), f, zeros(f), 4).z.detach()
    h = f(z)
    for _ in range(5):
        h = 0.5 * h + 0.5 * f(h)
    assert_same(Phantom()(Broyden(), f, zeros(f), 4, training=True), h)
    found = torch.autograd.grad(Phantom()(Broyden(), f, zeros(f), 4).sum(), f.tensors)
    assert_same(found, torch.autograd.grad(h.sum(), f.tensors))


@each(WITH_INVERSE)
@every_rule
def test_a_map_that_does_not_look_at_its_state_has_the_gradient_of_its_injection(rule, solver):
    """f(z; u) = u, and it gives back its own tensor: the gradient is the identity, and u is left as it was. So many
    steps that a damped solver has come to u as well."""
    u = tanh(3).u.requires_grad_()
    z = rule(solver, lambda z: u, torch.zeros_like(u), 40)
    assert_same(torch.autograd.grad(z.sum(), u)[0], torch.ones_like(u))


@pytest.mark.parametrize("training", [True, False])
def test_the_simultaneous_adjoint_needs_an_inverse(training):
    f = tanh(4, grad=True)
    with pytest.raises(ValueError, match="Reversible estimates no inverse Jacobian; allowed: anderson, broyden"):
        SimultaneousAdjoint()(Reversible(), f, zeros(f), 4, training=training)


@every_pair
def test_in_eval_mode_the_value_has_the_same_bits_without_a_gradient(rule, solver):
    f = tanh(4, grad=True)
    z = rule(solver, f, zeros(f), 5)
    with torch.no_grad():
        without = rule(solver, f, zeros(f), 5)
    assert not without.requires_grad
    assert_same(z.detach(), without)
    assert_same(without, drive(solver, f, zeros(f), 5).z.detach())
    for gradient in torch.autograd.grad(z.sum(), f.tensors):
        assert gradient.abs().min() > 0


# The reversible solver's gradient: run backwards, with memory that does not grow.


def saved(rule, solver, f: Tanh, steps: int) -> int:
    """Numbers that autograd keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        z = rule(solver, f, zeros(f), steps)
    assert z.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("mixing", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("steps", [1, 2, 3, 12])
def test_running_backwards_equals_the_graph_of_all_steps(mixing, steps):
    f, solver = tanh(5, grad=True), Reversible(mixing=mixing)
    for found, exact in zip(gradients(Unrolled(), solver, f, steps), plain(solver, f, steps)):
        assert_near(found, exact, 1e-10)


def test_running_backwards_keeps_the_same_whatever_the_number_of_steps():
    f = tanh(5, grad=True)
    assert saved(Unrolled(), Reversible(), f, 40) == saved(Unrolled(), Reversible(), f, 2) > 0
    assert saved(Unrolled(), Picard(), f, 40) > 5 * saved(Unrolled(), Picard(), f, 2)


def test_more_steps_than_can_be_run_backwards_are_refused():
    f = tanh(5, grad=True)
    most = Reversible().max_steps(torch.float64)
    gradients(Unrolled(), Reversible(), f, most)
    with pytest.raises(ValueError, match=f"steps={most + 1} .* allowed: at most {most}"):
        gradients(Unrolled(), Reversible(), f, most + 1)


def test_a_forward_that_asks_for_no_gradient_may_take_more_steps_than_can_be_run_backwards():
    f = tanh(5)
    most = Reversible().max_steps(torch.float64) + 1
    assert_same(Unrolled()(Reversible(), f, zeros(f), most), drive(Reversible(), f, zeros(f), most).z)


def test_only_gradients_that_are_asked_for_are_computed():
    f = tanh(5)
    f.u.requires_grad_()
    z = Unrolled()(Reversible(), f, zeros(f), 5)
    (found,) = torch.autograd.grad(z.sum(), f.u)
    weight, u = tanh(5, grad=True).tensors
    assert_same(found, torch.autograd.grad(Unrolled()(Reversible(), Tanh(weight, u), zeros(f), 5).sum(), u)[0])
    assert f.weight.grad is None


class Normalised(nn.Module):
    """A weight that is made once a forward from two parameters, which the map closes over as well."""

    def __init__(self) -> None:
        super().__init__()
        p = tanh(4)
        self.v, self.g = nn.Parameter(p.weight), nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        self.u = p.u

    def map(self):
        return Made(self, self.g * self.v / self.v.norm(), self.u)


class Made(Tanh):
    def __init__(self, owner: Normalised, weight: Tensor, u: Tensor) -> None:
        super().__init__(weight, u)
        object.__setattr__(self, "owner", owner)

    def __call__(self, z: Tensor) -> Tensor:
        return super().__call__(z) + 0.1 * self.owner.g

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.weight, self.u, self.owner.v, self.owner.g

    def detached(self):
        return Made(self.owner, self.weight.detach().requires_grad_(), self.u.detach())


def test_a_weight_made_from_a_parameter_is_differentiated_once():
    """g is used twice: in the weight, made once a forward, and in the map itself."""
    model = Normalised()
    found = torch.autograd.grad(Unrolled()(Reversible(), model.map(), zeros(model), 6).sum(), (model.v, model.g))
    made = model.map()
    exact = torch.autograd.grad(drive(Reversible(), made, zeros(model), 6).z.sum(), (model.v, model.g))
    for a, b in zip(found, exact):
        assert_near(a, b, 1e-10)


@dataclass(frozen=True)
class Kinked(Tanh):
    """Tanh plus relu(z + bias): with a bias of zero it has its kink at the start of the solve."""

    bias: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return super().__call__(z) + 0.1 * torch.relu(z + self.bias)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.weight, self.u, self.bias

    def detached(self) -> "Kinked":
        return Kinked(*(tensor.detach().requires_grad_() for tensor in self.tensors))


def test_at_a_start_where_the_map_has_a_kink_the_gradient_is_that_of_the_start():
    """A start recovered with a rounding error would lie on one side of the kink or on the other."""
    f = Kinked(*tanh(5, grad=True).tensors, torch.zeros(5, dtype=torch.float64, requires_grad=True))
    for found, exact in zip(gradients(Unrolled(), Reversible(), f, 8), plain(Reversible(), f, 8)):
        assert_near(found, exact, 1e-10)


def test_a_reversible_classifier_has_the_gradients_of_plain_unrolling():
    model = create_model("mdeq-nano", solver="reversible", steps=4, seed=0).double().eval()
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    wanted = [x, *model.parameters()]
    found = torch.autograd.grad(model(x).square().sum(), wanted)
    z = drive(model.solver, model.map(x), model.zeros(x), 4).z
    for a, b in zip(found, torch.autograd.grad(model.readout(z).square().sum(), wanted)):
        assert_near(a, b, 1e-8)


NO_STEPS = [None, True, "x", [], {"name": []}, 1.5, -1, [1, 2, 3], torch.tensor(2), torch.ones(2).long()]
NO_STEPS += [torch.zeros(3).long(), torch.ones(3), torch.ones(3, 1).long(), torch.ones(3).int()]


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("steps", NO_STEPS, ids=str)
def test_steps_are_one_number_or_one_for_each_sample(name, steps):
    rule = GRADIENTS[name]()
    with pytest.raises(ValueError, match=rf"{type(rule).__name__}: steps(=| are).*; allowed: a"):
        rule(Picard(), torch.tanh, torch.rand(3, 4), steps)


@pytest.mark.parametrize("name", GRADIENTS)
def test_what_a_rule_is_given_is_named(name):
    rule, z = GRADIENTS[name](), torch.rand(3, 4, requires_grad=True)
    for solver in (None, 5, [], {"name": []}, {"name": "picard", 5: 1}, Picard):
        with pytest.raises(ValueError, match=r"solver|Picard"):
            rule(solver, torch.tanh, z, 2)
    for start in (None, 5, [[0.0]], z[0], z.long(), SolverState(z)):
        with pytest.raises(ValueError, match=r"z\^\[0\] is .*; allowed: a floating-point tensor"):
            rule(Picard(), torch.tanh, start, 2)
    for f in (None, 5, "x", lambda: z, lambda z: None, lambda z: (z,), lambda z: z[:1], lambda z: z.double()):
        with pytest.raises(ValueError, match=r"drive: f .*; allowed: a function of a state"):
            rule(Picard(), f, z, 2)
        with pytest.raises(ValueError, match=r"drive: f .*; allowed: a function of a state"):
            rule(Picard(), f, z, torch.tensor([1, 2, 2]))


@pytest.mark.parametrize("name", GRADIENTS)
def test_no_samples_with_steps_of_their_own(name):
    z = torch.zeros(0, 4, requires_grad=True)
    assert GRADIENTS[name]()(Picard(), torch.tanh, z, torch.zeros(0, dtype=torch.int64)).shape == (0, 4)
