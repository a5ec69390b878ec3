"""How the page looks, in light and dark; the colours of curves are those of Okabe and Ito, which the colour-blind tell
apart. Fonts are the system's, so that none is fetched."""

from __future__ import annotations

from typing import Any


def theme(gradio: Any) -> Any:
    """gradio's plainest theme, with notes that are dark enough to be read."""
    base = gradio.themes.Base(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return base.set(
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_400",
    )  # fmt: skip


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
