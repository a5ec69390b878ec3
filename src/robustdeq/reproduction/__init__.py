"""The main job: the rows of the paper's table, trained and evaluated."""

from .run import JobError as JobError
from .run import Reproduction as Reproduction
from .seeds import Repeated as Repeated
