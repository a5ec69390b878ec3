"""Wrong options, starts and steps are refused with what was given and what is allowed."""

import pytest
import torch
from problems import every_kind

from robustdeq.dynamics import SOLVERS, Anderson, Broyden, Picard, Reversible, drive
from robustdeq.gradients import GRADIENTS, Implicit, Phantom, Unrolled
from robustdeq.options import describe
from robustdeq.testing.problems import tanh, zeros

F = tanh(4)


@pytest.mark.parametrize(
    "spec, suggestion",
    [
        ("broydn", "broyden"),
        ("andersen", "anderson"),
        ({"name": "picard", "dampening": 0.5}, "damping"),
        ({"name": "anderson", "memmory": 3}, "memory"),
        ({"name": "reversible", "mix": 0.5}, "mixing"),
    ],
)
def test_a_misspelt_solver_or_option_suggests_the_nearest(spec, suggestion):
    with pytest.raises(ValueError, match=f"did you mean '{suggestion}'"):
        SOLVERS.resolve(spec)


@pytest.mark.parametrize(
    "spec, suggestion",
    [
        ("unroled", "unrolled"),
        ({"name": "phantom", "unrol": 3}, "unroll"),
        ({"name": "implicit", "step": 3}, "steps"),
        ({"name": "implicit", "solver": "broydn"}, "broyden"),
        ({"name": "implicit", "solver": {"name": "broyden", "memry": 3}}, "memory"),
    ],
)
def test_a_misspelt_gradient_or_option_suggests_the_nearest(spec, suggestion):
    with pytest.raises(ValueError, match=f"did you mean '{suggestion}'"):
        GRADIENTS.resolve(spec)


@pytest.mark.parametrize("spec", [None, 3, "", {}, {"damping": 0.5}, Unrolled()])
def test_something_that_is_no_solver_is_refused_with_the_list_of_solvers(spec):
    with pytest.raises(ValueError, match=f"allowed: {', '.join(SOLVERS)}, or a Solver"):
        SOLVERS.resolve(spec)


def able(ability):
    return ", ".join(name for name, solver in SOLVERS.items() if getattr(solver, ability))


def test_what_a_solver_cannot_do_is_refused_with_those_that_can():
    state = Reversible().init(zeros(F))
    with pytest.raises(ValueError, match=f"estimates no inverse Jacobian; allowed: {able('estimates_inverse')}"):
        Reversible().transposed_inverse(state, F.u)
    for call in (lambda: Broyden().undo(F.u, F.u), lambda: Broyden().max_steps(torch.float64)):
        with pytest.raises(ValueError, match=f"Broyden does not run backwards; allowed: {able('runs_backwards')}"):
            call()


@pytest.mark.parametrize("gradient", [Unrolled(segment=2), Phantom(unroll=3), Implicit(solver="anderson", steps=3)])
def test_a_gradient_is_built_from_its_description(gradient):
    assert GRADIENTS.resolve(describe(gradient)) == gradient


@pytest.mark.parametrize(
    "make",
    [
        lambda: Picard(damping=0),
        lambda: Picard(damping=1.1),
        lambda: Picard(damping=float("nan")),
        lambda: Picard(damping=True),
        lambda: Picard(damping="0.5"),
        lambda: Anderson(memory=0),
        lambda: Anderson(memory=2.5),
        lambda: Anderson(ridge=-1e-3),
        lambda: Anderson(mixing=0),
        lambda: Broyden(memory=-1),
        lambda: Broyden(memory=True),
        lambda: Reversible(mixing=0),
        lambda: Reversible(mixing=1),
        lambda: Unrolled(segment=0),
        lambda: Phantom(unroll=0),
        lambda: Phantom(damping=2),
        lambda: Implicit(steps=0),
        lambda: drive(Picard(), F, zeros(F), -1),
        lambda: drive(Picard(), F, zeros(F), 2.0),
        lambda: drive(Picard(), F, zeros(F), True),
        lambda: drive(Picard(), F, zeros(F), 2, tolerance=-1e-3),
        lambda: drive(Picard(), F, zeros(F), 2, tolerance=float("inf")),
        lambda: drive(Picard(), F, zeros(F), 2, divergence=1),
        lambda: drive(Picard(), F, zeros(F), 2, record=True, divergence="far"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(make):
    with pytest.raises(ValueError, match=r"allowed: a (whole )?number"):
        make()


@every_kind
@pytest.mark.parametrize(
    "start, given",
    [
        (torch.zeros(3), r"\(3,\) torch.float32"),
        (torch.zeros(3, 2, 2), r"\(3, 2, 2\)"),
        (torch.zeros(3, 4, dtype=torch.int64), "torch.int64"),
        (torch.zeros(3, 4, dtype=torch.bool), "torch.bool"),
        ([[0.0, 0.0]], "list"),
        (None, "NoneType"),
    ],
    ids=str,
)
def test_a_start_that_is_no_state_is_refused(solver, start, given):
    with pytest.raises(ValueError, match=given + r".*allowed: a floating-point tensor of shape \(batch, state size\)"):
        drive(solver, F, start, 1)


def test_raising_needs_a_monitored_solve():
    with pytest.raises(ValueError, match="record=True or a tolerance"):
        drive(Picard(), F, zeros(F), 2, throw=True)


def test_options_are_checked_by_keyword():
    with pytest.raises(TypeError, match="tolerence"):
        drive(Picard(), F, zeros(F), 2, tolerence=1e-3)
