"""The page: what is to be chosen on the left, what is seen on the right. (This module needs gradio.)"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes import Base

from ..data import ImageSet
from ..data.pictures import picture
from ..gradients import GRADIENTS
from ..models import DEQClassifier
from .desk import CONTROLS, OWN, Desk
from .look import ATTACKS, SEEN

KEPT = 3600
"""Seconds after which what was uploaded is removed."""
THEME = Base(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]).set(
    body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400",
    block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_400",
)  # fmt: skip
"""gradio's plainest, with notes that are dark enough to be read, and fonts of the system, so that none is fetched."""
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def page(model: DEQClassifier, images: ImageSet | None = None, *, name: str = "a DEQ", eps: str = "8/255") -> gr.Blocks:
    """The page of a model, to be launched, or to stand inside a page of one's own.

    images: to choose from, of the model's image_shape; without them there are uploads alone. name: of the model, in the
    title. eps: the radius to begin with, as text.
    """
    desk, parts = Desk(model, images), {}
    first = None if images is None else desk.example(0)
    whole: dict[str, Any] = {"title": f"{name}: dynamics", "delete_cache": (KEPT, KEPT), "fill_width": True}
    with gr.Blocks(analytics_enabled=False, **whole) as blocks:
        gr.HTML(
            f"<h1>{escape(name)}</h1><p>The neural dynamics of a deep equilibrium model, z<sup>[1]</sup> … "
            f"z<sup>[{model.steps}]</sup>, under attack and behind a defence.</p>", elem_classes="title",
        )  # fmt: skip
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                if images is not None:
                    thumbnails = [picture(image).convert("RGB") for image in images.images()]
                    parts["gallery"] = gr.Gallery(
                        thumbnails, label="Images", show_label=False, columns=8, height=172, allow_preview=False,
                        object_fit="contain", buttons=[], elem_classes="thumbnails", elem_id="gallery", format="png",
                        interactive=False,
                    )  # fmt: skip
                parts["upload"] = gr.UploadButton("Upload an image", file_types=["image"], size="sm", elem_id="upload")
                parts["chosen"], parts["picture"] = gr.State(first), gr.HTML(desk.picture(first), elem_id="chosen")
                parts |= _controls(desk, eps)
            with gr.Column(scale=5, min_width=320):
                parts["status"] = gr.HTML(elem_classes="status", elem_id="status")
                parts["result"] = gr.HTML(elem_id="result")
        _wire(blocks, desk, parts)
    return blocks


def _controls(desk: Desk, eps: str) -> dict[str, Any]:
    """What is done to the image."""
    small: dict[str, Any] = {"min_width": 120}
    gradients = [n for n in GRADIENTS if n != "simultaneous" or desk.model.solver.estimates_inverse]
    labels = [("its own; of an upload the prediction", OWN), *((name, k) for k, name in enumerate(desk.classes))]
    parts: dict[str, Any] = {}
    with gr.Row():
        parts["attack"] = gr.Radio(list(ATTACKS), value="PGD", label="Attack", elem_id="attack-kind")
    with gr.Row():
        parts["eps"] = gr.Textbox(eps, label="eps, L-inf", info="0.1 or 8/255", max_length=40, elem_id="eps", **small)
        parts["gradient"] = gr.Dropdown(
            gradients, value="unrolled", label="Gradient", info="of the attack", elem_id="gradient", **small
        )
    parts["steps"] = gr.Slider(1, 200, value=20, step=1, label="Steps", elem_id="steps")
    parts["whole"] = gr.Checkbox(False, label="All steps, for the highest loss", elem_id="whole")
    parts["defended"] = gr.Checkbox(False, label="Defence: input entropy reduction", elem_id="defended")
    parts["sees"] = gr.Radio(
        [(f"{name}: {text}", name) for name, text in SEEN.items()], value="frozen", label="The attack knows",
        visible=False, elem_id="sees",
    )  # fmt: skip
    with gr.Row():
        parts["go"] = gr.Button("Attack", variant="primary", elem_id="go", **small)
        parts["stop"] = gr.Button("Stop", variant="stop", interactive=False, elem_id="stop", **small)
    with gr.Accordion("More", open=False):
        parts["label"] = gr.Dropdown(
            labels, value=OWN, label="Label", info="which the attack leads away from", elem_id="label"
        )
        parts["seed"] = gr.Number(0, label="Seed", info="of the attack's start", precision=0, minimum=0)
    return parts


def _wire(blocks: gr.Blocks, desk: Desk, parts: dict[str, Any]) -> None:
    """What happens on a click. One look at a time is taken; the next one waits."""
    controls = [parts[name] for name in CONTROLS]
    taken = [parts[name] for name in ("chosen", "picture", "label", "status", "result")]
    buttons, shown = [parts["go"], parts["stop"]], [parts["status"], parts["result"]]
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    slow: dict[str, Any] = {
        "api_visibility": "private", "concurrency_limit": 1, "concurrency_id": "look",
        "show_progress_on": parts["status"],
    }  # fmt: skip

    if "gallery" in parts:
        parts["gallery"].select(desk.pick, controls, taken, **slow)
        blocks.load(desk.first, [parts["chosen"], *controls], shown, **slow)
    parts["upload"].upload(desk.upload, [parts["upload"], *controls], taken, **slow)
    begun = parts["go"].click(desk.begin, None, buttons, queue=False, **quiet)
    ended = begun.then(desk.attack, [parts["chosen"], parts["label"], *controls], shown, **slow)
    ended.then(desk.end, None, buttons, **quiet)
    parts["stop"].click(desk.stop, None, None, queue=False, **quiet)
    blocks.unload(desk.stop)
    for name in ("attack", "defended", "sees"):
        parts[name].input(_possible, [parts["attack"], parts["defended"], parts["sees"]],
                          [parts["sees"], parts["gradient"], parts["whole"]], queue=False, **quiet)  # fmt: skip


def _possible(attack: str, defended: bool, sees: str) -> tuple[Any, ...]:
    """What the attack knows, its gradient, and whether it takes all steps, where there is something to choose."""
    sees = "static" if attack == "joint" else sees
    bare = attack in ("PGD", "APGD") and (not defended or sees == "static")
    gradient: dict[str, Any] = {} if bare else {"value": "unrolled"}
    knows = gr.Radio(visible=defended and attack != "none", value=sees, interactive=attack != "joint")
    way = gr.Dropdown(interactive=bare, visible=attack in ("PGD", "APGD"), **gradient)
    return knows, way, gr.Checkbox(visible=True) if attack == "PGD" else gr.Checkbox(False, visible=False)
