"""What a training says of itself in words: as it begins, while it goes, after each judgement, and at its end.

history: a dict an epoch, as ``Trainer`` writes them; those in which held-out images were judged have the shares of
``watch.judge`` by the names in ``JUDGED``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config import TrainConfig
from .step import Sums
from .watch import COMPARED

JUDGED = ("validation", "validation_ema")
"""The weights themselves, and their moving average."""
APART = 0.05
"""Robust accuracies under two gradients that differ by more are a sign of masking."""


def beginning(config: TrainConfig, images: int, step: int, total: int, units: float | None, log: Path) -> str:
    """A run that begins, or goes on behind step ``step`` of ``total``. units: f-units to go, None where unknown."""
    per_epoch = total // config.epochs
    text = f"{images:,} images, {config.epochs:,} epochs, {total:,} steps of {config.batch_size:,} images"
    if step:
        epoch = min(step // per_epoch + 1, config.epochs)
        text += f"; {step:,} steps are done, it goes on in epoch {epoch:,}" if step < total else "; all are done"
    if step < total:
        about = "" if units is None else f"about {float(f'{units:.2g}'):,.0f} f-units"
        text += f"; {about or 'its f-units are not known beforehand'}"
    return f"{text}; log in {log}"


def pace(config: TrainConfig, epoch: int, count: int, sums: Sums, history: list[dict[str, Any]]) -> str:
    """How an epoch goes. sums: over its ``count`` steps so far. Accuracies: of its attacked images; and the last known
    of training images as they are, and of held-out images under attack."""
    text = f"epoch {epoch + 1}/{config.epochs}  loss {sums.loss / count:.3f}  "
    text += f"{count * config.batch_size / sums.seconds:.0f} images/s"
    if config.phase(epoch).attack_steps:
        text += f"  attacked {100 * sums.accuracy_adv / count:.1f}%"
    if history:
        text += f"  clean {100 * history[-1]['accuracy_clean']:.1f}%"
    judged = [row["validation"]["robust"] for row in history if "validation" in row]
    return text + (f"  held-out robust {100 * judged[-1]:.1f}%" if judged else "")


def judgement(row: Mapping[str, Any]) -> str:
    """What the watch found on held-out images, of an epoch's row of the history that has it."""
    texts = []
    for kind, name in zip(JUDGED, ("held-out images", "with averaged weights")):
        shares = [f"{share} {100 * value:.1f}%" for share, value in reversed(row.get(kind, {}).items())]
        texts += [f"{name} {', '.join(shares)}"] if shares else []
    best = f"best robust so far {100 * row['best']:.1f}%"
    return f"epoch {row['epoch']}: " + "; ".join([*texts, best, *(f"warning: {text}" for text in row["warnings"])])


def warnings(history: list[dict[str, Any]]) -> list[str]:
    """What the last epoch's row gives cause to say. Rows without a validation are passed over."""
    texts, row = [], history[-1]
    for kind, whose in zip(JUDGED, ("", " of the averaged weights")):
        if kind not in row:
            continue
        last = row[kind]
        if "phantom" in last and abs(last["unrolled"] - last["phantom"]) > APART:
            unrolled, phantom = (f"{100 * last[gradient]:.1f}% under the {gradient}" for gradient in COMPARED)
            texts.append(f"robust accuracy{whose} is {unrolled} and {phantom} gradient: one of them is masked")
        best = max((row for row in history if kind in row), key=lambda row: row[kind]["robust"])
        now, before = (of.get("accuracy_adv") for of in (row, best))  # none of an epoch that attacked nothing
        rises = now is not None and before is not None and now > before + 0.01
        if rises and last["robust"] < best[kind]["robust"] - APART:
            texts.append(
                f"robust accuracy{whose} rises in training and falls on held-out images: catastrophic overfitting"
            )
    return texts


def summary(history: list[dict[str, Any]]) -> str:
    """How a run went, in a few lines: time, speed, the last epoch, the best on held-out images, warnings."""
    last, seconds = history[-1], sum(row["seconds"] for row in history)
    attacked = f" and {100 * last['accuracy_adv']:.1f}% attacked" if "accuracy_adv" in last else ""
    images = sum(row["seconds"] * row["images_per_second"] for row in history)
    lines = [
        f"{len(history)} epochs, {images:,.0f} images, {seconds / 60:.1f} minutes of updates "
        f"({images / seconds:.0f} images/s), at most {last['memory_gib']:.1f} GiB",
        f"last epoch: loss {last['loss']:.3f}, training images {100 * last['accuracy_clean']:.1f}% clean{attacked}, "
        f"{last['evaluations_per_image']:.0f} evaluations of f an image"
        + (f", residual {last['residual']:.3g}" if "residual" in last else ""),
    ]
    judged = [(row["epoch"], row[kind]) for row in history for kind in JUDGED if kind in row]
    if judged:
        kept = [(row["epoch"], row[row["kept"]]) for row in history if "kept" in row]  # none in an older log
        epoch, best = kept[-1] if kept else max(judged, key=lambda row: row[1]["robust"])
        shares = ", ".join(f"{name} {100 * share:.1f}%" for name, share in best.items() if name != "robust")
        lines.append(f"best on held-out images: robust {100 * best['robust']:.1f}% after epoch {epoch} ({shares})")
    return "\n".join([*lines, *(f"warning: {text}" for text in last["warnings"])])
