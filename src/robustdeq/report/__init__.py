"""What runs left behind, to be looked at: one offline HTML file, and figures for papers."""

from .figures import accuracy_figure, entropy_figure, state_figure, training_figure
from .page import write_report

__all__ = ["accuracy_figure", "entropy_figure", "state_figure", "training_figure", "write_report"]
