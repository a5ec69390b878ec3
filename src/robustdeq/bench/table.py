"""What was found of every work, as rows, JSON and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..environment import environment


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
    f = {(row.variant, row.model, row.images, row.processes): row.seconds for row in rows if row.work == "one f"}
    before = {str(_place(row)): row for row in (Row(**row) for row in (old or {"rows": []})["rows"])}
    best = max(found["rates"].values())
    head = [
        "work",
        "variant",
        "model, N, batch, processes",
        "seconds (quartiles)",
        "in f",
        "f-units",
        "images/s",
        "GFLOP/s",
        "MiB",
    ]
    head += ["share", "times as fast"] if old else ["share"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        unit = f.get((row.variant, row.model, row.images, row.processes))
        cells = [row.work, row.variant, f"{row.model}, {row.steps}, {row.images}, {row.processes}"]
        cells.append(f"{row.seconds:.4f} ({row.low:.4f}, {row.high:.4f})")
        cells.append("-" if unit is None else f"{row.seconds / unit:.2f}")
        cells += [f"{row.units:.0f}" + (f" + {row.updates:.0f} updates" if row.updates else "")]
        cells += [
            f"{row.images_per_second:.1f}",
            f"{row.gflops:.1f}",
            f"{row.mib:.0f}",
            f"{100 * row.gflops / best:.0f}%",
        ]
        if old:
            cells.append(f"{before[str(_place(row))].seconds / row.seconds:.2f}" if str(_place(row)) in before else "-")
        lines.append("| " + " | ".join(cells) + " |")
    if kinds := list(rows[0].shares) if rows else []:
        lines += ["", "| " + " | ".join(["where the time goes, %", *head[1:3], *kinds]) + " |"]
        lines += ["|" + "---|" * (3 + len(kinds))]
        for row in rows:
            place = [row.work, row.variant, f"{row.model}, {row.steps}, {row.images}, {row.processes}"]
            lines.append("| " + " | ".join([*place, *(f"{100 * row.shares[kind]:.0f}" for kind in kinds)]) + " |")
    reached = "; ".join(f"{name}: {rate:.0f}" for name, rate in found["rates"].items())
    return "\n".join([*lines, "", f"GFLOP/s that this device reaches: {reached}. share: of the highest of them."])


def _place(row: Row) -> Row:
    """The row without what is measured."""
    return replace(row, seconds=0.0, low=0.0, high=0.0, units=0.0, updates=0.0, gflop=0.0, mib=0.0, shares={})
