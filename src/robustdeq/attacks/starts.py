"""What attacks by gradients share: where a sample's run starts, what it is after, the slope there, who has fallen.

attack: the attack itself, of which ``threat``, ``loss``, ``targets`` and ``order`` are looked at, and whose name stands
in messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_labels
from ..seeds import generator
from .door import logits_of
from .losses import LOSSES, Goal, predictions
from .threat import Threat
from .views import judge, summands

ORDERS = {"likeliest": "by their logits", "nearest": "by their linearised distance, which costs a backward pass each"}
"""In which a targeted loss aims at the wrong classes."""
CANDIDATES = 100


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


def check_order(attack: Any) -> None:
    """A ValueError for an order of targets where the loss has none: a plain attack is not to pass for another one."""
    if attack.order != "likeliest" and not attack.loss.endswith("targeted"):
        given = f"{type(attack).__name__}: order={attack.order!r} with loss={attack.loss!r}, which aims at no class"
        raise ValueError(f"{given}; allowed: 'likeliest', or a targeted loss.")


def goals(attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> list[Goal]:
    """One goal, or one for each target. The logits of the image are computed once an attack."""
    if attack.loss != "kl" and not attack.loss.endswith("targeted"):
        return [Goal(y)]
    near = attack.loss != "kl" and attack.order == "nearest"
    at = x.detach().requires_grad_(near)
    with torch.set_grad_enabled(near):
        logits = logits_of(attack, model, at)
    classes = logits.shape[1]
    check_labels(x, y, classes)
    if attack.loss == "kl":
        return [Goal(y, clean=logits.log_softmax(1))]
    if attack.loss == "dlr-targeted" and classes < 4:
        given, allowed = f"loss='dlr-targeted' on {classes} classes", "at least 4, or loss='ce-targeted'"
        raise ValueError(f"{type(attack).__name__}: {given}; allowed: {allowed}.")
    wrong = logits.detach().scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)[:, : classes - 1]
    if near:
        wrong = nearest(attack.threat, logits, at, y, wrong)
    return [Goal(y, target=target) for target in wrong[:, : attack.targets].T]


def nearest(threat: Threat, logits: Tensor, x: Tensor, y: Tensor, wrong: Tensor) -> Tensor:
    """The first ``CANDIDATES`` of the wrong classes (B, K - 1) in the order of their linearised distance, (z_y - z_j)
    over the dual norm of its gradient at the image (MALT, Melamed et al. 2024, arXiv 2407.02240)."""
    wrong, distances = wrong[:, :CANDIDATES], []
    for target in wrong.T:
        margin = (logits.gather(1, y[:, None]) - logits.gather(1, target[:, None])).squeeze(1)
        slope = torch.autograd.grad(margin.sum(), x, retain_graph=True)[0]
        distances.append(margin.detach() / threat.dual(slope).clamp_min(1e-30))
    return wrong.gather(1, torch.stack(distances, dim=1).nan_to_num(torch.inf).argsort(dim=1))


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


def fallen(attack: Any, model: nn.Module, x_adv: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """Which samples are misclassified as they are deployed, (B,) bool. logits: what ``slope_of`` has seen of x_adv."""
    if judge(model) is not summands(model)[0]:  # whose logits they are
        with torch.no_grad():
            logits = logits_of(attack, judge(model), x_adv)
    return predictions(logits) != y
