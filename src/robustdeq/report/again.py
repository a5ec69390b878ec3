"""The commands that make a run again, as far as its records tell them."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from typing import Any

from torch import nn

from ..attacks import THREATS, Linf
from ..defences import METHODS, EntropyReduction
from ..evaluation import SUITES, suite
from ..evaluation.record import Record
from ..options import describe
from .runs import Assessed, Run, Trained


def train_command(trained: Trained) -> str:
    """``robustdeq train`` from the plan that the run wrote down."""
    return _line("robustdeq", "train", trained.folder / "config.json", "--out", "runs/again")


def reproduce_command(run: Run, plan: dict[str, Any]) -> str:
    """The command that the records keep; else ``robustdeq reproduce`` from the plan of the first row, which holds every
    option but the defence's and how many images are judged."""
    commands = [line for one in run.evaluations for line in _commands(one.evaluation.record)]
    if whole := [line for line in commands if " reproduce " in line]:
        return whole[-1]
    words: list[Any] = ["robustdeq", "reproduce", str(plan.get("recipe"))]
    configs = sorted((run.folder / "training").glob("*/config.json"), key=lambda path: path.parent.name != "baseline")
    if configs:
        words[-1] = configs[0]
    if isinstance(plan.get("defence"), dict):
        words += ["--set", f"defence={json.dumps(plan['defence'])}"]
    words += ["--full"] if plan.get("full") is True else []
    return _line(*words, "--out", "runs/again")


def evaluate_command(assessed: Assessed, deployed: nn.Module | None, place: str, data: str | None) -> str:
    """The command that the record keeps; else ``robustdeq evaluate`` with the record's options. Where the attacks are
    those of no suite, it says so."""
    record = assessed.evaluation.record
    if commands := _commands(record):
        return commands[-1]
    identity, name = record.identity, _suite(record, deployed)
    words: list[Any] = ["robustdeq", "evaluate", place or "MODEL", "--suite", name or "SUITE"]
    words += ["--data", data or "DATA"]
    words += [] if identity.norm == "Linf" else ["--threat", identity.norm]
    words += ["--eps", identity.eps_words, "--subset", identity.points]
    words += ["--batch-size", identity.batch_size, "--seed", identity.seed]
    words += ["--defend"] if identity.defence is not None else []
    if any(attack.startswith("beside ") for attack in record.columns):
        words += ["--beside", "EVALUATION_OF_THE_OTHER"]
    words += ["--images"] if record.images else []
    lines = [_line(*words, "--out", "runs/again")]
    if name is None:
        lines.append("# the attacks are of no suite at its defaults: give them with --set, or to robustdeq.evaluate")
    if (of := identity.defence) is not None:
        reduces = METHODS.get(of.name) is EntropyReduction and identity.eps <= 1  # which takes no larger ball
        if not reduces or of.settings != describe(EntropyReduction.usual(identity.eps, identity.steps)):
            lines.append("# the defence is another than --defend puts on: give it to robustdeq.evaluate")
    return "\n".join(lines)


def _commands(record: Record) -> list[str]:
    """Those that the record was made by."""
    commands = [one.get("command") for one in record.environments.values() if isinstance(one, dict)]
    return [line for line in commands if isinstance(line, str)]


def _suite(record: Record, deployed: nn.Module | None) -> str | None:
    """The suite that makes the attacks on record, at its default budgets."""
    if deployed is None:
        return None
    attacks = [name for name in record.columns if record.attacks[name].attack != "transfer"]
    threat: Any = THREATS.get(record.identity.norm, Linf)(record.identity.eps)
    for name in SUITES:
        with suppress(ValueError):
            if [entry.name for entry in suite(name, deployed, threat)] == attacks:
                return name
    return None


def _line(*words: Any) -> str:
    return shlex.join(str(word) for word in words)
