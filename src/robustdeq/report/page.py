"""One HTML file from what runs left: everything in it, nothing fetched."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import nn

from ..charts import HEIGHT, LEFT, RIGHT, WIDTH, Chart
from ..checks import check_count
from ..environment import environment
from ..files import first_line, read_json, write_text
from ..progress import Progress
from ..text import shown
from ..training import summary
from .again import evaluate_command, reproduce_command, train_command
from .curves import analysis_charts, certified_chart, training_charts
from .figures import accuracy_figure, certified_figure, entropy_figure, state_figure, training_figure
from .kept import Kept
from .paired import Paired, paired
from .runs import Assessed, Run, Trained, read_runs
from .samples import Shown, group_analysis, samples
from .words import CHECKED, FLAGS, SETTINGS, column_words

TEMPLATES = Path(__file__).parent / "templates"
SAMPLES = 100
"""How many samples of each evaluation are shown, unless told."""
FIRST = b"<!DOCTYPE html>"
"""With which a report begins, but for blanks."""


def write_report(
    folders: Sequence[str | Path], out: str | Path | None = None, *, models: Any = (),
    data: str | None = None, count: int = SAMPLES, figures: bool = False, progress: Progress | None = None,
) -> Path:  # fmt: skip
    """Write the report of one run or several side by side, and return where it lies.

    folders: what ``train``, ``evaluate`` or ``reproduce`` wrote; one that is unfinished, damaged or of another version
    gives what is there, and the page says what is missing. out: the HTML file, default report.html in the folder of a
    single run, else in the current one. models: folders or hub ids, one or several, in which the judged models may lie
    besides the usual places, or bare models; data: the source of the judged images, as ``data.load`` takes it. Both
    must be readable, and are used only where logits and digest are those on record. count: samples shown of each
    evaluation. figures: write figures for papers as well, PNG and SVG, into a folder beside the file.
    Raises a ValueError where a folder holds no run, or a model or source cannot be read.
    """
    check_count("report", "samples", count, 0)
    models = [models] if isinstance(models, str | Path | nn.Module) else models
    runs = read_runs(folders)
    path = Path(out) if out is not None else (runs[0].folder if len(runs) == 1 else Path()) / "report.html"
    if path.is_dir():
        raise ValueError(f"report: {path} is a folder; allowed: the name of an HTML file.")
    if path.exists() and not (path.is_file() and path.read_bytes().lstrip().startswith(FIRST)):
        raise ValueError(f"report: {shown(str(path))} is there and no report; allowed: a new name, or an old report's.")
    whole, kept = Run.joined(runs), Kept.beside(runs, models, data)
    gallery, missing, judged = samples(whole.evaluations, kept, count, progress or (lambda *_: None))
    whole.missing += missing
    charts = _along_states(whole, gallery)
    path.parent.mkdir(parents=True, exist_ok=True)
    if figures:
        _write_figures(whole, path.with_name(f"{path.stem}-figures"))
    write_text(path, _html(whole, gallery, charts, _commands(runs, judged)))
    return path


def _along_states(whole: Run, gallery: Mapping[str, Any]) -> dict[str, list[Chart]]:
    """The charts of every analysis, by name: of the samples shown, and over it what a run itself found. Left in
    ``whole.analyses`` are those of which something can be drawn."""
    analyses, charts = {group["name"]: group_analysis(group) for group in gallery["groups"]}, {}
    for name, analysis in whole.analyses.items():
        analyses[name] = {**analyses.get(name, {}), **analysis}
    for name, analysis in analyses.items():
        try:
            charts[name] = analysis_charts(analysis)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            whole.missing.append(f"{name}: the analysis along the states cannot be read ({first_line(error)}).")
    charts = {name: drawn for name, drawn in charts.items() if drawn}
    whole.analyses = {name: analyses[name] for name in charts}
    return charts


def _html(whole: Run, gallery: Any, charts: dict[str, list[Chart]], commands: list[tuple[str, str]]) -> str:
    """The file's text. gallery: JSON for its script. Its policy lets the one script run that is in it, and nothing be
    fetched."""
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    templates.globals |= {"words_of": column_words, "meaning_of": FLAGS.get, "checked": CHECKED.get}
    templates.globals |= {"WIDTH": WIDTH, "HEIGHT": HEIGHT, "LEFT": LEFT, "RIGHT": RIGHT, "settings": SETTINGS}
    templates.globals |= {"as_json": lambda value: json.dumps(value, indent=1)}
    attacked = dict.fromkeys(column for one in whole.evaluations for column in one.evaluation.columns.values())
    return templates.get_template("report.html").render(
        title=whole.name, tables=whole.tables, missing=whole.missing, rows=[_row(one) for one in whole.evaluations],
        columns=["clean", *attacked, *(["All"] if attacked else [])], pairs=_pairs(whole.evaluations),
        trained=[(one, training_charts(one), _summary(one)) for one in whole.trainings],
        certified=[(name, one, certified_chart(one)) for name, one in whole.certified.items()],
        analyses=charts, gallery=gallery, commands=commands, environment=environment(), script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def _write_figures(whole: Run, folder: Path) -> None:
    """accuracy, training, certified, entropy and states, as far as the runs hold them, PNG and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    entropies = {name: of["entropy"] for name, of in whole.analyses.items() if "entropy" in of}
    kinds: dict[Callable[[Path, Any], None], dict[str, Any]] = {
        accuracy_figure: {one.name: one.evaluation.shares() for one in whole.evaluations},
        training_figure: {one.name: one.epochs for one in whole.trainings if one.epochs},
        entropy_figure: {name: (of["clean"], of["attacked"]) for name, of in entropies.items()},
        certified_figure: whole.certified,
        state_figure: {name: of["readouts"] for name, of in whole.analyses.items() if of.get("readouts")},
    }
    for draw, rows in kinds.items():
        name = draw.__name__.replace("_figure", "")
        try:
            if rows:
                draw(folder / name, rows)
        except (ValueError, TypeError, KeyError) as error:  # of a log or an analysis that is not what it should be
            whole.missing.append(f"the figure {name} could not be drawn ({first_line(error)}).")


def _row(assessed: Assessed) -> dict[str, Any]:
    """An evaluation as the page shows it. work: evaluations of f and passes back through it."""
    evaluation, attacks = assessed.evaluation, []
    taken, alone = evaluation.taken(), evaluation.alone()
    for name, column in evaluation.columns.items():
        attack = evaluation.record.attacks[name]
        attacks.append({
            "name": name, "column": column, "taken": taken[name],
            "alone": [sample for sample, of in alone.items() if of == name],
            "work": attack.spent.evaluations + attack.spent.backward, "seconds": attack.spent.seconds,
            "rejected": attack.rejected, "warnings": attack.warnings,
        })  # fmt: skip
    return {
        "assessed": assessed, "shares": evaluation.shares(), "attacks": attacks,
        "fired": [flag for flag in evaluation.flags if flag.fired],
        "passed": [flag for flag in evaluation.flags if not flag.fired], "uncounted": evaluation.uncounted(),
        **{key: sum(attack[key] for attack in attacks) for key in ("work", "seconds")},
    }  # fmt: skip


def _pairs(assessed: list[Assessed]) -> list[tuple[str, str, list[Paired]]]:
    """Every two evaluations of the same images; of others nothing can be said sample by sample."""
    pairs = []
    for one, other in combinations(assessed, 2):
        with suppress(ValueError):
            pairs.append((one.name, other.name, paired(one.evaluation, other.evaluation)))
    return pairs


def _summary(trained: Trained) -> list[str]:
    """How the training went, in a few lines; nothing of a log that lacks a number."""
    with suppress(KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError):
        return summary(trained.epochs).splitlines() if trained.epochs else []
    return []


def _commands(runs: list[Run], judged: dict[str, Shown]) -> list[tuple[str, str]]:
    """What is made again, and by which command."""
    commands = []
    for run in runs:
        plan = run.folder / "recipe.json"
        if plan.exists():
            with suppress(ValueError, TypeError):
                commands.append((run.name, reproduce_command(run, dict(read_json(plan, "")))))
            continue
        commands += [(training.name, train_command(training)) for training in run.trainings if training.plan]
        for one in run.evaluations:
            model = judged[one.name]
            commands.append((one.name, evaluate_command(one, model.deployed, model.place, model.source)))
    return commands
