"""A look into the dynamics: entropy and accuracy along the states, and their figures."""

from .entropy import entropy_along
from .figures import entropy_figure, state_figure
from .states import StateAccuracy, state_accuracy

__all__ = ["StateAccuracy", "entropy_along", "entropy_figure", "state_accuracy", "state_figure"]
