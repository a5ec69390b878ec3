"""Watching a run: attacks on held-out images, and what should worry a reader."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..attacks import PGD, JointOptimisation, Threat, ThroughGradient, predictions
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
    """Shares of held-out images: clean; what stands under PGD with each gradient; and ``robust``, what stands under all
    of them and, of a DEQ, under the joint attack, which is made on the rest. Several processes share the images and
    find the numbers of one."""
    names = ("unrolled", "phantom") if structure(model).states else ()
    views = {name: ThroughGradient(model, name) for name in names} or {"exact": model}
    counts = dict.fromkeys(("clean", *views, "robust"), 0)
    total, seed = len(images), mix(seed) % 2**31
    size = min(BATCH, -(-total // distributed.world_size))  # every process has a batch
    pgd, joint = PGD(threat, threat.eps / 4, steps, seed=seed), JointOptimisation(threat, seed=seed)
    for start in distributed.share(range(0, total, size)):
        rows = slice(start, min(start + size, total))
        x, y, indices = images.images(rows), images.labels[rows], torch.arange(start, rows.stop)
        right = _correct(model, x, y)
        found = {name: _stand(model, pgd, view, x, y, indices, right) for name, view in views.items()}
        left = torch.stack(list(found.values())).all(0)
        found |= {"clean": right, "robust": _stand(model, joint, model, x, y, indices, left) if names else left}
        for name, stands in found.items():
            counts[name] += int(stands.sum())
    sums = distributed.all_reduce(torch.tensor(list(counts.values()))).tolist()
    return {name: count / total for name, count in zip(counts, sums)}


def warnings(history: list[dict[str, Any]]) -> list[str]:
    """What the last epoch's row gives cause to say. Rows without a validation are passed over."""
    rows = [row for row in history if "validation" in row]
    if not rows or rows[-1] is not history[-1]:
        return []
    texts = []
    for kind, whose in {"validation": "", "validation_ema": " of the averaged weights"}.items():
        if (last := rows[-1].get(kind)) is None:
            continue
        if "phantom" in last and abs(last["unrolled"] - last["phantom"]) > APART:
            texts.append(
                f"robust accuracy{whose} is {100 * last['unrolled']:.1f}% under the unrolled and "
                f"{100 * last['phantom']:.1f}% under the phantom gradient: one of them is masked"
            )
        if len(rows) > 1:
            before = max(rows[:-1], key=lambda row: row[kind]["robust"])
            rises = rows[-1]["accuracy_adv"] > before["accuracy_adv"] + 0.01
            if rises and last["robust"] < before[kind]["robust"] - APART:
                texts.append(
                    f"robust accuracy{whose} rises in training and falls on held-out images: catastrophic overfitting"
                )
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


def _stand(
    model: nn.Module, attack: PGD | JointOptimisation, view: nn.Module, x: torch.Tensor, y: torch.Tensor,
    indices: torch.Tensor, at: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Which of the samples ``at``, (B,) bool, are classified correctly when they are attacked through the view."""
    stands = at.clone()
    if at.any():
        stands[at] = _correct(model, attack(view, x[at], y[at], indices=indices[at.cpu()]), y[at])
    return stands
