"""Fixed points known in closed form, found by the quasi-Newton solvers in as many steps as theory allows."""

import math

import pytest
import torch
from problems import SOLVERS, Counted, each, rotation

from robustdeq.dynamics import Anderson, Broyden, Picard, drive
from robustdeq.testing import assert_near
from robustdeq.testing.problems import affine, zeros

SIZES = pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
SEEDS = pytest.mark.parametrize("seed", range(4))


@each({name: SOLVERS[name] for name in ("picard-damped", "anderson", "broyden", "broyden-short", "reversible")})
@pytest.mark.parametrize("angle", [0.5, math.pi / 2, 2.5])
def test_a_rotation_is_solved_although_it_contracts_nothing(solver, angle):
    f = rotation(angle)
    assert_near(drive(solver, f, zeros(f), 2000, tolerance=1e-13).z, f.solution, 1e-10)


def test_undamped_picard_goes_round_in_a_rotation():
    f = rotation(math.pi / 2)
    assert_near(drive(Picard(), f, zeros(f), 4).z, zeros(f), 1e-12)


@SIZES
@SEEDS
def test_broyden_ends_within_2d_plus_1_evaluations_on_an_affine_map(size, seed):
    """Gay (1979): 2d steps, here on expanding maps, which no plain iteration solves."""
    f = affine(size, seed=seed, norm=2.0)
    counted = Counted(f)
    found = drive(Broyden(memory=2 * size), counted, zeros(f), 2 * size + 1)
    assert counted.calls == 2 * size + 1
    assert_near(found.z, f.solution, 1e-10)


@SIZES
@SEEDS
def test_anderson_ends_within_d_plus_2_evaluations_on_an_affine_map(size, seed):
    """Walker and Ni (2011): with d columns it is GMRES."""
    f = affine(size, seed=seed, norm=2.0)
    counted = Counted(f)
    found = drive(Anderson(memory=size), counted, zeros(f), size + 2)
    assert counted.calls == size + 2
    assert_near(found.z, f.solution, 1e-10)


@pytest.mark.parametrize("mixing", [0.1, 0.5, 0.9])
def test_picards_error_shrinks_by_the_eigenvalue_of_the_damped_map(mixing):
    """f(z) = 0.5 z + 1 for every number: z* = 2 and z^[t] = 2 - 2 (1 - a / 2)^t."""
    z = drive(Picard(damping=mixing), lambda z: 0.5 * z + 1, torch.zeros(2, 3, dtype=torch.float64), 9).z
    assert_near(z, torch.full_like(z, 2 - 2 * (1 - mixing / 2) ** 9), 1e-12)


@each({name: SOLVERS[name] for name in ("picard", "anderson", "broyden", "broyden-short")})
def test_the_first_undamped_step_from_zero_is_f_of_zero(solver):
    f = affine(5)
    assert torch.equal(drive(solver, f, zeros(f), 1).z, f(zeros(f)))
