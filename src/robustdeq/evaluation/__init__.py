"""Honest robust accuracy: which attacks, how they are counted, and the record that is kept."""

from ..environment import environment as environment
from .certificate import Certificate as Certificate
from .certificate import Compared as Compared
from .certificate import compare as compare
from .entries import Entry as Entry
from .evaluate import evaluate as evaluate
from .flags import Flag as Flag
from .flags import flags as flags
from .images import KeptImages as KeptImages
from .probes import cost as cost
from .radii import certify as certify
from .readouts import Readouts as Readouts
from .readouts import readouts as readouts
from .record import Record as Record
from .result import Evaluation as Evaluation
from .result import Share as Share
from .suites import SUITES as SUITES
from .suites import adaptive as adaptive
from .suites import paper as paper
from .suites import quick as quick
from .suites import standard as standard
from .suites import suite as suite
