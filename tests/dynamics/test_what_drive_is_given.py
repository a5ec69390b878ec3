"""Starts, maps, callbacks and options of ``drive`` that cannot be meant: one line each, before or at the first step."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from small_models import SOLVERS as NAMES
from torch import nn

from robustdeq.dynamics import SOLVERS, Picard, Solver, SolverState, drive

Z = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
every = pytest.mark.parametrize("name", NAMES)
NOTHING = [None, True, 5, 1.5, "x", [], {}, {"name": []}, {"name": "picard", 5: 1}, nn.Linear, Picard, object(), b"x"]


def half(z):
    return z / 2


def refused(call, match):
    with pytest.raises(ValueError, match=match) as seen:
        call()
    assert len(str(seen.value).splitlines()) <= 2


@pytest.mark.parametrize("solver", NOTHING, ids=lambda value: repr(type(value)))
def test_a_solver_is_one_by_name_or_as_an_object(solver):
    refused(lambda: drive(solver, half, Z, 2), "solver|Picard")
    assert torch.equal(drive("picard", half, Z, 2).z, drive(Picard(), half, Z, 2).z)


@every
@pytest.mark.parametrize(
    "start",
    [
        *NOTHING, [[0.0]], np.zeros((3, 4)), Z[0], Z[None], Z.long(), Z + 0j, Z > 0, SolverState(5),
        SolverState(Z, 1, Z[:1], Z[:1]), SolverState(Z, 1, 5, 5), SolverState(Z, 1, Z, Z.mT),
    ],
    ids=lambda start: type(start).__name__,
)  # fmt: skip
def test_a_start_is_a_state(name, start):
    refused(lambda: drive(SOLVERS[name](), half, start, 2), r"z\^\[0\] is|from a SolverState|start's [zf]_prev")


MAPS = {
    "NoneType": lambda z: None,
    "tuple": lambda z: (z,),
    "dict": lambda z: {"z": z},
    "ndarray": lambda z: z.numpy(),
    "float": lambda z: 1.0,
    r"\(3, 1\)": lambda z: z[:, :1],
    r"\(1, 4\)": lambda z: z[:1],
    r"\(4, 3\)": lambda z: z.mT,
    r"\(12,\)": lambda z: z.flatten(),
    r"\(\)": lambda z: z.sum(),
    "torch.float64": lambda z: z.double(),
    "torch.float16": lambda z: z.half(),
    "torch.int64": lambda z: z.long(),
    "torch.bool": lambda z: z > 0,
    "torch.complex64": lambda z: z + 0j,
    "on meta": lambda z: z.to("meta"),
}


@every
@pytest.mark.parametrize("options", [{}, {"record": True}, {"tolerance": 1e-3}], ids=str)
@pytest.mark.parametrize(("kind", "f"), MAPS.items())
def test_a_map_gives_a_state_like_the_one_it_is_given(name, kind, f, options):
    why = rf"drive: f gives .*{kind}.* for torch.float32 of shape \(3, 4\).*; allowed: a function of a state"
    refused(lambda: drive(SOLVERS[name](), f, Z, 2, **options), why)


@pytest.mark.parametrize("f", [None, 5, "x", Z, [half], lambda: Z, lambda z, u: z])
def test_a_map_is_a_function_of_a_state(f):
    refused(lambda: drive(Picard(), f, Z, 2), "drive: f .*; allowed: a function of a state")
    other = 5 if f is None else f
    refused(lambda: drive(Picard(), half, Z, 2, regulate=lambda state: other), "drive: f .*; allowed: a")


def test_a_map_s_own_errors_stay_what_they_are():
    def broken(z):
        raise TypeError("broken down")

    with pytest.raises(TypeError, match=r"^broken down$"):
        drive(Picard(), broken, Z, 2)


@pytest.mark.parametrize("value", [True, 5, "x", [], {}, Z, object()], ids=type)
def test_a_regulator_and_observers_are_functions(value):
    refused(lambda: drive(Picard(), half, Z, 2, regulate=value), "drive: regulate is .*; allowed: a function")
    for observers in ([value], [half, value], *([] if isinstance(value, list) else [value])):
        refused(lambda each=observers: drive(Picard(), half, Z, 2, observers=each), "drive: observers are .*; allowed")
    # An iterator would be spent after the first step.
    refused(lambda: drive(Picard(), half, Z, 2, observers=iter([print])), "drive: observers are")


@pytest.mark.parametrize("value", [True, "3", 1.5, -1, float("nan"), [3], {}, torch.tensor(3), np.int64(3)], ids=str)
def test_steps_and_bounds_are_numbers(value):
    refused(lambda: drive(Picard(), half, Z, value), "drive: steps=.*; allowed: a whole number")
    if value != 1.5:
        refused(lambda: drive(Picard(), half, Z, 2, tolerance=value), "drive: tolerance=.*; allowed: a number")
        refused(lambda: drive(Picard(), half, Z, 2, divergence=value), "drive: divergence=.*; allowed: a number")


def test_a_map_may_be_of_another_dtype_in_autocast():
    layer = nn.Linear(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert drive(Picard(damping=0.5), layer, Z, 3).z.isfinite().all()


@dataclass(frozen=True)
class Given(Solver):
    """Its steps give whatever ``made`` makes of a right one."""

    name: ClassVar[str] = "given"
    made: Any

    def step(self, f, state):
        return self.made(SolverState(f(state.z), state.t + 1, state.z, f(state.z)))


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize(
    "made, why",
    [
        (lambda state: state.z, "Given.step gives torch.float32 of shape"),
        (lambda state: None, "Given.step gives a NoneType; allowed: a SolverState"),
        (lambda state: replace(state, f_prev=None), "whose f_prev is a NoneType"),
        (lambda state: replace(state, z=state.z[:1]), "whose z is torch.float32 of shape"),
        (lambda state: replace(state, t=state.t - 1), "gives t=0 after t=0"),
    ],
)
def test_a_step_gives_the_next_state_and_what_it_paid_for(made, why, record):
    refused(lambda: drive(Given(made), half, Z, 2, record=record), why)
    assert torch.equal(drive(Given(lambda state: state), half, Z, 2).z, Z / 4)
