"""What a certification says: its record, the radii, a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import Distance, check_folder, check_number
from ..options import checked, convert
from ..text import markdown, printable, table
from .identity import Identity
from .recordfile import Resumable, Spent, per_sample
from .share import Share

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""L2, at which certified accuracy is told unless others are asked for."""
CERTIFICATE = "certificate.json"


@checked
@dataclass(kw_only=True)
class CertifiedIdentity(Identity):
    """method: its name and options. norm: of the radii; eps: 0, since radii are found and not given."""

    method: dict[str, Any]


@checked
@dataclass(kw_only=True)
class CertifiedBatch(Spent):
    """See ``radii.Certified``."""

    labels: list[int]
    predictions: list[int]
    radii: list[float]
    votes: list[int]
    draws: list[int]
    environment: str = ""

    def __post_init__(self) -> None:
        lengths = {len(column) for column in vars(self).values() if isinstance(column, list)}
        if len(lengths) > 1:
            raise ValueError(f"CertifiedBatch: lists of {sorted(lengths)} values; allowed: one a sample.")


@checked
@dataclass(kw_only=True)
class Certification(Resumable):
    """The record of a certification, in certificate.json. samples: how they were chosen, in words."""

    stem: ClassVar[str] = "certificate"
    verb: ClassVar[str] = "certify"
    version: ClassVar[int] = 1

    schema: int = version
    identity: CertifiedIdentity
    samples: str
    batches: dict[int, CertifiedBatch]
    environments: dict[str, object] = field(default_factory=dict)

    def stages(self) -> Iterator[dict[int, Any]]:
        yield self.batches

    def joined(self, newer: Certification) -> Certification:
        done = dict(sorted({**self.batches, **newer.batches}.items()))
        return replace(newer, batches=done, environments=self.environments | newer.environments)


@dataclass(frozen=True)
class Certificate:
    """L2 radii in which no image changes the prediction. record: everything, as in the file; folder: where it lies."""

    record: Certification = field(repr=False)
    folder: Path | None = None

    @classmethod
    def read(cls, folder: str | Path) -> Certificate:
        """The finished certification that a folder holds; a ValueError where there is none."""
        folder = check_folder("Certificate.read", folder)
        record, place = Certification.united(folder), printable(str(folder))
        if record is None:
            raise ValueError(f"{place} holds no {CERTIFICATE}; give the out= of a certification.")
        points, done = record.identity.points, sum(len(batch.radii) for batch in record.batches.values())
        if done < points:
            missing = f"{done} of {points} images are certified"
            raise ValueError(f"{place} is unfinished: {missing}; certify with the same out= to go on.")
        return cls(record, folder)

    @cached_property
    def radius(self) -> Tensor:
        """(N,) float64, L2 in pixels of [0, 1]; 0 where the prediction is wrong, or where nothing is certified."""
        return per_sample(self.record.batches, "radii", torch.float64)

    @cached_property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return per_sample(self.record.batches, "labels")

    @cached_property
    def predictions(self) -> Tensor:
        """(N,) int64, of the certified classifier, whether it abstained or not; -1 where it has none."""
        return per_sample(self.record.batches, "predictions")

    @cached_property
    def abstained(self) -> Tensor:
        """(N,) bool: the class is right, and nothing is certified."""
        return (self.predictions == self.labels) & (self.radius == 0)

    def certified(self, radius: float) -> Tensor:
        """(N,) bool: correct, and so is every image whose L2 distance is at most ``radius``."""
        check_number("certified", "radius", radius, 0)
        return self.radius > radius

    def shares(self, radii: Sequence[float] = RADII) -> dict[float, Share]:
        """Certified accuracy by radius, with exact 95% intervals."""
        radii = convert("shares", "radii", radii, Sequence[Distance])
        return {radius: Share.of(self.certified(radius)) for radius in radii}

    @property
    def method(self) -> dict[str, Any]:
        """``name``, and its options; JSON."""
        return self.record.identity.method

    def table(self, radii: Sequence[float] = RADII) -> str:
        """Markdown: certified accuracy by radius in percent with exact 95% intervals and counts; method, cost."""
        rows = [[f"{radius:g}", share.cells] for radius, share in self.shares(radii).items()]
        head = ["L2 radius", "certified percent", "95% interval", "samples"]
        return "\n".join([table(head, rows), "", *self.notes()])

    def notes(self) -> list[str]:
        """Sentences on method, samples, mean radius, abstentions, and cost."""
        options, count = self.method, len(self.radius)
        words = ", ".join(f"{name} {value:,}" for name, value in options.items() if name in ("n0", "n"))
        if options["name"] == "smoothing":
            clipped = "cut to [0, 1] after the noise" if options["clip"] else "not clipped after the noise"
            how = f"Randomised smoothing, sigma {options['sigma']:g}, pixels {clipped}; {words}. Each radius is wrong "
            how += f"with a probability of at most alpha = {options['alpha']:g}"
        else:
            how = f"A Lipschitz bound: no difference of two logits has a slope above {options['largest slope']:.4g}"
        wrong, certified = int((self.predictions != self.labels).sum()), self.radius > 0
        mean = float(self.radius[certified].mean()) if certified.any() else 0.0
        spent = Spent.together(self.record.batches.values())
        return [
            f"{how}. Samples: {markdown(self.record.samples)}.",
            f"Certified {int(certified.sum())} of {count}, abstained {int(self.abstained.sum())}, wrong {wrong}. "
            f"Mean radius {float(self.radius.mean()):.3f}, that of the certified {mean:.3f}.",
            f"Cost: {spent.evaluations / count:,.0f} evaluations of f and {spent.seconds / count:.3g} s an image.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """The record with the shares by radius; JSON."""
        shares = {f"{radius:g}": share.to_dict() for radius, share in self.shares().items()}
        return {**self.record.to_json(), "shares": shares, "abstained": int(self.abstained.sum())}
