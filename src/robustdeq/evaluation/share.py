"""How many of how many samples, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import binomtest
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """``count`` of ``total`` samples, with the exact (Clopper-Pearson) 95% interval of the proportion."""

    count: int
    total: int

    @classmethod
    def of(cls, samples: Tensor) -> Share:
        """Those that are true of (N,) bool."""
        return cls(int(samples.sum()), len(samples))

    @property
    def percent(self) -> float:
        """100 count / total; NaN of nothing."""
        return 100 * self.count / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Percent."""
        if not self.total:
            return 0.0, 100.0
        exact = binomtest(self.count, self.total).proportion_ci(confidence_level=0.95, method="exact")
        return 100 * float(exact.low), 100 * float(exact.high)

    @property
    def cells(self) -> str:
        """Percent, interval and counts as three cells of a Markdown table."""
        low, high = self.interval
        return f"{self.percent:.1f} | {low:.1f} to {high:.1f} | {self.count}/{self.total}"

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.percent:.1f} [{low:.1f}, {high:.1f}] {self.count}/{self.total}" if self.total else "-"

    def to_dict(self) -> dict[str, int | float | list[float]]:
        """Count, total, percent and 95% interval, as JSON."""
        return {"count": self.count, "total": self.total, "percent": self.percent, "interval95": list(self.interval)}
