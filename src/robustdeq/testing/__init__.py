"""The laws of a solver, a cell and a defence as test classes: a user's own inherits them by naming itself.

    class TestMine(robustdeq.testing.SolverLaws):
        solver = Mine(damping=0.3)

pytest finds what is imported here. To see the numbers behind a failed assertion, put
``pytest.register_assert_rewrite("robustdeq.testing")`` into ``conftest.py``.
"""

from .models import CellLaws as CellLaws
from .models import DefenceLaws as DefenceLaws
from .problems import assert_near as assert_near
from .problems import assert_refused as assert_refused
from .problems import assert_same as assert_same
from .problems import left_untouched as left_untouched
from .solvers import SolverLaws as SolverLaws
