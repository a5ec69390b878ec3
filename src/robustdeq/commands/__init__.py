"""The verbs of the command line: one dataclass each, whose fields are its flags and whose docstring is its help."""

from .on_model import Attack as Attack
from .on_model import Evaluate as Evaluate
from .on_recipe import Convert as Convert
from .on_recipe import Reproduce as Reproduce
from .on_recipe import Train as Train
