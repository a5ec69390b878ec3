"""Images and curves as HTML: inline PNG and SVG, coloured by the page that holds them. All text is escaped."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image
from torch import Tensor

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 326, 12, 158
"""The plot inside the drawing, in its units."""


def png(image: Tensor) -> str:
    """(C, H, W) in [0, 1] as the data URI of a PNG of 8 bits. One channel is grey, three are colours; of any other
    number the mean is shown."""
    if len(image) not in (1, 3):
        image = image.mean(dim=0, keepdim=True)
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def figure(image: Tensor, caption: str, alt: str) -> str:
    """An image (C, H, W) with a line under it."""
    return (
        f'<figure><img src="{png(image)}" alt="{escape(alt)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )  # fmt: skip


def magnified(x: Tensor, x_adv: Tensor, eps: float) -> Tensor:
    """The perturbation of images of one shape, so that 0 is grey and -eps and eps are black and white."""
    return 0.5 + (x_adv - x) / (2 * eps)


@dataclass(frozen=True)
class Line:
    """values: at t = 1..T; what is not finite is left out. look: classes of the style sheet."""

    name: str
    values: Sequence[float]
    look: str


def key(look: str, name: str) -> str:
    """A piece of a line and its name, for a legend."""
    stroke = '<svg viewBox="0 0 26 8" aria-hidden="true"><polyline points="1,4 25,4"/></svg>'
    return f'<span class="key line {look}">{stroke}{escape(name)}</span>'


def chart(
    title: str, lines: Sequence[Line], *, top: float | None = None, log: bool = False, keys: bool = False
) -> str:  # fmt: skip
    """Curves along t as an SVG with a caption. top: the end of the axis, which begins at 0; default the largest value.
    log: a logarithmic axis around what is positive. keys: with a legend of its own."""
    finite = [v for line in lines for v in line.values if math.isfinite(v) and (v > 0 or not log)]
    low, high, ticks = _axis(finite, top, log)
    steps = max(len(line.values) for line in lines)

    def at(t: int, value: float) -> tuple[float, float]:
        share = (math.log10(value / low) / math.log10(high / low)) if log else (value - low) / (high - low)
        return LEFT + (RIGHT - LEFT) * (t - 1) / max(steps - 1, 1), BOTTOM - (BOTTOM - TOP) * min(max(share, 0), 1)

    parts = []
    for tick in ticks:
        y = at(1, tick)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    every = max(1, math.ceil(steps / 10))
    for t in range(1, steps + 1, every):
        parts.append(f'<text x="{at(t, low)[0]:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{t}</text>')
    parts.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 1}" text-anchor="middle">state t</text>')
    parts += [_curve(line, at, log) for line in lines]
    told = f"{title}: " + "; ".join(f"{line.name} from {line.values[0]:.3g} to {line.values[-1]:.3g}" for line in lines)
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}">{"".join(parts)}</svg>'
    legend = f'<div class="keys">{"".join(key(line.look, line.name) for line in lines)}</div>' if keys else ""
    return f'<figure class="chart"><figcaption>{escape(title)}{legend}</figcaption>{picture}</figure>'


def _curve(line: Line, at: Callable[[int, float], tuple[float, float]], log: bool) -> str:
    """A line with a point, and what it says on being pointed at, at every t; broken where a value cannot be shown."""
    runs: list[list[tuple[float, float]]] = [[]]
    points = []
    for t, value in enumerate(line.values, start=1):
        if not math.isfinite(value) or (log and value <= 0):
            runs.append([])
            continue
        x, y = at(t, value)
        runs[-1].append((x, y))
        told = f"<title>{escape(line.name)}, t = {t}: {value:.4g}</title>"
        points.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6">{told}</circle>')
    strokes = [f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in run)}"/>' for run in runs if run]
    return f'<g class="line {line.look}">{"".join(strokes)}{"".join(points)}</g>'


def _axis(values: Sequence[float], top: float | None, log: bool) -> tuple[float, float, list[float]]:
    """The ends of an axis and its ticks, for finite values."""
    if log:
        low = 10.0 ** math.floor(math.log10(min(values, default=0.1)))
        high = 10.0 ** math.ceil(math.log10(max(values, default=1.0)))
        high = high if high > low else 10 * low
        decades = round(math.log10(high / low))
        return low, high, [low * 10**k for k in range(0, decades + 1, max(1, math.ceil(decades / 5)))]
    high = max(values, default=1.0) if top is None else top
    high = high if high > 0 else 1.0
    size = 10.0 ** math.floor(math.log10(high / 2))
    step = next(size * k for k in (1, 2, 2.5, 5, 10) if high / (size * k) <= 5)
    ticks = [k * step for k in range(math.ceil(high / step - 1e-9) + 1)]
    return 0.0, (high if top is not None else ticks[-1]), [tick for tick in ticks if top is None or tick <= top + 1e-9]
