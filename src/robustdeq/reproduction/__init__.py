"""The main job: the rows of the paper's table, trained and evaluated."""

from .run import JobError as JobError
from .run import Repeated as Repeated
from .run import Reproduction as Reproduction
