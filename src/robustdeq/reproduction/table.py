"""Tables, results and figures from what the rows left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from ..environment import environment
from ..evaluation import Evaluation, Share
from ..files import read_json, write_json, write_text
from ..report import entropy_figure, state_figure, write_report
from ..report.paired import Paired, mcnemar, paired
from ..text import markdown, table
from .row import APGD_ITERATIONS, DEFENDED, END_TO_END_STEPS, QUERIES, Job

SETTINGS = ("static", "frozen", "end-to-end", "black-box")
COLUMNS = ("clean", "PGD", "joint", "AA", *SETTINGS, "All")
BASE = "baseline"
"""The row that others are compared with, sample by sample."""
SHORT_BUDGETS = (
    f" PGD-20, end-to-end PGD-{END_TO_END_STEPS}; through the defence APGD takes {APGD_ITERATIONS} iterations, "
    f"Square {QUERIES} queries."
)


def assemble(job: Job) -> str:
    """Table, results and figures from what the rows left."""
    out, rows, evaluations = job.out, list(job.recipe.rows), evaluated(job)
    places = {row: job.analysis(row) for row in rows}  # none of a network without states
    analysis = {row: read_json(place, "remove it to make it anew") for row, place in places.items() if place.exists()}
    text = _table(job, evaluations, next((of["source"] for of in analysis.values()), job.recipe.data))
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
    write_text(out / "table.md", text)
    return f"{text}\nThe report, for a browser: {write_report([out], data=job.recipe.data)}\n"


def evaluated(job: Job) -> dict[str, Evaluation]:
    """Rows by name, and behind the defence, as far as they are finished."""
    folders = {name: job.place("evaluation", name) for row in job.recipe.rows for name in (row, row + DEFENDED)}
    return {name: Evaluation.read(folder) for name, folder in folders.items() if folder.exists()}


def _table(job: Job, evaluations: Mapping[str, Evaluation], source: str) -> str:
    met = [(name, column, each.record) for each in evaluations.values() for name, column in each.columns.items()]
    attacks = "standard" if job.full else " + ".join(dict.fromkeys(name.upper() for name, at, _ in met if at == "AA"))
    points = max((record.attacks[name].points for name, column, record in met if column == "AA"), default=0)
    total, training = max(len(evaluation.clean) for evaluation in evaluations.values()), job.recipe.training
    ball = f"{'L-inf' if training.threat.name == 'Linf' else 'L2'}, eps {training.eps:g}, seed {training.seed}"
    folder, order = Path(job.recipe.data), "in their published order"
    if job.recipe.data == "digits":
        order = "cut at random before any training"
    elif folder.is_dir() and not any(folder.rglob("*.parquet")):  # images in a folder for each class
        order = "in random order"
    rows = []
    for name, evaluation in evaluations.items():
        shares = evaluation.shares()
        rows.append([name, *(str(shares.get(column, "-")) for column in COLUMNS)])
    lines = [
        f"# {markdown(job.recipe.model)} on {markdown(source)}",
        "",
        table(["row", "clean", "PGD-20", "joint", f"AA ({attacks})", *SETTINGS, "All"], rows),
        "",
        f"Percent, exact 95% interval, count. {ball}; {total} test images, {order}; "
        f"AA, the four settings and All on the first {points}.",
        "PGD-20: the per-sample worst of the unrolled and the phantom gradient and, on what these leave, of the DLR "
        "loss; joint: joint optimisation of state, adjoint and image.",
        "Rows with entropy reduction, by what the attacker knows. static: images made against the bare model, those of "
        "its own row among them; frozen: through the defence, x' - x held constant; end-to-end: through its updates; "
        "black-box: Square." + ("" if job.full else SHORT_BUDGETS),
        "All: the samples that survive every attack of their row. Every image was verified by the deployed forward.",
    ]
    for name, evaluation in evaluations.items():
        lines += [f"Red flag, {name}: {flag.text}." for flag in evaluation.flags if flag.fired]
    return "\n".join(lines) + "\n"


def seeds_table(seeds: Mapping[int, Mapping[str, Evaluation]]) -> str:
    """Markdown. seeds: rows by name, by seed. Means and counts of every column, and every row beside the baseline."""
    rows, beside = [], []
    for name in dict.fromkeys(name for evaluations in seeds.values() for name in evaluations):
        shares = [of[name].shares() if name in of else {} for of in seeds.values()]
        rows.append([markdown(name), *(_cell([share.get(column) for share in shares]) for column in COLUMNS)])
        both = [(of.get(name), of.get(BASE)) for of in seeds.values()]
        pairs = [{p.column: p for p in paired(row, base)} if row and base else {} for row, base in both]
        for column in dict.fromkeys(column for seed in pairs for column in seed) if name != BASE else ():
            beside.append([markdown(name), column, *_beside([seed.get(column) for seed in pairs])])
    head = [f"beside {BASE}", "column", "gained, lost by seed", "p by seed", "in all", "p"]
    told = "gained, lost: samples that stand in this row only, and in the other only, of those that both saw; p: of "
    told += "McNemar's exact test. In all: summed over seeds, whose images are the same, so its p is too small."
    means = f"Percent: mean over seeds (lowest to highest), and the count of each; seeds {', '.join(map(str, seeds))}."
    return "\n\n".join([table(["row", *COLUMNS], rows), means, table(head, beside), told]) + "\n"


def _cell(by_seed: Sequence[Share | None]) -> str:
    """None: a seed without that column."""
    if not (shares := [share for share in by_seed if share]):
        return "-"
    percents, totals = [share.percent for share in shares], [share.total for share in shares]
    counts = ", ".join(str(share.count) if share else "-" for share in by_seed) + f" of {totals[0]}"
    if len(set(totals)) > 1:
        counts = ", ".join(f"{share.count} of {share.total}" if share else "-" for share in by_seed)
    return f"{mean(percents):.1f} ({min(percents):.1f} to {max(percents):.1f}) {counts}"


def _beside(pairs: Sequence[Paired | None]) -> list[str]:
    """None: a seed without that column."""
    gained, lost = (sum(getattr(pair, side) for pair in pairs if pair) for side in ("first", "second"))
    by_seed = "; ".join(f"{pair.first}, {pair.second}" if pair else "-" for pair in pairs)
    chances = "; ".join(f"{pair.p:.2g}" if pair else "-" for pair in pairs)
    return [by_seed, chances, f"{gained}, {lost}", f"{mcnemar(gained, lost):.2g}"]
