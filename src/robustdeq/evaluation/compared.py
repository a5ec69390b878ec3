"""A certificate, and attacks of the same size beside it: what is certified must stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import L2
from ..checks import Distance
from ..distributed import SINGLE, Distributed
from ..options import convert
from ..progress import Progress
from ..text import markdown, table
from .certificate import RADII, Certificate
from .evaluate import evaluate
from .flags import Flag
from .identity import same_beginning
from .images import Points
from .record import RECORD
from .result import Evaluation
from .share import Share

PLACE = "attacked-"
"""How the folder of an evaluation begins that lies in that of a certificate; its radius follows."""


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
        for radius, evaluation in attacked.items():
            _check_beside(f"{Path(folder) / PLACE}{radius:g}", certificate, evaluation)
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
        rows, first = [], f"first {self.points}"
        for radius, share in self.certificate.shares(self.radii).items():
            few = Share.of(self.certificate.certified(radius)[: self.points])
            stands = str(self.standing_share(radius) or "-")
            rows.append([f"{radius:g}", str(share), str(few), stands, str(len(self.broken(radius)))])
        head = ["L2 radius", "certified", f"certified, {first}", f"attacked, {first}", "fell though certified"]
        names = dict.fromkeys(name for evaluation in self.attacked.values() for name in evaluation.columns)
        notes = [*self.certificate.notes(), f"Attacks: {', '.join(map(markdown, names))}."]
        raised = [f"- RED FLAG {flag.name}: {flag.text}." for flag in self.flags if flag.fired]
        return "\n".join([table(head, rows), "", "Percent, exact 95% interval, count.", *notes, *raised])

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
    certificate, whose folder then holds the evaluations. Raises a ValueError where images, labels or model are others.
    """
    attacked = {}
    radii = convert("compare", "radii", radii, Sequence[Distance])
    for radius in filter(None, radii):
        evaluation = attacked[float(radius)] = evaluate(
            model, x, y, suite=suite, threat=L2(radius), checks=0, distributed=distributed, progress=progress,
            out=None if out is None else Path(out) / f"{PLACE}{radius:g}", **options,
        )  # fmt: skip
        _check_beside("compare: the evaluation", certificate, evaluation)
    return Compared(certificate, attacked)


def _check_beside(owner: str, certificate: Certificate, evaluation: Evaluation) -> None:
    labels, whole = evaluation.record.labels, certificate.labels
    same = same_beginning(certificate.record.identity, evaluation.record.identity)
    if not same or len(labels) > len(whole) or not torch.equal(labels, whole[: len(labels)]):
        wanted = "the certified model, on the first of the certified images"
        raise ValueError(f"{owner} is of another model, or of other images, than the certificate; allowed: {wanted}.")
