"""Certified accuracy: an L2 radius for every image, by randomised smoothing or by a Lipschitz bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import L2
from ..checks import Count, Seed
from ..defences import SmoothedClassifier
from ..distributed import SINGLE, Distributed
from ..files import held
from ..models.structure import Structure, structure
from ..options import choose, convert
from ..text import shown
from .certificate import Certificate, Certification, CertifiedBatch, CertifiedIdentity
from .identity import identity_of
from .images import Points, loaded, points_of
from .radii import Bounded, Method, Sampled
from .recordfile import RecordFile
from .run import Progress, spending

NORMS = {"L2": None}
"""Of the balls in which something is certified."""


@torch.no_grad()
def certify(
    model: nn.Module, x: Tensor | Points, y: Tensor | None = None, *, n0: int = 100, n: int = 10_000,
    alpha: float = 0.001, norm: str = "L2", batch_size: int = 10, seed: int = 0, together: int = 1000,
    out: str | Path | None = None, resume: bool = True, samples: str | None = None, distributed: Distributed = SINGLE,
    progress: Progress | None = None,
) -> Certificate:  # fmt: skip
    """For each image an L2 radius in which the prediction provably stays what it is, and right; 0 where it is wrong or
    nothing can be said.

    model: behind ``Smoothing(sigma)``, which is certified by sampling (see ``radii.Sampled``), or one that knows a
    bound of its own, with a method ``slopes()``, as ``mondeq-small`` has (see ``radii.Bounded``). Both are of the map
    that is deployed, N steps from zero.
    x: (N, C, H, W) in [0, 1], with y: (N,) int64; or an ``ImageSet`` or ``StreamedSet``.
    n0, n, alpha: of smoothing: noisy copies that choose a class and that are counted, and the probability with which a
    radius may be wrong. norm: ``L2``, the only one. batch_size: images between two writes of certificate.json; no
    radius depends on it, on the order of the images in a batch, or on how many processes share the batches. seed: of
    the noise, which for an image follows from this and its number in x. together: noisy copies in one forward.
    out, resume, samples, distributed, progress: see ``evaluate``. Raises a ValueError for what does not fit.
    """
    others = {"out": out, "samples": samples, "distributed": distributed, "progress": progress}
    _check_arguments(batch_size, seed, resume, norm, **others)
    points, kind = points_of(x, y), structure(model)
    method = _method(kind, n0=n0, n=n, alpha=alpha, seed=seed, together=together)
    first = loaded(points, slice(0, 1), kind.deployed)
    identity = identity_of("certify", kind, points, y, first, L2(0.0), seed=seed, batch_size=batch_size)
    told = {"name": method.name, **method.options}
    fresh = Certification(
        identity=CertifiedIdentity(**vars(identity), method=told), batches={},
        samples=samples or f"the first {len(points)} of the given images",
    )  # fmt: skip
    folder = None if out is None else Path(out)
    with held(folder or Path(), folder is not None and distributed.main):
        file = RecordFile(folder, fresh, resume, distributed)
        for rows in file.mine(len(points)):
            if rows.start not in file.record.batches:
                file.record.batches[rows.start] = _batch(method, kind, points, rows, file.environment)
                file.save()
            if progress is not None:
                progress(rows.stop, len(points), "certified")
        file.gather()
    return Certificate(file.record, file.folder)


def _check_arguments(batch_size: int, seed: int, resume: bool, norm: str, **others: Any) -> None:
    options: dict[str, Any] = {"batch_size": (batch_size, Count), "seed": (seed, Seed), "resume": (resume, bool)}
    for name, (value, hint) in options.items():
        convert("certify", name, value, hint)
    choose("norm of a certificate", norm, NORMS)
    out, samples, progress = others["out"], others["samples"], others["progress"]
    fitting = {
        "out": (isinstance(out, str | Path | None) and out != "", "a folder"),
        "samples": (isinstance(samples, str | None), "words"),
        "distributed": (hasattr(others["distributed"], "world_size"), "a Distributed"),
        "progress": (progress is None or callable(progress), "a function"),
    }
    for name, (fits, allowed) in fitting.items():
        if not fits:
            raise ValueError(f"certify: {name}={shown(others[name])}; allowed: {allowed}.")


def _method(kind: Structure, **options: Any) -> Method:
    if isinstance(kind.deployed, SmoothedClassifier):
        return Sampled(kind.deployed, **options)
    if callable(getattr(kind.deployed, "slopes", None)):
        return Bounded(kind.deployed)
    given = f"a {type(kind.deployed).__name__}, which knows no bound of its slope"
    wanted = "Smoothing(sigma)(model), or a model with slopes() such as mondeq-small"
    raise ValueError(f"certify: {given}; allowed: {wanted}.")


def _batch(method: Method, kind: Structure, points: Points, rows: slice, environment: str) -> CertifiedBatch:
    x, y = loaded(points, rows, kind.deployed)
    with spending(kind.tally) as spent:
        found = list(method.rows(x, y, torch.arange(rows.start, rows.stop)))
    return CertifiedBatch(
        labels=y.tolist(), predictions=[one.prediction for one in found], radii=[one.radius for one in found],
        votes=[one.votes for one in found], draws=[one.draws for one in found], environment=environment, **vars(spent),
    )  # fmt: skip
