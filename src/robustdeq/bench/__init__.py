"""How fast a model is: seconds, images a second and GFLOP/s of its works, beside what the device reaches at best."""

from .measure import bench as bench
from .measure import counted as counted
from .measure import rates as rates
from .measure import shares as shares
from .measure import timed as timed
from .measure import together as together
from .table import Row as Row
from .table import record as record
from .table import table as table
from .works import VARIANTS as VARIANTS
from .works import WORKS as WORKS
from .works import Call as Call
from .works import made as made
