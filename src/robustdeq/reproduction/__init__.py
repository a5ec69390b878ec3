"""The main job: the rows of the paper's table, trained and evaluated."""

from .run import JobError, Repeated, Reproduction

__all__ = ["JobError", "Repeated", "Reproduction"]
