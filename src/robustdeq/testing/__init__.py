"""The laws of a solver, a cell and a defence as test classes: a user's own inherits them by naming itself.

    class TestMine(robustdeq.testing.SolverLaws):
        solver = Mine(damping=0.3)

pytest finds what is imported here. To see the numbers behind a failed assertion, put
``pytest.register_assert_rewrite("robustdeq.testing")`` into ``conftest.py``.
"""

from .models import CellLaws, DefenceLaws
from .problems import assert_near, assert_refused, assert_same, left_untouched
from .solvers import SolverLaws

__all__ = ["CellLaws", "DefenceLaws", "SolverLaws", "assert_near", "assert_refused", "assert_same", "left_untouched"]
