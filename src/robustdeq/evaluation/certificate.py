"""What a certification says: its record, the radii, a table; and attacks of the same size beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..attacks import L2
from ..checks import Distance, check_folder, check_number
from ..distributed import SINGLE, Distributed
from ..options import checked, convert
from ..progress import Progress
from ..text import markdown, printable
from .evaluate import evaluate
from .flags import Flag
from .identity import Identity
from .images import Points
from .record import RECORD
from .recordfile import Resumable, Spent, per_sample
from .result import Evaluation
from .share import Share

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""L2, at which certified accuracy is told unless others are asked for."""
CERTIFICATE = "certificate.json"
PLACE = "attacked-"
"""How the folder of an evaluation begins that lies in that of a certificate; its radius follows."""


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
        lines = ["| L2 radius | certified percent | 95% interval | samples |", "|---|---|---|---|"]
        lines += [f"| {radius:g} | {share.cells} |" for radius, share in self.shares(radii).items()]
        return "\n".join([*lines, "", *self.notes()])

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


@dataclass(frozen=True)
class Compared:
    """A certificate, and by radius the evaluations under L2 attacks of that size of the first samples it is of."""

    certificate: Certificate
    attacked: Mapping[float, Evaluation]

    @classmethod
    def read(cls, folder: str | Path) -> Compared:
        """The finished certification that a folder holds, and the finished evaluations beside it."""
        certificate = Certificate.read(folder)
        places = [place.parent for place in Path(folder).glob(f"{PLACE}*/{RECORD}")]
        attacked = {float(place.name.removeprefix(PLACE)): Evaluation.read(place) for place in places}
        return cls(certificate, dict(sorted(attacked.items())))

    @property
    def radii(self) -> tuple[float, ...]:
        """Those of ``RADII``, and those of the attacks."""
        return tuple(sorted({*RADII, *self.attacked}))

    @property
    def points(self) -> int:
        """How many samples every attack was made on, and are compared."""
        return min((len(evaluation.standing()) for evaluation in self.attacked.values()), default=0)

    def standing(self, radius: float) -> Tensor | None:
        """(points,) bool: correct, and standing after every attack of that size; None where none was made."""
        if radius == 0 and self.attacked:
            return next(iter(self.attacked.values())).clean[: self.points]
        evaluation = self.attacked.get(radius)
        return None if evaluation is None else evaluation.standing()[: self.points]

    def standing_share(self, radius: float) -> Share | None:
        """How many of ``points`` stand there; None where no attack was made."""
        stands = self.standing(radius)
        return None if stands is None else Share.of(stands)

    def broken(self, radius: float) -> list[int]:
        """Samples that are certified at that radius and do not stand there."""
        stands = self.standing(radius)
        if stands is None:
            return []
        return (self.certificate.certified(radius)[: self.points] & ~stands).nonzero().flatten().tolist()

    @property
    def flags(self) -> list[Flag]:
        """One: whether a certified sample fell, as it must where the certified curve lies above the attacked one."""
        if not self.attacked:
            return []
        fell = {radius: len(self.broken(radius)) for radius in self.radii}
        most = max(fell.values())
        where = ", ".join(f"{count} at {radius:g}" for radius, count in fell.items() if count)
        text = f"samples that are certified fell to an attack within their radius: {where or 'none'}"
        if self.certificate.method["name"] == "smoothing":
            text += " (alpha of them may by chance, and those near a tie of the few votes of an attacked forward)"
        return [Flag("certified", most > 0, float(most), 0.0, text)]

    def table(self) -> str:
        """Markdown: certified and attacked accuracy by radius, in percent with exact 95% intervals; flags, notes."""
        if not self.attacked:
            return self.certificate.table()
        first = f"first {self.points}"
        head = f"| L2 radius | certified | certified, {first} | attacked, {first} | fell though certified |"
        lines = [head, "|---|---|---|---|---|"]
        for radius, share in self.certificate.shares(self.radii).items():
            few = Share.of(self.certificate.certified(radius)[: self.points])
            cells = [share, few, self.standing_share(radius) or "-", len(self.broken(radius))]
            lines.append(f"| {radius:g} | " + " | ".join(map(str, cells)) + " |")
        names = dict.fromkeys(name for evaluation in self.attacked.values() for name in evaluation.columns)
        notes = [*self.certificate.notes(), f"Attacks: {', '.join(map(markdown, names))}."]
        raised = [f"- RED FLAG {flag.name}: {flag.text}." for flag in self.flags if flag.fired]
        return "\n".join([*lines, "", "Percent, exact 95% interval, count.", *notes, *raised])

    def to_dict(self) -> dict[str, Any]:
        """By radius: certified and attacked shares, and the samples that are certified and fell; method and flags."""
        rows = []
        for radius, share in self.certificate.shares(self.radii).items():
            stands, fell = self.standing_share(radius), self.broken(radius)
            attacked = None if stands is None else stands.to_dict()
            rows.append({"radius": radius, "certified": share.to_dict(), "attacked": attacked, "broken": fell})
        return {"method": self.certificate.method, "rows": rows, "flags": [asdict(flag) for flag in self.flags]}


def compare(
    certificate: Certificate, model: nn.Module, x: Tensor | Points, y: Tensor | None = None, *,
    radii: Sequence[float] = RADII, suite: str = "quick", out: str | Path | None = None,
    distributed: Distributed = SINGLE, progress: Progress | None = None, **options: Any,
) -> Compared:  # fmt: skip
    """Attack the model that is certified at every radius greater than 0, on the first samples of the certificate.

    model: as it was certified; behind ``Smoothing`` it should be seeded, and a forward of an attack takes its
    ``draws``. x, y: the first so many of the certified images. suite, options: see ``evaluate``; out: of the
    certificate, whose folder then holds the evaluations. Raises a ValueError where labels or model are others.
    """
    attacked, own = {}, certificate.record.identity
    radii = convert("compare", "radii", radii, Sequence[Distance])
    for radius in filter(None, radii):
        evaluation = attacked[float(radius)] = evaluate(
            model, x, y, suite=suite, threat=L2(radius), checks=0, distributed=distributed, progress=progress,
            out=None if out is None else Path(out) / f"{PLACE}{radius:g}", **options,
        )  # fmt: skip
        labels, other = evaluation.record.labels, evaluation.record.identity
        same = own.deployed == other.deployed and own.defence == other.defence
        if not same or not torch.equal(labels, certificate.labels[: len(labels)]):
            raise ValueError("compare: a certificate of another model or of other images; allowed: one of these.")
    return Compared(certificate, attacked)
