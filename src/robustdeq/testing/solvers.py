"""The laws of a solver (laws 1 to 4 of CONTRIBUTING), each on a map that is known in closed form."""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ..dynamics import SOLVERS, Status, Trajectory, drive
from ..gradients import Unrolled
from ..options import describe
from .problems import (
    Tanh,
    affine,
    assert_near,
    assert_refused,
    assert_same,
    explosion,
    spoiled,
    tanh,
    to_nan,
    varied,
    zeros,
)

ROW, OTHERS = 2, [0, 1, 3, 4, 5, 6]
"""Of a batch of seven: the sample that is spoiled, and those that must not notice."""


class SolverLaws:
    """What every solver keeps. Inherit from it and set ``solver``.

    steps: of the solves that are compared; enough to fill a short memory. within: steps that suffice for an affine
    contraction of norm 0.7, solved to ``tolerance``; None for a solver that need not converge.
    """

    solver: Any
    steps: int = 8
    within: int | None = 300
    tolerance: float = 1e-10

    def _solve(self, f: Any, steps: int | None = None, start: Any = None, tolerance: float | None = None) -> Trajectory:
        start, steps = zeros(f) if start is None else start, self.steps if steps is None else steps
        return drive(self.solver, f, start, steps, tolerance=tolerance, record=True)

    def test_a_step_is_pure_and_keeps_the_one_evaluation_it_costs(self) -> None:
        f, calls = tanh(5), []
        state = self.solver.init(zeros(f))
        for t in range(1, self.steps + 1):
            before, after = copy.deepcopy(state), self.solver.step(lambda z: calls.append(1) or f(z), state)
            assert len(calls) == after.t == t, f"step {t} says t={after.t}, after {len(calls)} evaluations in all"
            assert_same((after.z_prev, after.f_prev), (state.z, f(state.z)))
            assert_same(state, before)
            assert_same(self.solver.step(f, state), after)  # all that changes is in the state
            state = after

    def test_stopping_and_resuming_gives_the_bits_of_one_solve(self) -> None:
        f = varied()
        for tolerance in (None, 0.03):
            whole = self._solve(f, tolerance=tolerance)
            for first in (0, 1, self.steps // 2, self.steps):
                part, rest = self._solve(f, first, tolerance=tolerance), self.steps - first
                assert_same(self._solve(f, rest, part, tolerance), whole)
                assert tolerance or assert_same(self._solve(f, rest, part.state).state, whole.state) is None

    def test_a_sample_is_solved_alike_in_any_batch(self) -> None:
        f = varied()
        for tolerance in (None, 0.005):
            whole = self._solve(f, tolerance=tolerance)
            for rows in ([ROW], [3, 0, 6, 2, 5, 1, 4], [5, 5, ROW]):
                part = self._solve(Tanh(f.weight, f.u[rows]), tolerance=tolerance)
                taken = len(part.states)  # a batch ends when its slowest sample does
                for mine, theirs in zip(_told(part, slice(None), taken), _told(whole, rows, taken)):
                    assert_near(mine.double(), theirs.double(), 1e-6)
        assert self._solve(Tanh(f.weight, f.u[:0]), tolerance=1e-3).z.shape == (0, 5)

    def test_a_bad_sample_changes_no_bit_of_the_others(self) -> None:
        """Neither of what is said of them, nor of their gradients."""
        f = varied()
        f.u.requires_grad_()
        for bad in (to_nan, explosion):
            for tolerance in (None, 0.005):
                well, ill = (self._solve(g, start=zeros(f), tolerance=tolerance) for g in (f, spoiled(f, ROW, bad)))
                taken = min(len(well.states), len(ill.states))
                assert_same(_told(ill, OTHERS, taken), _told(well, OTHERS, taken))
                slopes = [torch.autograd.grad(solve.z.square().sum(), f.u)[0][OTHERS] for solve in (ill, well)]
                assert slopes[1].abs().min() > 0
                assert_same(*slopes)
                assert bad is explosion or ill.status[ROW] == Status.NON_FINITE  # type: ignore[index]

    def test_a_solve_of_fixed_steps_reads_no_value(self) -> None:
        """A tensor on the meta device, or a fake one, has none: what would bring one to the host raises."""
        assert self._solve(Tanh(torch.empty(5, 5, device="meta"), torch.empty(3, 5, device="meta"))).z.is_meta
        with FakeTensorMode():
            f = Tanh(torch.empty(5, 5, requires_grad=True), torch.empty(3, 5, requires_grad=True))
            grads = torch.autograd.grad(Unrolled()(self.solver, f, zeros(f), 3).sum(), f.tensors)
        assert [tuple(grad.shape) for grad in grads] == [(5, 5), (3, 5)]

    def test_the_unrolled_gradient_is_the_derivative_of_the_value(self) -> None:
        """By finite differences in float64, of the map and of the start; the solver's own coefficients included."""
        p = tanh(5, 1, grad=True)  # more numbers than steps, so that no memory is singular
        start = (0.1 * p.u.detach()).requires_grad_()
        solve = lambda w, u, z: Unrolled()(self.solver, Tanh(w, u), z, 5)  # noqa: E731
        assert torch.autograd.gradcheck(solve, (p.weight, p.u, start))

    def test_it_can_do_what_it_declares_and_refuses_the_rest(self) -> None:
        f, w, solver = tanh(6, norm=1.5), tanh(6, seed=1).u, self.solver
        before = solver.init(zeros(f))
        for _ in range(self.steps):
            after = solver.step(f, before)
            if solver.estimates_inverse:  # the step is -B g, so <B^T w, g> = -<w, step> for every w
                pulled, g, moved = solver.transposed_inverse(after, w), after.f_prev - before.z, after.z - before.z
                assert_near((pulled * g).sum(1), -(w * moved).sum(1), 1e-9)
            if solver.runs_backwards and before.z_prev is not None:
                assert_near(solver.undo(after.z, after.f_prev), before.z_prev, 1e-9)
            before = after
        if solver.runs_backwards:
            assert 0 <= solver.max_steps(torch.float32) <= solver.max_steps(torch.float64)
        else:
            assert_refused("allowed", solver.undo, before.z, before.f_prev)
        if not solver.estimates_inverse:
            assert_refused("allowed", solver.transposed_inverse, before, w)

    def test_its_state_holds_no_more_than_it_declares(self) -> None:
        f = tanh(4)
        state = self._solve(f, self.solver.columns + 3).state
        held = sum(part.numel() for part in vars(state).values() if isinstance(part, Tensor))
        assert held / state.z.numel() <= 3 + self.solver.columns, "more than z, z_prev, f_prev and ``columns``"

    def test_an_affine_contraction_is_solved(self) -> None:
        for seed in range(4) if self.within is not None else ():
            f = affine(6, seed=seed, norm=0.7)
            assert_near(self._solve(f, self.within, tolerance=self.tolerance / 1000).z, f.solution, self.tolerance)

    def test_a_start_keeps_its_dtype_and_is_refused_if_it_is_no_state(self) -> None:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            f = Tanh(*(tensor.to(dtype).requires_grad_() for tensor in tanh(6, norm=0.5).tensors))
            z = self._solve(f, 6).z
            assert z.dtype == dtype and z.isfinite().all()
            assert all(grad.isfinite().all() for grad in torch.autograd.grad(z.sum(), f.tensors))
        for start in (torch.zeros(3), torch.zeros(3, 4, dtype=torch.int64), [[0.0]], None):
            assert_refused("allowed: a floating-point tensor", self.solver.init, start)

    def test_it_is_written_down_as_json_and_read_back(self) -> None:
        assert SOLVERS.resolve(self.solver) is self.solver
        written = json.loads(json.dumps(describe(self.solver)))
        if type(self.solver) in SOLVERS.values():
            assert SOLVERS.resolve(written) == self.solver
        else:
            assert written["class"].endswith(type(self.solver).__qualname__)


def _told(trajectory: Any, rows: Any, taken: int) -> tuple[Tensor, ...]:
    """What a recorded trajectory says of some samples; of their first ``taken`` steps."""
    states, residuals = torch.stack(trajectory.states)[:taken, rows], trajectory.residuals[:taken, rows]
    judged = (trajectory.z, trajectory.status, trajectory.evaluations, trajectory.best, trajectory.best_residual)
    return (states, residuals, *(value[rows] for value in judged))
