"""What the options of entropy reduction, and N, do to accuracy and to cost: one option moved at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..attacks import PGD, Frozen, Linf, Threat
from ..attacks.losses import right
from ..checks import check_count
from ..defences import EntropyReduction
from ..evaluation.entries import exact, looks
from ..evaluation.identity import claim_for
from ..evaluation.images import Points, batches, loaded
from ..evaluation.run import spending
from ..evaluation.share import Share
from ..files import read_json, write_json
from ..models import DEQClassifier
from ..progress import Progress
from ..text import shown, table
from .dynamics import longest, variant

if TYPE_CHECKING:
    from pandas import DataFrame

ATTACK_STEPS = 10
STATIC = ("highest loss", "first look")
"""How images are made against the bare model of a defended one, as ``evaluation.suites.quick`` makes them."""


@dataclass(frozen=True)
class Setting:
    """every: T_f. updates: R, 0 for no defence. step_size: beta, in pixels of [0, 1]. steps: N."""

    every: int
    updates: int
    step_size: float
    steps: int

    @property
    def name(self) -> str:
        """All four, as a name of a file."""
        return f"every-{self.every}-updates-{self.updates}-step-{self.step_size:.6g}-steps-{self.steps}"


def settings_around(eps: float, steps: int, most: int | None = None) -> list[Setting]:
    """The center (T_f = 2, R = 10, beta = eps / 4, N = steps), and one option moved at a time; no defence at each N.
    most: the largest N."""
    center = Setting(min(2, steps), 10, eps / 4, steps)
    lengths = [max(1, round(share * steps)) for share in (1 / 2, 1, 2)]
    lengths = [length for length in lengths if most is None or length <= most]
    moved = [replace(center, every=every) for every in (1, 2, 4)]
    moved += [replace(center, updates=updates) for updates in (0, 5, 10, 20)]
    moved += [replace(center, step_size=share * eps) for share in (1 / 8, 1 / 4, 1 / 2)]
    moved += [replace(center, steps=length, updates=updates) for length in lengths for updates in (0, center.updates)]
    return [setting for setting in dict.fromkeys([center, *moved]) if setting.every <= setting.steps]


@dataclass(frozen=True)
class Row:
    """One setting on B samples. clean, static, frozen: (B,) bool, classified correctly by the deployed forward: as they
    are, attacked without the defence, and attacked through it with x' - x held constant. A sample that is wrong on its
    own image is wrong under attack. evaluations, updates: of f, and of the input, for one image."""

    setting: Setting
    clean: Tensor
    static: Tensor
    frozen: Tensor
    evaluations: float
    updates: float

    @property
    def robust(self) -> Tensor:
        """(B,) stands under both."""
        return self.static & self.frozen

    @property
    def units(self) -> float:
        """Cost of one image in evaluations of f. An update, half of f forward and back, counts one; its injection and
        its readout are not counted."""
        return self.evaluations + self.updates

    def to_dict(self) -> dict[str, Any]:
        """JSON; ``of`` reads it back."""
        flags = {name: getattr(self, name).int().tolist() for name in ("clean", "static", "frozen")}
        return {**asdict(self.setting), **flags, "evaluations": self.evaluations, "updates_made": self.updates}

    @classmethod
    def of(cls, value: dict[str, Any]) -> Row:
        """Raises a KeyError or a TypeError for what ``to_dict`` did not make."""
        setting = Setting(*(value[name] for name in ("every", "updates", "step_size", "steps")))
        flags = (torch.tensor(value[name], dtype=torch.bool) for name in ("clean", "static", "frozen"))
        return cls(setting, *flags, evaluations=value["evaluations"], updates=value["updates_made"])


@dataclass(frozen=True)
class Sweep:
    """A row for each setting, on the same samples."""

    rows: tuple[Row, ...]

    def frame(self) -> DataFrame:
        """A row for each setting: every, updates, step_size, steps, samples, clean, static, frozen, robust (counts),
        units."""
        from pandas import DataFrame

        lines = []
        for row in self.rows:
            counts = {kind: int(getattr(row, kind).sum()) for kind in ("clean", "static", "frozen", "robust")}
            lines.append({**asdict(row.setting), "samples": len(row.clean), **counts, "units": row.units})
        return DataFrame(lines)

    def table(self) -> str:
        """Markdown, in percent with exact 95% intervals and counts."""
        lines = []
        for row in self.rows:
            of, flags = row.setting, (row.clean, row.static, row.frozen, row.robust)
            shares = [Share.of(stands) for stands in flags]
            cells = [of.every, of.updates, f"{of.step_size:.4g}", of.steps, *shares, f"{row.units:.3g}"]
            lines.append([*map(str, cells)])
        return table(["T_f", "R", "beta", "N", "clean", "static", "frozen", "both", "f-units"], lines)


def sweep(
    model: DEQClassifier, points: Points, threat: Threat, *, settings: Sequence[Setting] | None = None,
    attack_steps: int = ATTACK_STEPS, batch_size: int = 100, seed: int = 0, out: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> Sweep:  # fmt: skip
    """Every setting, by default ``settings_around`` the defence's defaults: clean and robust accuracy, and cost.

    The attacks are PGD of ``attack_steps`` steps of a quarter of eps, on the bare model, where a defence first looks,
    and through the defence: few, to compare settings, not to judge one. out: a folder with a file for each setting,
    written when it is done and not made again; a ValueError where it is of another model, other images or options.
    """
    check_count("sweep", "attack_steps", attack_steps)
    if not isinstance(threat, Linf):
        raise ValueError(f"sweep: threat={shown(threat)}; allowed: Linf(eps), the ball of input entropy reduction.")
    if settings is None:
        settings = settings_around(threat.eps, model.steps, longest(model, model.solver))
    attack = PGD(threat, threat.eps / 4, attack_steps, seed=seed)
    rows, todo = [], "remove it, and it is made anew"
    if out is not None:
        claim_for(
            "sweep", Path(out), model, points, threat, batch_size=batch_size, seed=seed, attack_steps=attack_steps,
            static=STATIC,
        )  # fmt: skip
    for done, setting in enumerate(settings):
        progress(done, len(settings), f"sweep {setting.name}")
        file = None if out is None else Path(out) / f"{setting.name}.json"
        if file is None or not file.exists():
            rows.append(_row(model, points, setting, attack, batch_size))
            if file is not None:
                write_json(file, rows[-1].to_dict())
            continue
        value = read_json(file, todo)
        try:
            rows.append(Row.of(value))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{file} is no row of a sweep of this version; {todo}.") from error
    progress(len(settings), len(settings), "sweep")
    return Sweep(tuple(rows))


def _row(model: DEQClassifier, points: Points, setting: Setting, attack: PGD, batch_size: int) -> Row:
    bare = variant(model, steps=setting.steps)
    method = EntropyReduction(attack.threat.eps, setting.step_size, setting.updates, setting.every)
    deployed: Any = method(bare) if setting.updates else bare
    far = replace(attack, keep="highest")  # just past the bare model's boundary images transfer badly
    flags: list[tuple[Tensor, Tensor, Tensor]] = []
    evaluations = updates = 0
    for rows in batches(len(points), batch_size):
        x, y = loaded(points, rows, model)
        indices = torch.arange(rows.start, rows.stop, device=x.device)
        with spending(bare.tally) as spent:
            clean = right(deployed, x, y)
        evaluations, updates = evaluations + spent.evaluations, updates + spent.updates
        if deployed is bare:
            static = frozen = clean & right(deployed, attack(exact(bare), x, y, indices=indices), y)
        else:
            static = clean & right(deployed, far(exact(bare), x, y, indices=indices), y)
            if deployed.looks:
                static &= right(deployed, far(looks(deployed), x, y, indices=indices), y)
            frozen = clean & right(deployed, attack(Frozen(deployed), x, y, indices=indices), y)
        flags.append((clean.cpu(), static.cpu(), frozen.cpu()))
    clean, static, frozen = (torch.cat(column) for column in zip(*flags))
    return Row(setting, clean, static, frozen, evaluations / len(points), updates / len(points))
