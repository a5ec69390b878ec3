"""Adversarial images as a file, for whoever wants to look at them or use them elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..attacks import predictions
from ..files import write_bytes
from ..models.classifier import check_range
from ..models.modes import evaluating
from .suite import Attack


def attack_images(view: nn.Module, attack: Attack, model: nn.Module, x: Tensor, y: Tensor, out: Path, batch_size: int,
                  progress: Callable[[int, int, str], None] | None = None) -> tuple[Path, int, int]:  # fmt: skip
    """Attack x through ``view``, verify with ``model``, and write out/images.safetensors.

    It holds images and adversarial (N, C, H, W), labels and predictions (N,). Returns the file, and how many samples
    are correct before and after. A sample that is wrong from the start is left as it is.
    """
    check_range(x)
    found, predicted = [], []
    right = 0
    for start in range(0, len(x), batch_size):
        rows = slice(start, min(start + batch_size, len(x)))
        x_adv = x[rows].clone()
        with torch.no_grad(), evaluating(model):
            correct = predictions(model(x_adv)) == y[rows]
        if correct.any():
            indices = torch.arange(rows.start, rows.stop, device=x.device)[correct]
            x_adv[correct] = attack(view, x_adv[correct], y[rows][correct], indices=indices)
        with torch.no_grad(), evaluating(model):
            predicted.append(predictions(model(x_adv)))
        found.append(x_adv)
        right += int(correct.sum())
        if progress is not None:
            progress(rows.stop, len(x), "PGD")
    predicted_all = torch.cat(predicted)
    tensors = {"images": x, "adversarial": torch.cat(found), "labels": y, "predictions": predicted_all}
    out.mkdir(parents=True, exist_ok=True)
    file = out / "images.safetensors"
    write_bytes(file, save({key: value.cpu().contiguous() for key, value in tensors.items()}))
    return file, right, int((predicted_all == y).sum())
