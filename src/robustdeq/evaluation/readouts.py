"""Where to read the dynamics out: clean and robust accuracy of every z^[t], of the ensemble and of an early state."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..attacks import PGD, Linf, Threat
from ..checks import check_count
from ..defences import EarlyState, Ensemble
from ..distributed import SINGLE, Distributed
from ..files import held, tidy
from ..models.structure import structure
from ..progress import Progress
from ..text import markdown, table
from .entries import Entry
from .evaluate import evaluate
from .images import Points
from .share import Share

OWN, TRANSFER = "own", "transfer"
READOUTS = "readouts.json"
"""What the command line writes them to."""

Shares = dict[str, Share]


@dataclass(frozen=True)
class Readouts:
    """Accuracy of every readout on the test images. Each has the shares clean, own, transfer and All.

    own: attacked through the exact gradient of that very readout. transfer: on the images of an attack on z^[N] that
    takes all its steps. All: the samples that stand both. states: of z^[1], ..., z^[N]. early: t*, the state that was
    the most robust on held-out images; held_out: the shares there. None without held-out images. note: threat,
    attack and samples, in words.
    """

    states: tuple[Shares, ...]
    ensemble: Shares
    held_out: tuple[Shares, ...] | None = None
    note: str = ""

    @property
    def early(self) -> int | None:
        """t*, the state that stood best on the held-out images (the first of equals), or None without such images."""
        if self.held_out is None:
            return None
        robust = [shares["All"].count for shares in self.held_out]
        return 1 + robust.index(max(robust))

    def table(self) -> str:
        """Markdown: a line for every readout, in percent with exact 95% intervals and counts."""
        rows = {f"z^[{t}]": shares for t, shares in enumerate(self.states, start=1)}
        rows["ensemble, mean of the states"] = self.ensemble
        if self.early is not None:
            rows[f"early state, t* = {self.early} on held-out images"] = self.states[self.early - 1]
        cells = [[name, *(str(of[key]) for key in ("clean", OWN, TRANSFER, "All"))] for name, of in rows.items()]
        head = ["readout", "clean", "own attack", "attack on the last state", "All"]
        return "\n".join([table(head, cells), "", self.note])

    def to_dict(self) -> dict[str, Any]:
        """JSON."""

        def plain(shares: Shares) -> dict[str, Any]:
            return {name: share.to_dict() for name, share in shares.items()}

        held_out = None if self.held_out is None else [*map(plain, self.held_out)]
        states, ensemble = [*map(plain, self.states)], plain(self.ensemble)
        return {"states": states, "ensemble": ensemble, "early": self.early, "held_out": held_out}


def readouts(
    model: nn.Module, test: Points, held_out: Points | None = None, *, threat: Threat | None = None,
    step_size: float | None = None, steps: int = 20, batch_size: int = 250, seed: int = 0,
    out: str | Path | None = None, resume: bool = True, samples: str | None = None,
    distributed: Distributed = SINGLE, progress: Progress | None = None,
) -> Readouts:  # fmt: skip
    """Attack every readout of a DEQ with PGD, each as a model of its own, whose evaluation is kept under ``out``.

    test: images on which everything is reported. samples: how they were chosen, in words. held_out: images on which t*
    is chosen, which must not be test images.
    """
    kind = structure(model)
    if not kind.states or kind.defence is not None:
        raise ValueError(f"readouts: the model is a {type(kind.deployed).__name__}; allowed: a DEQClassifier.")
    if out is None and distributed.world_size > 1:
        raise ValueError(f"readouts: {distributed.world_size} processes without out; allowed: a folder they share.")
    check_count("readouts", "steps", steps)
    threat = Linf(8 / 255) if threat is None else threat
    attack = PGD(threat, threat.eps / 4 if step_size is None else step_size, steps, seed=seed)
    options = {"threat": threat, "batch_size": batch_size, "seed": seed, "resume": resume, "distributed": distributed,
               "progress": progress, "checks": 0}  # fmt: skip
    # The last state first: its images are what the others are shown.
    states = {f"state-{t}": EarlyState(kind.deployed, t) for t in range(kind.states, 0, -1)}
    with tempfile.TemporaryDirectory() as scratch, held(Path(out or scratch), distributed.main):
        folder = Path(out or scratch)
        distributed.main_first(lambda: tidy(folder))
        before = None if held_out is None else _shares(states, held_out, attack, folder / "held-out", options)
        shares = _shares({**states, "ensemble": Ensemble(kind.deployed)}, test, attack, folder / "test", options)
    samples = markdown(samples or f"the first {len(test)} given")
    note = f"{threat.name}, eps {threat.eps:.4g}, PGD-{steps}. Samples: {samples}."
    on_held_out = None if before is None else tuple(before[name] for name in reversed(states))
    return Readouts(tuple(shares[name] for name in reversed(states)), shares["ensemble"], on_held_out, note)


def _shares(
    modules: Mapping[str, nn.Module], points: Points, attack: PGD, folder: Path, options: Mapping[str, Any]
) -> dict[str, Shares]:
    """The shares of every readout, by name. modules: that of the last state first."""
    own, far = Entry("pgd", OWN, attack), Entry("far", TRANSFER, replace(attack, keep="highest"))
    (last, module), *others = modules.items()
    final = evaluate(module, points, suite=[far, own], images=True, out=folder / last, **options)
    shares, transfers = {last: final.shares()}, {f"{TRANSFER}/far": final.images["far"]}
    for name, module in others:
        evaluation = evaluate(module, points, suite=[own], transfers=transfers, out=folder / name, **options)
        shares[name] = evaluation.shares()
    return shares
