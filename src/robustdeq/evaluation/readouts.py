"""Where to read the dynamics out: clean and robust accuracy of every z^[t], of the ensemble and of an early state."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..attacks import PGD, EarlyState, Ensemble, Linf, Threat
from ..dynamics.solver import check_count
from ..models.classifier import DEQClassifier
from ..processes import ALONE, Processes
from .entry import Entry
from .evaluate import evaluate
from .images import Points
from .run import Progress
from .statistics import Share

OWN, TRANSFER = "own", "transfer"


@dataclass(frozen=True)
class Readouts:
    """What was found on the test images. Each has the shares clean, own, transfer and All.

    own: attacked through the exact gradient of that very readout. transfer: on the images of an attack on z^[N] that
    takes all its steps. All: the samples that stand both. states: of z^[1], ..., z^[N]. early: t*, the state that was
    the most robust on held-out images; held_out: what was found there. None without held-out images. note: threat,
    attack and samples, in words.
    """

    states: tuple[dict[str, Share], ...]
    ensemble: dict[str, Share]
    held_out: tuple[dict[str, Share], ...] | None = None
    note: str = ""

    @property
    def early(self) -> int | None:
        if self.held_out is None:
            return None
        return 1 + max(range(len(self.held_out)), key=lambda t: (self.held_out or ())[t]["All"].count)

    def table(self) -> str:
        """Markdown: a line for every readout, in percent with exact 95% intervals and counts."""
        rows = {f"z^[{t}]": shares for t, shares in enumerate(self.states, start=1)}
        rows["ensemble, mean of the states"] = self.ensemble
        if self.early is not None:
            rows[f"early state, t* = {self.early} on held-out images"] = self.states[self.early - 1]
        lines = ["| readout | clean | own attack | attack on the last state | All |", "|---|---|---|---|---|"]
        for name, shares in rows.items():
            cells = " | ".join(str(shares[key]) for key in ("clean", OWN, TRANSFER, "All"))
            lines.append(f"| {name} | {cells} |")
        return "\n".join([*lines, "", self.note])

    def to_dict(self) -> dict[str, Any]:
        """JSON."""

        def plain(shares: dict[str, Share]) -> dict[str, Any]:
            return {name: share.to_dict() for name, share in shares.items()}

        return {
            "states": [plain(shares) for shares in self.states],
            "ensemble": plain(self.ensemble),
            "early": self.early,
            "held_out": None if self.held_out is None else [plain(shares) for shares in self.held_out],
        }


def readouts(
    model: nn.Module,
    test: Points,
    held_out: Points | None = None,
    *,
    threat: Threat | None = None,
    step_size: float | None = None,
    steps: int = 20,
    batch_size: int = 250,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = True,
    chosen: str | None = None,
    processes: Processes = ALONE,
    progress: Progress | None = None,
) -> Readouts:
    """Attack every readout with PGD, each as a model of its own, whose evaluation is kept under ``out``.

    test: images on which everything is reported. chosen: how they were chosen, in words. held_out: images on which t*
    is chosen, which must not be test images.
    """
    if not isinstance(model, DEQClassifier):
        raise ValueError(f"readouts: the model is a {type(model).__name__}; allowed: a DEQClassifier.")
    if out is None and processes.count > 1:
        raise ValueError(f"readouts: {processes.count} processes without out; allowed: a folder they share.")
    check_count("readouts", "steps", steps)
    threat = Linf(8 / 255) if threat is None else threat
    attack = PGD(threat, threat.eps / 4 if step_size is None else step_size, steps, seed=seed)
    options = {"threat": threat, "batch_size": batch_size, "seed": seed, "resume": resume, "processes": processes,
               "progress": progress, "checks": 0}  # fmt: skip
    states = [EarlyState(model, t) for t in range(1, model.steps + 1)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch if out is None else out)
        before = None if held_out is None else _attacked(states, held_out, attack, folder / "held-out", options)
        found = _attacked([*states, Ensemble(model)], test, attack, folder / "test", options)
    note = f"{threat.name}, eps {threat.eps:.4g}, PGD-{steps}. Samples: {chosen or f'the first {len(test)} given'}."
    return Readouts(found[:-1], found[-1], before, note)


def _attacked(
    modules: Sequence[nn.Module], points: Points, attack: PGD, folder: Path, options: dict[str, Any]
) -> tuple[dict[str, Share], ...]:
    """The shares of every readout, the last state first: its images are what the others are shown."""
    last = max(i for i, module in enumerate(modules) if isinstance(module, EarlyState))
    far = replace(attack, keep="highest")
    final = evaluate(
        modules[last], points, suite=[Entry("far", TRANSFER, far), Entry("pgd", OWN, attack)], images=True,
        out=folder / _name(modules[last]), **options,
    )  # fmt: skip
    given = {f"{TRANSFER}/far": final.images["far"]}
    others = {
        i: evaluate(
            module, points, suite=[Entry("pgd", OWN, attack)], transfers=given, out=folder / _name(module), **options
        )
        for i, module in enumerate(modules)
        if i != last
    }
    return tuple((final if i == last else others[i]).shares() for i in range(len(modules)))


def _name(module: nn.Module) -> str:
    return f"state-{module.state}" if isinstance(module, EarlyState) else "ensemble"
