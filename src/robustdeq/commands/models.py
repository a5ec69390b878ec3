"""The verbs that look at a model: evaluate, attack, certify, convert."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from torch import nn
from tyro.conf import Positional, arg

from ..attacks import L2, LOSSES, PGD, ThroughGradient
from ..checks import Count, Distance, Natural, Number, Pixels
from ..defences import EntropyReduction, Smoothing
from ..distributed import available, launched
from ..evaluation import SUITES, Compared, Entry, Evaluation, certify, compare, evaluate, readouts, suite
from ..evaluation.certificate import CERTIFICATE
from ..evaluation.readouts import READOUTS
from ..evaluation.record import RECORD
from ..files import held, tidy, write_json, write_tensors
from ..gradients import GRADIENTS
from ..models import load_model, load_official, save_model, structure
from ..models.zoo import CONFIG, WEIGHTS
from ..options import check_options, settings
from ..progress import bar
from ..text import printable
from .shared import InBall, OnModel, samples

BUDGETS = ("steps", "step_size", "points", "iterations", "queries", "attacks", "states", "restarts")
"""What a user may set of a suite; a suite refuses those it does not have."""
OF_SMOOTHING = ("sigma", "clip", "n0", "n", "alpha", "draws")
"""Flags of certify."""


@dataclass(kw_only=True)
class Evaluate(InBall):
    """Attack a model and count what stands; print a table with exact 95% intervals, and red flags.

    For example:
      robustdeq evaluate runs/mine/model --suite quick --out runs/mine/quick
      robustdeq evaluate runs/mine/model --suite paper --set 'states=["Munroll-7-5", 4]' --out runs/mine/paper
      robustdeq evaluate runs/mine/model --suite standard --subset 100 --out runs/mine/standard
      robustdeq evaluate runs/mine/model --defend --suite adaptive --set iterations=20 queries=500 --out runs/all
      robustdeq evaluate runs/mine/model --surrogate runs/b/model --surrogate runs/c/model --out runs/mine/transferred
      robustdeq evaluate runs/mine/model --images --out runs/bare
      robustdeq evaluate runs/mine/model --defend --beside runs/bare --images --out runs/defended
      robustdeq evaluate runs/mine/model --beside runs/defended --out runs/bare-again
      robustdeq evaluate runs/mine/model --states --out runs/mine/states
      torchrun --nproc-per-node 2 -m robustdeq evaluate runs/mine/model --device cuda --out runs/mine/quick

    Given again, by any number of processes, the same command goes on from the last batch.
    """

    shares: ClassVar[bool] = True
    elsewhere: ClassVar[dict[str, str]] = {f"--{name.replace('_', '-')}": f"--set {name}=VALUE" for name in BUDGETS}
    suite: Annotated[str, arg(help=
        f"{' | '.join(SUITES)}. quick: PGD-20 with two gradients and two losses; paper: through intermediate states; "
        "standard: quick and AutoAttack; adaptive: everything, a defended model under four threat settings"
    )] = "quick"  # fmt: skip
    set: tuple[str, ...] = ()
    """Options of the suite as NAME=VALUE: steps, step_size, points, iterations, queries, attacks, states, restarts."""
    checks: Natural = 50
    """Look for red flags on the first so many samples; 0 for none."""
    images: bool = False
    """Keep the adversarial images, a file for each batch, in out/images."""
    defend: bool = False
    """Put input entropy reduction on the model, with the ball of --eps."""
    beside: Path | None = None
    """With --defend: the folder of an evaluation of the bare model, without it of the defended one. Its All is printed
    too, and the images that it kept (--images) are tried on this one."""
    surrogate: tuple[str, ...] = ()
    """A model trained independently, as MODEL is given: images made against it are tried on this one, in a column of
    their own. May be given several times."""
    states: bool = False
    """Instead of a suite: every z^[t], the ensemble, and the early state chosen on held-out images."""

    def run(self) -> None:
        self.check_place(READOUTS if self.states else RECORD)
        options = settings(self.set)
        check_options("evaluate --set", options, ("steps", "step_size") if self.states else BUDGETS)
        if self.states:
            self.check_idle("--states", "--states alone", "defend", "images", "suite", "beside", "surrogate", "checks")
        beside = Evaluation.read(self.beside) if self.beside is not None else None
        if beside is not None and not self.defend and beside.record.identity.defence is None:
            raise ValueError("evaluate --beside of a bare model without --defend; allowed: both, or a defended one's.")
        name = "states" if self.states else self.suite
        with launched(self.device) as distributed, bar(name, distributed.main) as progress:
            model, sets = self.load(distributed.device, "test", *(["validation"] if self.states else []))
            options |= {
                "threat": self.ball, "batch_size": self.batch_size, "seed": self.seed, "out": self.out,
                "samples": samples(sets[0]), "distributed": distributed, "progress": progress,
            }  # fmt: skip
            if self.states:
                table = self._readouts(model, sets, options)
            else:
                table = self._evaluation(model, sets, options, beside)
        if distributed.main:
            self.conclude(table)

    def _evaluation(self, model: nn.Module, sets: list[Any], options: dict[str, Any], beside: Evaluation | None) -> str:
        if self.defend:
            method = EntropyReduction.usual(options["threat"].eps, getattr(model, "steps", None))
            model = method(model)
        if self.surrogate:
            device = options["distributed"].device
            options["surrogates"] = [load_model(path).to(device) for path in self.surrogate]
        images = {"images": self.images, "checks": self.checks}
        return evaluate(model, *sets, suite=self.suite, beside=beside, **images, **options).table(beside)

    def _readouts(self, model: nn.Module, sets: list[Any], options: dict[str, Any]) -> str:
        if options["progress"] is not None:  # dozens of short evaluations would each tell what they cost
            options["progress"] = options["progress"].__call__
        accuracies = readouts(model, *sets, **options)
        if options["distributed"].main:
            write_json(self.out / READOUTS, accuracies.to_dict())
        return accuracies.table()


@dataclass(kw_only=True)
class Attack(InBall):
    """Make adversarial images with PGD and save them (images.safetensors: images, adversarial, labels, robust).

    For example:
      robustdeq attack runs/mine/model --out runs/mine/attacked
      robustdeq attack runs/mine/model --steps 50 --loss dlr --gradient phantom --subset 100 --out runs/mine/attacked

    That file is made in memory: give --subset for a large set. out/images holds the same, a batch a file.
    """

    steps: Count = 20
    step_size: Distance | None = None
    """In pixels of [0, 1]; default a quarter of eps."""
    restarts: Count = 1
    loss: Annotated[str, arg(help=" | ".join(LOSSES))] = "ce"
    gradient: Annotated[str, arg(help=str(GRADIENTS))] = "unrolled"

    def run(self) -> None:
        self.check_place(RECORD)
        (model, (test,)), threat = self.load(available(self.device), "test"), self.ball
        size = threat.eps / 4 if self.step_size is None else self.step_size
        attack = PGD(threat, size, self.steps, restarts=self.restarts, seed=self.seed, loss=self.loss)
        entry = Entry(f"pgd-{self.steps}", "PGD", attack, self._seen)
        with bar("attack") as progress:
            evaluation = evaluate(
                model, test, suite=[entry], threat=threat, batch_size=self.batch_size, seed=self.seed,
                out=self.out, images=True, checks=0, progress=progress, samples=samples(test),
            )  # fmt: skip
        file, whole = self.out / "images.safetensors", test.take(slice(None))
        tensors = {"images": whole.images(), "labels": whole.labels, "robust": evaluation.robust[entry.name]}
        tensors["adversarial"] = evaluation.images[entry.name][:]
        write_tensors(file, tensors)
        self.conclude(evaluation.table())
        print(printable(str(file)))

    def _seen(self, model: nn.Module) -> nn.Module:
        if not structure(model).states and self.gradient != "unrolled":
            raise ValueError(f"--gradient {self.gradient} of a {type(model).__name__}; allowed: of a DEQ.")
        return ThroughGradient(model, self.gradient) if structure(model).states else model


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

    shares: ClassVar[bool] = True
    method: Literal["smoothing", "lipschitz"] | None = None
    """Default: lipschitz where the model knows a bound, else smoothing."""
    sigma: Annotated[float, Pixels(0, 10, low_open=True)] = 0.25
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
        self.check_place(CERTIFICATE)
        options = settings(self.set)
        check_options("certify --set", options, [name for name in BUDGETS if name != "steps"])
        options["steps"] = self.steps
        if not self.attacked:
            self.check_idle("--attacked 0", "without it", "suite", "steps", "set", "draws")
        with launched(self.device) as distributed, bar("certify", distributed.main) as progress:
            model, (test,) = self.load(distributed.device, "test")
            deployed = self._certified(model)
            suite(self.suite, deployed, L2(1.0), **options)  # a mistake is told before anything is certified
            run: dict[str, Any] = {
                "batch_size": self.batch_size, "seed": self.seed, "out": self.out, "distributed": distributed,
                "progress": progress if progress is None else progress.__call__,
            }  # fmt: skip
            certificate = certify(deployed, test, n0=self.n0, n=self.n, alpha=self.alpha, samples=samples(test), **run)
            compared = Compared(certificate, {})
            if self.attacked:
                few = test.take(slice(self.attacked))
                compared = compare(certificate, deployed, few, suite=self.suite, samples=samples(few), **options, **run)
        if distributed.main:
            self.conclude(compared.table())

    def _certified(self, model: nn.Module) -> nn.Module:
        bounded = callable(getattr(model, "slopes", None))
        if self.method == "lipschitz" and not bounded:
            given = f"--method lipschitz of a {type(model).__name__}, which knows no bound of its slope"
            raise ValueError(f"certify: {given}; allowed: smoothing, or mondeq-nano or mondeq-small.")
        if self.method == "lipschitz" or (bounded and self.method is None):
            self.check_idle(f"by the bound of a {type(model).__name__}", "--method smoothing", *OF_SMOOTHING)
            return model
        return Smoothing(self.sigma, draws=self.draws, clip=self.clip, seed=self.seed)(model)


@dataclass(kw_only=True)
class Convert:
    """Turn a checkpoint of the papers' authors into a model folder (config.json, model.safetensors).

    For example:
      robustdeq convert checkpoint.pth --out models/deq-large
    """

    file: Positional[Path]
    """A checkpoint with the authors' keys; it is read without unpickling code."""
    out: Path
    """Folder to be written."""

    def run(self) -> None:
        model = load_official(self.file)
        ours = [file.name for file in self.out.glob("*") if not file.name.startswith(".")]
        others = sorted(set(ours) - {CONFIG, WEIGHTS})
        if others or ((self.out / CONFIG).exists() and not (self.out / WEIGHTS).exists()):
            given = f"{printable(str(self.out))} holds {', '.join(others[:3]) or CONFIG}"
            raise ValueError(f"convert: {given}; allowed: a new folder, or one of a model alone.")
        with held(self.out):
            tidy(self.out)
            save_model(model, self.out)
        print(f"{printable(str(self.out))}: {sum(p.numel() for p in model.parameters()):,} parameters")
