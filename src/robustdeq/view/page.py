"""The page: what is to be chosen on the left, what is seen on the right. (This module needs gradio.)"""

from __future__ import annotations

from html import escape
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


def page(
    model: DEQClassifier, images: ImageSet | None = None, *, name: str = "a DEQ", eps: str = "8/255"
) -> gr.Blocks:  # fmt: skip
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
                parts["upload"] = gr.UploadButton(
                    "Upload an image", file_types=["image"], size="sm", elem_id="upload"
                )  # fmt: skip
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


THEME = Base(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]).set(
    body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400",
    block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_400",
)  # fmt: skip
"""gradio's plainest, with notes that are dark enough to be read, and fonts of the system, so that none is fetched."""
CSS = """
.gradio-container { width: 100% !important; max-width: 1320px !important; margin: auto !important;
  --clean: #0072b2; --attacked: #d55e00; --third: #009e73; --muted: #9aa0a6; }
.dark .gradio-container { --clean: #56b4e9; --attacked: #ff8a50; --third: #3ddbb0; --muted: #777d84; }
.thumbnails img, .chosen img, .look img { image-rendering: pixelated; }
.thumbnails .grid-container { grid-template-columns: repeat(8, minmax(0, 1fr)) !important; gap: 4px !important;
  grid-auto-rows: auto !important; padding-top: 0 !important; }
.thumbnails .thumbnail-item { width: 100% !important; height: auto !important; aspect-ratio: 1; border-radius: 3px; }
.title h1 { font-size: 1.35rem; margin: 0; overflow-wrap: anywhere; }
.title p { margin: 0.2rem 0 0; color: var(--body-text-color-subdued); }
.status { min-height: 3.4rem; position: sticky !important; top: 0; z-index: 3; overflow: visible !important;
  background: var(--body-background-fill); }
.status p { margin: 0; padding: 0.7rem 0.9rem; border-radius: 6px; background: var(--background-fill-secondary);
  border-left: 4px solid var(--clean); overflow-wrap: anywhere; }
.status p.mistake { border-left-color: var(--attacked); }
.chosen figure { display: flex; gap: 0.8rem; align-items: center; margin: 0; font-size: 0.85rem; }
.chosen img { width: 64px; height: 64px; object-fit: contain; flex: none; }
.chosen figcaption { overflow-wrap: anywhere; }
.look { display: flex; flex-direction: column; gap: 0.9rem; color: var(--body-text-color); }
.look h3 { margin: 0.4rem 0 -0.4rem; font-size: 0.95rem; font-weight: 600; }
.look .images { display: flex; flex-wrap: wrap; gap: 0.9rem; }
.look .images figure { margin: 0; width: 140px; }
.look .images img { width: 140px; height: 140px; object-fit: contain; display: block; margin: 0;
  outline: 1px solid var(--border-color-primary); }
.look figcaption { font-size: 0.8rem; padding-top: 0.25rem; overflow-wrap: anywhere; }
.look .scroll { overflow-x: auto; }
.look table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; width: 100%;
  border: none !important; margin: 0; }
.look th, .look td { text-align: right !important; padding: 0.3rem 0.6rem; font-weight: 400; white-space: nowrap;
  border: none !important; border-bottom: 1px solid var(--border-color-primary) !important; }
.look tr { border: none !important; background: none !important; }
.look th[scope=row] { text-align: left !important; }
.look th[scope=col] { color: var(--body-text-color-subdued); }
.look tr.wrong td:first-of-type { color: var(--attacked); font-weight: 600; }
.look .charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(280px, 100%), 1fr)); gap: 0.9rem;
  align-items: end; }
.look .chart { margin: 0; }
.look .chart figcaption { padding: 0 0 0.15rem; }
.look .chart svg { width: 100%; height: auto; display: block; font-size: 11px; }
.look .chart text { fill: var(--body-text-color-subdued); font-family: inherit; }
.look .grid { stroke: var(--border-color-primary); stroke-width: 1; }
.look .chart .keys { gap: 0.1rem 0.9rem; padding-top: 0.2rem; }
.look .keys { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; font-size: 0.8rem; }
.look .key { display: inline-flex; align-items: center; gap: 0.4rem; overflow-wrap: anywhere; }
.look .key svg { width: 26px; height: 8px; flex: none; }
.line polyline { fill: none; stroke: var(--colour); stroke-width: 2; stroke-linejoin: round; }
.line circle { fill: var(--colour); }
.line.clean, .line.label, .line.perturbation { --colour: var(--clean); }
.line.attacked, .line.rival, .line.total { --colour: var(--attacked); }
.line.accumulation { --colour: var(--third); }
.line.other { --colour: var(--muted); }
.line.other polyline { stroke-width: 1; }
.line.other circle { r: 1.4px; }
.line.defended polyline { stroke-dasharray: 5 4; }
@media (max-width: 640px) { .look .images figure, .look .images img { width: 104px; }
  .look .images img { height: 104px; } }
"""
"""In light and dark; the colours of curves are those of Okabe and Ito, which the colour-blind tell apart."""
