"""What attacks by gradients share: where a sample's run starts, what it is after, and the slope there.

attack: the attack itself, of which ``loss`` and ``targets`` are looked at, and whose name stands in messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_labels
from ..seeds import generator
from .door import logits_of
from .losses import LOSSES, Goal
from .views import summands


def numbered(
    x: Tensor, seed: int, restart: int, indices: Tensor | None, draw: Callable[..., Tensor] = torch.rand
) -> Tensor:
    """Random numbers of the images' shape. Those of a sample depend on seed, restart and its number alone; without
    numbers, on its place in the batch. Drawn on the CPU and in float32: the same on every device and for any default.
    """
    kind: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    if indices is None:
        return draw(x.shape, generator=generator(seed, restart, 0), **kind).to(x)
    streams = [generator(seed, restart, 1 + index) for index in indices.tolist()]
    return torch.stack([draw(x.shape[1:], generator=stream, **kind) for stream in streams]).to(x)


def goals(attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> list[Goal]:
    """One goal, or one for each target. The logits of the image are computed once an attack."""
    if attack.loss not in ("kl", "dlr-targeted", "ce-targeted"):
        return [Goal(y)]
    with torch.no_grad():
        logits = logits_of(attack, model, x)
    classes = logits.shape[1]
    check_labels(x, y, classes)
    if attack.loss == "kl":
        return [Goal(y, clean=logits.log_softmax(1))]
    if attack.loss == "dlr-targeted" and classes < 4:
        given, allowed = f"loss='dlr-targeted' on {classes} classes", "at least 4, or loss='ce-targeted'"
        raise ValueError(f"{type(attack).__name__}: {given}; allowed: {allowed}.")
    wrong = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)
    return [Goal(y, target=wrong[:, rank]) for rank in range(min(attack.targets, classes - 1))]


def slope_of(
    attack: Any, model: nn.Module, x_adv: Tensor, goal: Goal, first: bool, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, losses, and d loss / d x_adv (zeros when not wanted; zero where it is not finite). Of several views the
    first one's logits, and the sums. first: look at the labels, which costs a synchronisation."""
    logits, losses, slopes = [], [], []
    for view in summands(model):
        at = x_adv.detach().requires_grad_(wanted)
        with torch.set_grad_enabled(wanted):
            seen = logits_of(attack, view, at)
            if first:
                check_labels(x_adv, goal.y, seen.shape[1])
            loss = LOSSES[attack.loss](seen, goal)
            slope = torch.autograd.grad(loss.sum(), at)[0] if wanted else torch.zeros_like(at)
        logits.append(seen.detach())
        losses.append(loss.detach().to(x_adv.dtype))  # in autocast the logits may be of another
        slopes.append(slope.nan_to_num(0, 0, 0))
    return logits[0], torch.stack(losses).sum(0), torch.stack(slopes).sum(0)
