"""What was found of every work, as rows, JSON and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..environment import environment
from ..text import table as markdown_table


@dataclass(frozen=True)
class Row:
    """Of one work. images: in one call. seconds, low, high: of a call, the median and the quartiles. units: f-units an
    image, evaluations of f and backward passes. updates: of the input, an image. gflop: operations of a call, counted.
    mib: peak memory of a call beyond what was held before, as a CUDA device tells it; elsewhere that of its tensors,
    counted. shares: of the time on the host, by kinds of operations; none of a GPU. processes: that did the same at the
    same time."""

    work: str
    variant: str
    model: str
    steps: int
    images: int
    seconds: float
    low: float
    high: float
    units: float
    updates: float
    gflop: float
    mib: float
    shares: Mapping[str, float]
    processes: int = 1

    @property
    def place(self) -> tuple[str, str, str]:
        """What was measured, as the first cells of a table: no two rows of one run have the same."""
        return self.work, self.variant, f"{self.model}, {self.steps}, {self.images}, {self.processes}"

    @property
    def images_per_second(self) -> float:
        return self.processes * self.images / self.seconds

    @property
    def gflops(self) -> float:
        """Achieved, in 10^9 operations a second; a multiplication and an addition are two."""
        return self.processes * self.gflop / self.seconds


def record(rows: Sequence[Row], reached: Mapping[str, float]) -> dict[str, Any]:
    """All of it as JSON, with what the numbers depend on."""
    return {"environment": environment(), "rates": dict(reached), "rows": [asdict(row) for row in rows]}


def table(found: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> str:
    """Of ``record``'s JSON; beside an older one, how many times as fast each work is now."""
    rows = [Row(**row) for row in found["rows"]]
    f = {row.place[1:]: row.seconds for row in rows if row.work == "one f"}  # of the same N: works are timed in turn
    before = {row.place: row.seconds for row in (Row(**row) for row in (old["rows"] if old else []))}
    best = max(found["rates"].values())
    place = ["work", "variant", "model, N, batch, processes"]
    head = [*place, "seconds (quartiles)", "in f", "f-units", "images/s", "GFLOP/s", "MiB", "share"]
    lines = []
    for row in rows:
        unit = f.get(row.place[1:])
        lines.append([
            *row.place, f"{row.seconds:.4f} ({row.low:.4f}, {row.high:.4f})",
            "-" if unit is None else f"{row.seconds / unit:.2f}",
            f"{row.units:.0f}" + (f" + {row.updates:.0f} updates" if row.updates else ""),
            f"{row.images_per_second:.1f}", f"{row.gflops:.1f}", f"{row.mib:.0f}", f"{100 * row.gflops / best:.0f}%",
        ])  # fmt: skip
        if old:
            lines[-1].append(f"{before[row.place] / row.seconds:.2f}" if row.place in before else "-")
    parts = [markdown_table([*head, "times as fast"] if old else head, lines)]
    if kinds := list(rows[0].shares) if rows else []:
        spent = [[*row.place, *(f"{100 * row.shares[kind]:.0f}" for kind in kinds)] for row in rows]
        parts.append(markdown_table(["where the time goes, %", *place[1:], *kinds], spent))
    reached = "; ".join(f"{name}: {rate:.0f}" for name, rate in found["rates"].items())
    parts.append(f"GFLOP/s that this device reaches: {reached}. share: of the highest of them.")
    return "\n\n".join(parts)
