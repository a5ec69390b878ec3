"""The verb that proves: certify."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import nn
from tyro.conf import arg

from ..attacks import L2
from ..checks import Count, Natural, Number, PositiveDistance
from ..defences import Smoothing
from ..distributed import launched
from ..evaluation import SUITES, Compared, certify, compare, suite
from ..files import write_text
from ..options import check_options, settings
from ..progress import bar
from .models import BUDGETS, OnModel


@dataclass(kw_only=True)
class Certify(OnModel):
    """Prove for each image an L2 radius in which the prediction stays right; print certified accuracy by radius.

    For example:
      robustdeq certify runs/mine/model --method smoothing --sigma 0.25 --out runs/mine/certified
      robustdeq certify runs/mine/model --method smoothing --sigma 0.5 --n 1000 --subset 50 --out runs/mine/quickly
      robustdeq certify runs/monotone/model --method lipschitz --out runs/monotone/certified
      robustdeq certify runs/monotone/model --attacked 500 --suite standard --out runs/monotone/attacked
      robustdeq train digits --set noise=0.25 'phases=[{"epochs": 20, "attack_steps": 0}]' --out runs/noisy

    Smoothing takes any model, best one that was trained with as much noise (the last line), and is wrong about a radius
    with a probability of alpha. The bound takes a model that knows one (mondeq-nano, mondeq-small), and is proven.
    Beside it stands the accuracy under L2 attacks of the same size, with a red flag where a certified image falls.
    Given again, by any number of processes, the same command goes on from the last batch.
    """

    method: Literal["smoothing", "lipschitz"] | None = None
    """Default: lipschitz where the model knows a bound, else smoothing."""
    sigma: PositiveDistance = 0.25
    """Of smoothing: standard deviation of the noise, pixels in [0, 1]."""
    clip: bool = False
    """Of smoothing: cut noisy images to [0, 1], as a part of the model; they are not otherwise."""
    n0: Count = 100
    """Noisy copies that choose a class."""
    n: Count = 10_000
    """Noisy copies that are counted."""
    alpha: Annotated[float, Number(0, 1, low_open=True, high_open=True)] = 0.001
    """Probability with which a radius may be wrong."""
    attacked: Natural = 100
    """Attack the first so many images at every radius; 0 for none."""
    suite: Annotated[str, arg(help=f"Of the attacks: {' | '.join(SUITES)}; standard has AutoAttack")] = "quick"
    steps: Count = 20
    """Of PGD; the step size is a quarter of the radius."""
    set: tuple[str, ...] = ()
    """Further options of the suite as NAME=VALUE, see evaluate: attacks, iterations, queries, ..."""
    draws: Count = 16
    """Of smoothing: noisy copies that vote in a forward of an attack, the same for all images."""
    batch_size: Count = 20

    def run(self) -> None:
        options = settings(self.set)
        check_options("certify --set", options, [name for name in BUDGETS if name != "steps"])
        options["steps"] = self.steps
        with launched(self.device) as distributed, bar("certify", distributed.main) as progress:
            model, (test,) = self.model_and_sets(distributed.device, "test")
            deployed = self._certified(model)
            suite(self.suite, deployed, L2(1.0), **options)  # a mistake is told before anything is certified
            told: dict[str, Any] = {
                "batch_size": self.batch_size, "seed": self.seed, "out": self.out, "distributed": distributed,
                "progress": progress if progress is None else progress.__call__,
                "samples": f"the first {len(test)} test images of {test.source}",
            }  # fmt: skip
            found = certify(deployed, test, n0=self.n0, n=self.n, alpha=self.alpha, **told)
            few, compared = min(self.attacked, len(test)), Compared(found, {})
            if few:
                told["samples"] = f"the first {few} test images of {test.source}"
                compared = compare(found, deployed, test.take(slice(few)), suite=self.suite, **options, **told)
        if distributed.main:
            table = compared.table()
            write_text(self.out / "table.md", table + "\n")
            print(table)

    def _certified(self, model: nn.Module) -> nn.Module:
        bounded = callable(getattr(model, "slopes", None))
        if self.method == "lipschitz" and not bounded:
            given = f"--method lipschitz of a {type(model).__name__}, which knows no bound of its slope"
            raise ValueError(f"certify: {given}; allowed: smoothing, or mondeq-nano or mondeq-small.")
        if self.method == "lipschitz" or (bounded and self.method is None):
            return model
        return Smoothing(self.sigma, draws=self.draws, clip=self.clip, seed=self.seed)(model)
