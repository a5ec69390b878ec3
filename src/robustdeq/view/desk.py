"""What the page does when something is clicked: settings from what stands in it, a look, and the look as HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
from torch import Tensor

from ..data import ImageSet
from ..evaluation.identity import check_classes
from ..files import first_line
from ..models import DEQClassifier
from ..models.structure import structure
from ..options import parsed
from ..text import printable
from .examples import class_names, uploaded
from .look import Settings, Stopped, Watch, look
from .shown import figure, named, outcome, result

CONTROLS = ("attack", "eps", "steps", "gradient", "defended", "sees", "whole", "seed")
"""The settings in the order in which the page hands them over, behind the image and its label."""
OWN = -1
"""Of the control for the label: the image's own."""


@dataclass(frozen=True)
class Chosen:
    """The image that is looked at. x: (1, C, H, W) in [0, 1] on the CPU. label: None of an upload. name: what it is."""

    x: Tensor
    label: int | None
    name: str


class Desk:
    """One model, its images, and the runs of those who look at it.

    A run belongs to a session, the browser tab that began it; it ends where its tab says stop, or is closed.
    """

    def __init__(self, model: DEQClassifier, images: ImageSet | None) -> None:
        self.model, self.images = model, images
        self.classes = class_names(model, images)
        if images is not None:
            check_classes("view", structure(model), images)
        self.runs: dict[str | None, Event] = {}

    def example(self, index: int) -> Chosen:
        assert self.images is not None
        label = int(self.images.labels[index])
        where = f"image {index + 1} of {self.images.source}: {named(label, self.classes)}"
        return Chosen(self.images.images(slice(index, index + 1)), label, where)

    def pick(self, event: gr.SelectData, *values: Any) -> tuple[Any, ...]:
        """A click on a thumbnail."""
        return self._take(lambda: self.example(int(event.index)), *values)  # type: ignore[arg-type]

    def upload(self, file: str, *values: Any) -> tuple[Any, ...]:
        """A file that came in. It is read and removed; only the model's small copy of it is kept."""
        path, shape = Path(file), self.model.image_shape or ()

        def open_image() -> Chosen:
            data = path.read_bytes()
            path.unlink(missing_ok=True)
            return Chosen(uploaded(data, path.name, shape), None, path.name)

        return self._take(open_image, *values)

    def begin(self, request: gr.Request) -> tuple[Any, ...]:
        """Buttons at the start of a run: what is running can be stopped, and not begun."""
        self.runs[request.session_hash] = Event()
        return gr.Button(interactive=False), gr.Button(interactive=True)

    def end(self) -> tuple[Any, ...]:
        """Buttons after it."""
        return gr.Button(interactive=True), gr.Button(interactive=False)

    def stop(self, request: gr.Request) -> None:
        """The stop button, and a tab that is closed."""
        if request.session_hash in self.runs:
            self.runs[request.session_hash].set()

    def first(self, chosen: Chosen | None, *values: Any) -> tuple[Any, ...]:
        """(status, result) of an image that was just chosen, under the same settings without the attack."""
        return self._look(chosen, OWN, ("none", *values[1:]), Watch())

    def attack(self, request: gr.Request, progress: Any = gr.Progress(), *given: Any) -> tuple[Any, ...]:  # noqa: B008
        """The attack button: (status, result). given: the image, its label, the settings."""
        chosen, label, *values = given
        run = self.runs.get(request.session_hash) or Event()
        watch = Watch(lambda done, total: progress((done, total), desc=values[0], unit="passes"), run.is_set)
        try:
            return self._look(chosen, label, values, watch)
        finally:
            self.runs.pop(request.session_hash, None)

    def picture(self, chosen: Chosen | None) -> str:
        if chosen is None:
            return '<div class="chosen">Upload an image to begin with.</div>'
        return f'<div class="chosen">{figure(chosen.x[0], chosen.name, "the image that was chosen")}</div>'

    def _take(self, open_image: Callable[[], Chosen], *values: Any) -> tuple[Any, ...]:
        """(image, its picture, label, status, result) of another image."""
        try:
            chosen = open_image()
        except Exception as error:
            return *(gr.skip(),) * 3, failure(error), gr.skip()
        return chosen, self.picture(chosen), OWN, *self.first(chosen, *values)

    def _look(self, chosen: Chosen | None, label: int, values: Sequence[Any], watch: Watch) -> tuple[Any, Any]:
        """Status and result of a look. Where it fails the last result stays: a page goes on after what would end a
        command."""
        try:
            if chosen is None:
                raise ValueError("no image; choose or upload one.")
            given = dict(zip(CONTROLS, values))
            if isinstance(given["eps"], str):
                given["eps"] = parsed(given["eps"].strip())
            x = chosen.x.to(next(self.model.parameters()))
            seen = look(self.model, x, chosen.label if label == OWN else label, Settings(**given), watch)
        except Exception as error:
            return failure(error), gr.skip()
        return status(outcome(seen, self.classes)), result(seen, self.classes)


def failure(error: Exception) -> str:
    """A stop, a mistake, or whatever failed, as a line of the page."""
    if isinstance(error, Stopped):
        return status("Stopped. What is shown is what was there before.")
    said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {first_line(error)}"
    return status(said, mistake=True)


def status(text: str, mistake: bool = False) -> str:
    """A line of the page."""
    return f'<p role="status"{" class=mistake" * mistake}>{escape(printable(text))}</p>'
