"""Every registered solver, and every kind of options, keeps the laws; and a solver that breaks one is found out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from problems import SOLVERS

from robustdeq.dynamics import Picard, Solver, SolverState
from robustdeq.testing import SolverLaws


class TestEverySolver(SolverLaws):
    @pytest.fixture(autouse=True, params=SOLVERS.values(), ids=SOLVERS)
    def choose(self, request):
        self.solver = request.param


@dataclass(frozen=True)
class Momentum(Solver[SolverState]):
    """A user's own solver: heavy ball, z + a (f(z) - z) + b (z - z_prev). It declares nothing."""

    step_size: float = 0.8
    momentum: float = 0.1

    def step(self, f, state):
        z, f_z = state.z, f(state.z)
        before = z if state.z_prev is None else state.z_prev
        return SolverState(z + self.step_size * (f_z - z) + self.momentum * (z - before), state.t + 1, z, f_z)


class TestASolverOfAUsersOwn(SolverLaws):
    solver = Momentum()


@dataclass(frozen=True)
class Wrong(Picard):
    """Picard, but for what a subclass does to a step."""

    name: ClassVar[str] = "wrong"

    def step(self, f, state):
        return self.spoil(f, state, super().step(f, state))

    def spoil(self, f, old, new):
        return new


class Twice(Wrong):
    def spoil(self, f, old, new):
        return replace(new, z=f(old.z))


class InPlace(Wrong):
    def step(self, f, state):
        f_z = f(state.z)
        return SolverState(state.z.copy_(f_z), state.t + 1, state.z.clone(), f_z)


class Forgetful(Wrong):
    def spoil(self, f, old, new):
        return replace(new, f_prev=None)


class Numbered(Wrong):
    """Keeps a count in itself instead of the state."""

    taken: ClassVar[list[int]] = [0]

    def spoil(self, f, old, new):
        self.taken[0] += 1
        return replace(new, z=new.z / (1 + 1e-3 * (self.taken[0] % 3)))


class Sociable(Wrong):
    def spoil(self, f, old, new):
        return replace(new, z=new.z + 1e-3 * new.z.mean(dim=0))


class Masking(Wrong):
    """Multiplies by a mask: 0 times NaN is NaN."""

    def spoil(self, f, old, new):
        return replace(new, z=new.z + 0 * new.z.flip(0))


class Leaking(Wrong):
    """The right value for all, and a gradient that a NaN passes."""

    def spoil(self, f, old, new):
        other = new.z.flip(0)
        return replace(new, z=new.z + (other - other.detach()).nan_to_num())


class Reading(Wrong):
    def spoil(self, f, old, new):
        return new if float(new.z.detach().abs().max()) < 1e9 else old


class Detached(Wrong):
    def spoil(self, f, old, new):
        return replace(new, z=new.z.detach() + 0.5 * (new.z - new.z.detach()))


class Boastful(Wrong):
    def transposed_inverse(self, state, w):
        return -0.9 * w


class Silent(Wrong):
    """Declares nothing, and does not refuse."""

    estimates_inverse = False


class Backwards(Wrong):
    runs_backwards = True

    def undo(self, z_next, f_z):
        return z_next

    def max_steps(self, dtype, error=1e-3):
        return 9


@dataclass(frozen=True)
class Hoard(SolverState):
    kept: torch.Tensor | None = None


class Hoarding(Wrong):
    def spoil(self, f, old, new):
        return Hoard(new.z, new.t, new.z_prev, new.f_prev, kept=new.z)


class Wandering(Wrong):
    def spoil(self, f, old, new):
        return replace(new, z=new.z + 1e-6)


class Widening(Wrong):
    def init(self, z):
        return SolverState(z.to(torch.float64))


BROKEN = [
    (Twice, "test_a_step_is_pure_and_keeps_the_one_evaluation_it_costs"),
    (InPlace, "test_a_step_is_pure_and_keeps_the_one_evaluation_it_costs"),
    (Forgetful, "test_a_step_is_pure_and_keeps_the_one_evaluation_it_costs"),
    (Numbered, "test_a_step_is_pure_and_keeps_the_one_evaluation_it_costs"),
    (Numbered, "test_stopping_and_resuming_gives_the_bits_of_one_solve"),
    (Sociable, "test_a_sample_is_solved_alike_in_any_batch"),
    (Sociable, "test_a_bad_sample_changes_no_bit_of_the_others"),
    (Masking, "test_a_bad_sample_changes_no_bit_of_the_others"),
    (Leaking, "test_a_bad_sample_changes_no_bit_of_the_others"),
    (Reading, "test_a_solve_of_fixed_steps_reads_no_value"),
    (Detached, "test_the_unrolled_gradient_is_the_derivative_of_the_value"),
    (Boastful, "test_it_can_do_what_it_declares_and_refuses_the_rest"),
    (Silent, "test_it_can_do_what_it_declares_and_refuses_the_rest"),
    (Backwards, "test_it_can_do_what_it_declares_and_refuses_the_rest"),
    (Hoarding, "test_its_state_holds_no_more_than_it_declares"),
    (Wandering, "test_an_affine_contraction_is_solved"),
    (Widening, "test_a_start_keeps_its_dtype_and_is_refused_if_it_is_no_state"),
]


@pytest.mark.parametrize(("kind", "law"), BROKEN, ids=lambda part: getattr(part, "__name__", part))
def test_a_solver_that_breaks_a_law_is_found_out(kind, law):
    laws = SolverLaws()
    laws.solver = Wrong()
    getattr(laws, law)()
    laws.solver = kind()
    with pytest.raises((AssertionError, RuntimeError, AttributeError, TypeError)):
        getattr(laws, law)()
