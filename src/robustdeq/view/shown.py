"""A look as HTML: what came of it in a line, the images, a table of the courses, and the curves."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from torch import Tensor

from .look import Course, Look
from .pictures import Line, chart, figure, key, magnified

MOST_CLASSES = 10
"""Curves in a chart of class probabilities."""


def named(number: int, classes: Sequence[str]) -> str:
    """A class by its name; -1 is what logits that are not finite predict."""
    return "not finite" if number < 0 else classes[number] if number < len(classes) else str(number)


def outcome(look: Look, classes: Sequence[str]) -> str:
    """One line: whether the attack led the deployed prediction away, and what that took."""
    label, prediction = named(look.label, classes), _predicted(look.deployed)
    became = named(prediction, classes)
    if look.adversarial is None:
        return f"The prediction is {became}" + (f"; the label is {label}." if prediction != look.label else ".")
    wrong_before = _predicted(_clean(look)) != look.label
    updates = f", {look.updates:,} updates of the input" if look.updates else ""
    passes = f"{look.passes} pass{'es' * (look.passes != 1)}"
    work = f"{look.settings.attack}: {passes}, {look.units:,} f-units{updates}; {look.seconds:.1f} s."
    if wrong_before:
        return f"Wrong without an attack: {named(_predicted(_clean(look)), classes)}, not {label}. {work}"
    if prediction == look.label:
        bare = next(_predicted(course) for course in look.courses if course.attacked)
        astray = f"; without the defence it is {named(bare, classes)}" if bare != look.label else ""
        return f"The prediction stands: {label}{astray}. {work}"
    return f"The attack leads from {label} to {became}. {work}"


def result(look: Look, classes: Sequence[str]) -> str:
    """Images, table and charts of a look."""
    return f'<div class="look">{_images(look, classes)}{_table(look, classes)}{_charts(look, classes)}</div>'


def _clean(look: Look) -> Course:
    """The deployed dynamics of the clean image."""
    return next(c for c in look.courses if not c.attacked and c.defended == look.settings.defended)


def _predicted(course: Course) -> int:
    return int(course.states.prediction[-1, 0])


def _images(look: Look, classes: Sequence[str]) -> str:
    eps, x, bare = look.settings.eps, look.image, look.courses[0]
    said = f"{named(_predicted(bare), classes)}"
    parts = [figure(x, f"image: {said}", f"the image, predicted as {said}")]
    if look.adversarial is not None:
        attacked = next(course for course in look.courses if course.attacked)
        said = named(_predicted(attacked), classes)
        scale = f"× {1 / (2 * eps):.3g}, grey is none"
        parts.append(figure(look.adversarial, f"attacked: {said}", f"the attacked image, predicted as {said}"))
        parts.append(figure(magnified(x, look.adversarial, eps), f"perturbation {scale}", "what the attack changed"))
    if look.regulated is not None:
        given = x if look.adversarial is None else look.adversarial
        said = named(_predicted(look.deployed), classes)
        parts.append(figure(look.regulated, f"as the defence sees it: {said}", f"defended, predicted as {said}"))
        parts.append(figure(magnified(given, look.regulated, eps), "what the defence changed", "the defence's change"))
    return f'<div class="images">{"".join(parts)}</div>'


def _table(look: Look, classes: Sequence[str]) -> str:
    """A row for each course, at its last state."""
    head = ("", "prediction", "probability", f"of {named(look.label, classes)}", "entropy", "residual", "distance")
    rows = [f"<tr>{''.join(f'<th scope=col>{escape(text)}</th>' for text in head)}</tr>"]
    for course in look.courses:
        p, k = course.states.probabilities[-1, 0], _predicted(course)
        cells = [named(k, classes), _percent(p[k]), _percent(p[look.label]), f"{course.states.entropy[-1, 0]:.2f} nats"]
        cells.append(f"{course.states.residual[-1, 0]:.3f}")
        cells.append("" if course.deviation is None else f"{course.deviation.distance[-1, 0]:.3f}")
        wrong = ' class="wrong"' if k != look.label else ""
        body = "".join(f"<td>{escape(text)}</td>" for text in cells)
        rows.append(f"<tr{wrong}><th scope=row>{key(_style(course), course.name)}</th>{body}</tr>")
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _percent(share: Tensor) -> str:
    return f"{100 * float(share):.1f}%"


def _charts(look: Look, classes: Sequence[str]) -> str:
    courses = look.courses
    moved = [course for course in courses if course.deviation is not None]
    along = [
        chart("Entropy of the prediction (nats)", [_line(c, c.states.entropy) for c in courses]),
        chart("Relative residual ‖f(z) − z‖ / ‖f(z)‖", [_line(c, c.states.residual) for c in courses], log=True),
    ]
    if moved:
        distances = [_line(c, c.deviation.distance) for c in moved if c.deviation is not None]
        along.append(chart("Distance to the clean trajectory ‖z̃ − z‖ / ‖z‖", distances))
    if (deviation := look.deployed.deviation) is not None:
        terms = [Line(n, _numbers(getattr(deviation, n)), n) for n in ("total", "perturbation", "accumulation")]
        along.append(chart(f"Deviation of f, {look.deployed.name}", terms, keys=True))
    keys = "".join(key(_style(course), course.name) for course in courses)
    return (
        f'<h3>Along the dynamics</h3><div class="keys">{keys}</div><div class="charts">{"".join(along)}</div>'
        f"<h3>Class probabilities along the dynamics</h3>{_probabilities(look, classes)}"
    )


def _probabilities(look: Look, classes: Sequence[str]) -> str:
    """A chart for each course: the label, the class that comes nearest to it or wins, and the likeliest others."""
    final = look.deployed.states.probabilities[-1, 0].clone()
    final[look.label] = -1
    rival = int(final.nan_to_num(-1).argmax())
    peaks = sum(course.states.probabilities.nan_to_num(0).amax(dim=(0, 1)) for course in look.courses)
    likeliest = peaks.argsort(descending=True)[:MOST_CLASSES].tolist()  # type: ignore[union-attr]
    shown = [*(k for k in likeliest if k not in (look.label, rival)), rival, look.label]
    looks = {look.label: "label", rival: "rival"}
    charts = []
    for course in look.courses:
        p = course.states.probabilities[:, 0]
        lines = [Line(named(k, classes), _numbers(p[:, k]), looks.get(k, "other")) for k in shown]
        charts.append(chart(course.name.capitalize(), lines, top=1.0))
    keys = key("label", f"{named(look.label, classes)}, the label") + key("rival", named(rival, classes))
    keys += key("other", "other classes") if len(shown) > 2 else ""
    return f'<div class="keys">{keys}</div><div class="charts">{"".join(charts)}</div>'


def _line(course: Course, values: Tensor) -> Line:
    return Line(course.name, _numbers(values), _style(course))


def _style(course: Course) -> str:
    return ("attacked" if course.attacked else "clean") + (" defended" if course.defended else "")


def _numbers(values: Tensor) -> list[float]:
    return values.flatten().tolist()
