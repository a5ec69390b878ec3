"""How fast a model is: seconds, images a second and GFLOP/s of its works, beside what the device reaches at best."""

from .measure import bench, counted, rates, shares, timed, together
from .table import Row, record, table
from .works import VARIANTS, WORKS, Call, made

__all__ = [
    "VARIANTS", "WORKS", "Call", "Row", "bench", "counted", "made", "rates", "record", "shares", "table", "timed",
    "together",
]  # fmt: skip
