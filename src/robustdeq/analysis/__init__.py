"""A look into the dynamics: entropy and accuracy along the states, and their figures."""

from .figures import entropy_figure as entropy_figure
from .figures import state_figure as state_figure
from .states import entropy_along as entropy_along
