"""The samples of a page: their images, what each attack made of them, and their dynamics; JSON for its script.

Legend of shapes: B samples, T steps, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.pictures import data_uri, magnified
from ..evaluation import Evaluation
from ..evaluation.images import batches
from ..files import first_line
from ..models import structure
from ..models.modes import evaluating
from ..progress import Progress
from .kept import Kept
from .runs import Assessed

BATCH = 50
SIDES = (128, 64, 48, 32)
BUDGET = 3_500_000
"""Bytes of all pictures of a page."""
CLASSES = 10
"""Class probabilities that are shown of a sample: those that are the largest somewhere along t, and its label."""


@dataclass
class Shown:
    """The first B samples of one evaluation, as far as their images and their model are there. attacks: whose image is
    shown of each, None for none. x, x_adv: (B, C, H, W); source: where x is from. deployed, place: the model, and where
    it lay."""

    assessed: Assessed
    labels: list[int]
    attacks: list[str | None]
    x: Tensor | None = None
    x_adv: Tensor | None = None
    classes: tuple[str, ...] = ()
    source: str | None = None
    deployed: nn.Module | None = None
    place: str = ""


def samples(
    evaluations: list[Assessed], kept: Kept, count: int, progress: Progress
) -> tuple[dict[str, Any], list[str], dict[str, Shown]]:
    """The first ``count`` samples of every evaluation, as JSON; what is missing; and the samples by its name."""
    missing: list[str] = []
    by_name: dict[str, Shown] = {}
    groups, pictures = [], _Pictures()
    for done, assessed in enumerate(evaluations):
        progress(done, len(evaluations), assessed.name)
        shown = by_name[assessed.name] = _first(assessed, kept, count, missing)
        if shown.labels:
            groups.append(_group(shown, pictures, missing))
    progress(len(evaluations), len(evaluations), "done")
    return {"groups": groups, "pictures": pictures.encoded(missing)}, missing, by_name


class _Pictures:
    """Every picture once. ``add`` gives its number. rows: of the samples that they are of."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.rows: list[int] = []
        self.numbers: dict[bytes, int] = {}

    def add(self, image: Tensor, row: int) -> int:
        key = image.contiguous().cpu().numpy().tobytes()
        if key not in self.numbers:
            self.numbers[key] = len(self.images)
            self.images.append(image)
            self.rows.append(row)
        return self.numbers[key]

    def encoded(self, missing: list[str]) -> list[str]:
        """As data URIs, as large as the budget allows; of what does not fit at the smallest size, the last samples of
        every evaluation are left out."""
        uris: list[str] = []
        for side in SIDES:
            uris = [data_uri(image, side) for image in self.images]
            if sum(map(len, uris)) <= BUDGET:
                break
        total, cut = 0, 0
        for index in sorted(range(len(uris)), key=self.rows.__getitem__):
            total += len(uris[index])
            if total > BUDGET:
                uris[index], cut = "", cut + 1
        if cut:
            missing.append(f"{cut} pictures of the last samples are left out, to keep the file small; give --samples.")
        return uris


def _first(assessed: Assessed, kept: Kept, count: int, missing: list[str]) -> Shown:
    """The first ``count`` samples, with images and model where those that were judged are found again."""
    evaluation = assessed.evaluation
    labels = evaluation.record.labels[:count].tolist()
    shown = Shown(assessed, labels, _attacks_shown(evaluation, len(labels)))
    if not labels:
        return shown
    try:
        images, shown.source = kept.images(assessed)
        shown.x = x = images.take(slice(len(labels))).images()
        shown.classes = tuple(map(str, getattr(images, "classes", ())))
        shown.deployed, shown.place = kept.model(assessed, x[:1])
    except (ValueError, RuntimeError, OSError) as error:
        missing.append(f"{assessed.name}: {error}")
    shown.x_adv = _attacked(assessed, shown, missing)
    return shown


def _attacks_shown(evaluation: Evaluation, count: int) -> list[str | None]:
    """Of each sample the first attack that broke it; else the last that tried."""
    attacks: list[str | None] = [None] * count
    broken = set()
    for name in evaluation.columns:
        for sample, outcome in enumerate(evaluation.record.attacks[name].outcomes[:count].tolist()):
            if outcome >= 0 and sample not in broken:
                attacks[sample] = name
            if outcome == 0:
                broken.add(sample)
    return attacks


def _attacked(assessed: Assessed, shown: Shown, missing: list[str]) -> Tensor | None:
    """The kept images (B, C, H, W), of every sample those of the attack that is shown; its own where there is none."""
    images, names = assessed.evaluation.images, sorted({name for name in shown.attacks if name is not None})
    if not images:
        missing.append(f"{assessed.name}: the attacked images were not kept; evaluate with --images to see them.")
        return None
    if names and not any(images[name].folder.is_dir() for name in names):
        missing.append(f"{assessed.name}: the attacked images are not beside its record.")
        return None
    x_adv = None if shown.x is None else shown.x.clone()
    for name in names:
        rows = torch.tensor([row for row, of in enumerate(shown.attacks) if of == name])
        try:
            attacked = images[name][rows].float()
        except (ValueError, OSError) as error:
            missing.append(f"{assessed.name}: {first_line(error)}")
            return None
        if x_adv is None:
            x_adv = attacked.new_full((len(shown.labels), *attacked.shape[1:]), float("nan"))
        x_adv[rows] = attacked
    if shown.x is not None and x_adv is not None:
        _replace_unmoved(assessed, shown, x_adv)
    return x_adv


def _replace_unmoved(assessed: Assessed, shown: Shown, x_adv: Tensor) -> None:
    """Where an attack that failed gave the sample itself back, the image of another one that failed on it."""
    assert shown.x is not None
    for name in assessed.evaluation.columns:
        outcomes = assessed.evaluation.record.attacks[name].outcomes[: len(x_adv)]
        still = (x_adv == shown.x).flatten(1).all(1)[: len(outcomes)] & (outcomes == 1)
        rows = still.nonzero().flatten()
        for row, other in zip(rows.tolist(), assessed.evaluation.images[name][rows].float() if len(rows) else ()):
            if not torch.equal(other, shown.x[row]):
                x_adv[row], shown.attacks[row] = other, name


def _group(shown: Shown, pictures: _Pictures, missing: list[str]) -> dict[str, Any]:
    evaluation, name = shown.assessed.evaluation, shown.assessed.name
    outcomes = {attack: evaluation.record.attacks[attack].outcomes.tolist() for attack in evaluation.columns}
    predictions, alone = evaluation.predictions.tolist(), evaluation.alone()
    entries: list[dict[str, Any]] = []
    for row, label in enumerate(shown.labels):
        tried = {attack: rows[row] for attack, rows in outcomes.items() if row < len(rows) and rows[row] >= 0}
        stands = "untried" if not tried else "broken" if 0 in tried.values() else "stands"
        entries.append({
            "sample": row, "label": label, "predicted": predictions[row], "attack": shown.attacks[row],
            "tried": tried, "alone": alone.get(row), "outcome": stands if predictions[row] == label else "wrong",
        })  # fmt: skip
        _add_pictures(entries[-1], shown, row, pictures)
    if shown.deployed is not None:
        _add_dynamics(entries, shown, pictures, missing)
    return {"name": name, "classes": list(shown.classes), "samples": entries}


def _add_pictures(entry: dict[str, Any], shown: Shown, row: int, pictures: _Pictures) -> None:
    if shown.x is not None:
        entry["original"] = pictures.add(shown.x[row], row)
    if shown.x_adv is not None and entry["attack"] is not None and not shown.x_adv[row].isnan().any():
        entry["attacked"] = pictures.add(shown.x_adv[row], row)
        if shown.x is not None:
            shift = shown.x_adv[row] - shown.x[row]
            change, factor = magnified(shift)
            entry["change"], entry["factor"] = pictures.add(change, row), round(factor, 1)
            entry["largest"] = round(float(shift.abs().max()), 4)


@torch.no_grad()
def _add_dynamics(entries: list[dict[str, Any]], shown: Shown, pictures: _Pictures, missing: list[str]) -> None:
    """Probabilities, entropy and distance along t into every entry."""
    deployed: Any = shown.deployed
    x = shown.x
    assert deployed is not None and x is not None
    if structure(deployed).deq is None:
        missing.append(f"{shown.assessed.name}: the model is a {type(deployed).__name__}, which has no states along t.")
        return
    x_adv = x if shown.x_adv is None else shown.x_adv
    for rows in batches(len(x), BATCH):
        with evaluating(deployed):
            clean, attacked = (deployed.trajectory(images[rows]) for images in (x, x_adv))
            clean_p, attacked_p = (of.all_logits().softmax(2) for of in (clean, attacked))
        for at, entry in enumerate(entries[rows]):
            moved = "attacked" in entry
            entry |= _curves(entry["label"], (clean_p[:, at], attacked_p[:, at]) if moved else (clean_p[:, at],))
            if moved:
                apart = [(z_adv[at] - z[at]).norm() / z[at].norm() for z, z_adv in zip(clean.states, attacked.states)]
                entry["distance"] = _rounded(torch.stack(apart))
            image, last = (x_adv, attacked) if moved else (x, clean)
            if last.inputs is not None:
                entry["reduced"] = pictures.add(last.inputs[-1][at], rows.start + at)
                entry["moved"] = round(float((last.inputs[-1][at] - image[rows][at]).abs().max()), 4)


def _curves(label: int, both: tuple[Tensor, ...]) -> dict[str, Any]:
    """both: probabilities (T, K) of the clean and, where there is one, of the attacked image."""
    peak = torch.stack(both).nan_to_num(0).amax((0, 1))
    largest = [label, *(k for k in peak.argsort(descending=True).tolist() if k != label)][:CLASSES]
    order = sorted(largest)
    return {
        "order": order,
        "probabilities": [[_rounded(row[order]) for row in of] for of in both],
        "entropies": [_rounded(-torch.special.xlogy(of, of).sum(1)) for of in both],
    }


def _rounded(values: Tensor) -> list[float | None]:
    return [round(value, 4) if abs(value) < float("inf") else None for value in values.tolist()]


def group_analysis(group: dict[str, Any]) -> dict[str, Any]:
    """Of the samples of a group an attack moved: ``entropy``, clean and attacked, and ``distance``, each (T, B)."""
    entries = [entry for entry in group["samples"] if "distance" in entry and entry.get("largest")]
    clean, attacked = ([entry["entropies"][kind] for entry in entries] for kind in (0, 1))
    rows = list(zip(clean, attacked, (entry["distance"] for entry in entries)))
    whole = [row for row in rows if not any(value is None for values in row for value in values)]
    if not whole:
        return {}
    clean, attacked, distance = ([list(values) for values in zip(*of)] for of in zip(*whole))
    return {"entropy": {"clean": clean, "attacked": attacked}, "distance": distance}
