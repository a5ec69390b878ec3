"""L2 radii around images in which the prediction cannot change: by sampling, or by a proven slope."""

from __future__ import annotations

import copy
import functools
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

from ..attacks import L2, predictions
from ..checks import Count, Number, Seed
from ..defences.smoothing import SmoothedClassifier, ballots
from ..distributed import SINGLE, Distributed
from ..files import held
from ..models.modes import evaluating
from ..models.structure import Structure, structure
from ..options import check_arguments, checked, choose
from ..progress import Progress
from ..seeds import generator
from .certificate import Certificate, Certification, CertifiedBatch, CertifiedIdentity
from .identity import FIRST, identity_of
from .images import ARGUMENTS, Points, loaded, points_of
from .recordfile import RecordFile
from .run import spending

CHOOSE, COUNT = 0, 1
"""What noise is drawn for."""
INWARD = 1 - 1e-9
"""Times a radius that was computed in float64: more than its rounding errors, which are some 1e-15 an operation."""


class Certified(NamedTuple):
    """Of one image. prediction: -1 for none. radius: 0 where the prediction is wrong or nothing is certified. votes, of
    draws: for the prediction; 0 of 0 where none were needed."""

    prediction: int
    radius: float
    votes: int = 0
    draws: int = 0


@checked
@dataclass(frozen=True)
class Sampled:
    """CERTIFY of Cohen, Rosenfeld, Kolter 2019 (arXiv 1902.02918): the class that most of ``n0`` noisy copies are given
    is counted among ``n`` others; p, the lower end of Clopper and Pearson's interval at ``alpha``, gives the radius
    sigma Phi^-1(p) where p > 1/2, which is wrong with a probability of at most alpha; else it abstains, radius 0.

    Counting ends early only where it can change nothing: the class chosen is wrong, so that the radius is 0, or p could
    not pass 1/2 if all the copies left voted for it. Whatever is not 0 has been counted on all n copies, so that alpha
    is spent once. together: copies in one forward of the model; logits are rounded otherwise in other numbers.
    """

    name: ClassVar[str] = "smoothing"
    smoothed: SmoothedClassifier
    n0: Count = 100
    n: Count = 10_000
    alpha: Annotated[float, Number(0, 1, low_open=True, high_open=True)] = 0.001
    seed: Seed = 0
    together: Count = 1000

    def __post_init__(self) -> None:
        if least(self.n, self.alpha) > self.n:
            enough = next(n for n in range(self.n, 10**9) if least(n, self.alpha) <= n)
            given = f"n={self.n} with alpha={self.alpha:g}, which certifies nothing even if all votes agree"
            raise ValueError(f"certify: {given}; allowed: n >= {enough}.")

    @property
    def options(self) -> dict[str, Any]:
        """What tells it from another of its kind; JSON."""
        of_noise = {name: getattr(self.smoothed.method, name) for name in ("sigma", "clip")}
        return of_noise | {name: getattr(self, name) for name in ("n0", "n", "alpha", "seed", "together")}

    def rows(self, x: Tensor, y: Tensor, indices: Tensor) -> Iterator[Certified]:
        """Of each image x (B, C, H, W) in [0, 1], of label y (B,) int64; indices: (B,) their numbers in their set."""
        for image, label, index in zip(x, y.tolist(), indices.tolist()):
            counts = torch.stack([*self._votes(image, self.n0, index, CHOOSE)]).sum(0)
            prediction = int(counts.argmax()) if counts.any() else -1
            if prediction != label:
                yield Certified(prediction, 0.0)
                continue
            # Counted on other noise than the class was chosen by: a lead that was chance must not count twice.
            votes = draws = 0
            for counted in self._votes(image, self.n, index, COUNT):
                votes += int(counted[prediction])
                draws = min(draws + self.together, self.n)
                if votes + self.n - draws < least(self.n, self.alpha):
                    break
            yield Certified(prediction, radius(votes, self.n, self.alpha, self.smoothed.method.sigma), votes, draws)

    def _votes(self, image: Tensor, count: int, index: int, purpose: int) -> Iterator[Tensor]:
        """Of ``count`` noisy copies of an image (C, H, W): votes (K,), some copies at a time. Noise is drawn on the CPU
        and in float32, so that it is the same on every device."""
        stream = generator(self.seed, index, purpose)
        for first in range(0, count, self.together):
            shape = (min(self.together, count - first), *image.shape)
            noise = torch.randn(shape, generator=stream, dtype=torch.float32, device="cpu").to(image)
            yield ballots(self.smoothed.respond(image + self.smoothed.method.sigma * noise)).sum(0)


@functools.cache
def least(n: int, alpha: float) -> int:
    """The fewest votes of n of which Clopper and Pearson's lower end at alpha lies above 1/2; n + 1 where none do."""
    return bisect_left(range(n + 1), True, n // 2 + 1, key=lambda votes: lower(votes, n, alpha) > 0.5)


def lower(votes: int, n: int, alpha: float) -> float:
    """The lower end of Clopper and Pearson's one-sided interval: a larger probability would give at least so many votes
    of n with a probability of at least alpha (``binomtest(...).proportion_ci(1 - 2 alpha, "exact").low``)."""
    return float(beta.ppf(alpha, votes, n - votes + 1)) if votes else 0.0


def radius(votes: int, n: int, alpha: float, sigma: float) -> float:
    """sigma Phi^-1(p) of the lower end p, 0 where p <= 1/2."""
    return max(0.0, sigma * float(norm.ppf(lower(votes, n, alpha)))) * INWARD


class Bounded:
    """The margin to the nearest other class over the slope that bounds it: min over j of (z_y - z_j) / L_yj.

    model: has ``slopes()``, (K, K) float64: proven upper bounds L_ij of the Lipschitz constant (L2) of z_i - z_j over
    images. Logits are those of a copy in float64, and the deployed forward has to agree on the class: the bound is of
    the map in exact arithmetic.
    """

    name: ClassVar[str] = "lipschitz"

    def __init__(self, model: nn.Module) -> None:
        slopes = model.slopes()  # type: ignore[operator]
        fitting = isinstance(slopes, Tensor) and slopes.dim() == 2 and slopes.shape[0] == slopes.shape[1]
        if not fitting or slopes.dtype != torch.float64 or not (slopes >= 0).all():
            wanted = "a float64 tensor (K, K) of numbers >= 0"
            raise ValueError(f"certify: slopes() of {type(model).__name__} gives {slopes!r:.60}; allowed: {wanted}.")
        tally = getattr(model, "tally", None)  # what the copy spends is counted as well
        self.model, self.slopes = model, slopes
        self.exact = copy.deepcopy(model, {} if tally is None else {id(tally): tally}).double().eval()

    @property
    def options(self) -> dict[str, Any]:
        return {"largest slope": float(self.slopes.max())}

    def rows(self, x: Tensor, y: Tensor, indices: Tensor) -> Iterator[Certified]:
        with evaluating(self.model):
            predicted = predictions(self.model(x))
        logits = self.exact(x.double())
        margins = logits.gather(1, y[:, None]) - logits
        # A slope of 0: the margin is constant, so the radius is without end (1e30, since JSON has no infinity) or 0.
        radii = margins / self.slopes.to(x.device)[y].clamp_min(torch.finfo(torch.float64).tiny)
        radii = radii.scatter(1, y[:, None], torch.inf).amin(1).nan_to_num(0, 1e30).clamp(0, 1e30) * INWARD
        for prediction, label, at in zip(predicted.tolist(), y.tolist(), radii.tolist()):
            yield Certified(prediction, at if prediction == label else 0.0)


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
    n0, n, alpha: of smoothing alone: noisy copies that choose a class and that are counted, and the probability with
    which a radius may be wrong. norm: ``L2``, the only one. batch_size: images between two writes of certificate.json;
    no radius depends on it, on the order of the images in a batch, or on how many processes share the batches. seed: of
    the noise, which for an image follows from this and its number in x. together: noisy copies in one forward.
    out, resume, samples, distributed, progress: see ``evaluate``. Raises a ValueError for what does not fit.
    """
    check_arguments("certify", locals(), ARGUMENTS)
    choose("norm of a certificate", norm, {"L2": L2})
    points, kind = points_of("certify", x, y), structure(model)
    method = _method(kind, n0=n0, n=n, alpha=alpha, seed=seed, together=together)
    first = loaded(points, slice(min(FIRST, batch_size)), kind.deployed)
    identity = identity_of("certify", kind, points, first, L2(0.0), seed=seed, batch_size=batch_size)
    fresh = Certification(
        identity=CertifiedIdentity(**vars(identity), method={"name": method.name, **method.options}), batches={},
        samples=samples or f"the first {len(points)} of the given images",
    )  # fmt: skip
    folder = None if out is None else Path(out)
    with held(folder or Path(), folder is not None and distributed.main):
        file = RecordFile(folder, fresh, resume, distributed, first[0].device)
        for rows in file.mine(len(points)):
            if rows.start not in file.record.batches:
                images, labels = loaded(points, rows, kind.deployed)
                with spending(kind.tally) as spent:
                    of_images = method.rows(images, labels, torch.arange(rows.start, rows.stop))
                    predictions, radii, votes, draws = map(list, zip(*of_images))
                file.record.batches[rows.start] = CertifiedBatch(
                    labels=labels.tolist(), predictions=predictions, radii=radii, votes=votes, draws=draws,
                    environment=file.environment, **vars(spent),
                )  # fmt: skip
                file.save()
            if progress is not None:
                progress(rows.stop, len(points), "certified")
        file.gather()
    return Certificate(file.record, file.folder)


def _method(kind: Structure, **options: Any) -> Sampled | Bounded:
    if isinstance(kind.deployed, SmoothedClassifier):
        return Sampled(kind.deployed, **options)
    if callable(getattr(kind.deployed, "slopes", None)):
        fields = Sampled.__dataclass_fields__
        if idle := [f"{n}={value}" for n, value in options.items() if n != "seed" and value != fields[n].default]:
            given = f"{', '.join(idle)} of a {type(kind.deployed).__name__}, which is certified without noise"
            raise ValueError(f"certify: {given}; allowed: of Smoothing(sigma)(model) alone.")
        return Bounded(kind.deployed)
    raise ValueError(
        f"certify: a {type(kind.deployed).__name__}, which knows no bound of its slope; allowed: "
        "Smoothing(sigma)(model), or a model with slopes() such as mondeq-small."
    )
