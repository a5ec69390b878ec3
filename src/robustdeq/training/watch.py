"""Watching a run: PGD on held-out images with two gradients, and what should worry a reader."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..attacks import PGD, Threat, ThroughGradient, predictions
from ..data import ImageSet
from ..distributed import Distributed
from ..models.modes import evaluating
from ..models.structure import structure
from ..seeds import mix

BATCH = 250
APART = 0.05
"""Robust accuracies under two gradients that differ by more are a sign of masking."""


def judge(
    model: nn.Module, images: ImageSet, threat: Threat, steps: int, seed: int, distributed: Distributed
) -> dict[str, float]:
    """Shares of held-out images: clean, and robust under PGD with each gradient; ``robust`` is the smallest of these.
    Several processes share the images and find the numbers of one."""
    names = ("unrolled", "phantom") if structure(model).states else ()
    views = {name: ThroughGradient(model, name) for name in names} or {"exact": model}
    counts = dict.fromkeys(("clean", *views), 0)
    total = len(images)
    size = min(BATCH, -(-total // distributed.world_size))  # every process has a batch
    attack = PGD(threat, threat.eps / 4, steps, seed=mix(seed) % 2**31)
    for start in distributed.share(range(0, total, size)):
        rows = slice(start, min(start + size, total))
        x, y = images.images(rows), images.labels[rows]
        right = _correct(model, x, y)
        counts["clean"] += int(right.sum())
        for name, view in views.items() if right.any() else ():
            indices = torch.arange(rows.start, rows.stop)[right.cpu()]
            x_adv = attack(view, x[right], y[right], indices=indices)
            counts[name] += int(_correct(model, x_adv, y[right]).sum())
    sums = distributed.all_reduce(torch.tensor(list(counts.values()))).tolist()
    shares = {name: count / total for name, count in zip(counts, sums)}
    return {**shares, "robust": min(shares[name] for name in views)}


def warnings(history: list[dict[str, Any]]) -> list[str]:
    """What the last epoch's row gives cause to say. Rows without a validation are passed over."""
    rows = [row for row in history if "validation" in row]
    if not rows or rows[-1] is not history[-1]:
        return []
    texts, last = [], rows[-1]["validation"]
    if "phantom" in last and abs(last["unrolled"] - last["phantom"]) > APART:
        texts.append(
            f"robust accuracy is {100 * last['unrolled']:.1f}% under the unrolled and {100 * last['phantom']:.1f}% "
            "under the phantom gradient: one of them is masked"
        )
    if len(rows) > 1:
        before = max(rows[:-1], key=lambda row: row["validation"]["robust"])
        rises = rows[-1]["accuracy_adv"] > before["accuracy_adv"] + 0.01
        if rises and last["robust"] < before["validation"]["robust"] - APART:
            texts.append("robust accuracy rises in training and falls on held-out images: catastrophic overfitting")
    return texts


def summary(history: list[dict[str, Any]]) -> str:
    """How a run went, in a few lines: time, speed, the last epoch, the best on held-out images, warnings."""
    last, seconds = history[-1], sum(row["seconds"] for row in history)
    images = sum(row["seconds"] * row["images_per_second"] for row in history)
    lines = [
        f"{len(history)} epochs, {images:,.0f} images, {seconds / 60:.1f} minutes of updates "
        f"({images / seconds:.0f} images/s), at most {last['memory_gib']:.1f} GiB",
        f"last epoch: loss {last['loss']:.3f}, training images {100 * last['accuracy_clean']:.1f}% clean and "
        f"{100 * last['accuracy_adv']:.1f}% attacked, {last['evaluations_per_image']:.0f} evaluations of f an image"
        + (f", residual {last['residual']:.3g}" if "residual" in last else ""),
    ]
    judged = [(row["epoch"], row[kind]) for row in history for kind in ("validation", "validation_ema") if kind in row]
    if judged:
        epoch, best = max(judged, key=lambda row: row[1]["robust"])
        shares = ", ".join(f"{name} {100 * share:.1f}%" for name, share in best.items() if name != "robust")
        lines.append(f"best on held-out images: robust {100 * best['robust']:.1f}% after epoch {epoch} ({shares})")
    return "\n".join([*lines, *(f"warning: {text}" for text in last["warnings"])])


@torch.no_grad()
def _correct(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with evaluating(model):
        return predictions(model(x)) == y
