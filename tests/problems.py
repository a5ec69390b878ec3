"""The solvers that every law is proved for, and ways to run a test once for each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from robustdeq.dynamics import SOLVERS as KINDS
from robustdeq.dynamics import Anderson, Broyden, Map, Picard, Solver
from robustdeq.testing.problems import Affine, affine

DEFAULTS: dict[str, Solver] = {name: kind() for name, kind in KINDS.items()}
"""Every registered solver, so that a new one is put through the laws without a word here."""

SOLVERS: dict[str, Solver] = {
    **DEFAULTS,
    "picard-damped": Picard(damping=0.6),
    "anderson-short": Anderson(memory=2, mixing=0.7),
    "broyden-short": Broyden(memory=2),
}
"""The short memories drop columns after three steps."""

WITH_INVERSE = {name: solver for name, solver in DEFAULTS.items() if solver.estimates_inverse}


def each(solvers: dict[str, Solver]) -> pytest.MarkDecorator:
    """Run a test once for every solver of a table."""
    return pytest.mark.parametrize("solver", solvers.values(), ids=solvers)


every_solver = each(SOLVERS)
every_kind = each(DEFAULTS)
some_solvers = each({name: SOLVERS[name] for name in ("picard", "broyden-short")})
"""For what the loop alone decides: one solver without a memory and one with."""


def rotation(angle: float, batch: int = 3) -> Affine:
    """Rotation of the plane by ``angle`` around (I - R)^-1 u: no contraction, |eigenvalues| = 1."""
    cos, sin = math.cos(angle), math.sin(angle)
    return Affine(torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64), affine(2, batch).u)


@dataclass
class Counted:
    """A map that counts its evaluations."""

    f: Map
    calls: int = 0

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.f(z)
