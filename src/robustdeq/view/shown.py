"""A look as HTML: what came of it in a line, the images, a table of the courses, and the curves.

Inline PNG and SVG, coloured by the page that holds them. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from torch import Tensor

from ..charts import HEIGHT, LEFT, RIGHT, WIDTH, Chart, Series
from ..data.pictures import data_uri, magnified
from .look import Course, Look

MOST_CLASSES = 10
"""Curves in a chart of class probabilities."""


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
        terms = [line(n, getattr(deviation, n)[:, 0].tolist(), n) for n in ("total", "perturbation", "accumulation")]
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
        lines = [line(named(k, classes), p[:, k].tolist(), looks.get(k, "other")) for k in shown]
        charts.append(chart(course.name.capitalize(), lines, top=1.0))
    keys = key("label", f"{named(look.label, classes)}, the label") + key("rival", named(rival, classes))
    keys += key("other", "other classes") if len(shown) > 2 else ""
    return f'<div class="keys">{keys}</div><div class="charts">{"".join(charts)}</div>'


def _line(course: Course, values: Tensor) -> Series:
    """values: (T, 1)."""
    return line(course.name, values[:, 0].tolist(), course.name.replace(",", ""))


def _key(course: Course) -> str:
    return key(course.name.replace(",", ""), course.name)


def figure(image: Tensor, caption: str, alt: str) -> str:
    """An image (C, H, W) with a line under it."""
    return (
        f'<figure><img src="{data_uri(image)}" alt="{escape(alt)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )  # fmt: skip


def line(name: str, values: Sequence[float], look: str) -> Series:
    """values: at t = 1..T; what is not finite is left out. look: classes of the style sheet."""
    return Series(name, range(1, len(values) + 1), values, look)


def key(look: str, name: str) -> str:
    """A piece of a line and its name, for a legend."""
    stroke = '<svg viewBox="0 0 26 8" aria-hidden="true"><path d="M1 4H25"/></svg>'
    return f'<span class="key line {look}">{stroke}{escape(name)}</span>'


def chart(
    title: str, lines: Sequence[Series], *, top: float | None = None, log: bool = False, keys: bool = False
) -> str:  # fmt: skip
    """Curves along t as an SVG with a caption. top: the end of the axis, which begins at 0; default the largest value.
    log: a logarithmic axis around what is positive. keys: with a legend of its own."""
    drawn = Chart(title, "state t", "value", tuple(lines), log, None if log else 0.0, top)
    parts = []
    for tick in drawn.y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{tick.at:.1f}" y2="{tick.at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{tick.at + 4:.1f}" text-anchor="end">{tick.text}</text>')
    for tick in drawn.x_ticks:
        parts.append(f'<text x="{tick.at:.1f}" y="{HEIGHT - 22}" text-anchor="middle">{tick.text}</text>')
    parts.append(f'<text x="{(WIDTH + LEFT - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">state t</text>')
    parts += [_curve(drawn, series) for series in lines]
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(drawn.text)}">{"".join(parts)}</svg>'
    legend = f'<div class="keys">{"".join(key(of.style, of.name) for of in lines)}</div>' if keys else ""
    return f'<figure class="chart"><figcaption>{escape(title)}{legend}</figcaption>{picture}</figure>'


def _curve(chart: Chart, series: Series) -> str:
    """A line with a point, and what it says on being pointed at, at every t; broken where a value cannot be shown."""
    told = [f"{series.name}, t = {t}: {y:.4g}" for t, y in zip(series.x, series.y) if chart.finite(y)]
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"><title>{escape(text)}</title></circle>'
        for text, (x, y) in zip(told, chart.points(series))
    )
    return f'<g class="line {series.style}"><path d="{chart.path(series)}"/>{marks}</g>'
