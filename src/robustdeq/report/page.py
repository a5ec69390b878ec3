"""One HTML file from what runs left: everything in it, nothing fetched."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..checks import check_count
from ..environment import environment
from ..evaluation import Compared, Flag, Share
from ..files import first_line, read_json, write_text
from ..text import shown
from ..training import summary
from .again import evaluate_command, reproduce_command, train_command
from .charts import HEIGHT, LEFT, RIGHT, WIDTH, Chart
from .curves import analysis_charts, certified_chart, training_charts
from .figures import accuracy_figure, certified_figure, entropy_figure, state_figure, training_figure
from .kept import Kept
from .paired import Paired, paired
from .runs import Assessed, Run, Trained, read_runs
from .samples import Found, Progress, group_analysis, samples
from .words import CHECKED, FLAGS, SETTINGS, column_words

TEMPLATES = Path(__file__).parent / "templates"
SAMPLES = 100
"""How many samples of each evaluation are shown, unless told."""
FIRST = b"<!DOCTYPE html>"
"""With which a report begins, but for blanks."""


def write_report(
    folders: Sequence[str | Path], out: str | Path | None = None, *, models: Sequence[str | Path] = (),
    data: str | None = None, count: int = SAMPLES, figures: bool = False, progress: Progress | None = None,
) -> Path:  # fmt: skip
    """Write the report of one run or several side by side, and return where it lies.

    folders: what ``train``, ``evaluate`` or ``reproduce`` wrote; one that is unfinished, damaged or of another version
    gives what is there, and the page says what is missing. out: the HTML file, default report.html in the folder of a
    single run, else in the current one. models: folders or hub ids in which the judged models may lie besides the
    usual places; data: the source of the judged images, as ``data.load`` takes it. Both must be readable, and are used
    only where logits and digest are those on record. count: samples shown of each evaluation. figures: write figures
    for papers as well, PNG and SVG, into a folder beside the file.
    Raises a ValueError where a folder holds no run, or a model or source cannot be read.
    """
    check_count("report", "samples", count, 0)
    runs = read_runs(folders)
    path = Path(out) if out is not None else (runs[0].folder if len(runs) == 1 else Path()) / "report.html"
    if path.is_dir():
        raise ValueError(f"report: {path} is a folder; allowed: the name of an HTML file.")
    if path.exists() and not (path.is_file() and path.read_bytes().lstrip().startswith(FIRST)):
        raise ValueError(f"report: {shown(str(path))} is there and no report; allowed: a new name, or an old report's.")
    page = Page.of(runs, Kept.beside(runs, models, data), count, progress or (lambda *_: None))
    path.parent.mkdir(parents=True, exist_ok=True)
    if figures:
        page.write_figures(path.with_name(f"{path.stem}-figures"))
    write_text(path, page.html())
    return path


@dataclass(frozen=True)
class Page:
    """What a page shows. gallery: JSON for its script. analyses: by name, what was found along the states. missing: a
    sentence each."""

    runs: list[Run]
    gallery: dict[str, Any]
    found: dict[str, Found]
    analyses: dict[str, tuple[dict[str, Any], list[Chart]]]
    missing: list[str]

    @classmethod
    def of(cls, runs: list[Run], kept: Kept, count: int, progress: Progress) -> Page:
        """Of runs that were read; models are asked for the dynamics of ``count`` samples of each evaluation."""
        assessed = [one for run in runs for one in run.evaluations]
        gallery, missing, found = samples(assessed, kept, count, progress)
        missing = [text for run in runs for text in run.missing] + missing
        analyses = {group["name"]: group_analysis(group) for group in gallery["groups"]}
        for run in runs:
            for name, analysis in run.analyses.items():
                analyses[name] = {**analyses.get(name, {}), **analysis}
        drawn = {}
        for name, analysis in analyses.items():
            try:
                drawn[name] = (analysis, analysis_charts(analysis))
            except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
                missing.append(f"{name}: the analysis along the states cannot be read ({first_line(error)}).")
        return cls(runs, gallery, found, {name: of for name, of in drawn.items() if of[1]}, missing)

    @property
    def assessed(self) -> list[Assessed]:
        return [one for run in self.runs for one in run.evaluations]

    @property
    def certified(self) -> dict[str, Compared]:
        return {name: compared for run in self.runs for name, compared in run.certified.items()}

    def html(self) -> str:
        """The file's text. Its policy lets the one script run that is in it, and nothing be fetched."""
        script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
        made = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        made.globals |= {"words_of": column_words, "meaning_of": FLAGS.get, "checked": CHECKED.get}
        made.globals |= {"WIDTH": WIDTH, "HEIGHT": HEIGHT, "LEFT": LEFT, "RIGHT": RIGHT, "settings": SETTINGS}
        made.globals |= {"as_json": lambda value: json.dumps(value, indent=1)}
        return made.get_template("report.html").render(
            title=" · ".join(run.name for run in self.runs), runs=self.runs, missing=self.missing,
            rows=[_row(one) for one in self.assessed], columns=_columns(self.assessed), pairs=_pairs(self.assessed),
            trained=[(one, training_charts(one), _summary(one)) for run in self.runs for one in run.trainings],
            certified=[(name, one, certified_chart(one)) for name, one in self.certified.items()],
            analyses=[(name, charts) for name, (_, charts) in self.analyses.items()], gallery=self.gallery,
            commands=_commands(self.runs, self.found), made=environment(), script=script,
            digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )  # fmt: skip

    def write_figures(self, folder: Path) -> None:
        """accuracy, training, certified, entropy and states, as far as the runs hold them, PNG and SVG."""
        folder.mkdir(parents=True, exist_ok=True)
        analyses = {name: analysis for name, (analysis, _) in self.analyses.items()}
        entropies = {name: of["entropy"] for name, of in analyses.items() if "entropy" in of}
        kinds: dict[Callable[[Path, Any], None], dict[str, Any]] = {
            accuracy_figure: {one.name: one.evaluation.shares() for one in self.assessed},
            training_figure: {one.name: one.epochs for run in self.runs for one in run.trainings if one.epochs},
            entropy_figure: {name: (of["clean"], of["attacked"]) for name, of in entropies.items()},
            certified_figure: self.certified,
            state_figure: {name: of["readouts"] for name, of in analyses.items() if of.get("readouts")},
        }
        for draw, rows in kinds.items():
            name = draw.__name__.replace("_figure", "")
            try:
                if rows:
                    draw(folder / name, rows)
            except (ValueError, TypeError, KeyError) as error:  # of a log or an analysis that is not what it should be
                self.missing.append(f"the figure {name} could not be drawn ({first_line(error)}).")


@dataclass(frozen=True)
class _Attack:
    """A line of the table of attacks. taken: see ``Evaluation.taken``. work: evaluations of f and passes back."""

    name: str
    column: str
    taken: dict[str, int]
    alone: list[int]
    work: int
    seconds: float
    rejected: int
    warnings: list[str]


@dataclass(frozen=True)
class _Row:
    """An evaluation as the page shows it."""

    assessed: Assessed
    shares: dict[str, Share]
    fired: list[Flag]
    passed: list[Flag]
    attacks: list[_Attack]
    work: int
    seconds: float


def _row(assessed: Assessed) -> _Row:
    evaluation = assessed.evaluation
    taken, single, attacks = evaluation.taken(), evaluation.alone(), []
    for name, column in evaluation.columns.items():
        batches = evaluation.record.attacks[name].batches.values()
        warnings = {text for batch in batches for text in batch.warnings}
        work = sum(batch.evaluations + batch.backward for batch in batches)
        seconds, rejected = (sum(getattr(batch, key) for batch in batches) for key in ("seconds", "rejected"))
        broke = [sample for sample, of in single.items() if of == name]
        attacks.append(_Attack(name, column, taken[name], broke, work, seconds, rejected, sorted(warnings)))
    flags = evaluation.flags
    return _Row(
        assessed, evaluation.shares(), [flag for flag in flags if flag.fired],
        [flag for flag in flags if not flag.fired], attacks, sum(a.work for a in attacks),
        sum(a.seconds for a in attacks),
    )  # fmt: skip


def _columns(assessed: list[Assessed]) -> list[str]:
    """clean first, All last."""
    between = dict.fromkeys(column for one in assessed for column in one.evaluation.columns.values())
    return ["clean", *between, *(["All"] if between else [])]


def _pairs(assessed: list[Assessed]) -> list[tuple[str, str, list[Paired]]]:
    """Every two evaluations of the same images; of others nothing can be said sample by sample."""
    pairs = []
    for one, other in combinations(assessed, 2):
        try:
            pairs.append((one.name, other.name, paired(one.evaluation, other.evaluation)))
        except ValueError:
            continue
    return pairs


def _summary(trained: Trained) -> list[str]:
    """How the training went, in a few lines; nothing of a log that lacks a number."""
    try:
        return summary(trained.epochs).splitlines() if trained.epochs else []
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError):
        return []


def _commands(runs: list[Run], found: dict[str, Found]) -> list[tuple[str, str]]:
    """What is made again, and by which command."""
    commands = []
    for run in runs:
        plan = run.folder / "recipe.json"
        if plan.exists():
            try:
                commands.append((run.name, reproduce_command(run, dict(read_json(plan, "")))))
            except (ValueError, TypeError):
                continue
            continue
        commands += [(training.name, train_command(training)) for training in run.trainings]
        for one in run.evaluations:
            commands.append((one.name, evaluate_command(one, *found[one.name])))
    return commands
