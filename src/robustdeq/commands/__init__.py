"""The verbs of the command line: one dataclass each, whose fields are its flags and whose docstring is its help."""

from .bench import Bench
from .models import Attack, Convert, Evaluate
from .recipes import Reproduce, Train

COMMANDS: dict[str, type] = {cls.__name__.lower(): cls for cls in (Train, Evaluate, Attack, Reproduce, Convert, Bench)}
