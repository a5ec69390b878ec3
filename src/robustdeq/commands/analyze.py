"""The verb that looks into the dynamics: analyze."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from tyro.conf import arg

from ..analysis.dynamics import longest, stacked, variant
from ..analysis.measure import BESIDE, Measure, Measured, measured
from ..analysis.summary import entropy_detector, samples_frame, summary, table
from ..analysis.sweep import ATTACK_STEPS, Sweep, sweep
from ..checks import Count
from ..defences import EntropyReduction
from ..distributed import available
from ..dynamics import SOLVERS, Solver
from ..environment import environment
from ..evaluation import readouts
from ..evaluation.identity import PLAN, claim_for
from ..files import held, write_json, write_text
from ..models import DEQClassifier, structure
from ..options import describe, parsed
from ..progress import Progress, bar
from ..text import markdown, printable
from .shared import InBall, samples

if TYPE_CHECKING:
    from pandas import DataFrame

FEW = 200
"""Images, where --subset does not say how many."""
NOTE = (
    "Medians over the images at z^[N], clean / attacked. Entropy in nats. AUC: the entropy as a detector of the "
    "attacks that succeed, with DeLong's 95% interval for pairs; evading: by an attack that knows it. Residual: "
    "||f(z) - z|| / ||f(z)||. Deviation: total <= perturbation + accumulation. Radius: spectral, of df/dz. Ends apart: "
    "z^[N] from random starts, as a share of its length."
)
SWEEP_NOTE = (
    "One option moved at a time. static, frozen: PGD-{} on the bare model, and through the defence with x' - x held "
    "constant; both: what stands under both. f-units: evaluations of f and updates of the input, for one image. So few "
    "attacks compare settings; what a defence is worth, robustdeq evaluate --defend --suite adaptive says."
)


@dataclass(kw_only=True)
class Analyze(InBall):
    """Look into a DEQ's dynamics: entropy, residual, deviation and accuracy along t, clean and attacked, by solver.

    For example:
      robustdeq analyze runs/mine/model --out runs/mine/analysis
      robustdeq analyze runs/mine/model --subset 50 --solver broyden --solver picard --out runs/mine/two-solvers
      robustdeq analyze runs/mine/model --solver '{"name": "picard", "damping": 0.5}' --out runs/mine/damped
      robustdeq analyze runs/mine/model --defend --sweep --out runs/mine/defended
      robustdeq analyze runs/small --data path/to/cifar10 --subset 100 --device cuda --out runs/small-analysis

    Without --subset it looks at the first 200 test images. Written: table.md, analysis.json (medians, intervals), and
    the numbers of every sample as CSV: states, deviations, quantiles, samples, detector, sweep. Given again, the same
    command goes on from the last batch.
    """

    solver: tuple[str, ...] = ()
    """A solver to drive the cell with, by name or as JSON with its options; may be given several times. Default: the
    model's own first, then every other that can take as many steps. The first is the one of --sweep, and of the attack
    on every z^[t]."""
    steps: Count = 20
    """Of PGD, through the solver's own steps; the step size is a quarter of eps."""
    defend: bool = False
    """Look at regulated images as well: the clean and the attacked ones behind input entropy reduction."""
    sweep: Annotated[bool, arg(help=
        "Move T_f, R and beta of entropy reduction, and N, one at a time: accuracy and cost (minutes)"
    )] = False  # fmt: skip

    def run(self) -> None:
        self.check_place(PLAN)
        (model, (test,)), threat = self.load(available(self.device), "test"), self.ball
        if not structure(model).states or structure(model).defence is not None:
            raise ValueError(f"analyze: the model is a {type(model).__name__}; allowed: a DEQClassifier.")
        assert isinstance(model, DEQClassifier)
        test = test if self.subset is not None else test.take(slice(FEW))
        method = EntropyReduction.usual(threat.eps, model.steps) if self.defend else None
        solvers = {name: variant(model, solver=solver) for name, solver in self._solvers(model).items()}
        with held(self.out), bar("analyze") as progress:
            assert progress is not None
            claim_for(
                "analyze", self.out, model, test, threat, batch_size=self.batch_size, seed=self.seed,
                steps=self.steps, defence=describe(method),
            )  # fmt: skip
            measure, total = Measure(threat, self.steps, method, seed=self.seed), len(test) * len(solvers)
            seen: dict[str, Measured] = {}
            for name, model in solvers.items():
                before, text = len(test) * len(seen), f"{name}, attacks and dynamics"
                seen[name] = measured(
                    measure, model, test, self._folder("measured", name), batch_size=self.batch_size,
                    progress=lambda done, before=before, text=text: progress(before + done, total, text),
                )  # fmt: skip
            table = self._written(seen, next(iter(solvers.values())), test, progress)
        self.conclude(table)
        print(f"\n{printable(str(self.out))}: table.md, analysis.json, and CSV files")

    def _solvers(self, model: DEQClassifier) -> dict[str, Solver]:
        """By the names under which they are told."""
        asked = [SOLVERS.resolve(parsed(word)) for word in self.solver]
        others = [kind() for name, kind in SOLVERS.items() if name != model.solver.name]
        able = [solver for solver in others if (most := longest(model, solver)) is None or model.steps <= most]
        return {_name_of(solver): solver for solver in asked or [model.solver, *able]}

    def _folder(self, stage: str, solver: str) -> Path:
        return self.out / stage / quote(solver, safe="")

    def _written(self, seen: dict[str, Measured], first: DEQClassifier, test: Any, progress: Progress) -> str:
        """All files but the table, which is returned. first: the model under the first solver."""
        name, threat, images = next(iter(seen)), self.ball, samples(test)
        options: dict[str, Any] = {"batch_size": self.batch_size, "seed": self.seed}
        every_state = readouts(
            first, test, threat=threat, steps=self.steps, samples=images, out=self._folder("readouts", name),
            progress=lambda done, total, text: progress(done, total, f"every z^[t], {text}"), **options,
        )  # fmt: skip
        ball = f"{threat.name}, eps {threat.eps:.4g}"
        parts = [table(seen), f"{NOTE} Images: {markdown(images)}; {ball}, PGD-{self.steps}."]
        parts += [f"Every z^[t], {markdown(name)}:", every_state.table()]
        swept: Sweep | None = None
        if self.sweep:
            few = min(ATTACK_STEPS, self.steps)
            folder = self._folder("sweep", name)
            swept = sweep(first, test, threat, attack_steps=few, out=folder, progress=progress, **options)
            parts += [f"Entropy reduction, {markdown(name)}:", swept.table(), SWEEP_NOTE.format(few)]
        for kind, frame in FRAMES.items():
            every = stacked(((solver, frame(of)) for solver, of in seen.items()), "solver")
            write_text(self.out / f"{kind}.csv", every.to_csv(index=False))
        if swept is not None:
            write_text(self.out / "sweep.csv", swept.frame().to_csv(index=False))
        write_json(self.out / "analysis.json", {
            "model": self.model, "samples": images, "threat": threat.name, "eps": threat.eps, "steps": self.steps,
            "seed": self.seed, "defend": self.defend, "solvers": {solver: summary(of) for solver, of in seen.items()},
            "readouts": {"solver": name, **every_state.to_dict()},
            "sweep": None if swept is None else {"solver": name, "rows": swept.frame().to_dict("records")},
            "environment": environment(),
        })  # fmt: skip
        return "\n\n".join(parts)


FRAMES: dict[str, Callable[[Measured], DataFrame]] = {
    "states": lambda of: of.frame("states"),
    "deviations": lambda of: of.frame("deviations"),
    "quantiles": Measured.quantiles,
    "samples": samples_frame,
    "detector": lambda of: stacked(((n, entropy_detector(of, n).frame()) for n in BESIDE if n in of.states), "inputs"),
}
"""What is written as CSV, by name of the file."""


def _name_of(solver: Solver) -> str:
    """The name, and what differs from its defaults."""
    options = describe(solver)
    defaults = describe(type(solver)()) if type(solver) in SOLVERS.values() else {}
    changed = [f"{name}={value}" for name, value in options.items() if defaults.get(name, ...) != value]
    return f"{solver.name} ({', '.join(changed)})" if changed else solver.name
