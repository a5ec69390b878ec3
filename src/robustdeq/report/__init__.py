"""What runs left behind, to be looked at: one offline HTML file, and figures for papers."""

from .figures import accuracy_figure as accuracy_figure
from .figures import entropy_figure as entropy_figure
from .figures import state_figure as state_figure
from .figures import training_figure as training_figure
from .page import write_report as write_report
