"""Table, results and figures from what the rows left."""

from __future__ import annotations

from collections.abc import Mapping

from ..environment import environment
from ..evaluation import Evaluation
from ..files import read_json, write_json, write_text
from ..report import entropy_figure, state_figure, write_report
from ..text import markdown
from .job import APGD_ITERATIONS, DEFENDED, END_TO_END_STEPS, QUERIES, SETTINGS, Job

COLUMNS = ("clean", "PGD", "joint", "AA", *SETTINGS, "All")
SHORT_BUDGETS = (
    f" PGD-20, end-to-end PGD-{END_TO_END_STEPS}; through the defence APGD takes {APGD_ITERATIONS} iterations, "
    f"Square {QUERIES} queries."
)


def assemble(job: Job) -> str:
    """Table, results and figures from what the rows left."""
    out, rows, evaluations = job.out, list(job.recipe.rows), evaluated(job)
    places = {row: job.analysis(row) for row in rows}  # none of a network without states
    analysis = {row: read_json(place, "remove it to make it anew") for row, place in places.items() if place.exists()}
    table = _table(job, evaluations, next((of["source"] for of in analysis.values()), job.recipe.data))
    if analysis:
        (out / "figures").mkdir(exist_ok=True)
        entropies = {row: (of["entropy"]["clean"], of["entropy"]["attacked"]) for row, of in analysis.items()}
        entropy_figure(out / "figures" / "entropy.png", entropies)
        state_figure(out / "figures" / "states.png", {row: of["readouts"] for row, of in analysis.items()})
    results = {
        "recipe": read_json(out / "recipe.json", "give another --out"),
        "environment": environment(),
        "rows": {name: evaluation.to_dict() for name, evaluation in evaluations.items()},
        "analysis": analysis,
    }
    write_json(out / "results.json", results)
    write_text(out / "table.md", table)
    return f"{table}\nThe report, for a browser: {write_report([out], data=job.recipe.data)}\n"


def evaluated(job: Job) -> dict[str, Evaluation]:
    """Rows by name, and behind the defence, as far as they are finished."""
    folders = {name: job.evaluation(name) for row in job.recipe.rows for name in (row, row + DEFENDED)}
    return {name: Evaluation.read(folder) for name, folder in folders.items() if folder.exists()}


def _table(job: Job, evaluations: Mapping[str, Evaluation], source: str) -> str:
    attacks = "standard" if job.full else " + ".join(name.upper() for name in job.recipe.auto_attacks)
    lines = [
        f"# {markdown(job.recipe.model)} on {markdown(source)}",
        "",
        f"| row | clean | PGD-20 | joint | AA ({attacks}) | {' | '.join(SETTINGS)} | All |",
        "|---|---|---|---|---|" + "---|" * len(SETTINGS) + "---|",
    ]
    for name, evaluation in evaluations.items():
        shares = evaluation.shares()
        cells = [str(shares.get(column, "-")) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    fired = [(name, flag) for name, evaluation in evaluations.items() for flag in evaluation.flags if flag.fired]
    total, training = max(len(evaluation.clean) for evaluation in evaluations.values()), job.recipe.training
    ball = f"{'L-inf' if training.threat.name == 'Linf' else 'L2'}, eps {training.eps:g}, seed {training.seed}"
    order = "cut at random before any training" if job.recipe.data == "digits" else "in their published order"
    points = total if job.full else min(job.recipe.auto_points, total)
    lines += [
        "",
        f"Percent, exact 95% interval, count. {ball}; {total} test images, {order}; "
        f"AA, the four settings and All on the first {points}.",
        "PGD-20: the per-sample worst of the unrolled and the phantom gradient and, on what these leave, of the DLR "
        "loss; joint: joint optimisation of state, adjoint and image.",
        "Rows with entropy reduction, by what the attacker knows. static: images made against the bare model, those of "
        "its own row among them; frozen: through the defence, x' - x held constant; end-to-end: through its updates; "
        "black-box: Square." + ("" if job.full else SHORT_BUDGETS),
        "All: the samples that survive every attack of their row. Every image was verified by the deployed forward.",
        *(f"Red flag, {name}: {flag.text}." for name, flag in fired),
    ]
    return "\n".join(lines) + "\n"
