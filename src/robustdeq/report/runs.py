"""What run folders hold: trainings, evaluations, reproductions; whatever is there is read, and the rest is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..evaluation import Compared, Evaluation
from ..evaluation.certificate import CERTIFICATE
from ..evaluation.readouts import READOUTS
from ..evaluation.record import RECORD, Record
from ..files import first_line, read_json
from ..text import printable, shown

REDUCED = "-entropy-reduction"
"""How a reproduction's folder of a defended row ends."""
ANEW = "remove it to make it anew"
ALLOWED = "a folder that train, evaluate or reproduce wrote"


@dataclass(frozen=True)
class Assessed:
    """An evaluation. finished: False where attacks are left out that were not made on every sample. near: folders in
    which its model may lie."""

    name: str
    folder: Path
    evaluation: Evaluation
    near: tuple[Path, ...]
    finished: bool = True


@dataclass(frozen=True)
class Trained:
    """A training run. epochs, steps: the lines of log.jsonl, of an epoch each and of every tenth step. plan: its
    config.json. environment: of its last checkpoint."""

    name: str
    folder: Path
    epochs: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    plan: dict[str, Any]
    environment: dict[str, Any] | None


@dataclass
class Run:
    """What a folder given to the report holds. certified: certificates beside attacks, by name. analyses: by row, what
    ``reproduce`` found along the states. tables: Markdown of evaluations that cannot be read. missing: what is not
    there, a sentence each."""

    name: str
    folder: Path
    evaluations: list[Assessed] = field(default_factory=list)
    trainings: list[Trained] = field(default_factory=list)
    certified: dict[str, Compared] = field(default_factory=dict)
    analyses: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @classmethod
    def joined(cls, runs: Iterable[Run]) -> Run:
        """What several hold, as that of one."""
        whole = cls(" · ".join(run.name for run in runs), Path())
        for run in runs:
            whole.evaluations += run.evaluations
            whole.trainings += run.trainings
            whole.certified |= run.certified
            whole.analyses |= run.analyses
            whole.tables |= run.tables
            whole.missing += run.missing
        return whole


def read_runs(folders: Iterable[str | Path]) -> list[Run]:
    """Everything that the folders hold. ValueError for what is no folder, or holds nothing of a run."""
    places = list(dict.fromkeys(Path(folder) for folder in folders))
    for place in places:
        if not place.is_dir():
            raise ValueError(f"report: {shown(str(place))} is no folder; allowed: {ALLOWED}.")
    runs = [_read(place, name, len(places) > 1) for place, name in zip(places, names(places))]
    for run in runs:
        if run == Run(run.name, run.folder):
            raise ValueError(f"report: {shown(str(run.folder))} holds no run; allowed: {ALLOWED}.")
    return runs


def names(places: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    whole = [place.absolute().parts for place in places]
    lengths = range(1, max(map(len, whole), default=1) + 1)
    ends = [["/".join(parts[-length:]) for parts in whole] for length in lengths]
    return [printable(end) for end in next((e for e in ends if len(set(e)) == len(set(whole))), ends[-1])]


def _read(folder: Path, name: str, several: bool) -> Run:
    run = Run(name, folder)
    if (folder / "recipe.json").exists():
        _reproduction(run, f"{name}: " if several else "")
    elif (folder / "log.jsonl").exists():
        _training(run, name, folder)
        for file in sorted(folder.glob(f"*/{RECORD}")):
            _evaluation(run, f"{name}/{printable(file.parent.name)}", file.parent, (folder / "model",))
        for file in sorted(folder.glob(f"*/{CERTIFICATE}")):
            _certificate(run, f"{name}/{printable(file.parent.name)}", file.parent)
    elif (folder / RECORD).exists() or list(folder.glob(Record.share_files())):
        above = folder.absolute().parent
        _evaluation(run, name, folder, (folder / "model", above / "model", above, above.parent / "model"))
    elif (folder / CERTIFICATE).exists():
        _certificate(run, name, folder)
    elif (folder / READOUTS).exists():
        _analysis(run, name, folder / READOUTS, lambda value: {"readouts": value})
    elif (folder / "config.json").exists():
        run.missing.append(f"{name}: no log.jsonl. Nothing was trained here yet, or this is a model, not a run.")
    return run


def _reproduction(run: Run, prefix: str) -> None:
    """A row is a training, an evaluation of the model and, of most rows, one of the defended model. prefix: of the
    rows' names, where another run may have the same."""
    folder, rows = run.folder, []
    try:
        rows = list(read_json(folder / "recipe.json", ANEW)["rows"])
    except (ValueError, TypeError, KeyError):
        run.missing.append(f"{run.name}: recipe.json cannot be read, so rows that were never begun are not known.")
    planned = ["-".join("".join(c if c.isalnum() else " " for c in str(row)).split()) for row in rows]
    begun = [path.name for where in ("training", "evaluation") for path in sorted((folder / where).glob("*"))]
    for slug in dict.fromkeys([*planned, *(name.removesuffix(REDUCED) for name in begun)]):
        row = prefix + printable(slug).replace("-", " ")
        model, evaluation = folder / "models" / slug, folder / "evaluation" / slug
        defended = folder / "evaluation" / (slug + REDUCED)
        if (training := folder / "training" / slug).is_dir():
            _training(run, row, training)
        elif evaluation.is_dir() or defended.is_dir():
            run.missing.append(f"{row}: its training is not here, so no training curves.")
        else:
            run.missing.append(f"{row}: not trained yet.")
            continue
        if evaluation.is_dir():
            _evaluation(run, row, evaluation, (model,))
        else:
            run.missing.append(f"{row}: not evaluated yet.")
        if defended.is_dir():
            _evaluation(run, f"{row} + entropy reduction", defended, (model,))
        judged = [one.evaluation.record.identity for one in run.evaluations if one.name == row]
        if (analysis := folder / "analysis" / f"{slug}.json").exists():
            _analysis(run, row, analysis, dict)
        elif not judged or judged[-1].steps is not None:  # a network without states has none
            run.missing.append(f"{row}: no analysis along the states yet.")


def _analysis(run: Run, name: str, file: Path, take: Callable[[Any], dict[str, Any]]) -> None:
    try:
        run.analyses[name] = take(read_json(file, ANEW))
    except (ValueError, TypeError) as error:
        run.missing.append(f"{name}: {first_line(error)}")


def _evaluation(run: Run, name: str, folder: Path, near: tuple[Path, ...]) -> None:
    with _else_table(run, name, folder):
        record = Record.united(folder)
        if record is None:
            run.missing.append(f"{name}: no {RECORD}; the evaluation has not begun.")
            return
        record, undone = _finished(record)
        assessed = Assessed(name, folder, Evaluation(record, folder), near, not undone)
        assessed.evaluation.shares()  # what cannot be counted is missed here
        if undone:
            run.missing.append(f"{name} is unfinished: {', '.join(undone)}. The attacks that ended are shown.")
        run.evaluations.append(assessed)


def _certificate(run: Run, name: str, folder: Path) -> None:
    with _else_table(run, name, folder):
        run.certified[name] = Compared.read(folder)


@contextmanager
def _else_table(run: Run, name: str, folder: Path) -> Iterator[None]:
    """Of what cannot be read inside, as of another version, the table that was printed stands as it is."""
    try:
        yield
    except (ValueError, OSError, RuntimeError, IndexError) as error:
        run.missing.append(f"{name}: {first_line(error)}")
        try:
            run.tables[name] = (folder / "table.md").read_text(encoding="utf-8", errors="replace")
        except OSError:
            run.missing.append(f"{name}: no table.md either.")


def _finished(record: Record) -> tuple[Record, list[str]]:
    """The record with those attacks only that were made on all their samples, and what is left out."""
    # Of several processes one may be ahead: samples are known by their place, so those behind a gap are left out.
    size, whole = max(record.identity.batch_size, 1), {}
    while (start := size * len(whole)) in record.clean:
        whole[start] = record.clean[start]
    record = replace(record, clean=whole)
    undone, columns, attacks = [], {}, record.done
    clean, wanted = attacks.pop("clean")
    if clean < wanted:
        undone.append(f"clean images, {clean} of {wanted} batches")
    for name, (done, whole) in attacks.items():
        if done < whole or clean < wanted:
            undone.append(f"{name}, {done} of {whole} batches")
        else:
            columns[name] = record.columns[name]
    if not undone and (record.checks is None or not record.checks.done):
        undone.append("the checks for red flags")
    others = {name: attack for name, attack in record.attacks.items() if name not in record.columns}
    return replace(record, columns=columns, attacks=others | {name: record.attacks[name] for name in columns}), undone


def _training(run: Run, name: str, folder: Path) -> None:
    plan, lines, text = {}, [], ""
    try:
        plan = dict(read_json(folder / "config.json", "give --out of the run"))
    except (ValueError, TypeError) as error:
        run.missing.append(f"{name}: {first_line(error)}")
    try:
        text = (folder / "log.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        run.missing.append(f"{name}: no log.jsonl, so no training curves.")
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            value = json.loads(line)
            if isinstance(value, dict) and isinstance(value.get("step"), int):
                lines.append(value)
    if cut := len(text.splitlines()) - len(lines):
        run.missing.append(f"{name}: {cut} lines of log.jsonl cannot be read.")
    epochs, steps = [row for row in lines if "epoch" in row], [row for row in lines if "train" in row]
    planned = 0
    with suppress(KeyError, TypeError, ValueError):
        planned = sum(int(phase["epochs"]) for phase in plan["training"]["phases"])
    if len(epochs) < planned:
        run.missing.append(f"{name} is unfinished: {len(epochs)} of {planned} epochs.")
    if lines or plan:
        run.trainings.append(Trained(name, folder, epochs, steps, plan, _environment(folder / "last.safetensors")))


def _environment(checkpoint: Path) -> dict[str, Any] | None:
    """Versions, commit and hardware, from the checkpoint's header; its tensors are not read."""
    try:
        with safe_open(checkpoint, framework="pt") as file:
            return dict(json.loads((file.metadata() or {})["robustdeq"])["environment"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
