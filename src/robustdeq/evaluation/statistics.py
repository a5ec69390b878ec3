"""Counts and their exact intervals."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import beta


@dataclass(frozen=True)
class Share:
    """``count`` of ``total`` samples, with the exact (Clopper-Pearson) 95% interval of the proportion."""

    count: int
    total: int

    @property
    def percent(self) -> float:
        return 100 * self.count / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Percent."""
        k, n = self.count, self.total
        low = 0.0 if k == 0 else float(beta.ppf(0.025, k, n - k + 1))
        high = 1.0 if k == n else float(beta.ppf(0.975, k + 1, n - k))
        return 100 * low, 100 * high

    def __str__(self) -> str:
        if not self.total:
            return "-"
        low, high = self.interval
        return f"{self.percent:.1f} [{low:.1f}, {high:.1f}] {self.count}/{self.total}"

    def to_dict(self) -> dict[str, float | int | list[float]]:
        return {"count": self.count, "total": self.total, "percent": self.percent, "interval95": list(self.interval)}
