"""The main job: the rows of the paper's table, trained and evaluated."""

from .processes import JobError
from .run import Repeated, Reproduction

__all__ = ["JobError", "Repeated", "Reproduction"]
