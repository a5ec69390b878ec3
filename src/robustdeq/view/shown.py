"""A look as HTML: what came of it in a line, the images, a table of the courses, and the curves.

Inline PNG and SVG, coloured by the page that holds them. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from torch import Tensor

from ..data.pictures import data_uri, magnified
from .look import Course, Look

MOST_CLASSES = 10
"""Curves in a chart of class probabilities."""
WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 326, 12, 158
"""The plot inside the drawing, in its units."""


def named(number: int, classes: Sequence[str]) -> str:
    """A class by its name; -1 is what logits that are not finite predict."""
    return "not finite" if number < 0 else classes[number] if number < len(classes) else str(number)


def outcome(look: Look, classes: Sequence[str]) -> str:
    """One line: whether the attack led the deployed prediction away, and what that took."""
    label, prediction = named(look.label, classes), look.deployed.prediction
    became = named(prediction, classes)
    if look.adversarial is None:
        return f"The prediction is {became}" + (f"; the label is {label}." if prediction != look.label else ".")
    updates = f", {look.updates:,} updates of the input" if look.updates else ""
    passes = f"{look.passes} pass{'es' * (look.passes != 1)}"
    work = f"{look.settings.attack}: {passes}, {look.units:,} f-units{updates}; {look.seconds:.1f} s."
    *_, clean, attacked = look.courses  # as deployed
    if clean.prediction != look.label:
        return f"Wrong without an attack: {named(clean.prediction, classes)}, not {label}. {work}"
    if attacked.prediction == look.label:
        bare = look.courses[1].prediction
        astray = f"; without the defence it is {named(bare, classes)}" if bare != look.label else ""
        return f"The prediction stands: {label}{astray}. {work}"
    return f"The attack leads from {label} to {became}. {work}"


def result(look: Look, classes: Sequence[str]) -> str:
    """Images, table and charts of a look."""
    return f'<div class="look">{_images(look, classes)}{_table(look, classes)}{_charts(look, classes)}</div>'


def _images(look: Look, classes: Sequence[str]) -> str:
    eps, last = look.settings.eps, look.image
    said = named(look.courses[0].prediction, classes)
    figures = [figure(last, f"image: {said}", f"the image, predicted as {said}")]
    if look.adversarial is not None:
        said = named(look.courses[1].prediction, classes)
        change, factor = magnified(look.adversarial - last, eps)
        figures.append(figure(look.adversarial, f"attacked: {said}", f"the attacked image, predicted as {said}"))
        figures.append(figure(change, f"perturbation × {factor:.3g}, grey is none", "what the attack changed"))
        last = look.adversarial
    if look.regulated is not None:
        said = named(look.deployed.prediction, classes)
        change, _ = magnified(look.regulated - last, eps)
        figures.append(figure(look.regulated, f"as the defence sees it: {said}", f"defended, predicted as {said}"))
        figures.append(figure(change, "what the defence changed", "the defence's change"))
    return f'<div class="images">{"".join(figures)}</div>'


def _table(look: Look, classes: Sequence[str]) -> str:
    """A row for each course, at its last state."""
    head = ("", "prediction", "probability", f"of {named(look.label, classes)}", "entropy", "residual", "distance")
    rows = [f"<tr>{''.join(f'<th scope=col>{escape(text)}</th>' for text in head)}</tr>"]
    for course in look.courses:
        states, k = course.states, course.prediction
        shares = [f"{100 * float(states.probabilities[-1, 0, of]):.1f}%" for of in (k, look.label)]
        cells = [named(k, classes), *shares, f"{states.entropy[-1, 0]:.2f} nats", f"{states.residual[-1, 0]:.3f}"]
        cells.append("" if course.deviation is None else f"{course.deviation.distance[-1, 0]:.3f}")
        wrong = ' class="wrong"' if k != look.label else ""
        body = "".join(f"<td>{escape(text)}</td>" for text in cells)
        rows.append(f"<tr{wrong}><th scope=row>{_key(course)}</th>{body}</tr>")
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _charts(look: Look, classes: Sequence[str]) -> str:
    courses = look.courses
    charts = [
        chart("Entropy of the prediction (nats)", [_line(c, c.states.entropy) for c in courses]),
        chart("Relative residual ‖f(z) − z‖ / ‖f(z)‖", [_line(c, c.states.residual) for c in courses], log=True),
    ]
    if distances := [_line(c, c.deviation.distance) for c in courses if c.deviation is not None]:
        charts.append(chart("Distance to the clean trajectory ‖z̃ − z‖ / ‖z‖", distances))
    if (deviation := look.deployed.deviation) is not None:
        terms = [Line(n, getattr(deviation, n)[:, 0].tolist(), n) for n in ("total", "perturbation", "accumulation")]
        charts.append(chart(f"Deviation of f, {look.deployed.name}", terms, keys=True))
    keys = "".join(map(_key, courses))
    return (
        f'<h3>Along the dynamics</h3><div class="keys">{keys}</div><div class="charts">{"".join(charts)}</div>'
        f"<h3>Class probabilities along the dynamics</h3>{_probabilities(look, classes)}"
    )


def _probabilities(look: Look, classes: Sequence[str]) -> str:
    """A chart for each course: the label, the class that comes nearest to it or wins, and the likeliest others."""
    final = look.deployed.states.probabilities[-1, 0].clone()
    final[look.label] = -1
    rival = int(final.nan_to_num(-1).argmax())
    peaks = sum(course.states.probabilities.nan_to_num(0).amax(dim=(0, 1)) for course in look.courses)
    likeliest = peaks.argsort(descending=True)[:MOST_CLASSES].tolist()  # type: ignore[union-attr]
    # What is drawn last lies on top.
    shown = [*(k for k in likeliest if k not in (look.label, rival)), rival, look.label]
    looks = {look.label: "label", rival: "rival"}
    charts = []
    for course in look.courses:
        p = course.states.probabilities[:, 0]
        lines = [Line(named(k, classes), p[:, k].tolist(), looks.get(k, "other")) for k in shown]
        charts.append(chart(course.name.capitalize(), lines, top=1.0))
    keys = key("label", f"{named(look.label, classes)}, the label") + key("rival", named(rival, classes))
    keys += key("other", "other classes") if len(shown) > 2 else ""
    return f'<div class="keys">{keys}</div><div class="charts">{"".join(charts)}</div>'


def _line(course: Course, values: Tensor) -> Line:
    """values: (T, 1)."""
    return Line(course.name, values[:, 0].tolist(), course.name.replace(",", ""))


def _key(course: Course) -> str:
    return key(course.name.replace(",", ""), course.name)


def figure(image: Tensor, caption: str, alt: str) -> str:
    """An image (C, H, W) with a line under it."""
    return (
        f'<figure><img src="{data_uri(image)}" alt="{escape(alt)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )  # fmt: skip


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
