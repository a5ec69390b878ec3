"""Watching a run: attacks on held-out images, the residual of training images, and memory."""

from __future__ import annotations

import resource
import sys

import torch
from torch import nn

from ..attacks import PGD, JointOptimisation, Threat, ThroughGradient
from ..attacks.losses import right
from ..data import ImageSet
from ..distributed import Distributed
from ..dynamics.trajectory import monitored
from ..models.modes import evaluating
from ..models.structure import structure
from ..seeds import mix

BATCH = 250
COMPARED = ("unrolled", "phantom")


def judge(
    model: nn.Module, images: ImageSet, threat: Threat, steps: int, seed: int, distributed: Distributed
) -> dict[str, float]:
    """Shares of held-out images: clean; what stands under PGD with each gradient; and ``robust``, what stands under all
    of them and, of a DEQ, under the joint attack, which is made on the rest. Several processes share the images and
    find the numbers of one."""
    names = COMPARED if structure(model).states else ()
    views = {name: ThroughGradient(model, name) for name in names} or {"exact": model}
    counts = dict.fromkeys(("clean", *views, "robust"), 0)
    total, seed = len(images), mix(seed) % 2**31
    size = min(BATCH, -(-total // distributed.world_size))  # every process has a batch
    pgd, joint = PGD(threat, threat.eps / 4, steps, seed=seed), JointOptimisation(threat, seed=seed)
    for start in distributed.share(range(0, total, size)):
        rows = slice(start, min(start + size, total))
        x, y, indices = images.images(rows), images.labels[rows], torch.arange(start, rows.stop)
        correct = right(model, x, y)
        stands = {name: _stand(model, pgd, view, x, y, indices, correct) for name, view in views.items()}
        left = torch.stack(list(stands.values())).all(0)
        stands |= {"clean": correct, "robust": _stand(model, joint, model, x, y, indices, left) if names else left}
        for name, rows_standing in stands.items():
            counts[name] += int(rows_standing.sum())
    sums = distributed.all_reduce(torch.tensor(list(counts.values()))).tolist()
    return {name: count / total for name, count in zip(counts, sums)}


@torch.no_grad()
def unattacked(model: nn.Module, images: ImageSet) -> dict[str, float]:
    """Clean accuracy on these images, and of a DEQ the median relative residual of z^[N], in eval mode."""
    deq = structure(model).deq
    with evaluating(model):
        if deq is None:
            logits, residual = model(images.images()), {}
        else:  # one step more: a residual is of the state that a step starts from
            moved = deq.trajectory(images.images(), steps=deq.steps + 1)
            logits = moved.logits(deq.steps)
            residual = {"residual": float(monitored(moved.residuals)[-1].median())}
    return {"accuracy_clean": float((logits.argmax(1) == images.labels).float().mean()), **residual}


def memory_gib(device: torch.device) -> float:
    """The most memory that was held so far: of a GPU by tensors; where the model is on none, by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _stand(
    model: nn.Module, attack: PGD | JointOptimisation, view: nn.Module, x: torch.Tensor, y: torch.Tensor,
    indices: torch.Tensor, at: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Which of the samples ``at``, (B,) bool, are classified correctly when they are attacked through the view."""
    stands = at.clone()
    if at.any():
        stands[at] = right(model, attack(view, x[at], y[at], indices=indices[at.cpu()]), y[at])
    return stands
