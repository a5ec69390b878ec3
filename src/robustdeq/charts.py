"""The geometry of a line chart that a page draws as inline SVG: ticks, paths, and its alternative text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

TINY = 1e-300
"""What is smaller is not told from zero."""
WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 40

Values = Sequence[float | None]


class Tick(NamedTuple):
    """at: on its axis, in units of the drawing."""

    at: float
    text: str


@dataclass(frozen=True)
class Series:
    """One line. style: ``clean | attacked | third | muted``, a colour and a dash of the style sheet. low, high: of a
    band around it. faint: without marks, in the background. A value that is None or not finite is a gap."""

    name: str
    x: Sequence[float]
    y: Values
    style: str = "clean"
    low: Values | None = None
    high: Values | None = None
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """title: what is drawn. x_label, y_label: with units. log: a logarithmic y axis. floor, ceiling: what the y axis
    reaches at least. fine: ticks of the x axis may stand between whole numbers."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log: bool = False
    floor: float | None = None
    ceiling: float | None = None
    fine: bool = False

    @property
    def empty(self) -> bool:
        return not any(self.finite(y) for series in self.series for y in series.y)

    @cached_property  # every point asks
    def x_range(self) -> tuple[float, float]:
        xs = [x for series in self.series for x in series.x]
        low, high = min(xs, default=0.0), max(xs, default=1.0)
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    @cached_property  # every point asks
    def y_range(self) -> tuple[float, float]:
        values = [y for s in self.series for ys in (s.y, s.low or (), s.high or ()) for y in ys if self.finite(y)]
        ends = [y for y in (*values, self.floor, self.ceiling) if y is not None]
        low, high = min(ends, default=0.0), max(ends, default=1.0)
        if self.log:
            low, high = max(low, TINY), max(high, TINY)
            bottom, top = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
            return 10.0**bottom, 10.0 ** max(top, bottom + 1)
        if high - low <= 1e-3 * max(abs(low), abs(high)):  # as good as one value: from zero
            low, high = min(low, 0.0), max(high, 0.0)
        if high - low < TINY:
            high = low + 1.0
        step = _step(high - low)
        return step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)

    @property
    def x_ticks(self) -> list[Tick]:
        low, high = self.x_range
        whole = not self.fine and (high - low >= 3 or float(low).is_integer())
        step = max(1.0, _step(high - low, 8)) if whole else _step(high - low)
        return [Tick(self._x(value), _number(value)) for value in _multiples(step, low, high)]

    @property
    def y_ticks(self) -> list[Tick]:
        low, high = self.y_range
        if self.log:
            exponents = range(round(math.log10(low)), round(math.log10(high)) + 1)
            every = max(1, len(exponents) // 5)
            values = [10.0**exponent for exponent in exponents[::every]]
        else:
            values = _multiples(_step(high - low), low, high)
        return [Tick(self._y(value), _number(value)) for value in values]

    def path(self, series: Series) -> str:
        """The line as the ``d`` of an SVG path, broken where there is no value."""
        words, pen = [], "M"
        for x, y in zip(series.x, series.y):
            if self.finite(y):
                words.append(f"{pen}{self._x(x):.1f} {self._y(y):.1f}")
            pen = "L" if self.finite(y) else "M"
        return "".join(words)

    def points(self, series: Series) -> list[tuple[float, float]]:
        """Where the marks stand."""
        return [(self._x(x), self._y(y)) for x, y in zip(series.x, series.y) if self.finite(y)]

    def band(self, series: Series) -> str:
        """The band as a closed path; nothing where there is none."""
        rows = zip(series.x, series.low or (), series.high or ())
        ends = [(self._x(x), self._y(low), self._y(high)) for x, low, high in rows if self.finite(low, high)]
        if not ends:
            return ""
        upper = [f"{x:.1f} {high:.1f}" for x, _, high in ends]
        lower = [f"{x:.1f} {low:.1f}" for x, low, _ in reversed(ends)]
        return "M" + "L".join(upper + lower) + "Z"

    @property
    def text(self) -> str:
        """The chart in words: from where to where each line goes."""
        ways = []
        for series in self.series:
            values = [(x, y) for x, y in zip(series.x, series.y) if self.finite(y)]
            if values and not series.faint:
                (x0, y0), (x1, y1) = values[0], values[-1]
                ways.append(f"{series.name} from {y0:.3g} at {x0:.3g} to {y1:.3g} at {x1:.3g}")
        return f"{self.title}. {self.y_label} against {self.x_label}: {'; '.join(ways) or 'no values'}."

    def finite(self, *values: float | None) -> bool:
        """Whether all of them have a place on the y axis."""
        return all(v is not None and math.isfinite(v) and (v > 0 or not self.log) for v in values)

    def _x(self, x: float) -> float:
        low, high = self.x_range
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - low) / (high - low)

    def _y(self, y: float | None) -> float:
        low, high, value = *self.y_range, y or 0.0
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, TINY))
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)


def _step(span: float, most: int = 5) -> float:
    """1, 2 or 5 times a power of ten, of which at most about ``most`` fit into the span."""
    rough = span / most
    power = 10 ** math.floor(math.log10(rough))
    # A hair below the rough step will do: of a span of 1, rough may come out as 0.2000000001.
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _multiples(step: float, low: float, high: float) -> list[float]:
    """Of the step, from low to high."""
    return [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    """Short, and exact enough for a tick."""
    return f"{value:.6g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
