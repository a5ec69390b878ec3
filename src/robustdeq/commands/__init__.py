"""The verbs of the command line: one dataclass each, whose fields are its flags and whose docstring is its help."""

from .analyze import Analyze
from .bench import Bench
from .looks import Report, View
from .models import Attack, Certify, Convert, Evaluate
from .recipes import Reproduce, Train

VERBS = (Train, Evaluate, Attack, Certify, Analyze, Report, Reproduce, Convert, Bench, View)
COMMANDS: dict[str, type] = {cls.__name__.lower(): cls for cls in VERBS}
