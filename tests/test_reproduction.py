"""The main job on its smallest recipe: real processes, killed for real."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import robustdeq as rd
from robustdeq.cli import main
from robustdeq.files import write_json
from robustdeq.recipes import recipe
from robustdeq.report.paired import paired
from robustdeq.reproduction import Repeated, Reproduction, processes
from robustdeq.reproduction.row import Job, Row
from robustdeq.reproduction.table import evaluated, seeds_table

ROWS = ["baseline", "random states", "no attacks in training"]
COMMAND = ["reproduce", "smoke", "--jobs", "2", "--out"]
RECORD = "evaluation.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out, printed = tmp_path_factory.mktemp("reproduction") / "whole", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*COMMAND, str(out)]) == 0
    return out, printed.getvalue()


def test_it_writes_table_results_models_and_figures(whole):
    out, printed = whole
    table = (out / "table.md").read_text()
    assert table.strip() in printed and "The report, for a browser:" in printed and (out / "report.html").exists()
    results = json.loads((out / "results.json").read_text())
    expected = [name for row in ROWS[:2] for name in (row, f"{row} + entropy reduction")] + [ROWS[2]]
    assert list(results["rows"]) == expected
    for name in expected:
        shares = results["rows"][name]["shares"]
        smallest = min(share["count"] / share["total"] for share in shares.values() if share["total"] == 4)
        assert shares["All"]["count"] / 4 <= smallest
        assert f"| {name} | " in table
        flags = {flag["name"] for flag in results["rows"][name]["flags"]}
        assert flags == {"static", "black-box"} if "entropy reduction" in name else len(flags) >= 7
    for row in ROWS:
        assert results["analysis"][row]["readouts"]["early"] in range(1, 5)
        assert (out / "models" / row.replace(" ", "-") / "model.safetensors").exists()
    for figure in ("entropy.png", "states.png"):
        assert (out / "figures" / figure).read_bytes().startswith(b"\x89PNG")
    assert not [path for path in out.rglob(".*")]


@pytest.mark.timeout(600)  # on a busy machine
def test_killed_and_started_again_it_gives_the_same_table(whole, tmp_path):
    out, _ = whole
    again = tmp_path / "again"
    process = subprocess.Popen([sys.executable, "-m", "robustdeq", *COMMAND, str(again)])
    checkpoint = again / "training" / "baseline" / "last.safetensors"
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    children = _children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.exists() and children and not (again / "table.md").exists()
    deadline = time.monotonic() + 10
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, children)), "a killed run left its jobs behind"
    assert main([*COMMAND, str(again)]) == 0
    assert (again / "table.md").read_text() == (out / "table.md").read_text()


def test_a_folder_of_another_run_is_refused(whole, tmp_path, capfd):
    out, _ = whole
    assert main([*COMMAND, str(out), "--seed", "1"]) == 2 and "another training.seed" in capfd.readouterr().err
    (tmp_path / "file").write_text("mine")
    assert main([*COMMAND, str(tmp_path)]) == 2 and "is not empty" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"defence": {"every": 9}}, "every=9; allowed: 1..4"),
        ({"validation": 0}, "no held-out images"),
        ({"model_options": {"steps": 1}}, "every=2; allowed: 1..1"),
    ],
)
@pytest.mark.parametrize("seeds", [None, 2])
def test_what_does_not_fit_is_said_before_anything_is_trained_or_written(tmp_path, settings, message, seeds):
    chosen, out = recipe("smoke").changed(settings), tmp_path / "out"
    job = Reproduction(recipe=chosen, out=out) if seeds is None else Repeated(recipe=chosen, out=out, seeds=seeds)
    with pytest.raises(ValueError, match=message):
        job.run(lambda *_: None)
    assert not out.exists()


def _children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _written(folder):
    """When each file of the rows was written. (A record is written again, with the same content.)"""
    places = [folder / name for name in ("models", "training", "evaluation", "states", "analysis")]
    files = [path for place in places for path in place.rglob("*") if path.is_file() and path.name != RECORD]
    return {path: path.stat().st_mtime_ns for path in files}


def test_what_is_kept_of_finished_rows_is_enough_for_their_table(whole, tmp_path):
    """Records and analyses are small; with them alone nothing is trained or attacked again. What misses one is."""
    out, kept = whole[0], tmp_path / "kept"
    files = [out / "recipe.json", *out.rglob(RECORD), *(out / "analysis").glob("*.json")]
    for file in files:
        (kept / file.relative_to(out)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, kept / file.relative_to(out))
    before = {file.relative_to(out): (kept / file.relative_to(out)).read_bytes() for file in files}
    job = Reproduction(recipe=recipe("smoke"), out=kept, jobs=1)
    assert all(Row(job, name).kept for name in ROWS)
    job.run(lambda *_: None)
    assert (kept / "table.md").read_text() == (out / "table.md").read_text()
    assert {name: (kept / name).read_bytes() for name in before} == before
    assert not (kept / "models").exists() and not (kept / "training").exists()
    for change in ({"auto_attacks": ("apgd-t",)}, {"auto_points": 3}, {"test_points": 23}):
        other = Row(replace(job, recipe=recipe("smoke").changed(change)), "baseline")
        with pytest.raises(ValueError, match=r"reproduce: .* only a record is kept; allowed: apgd-ce on 4 of 24"):
            _ = other.kept
    shutil.rmtree(kept / "evaluation" / "baseline-entropy-reduction")
    (kept / "analysis" / "random-states.json").unlink()
    shutil.copytree(out / "models" / "no-attacks-in-training", kept / "models" / "no-attacks-in-training")
    assert not any(Row(job, name).kept for name in ROWS)


def test_seeds_have_a_folder_each_and_one_table(whole, tmp_path):
    """The one seed here is finished: nothing is trained or attacked again, and the table is the same."""
    job = Repeated(recipe=recipe("smoke"), out=tmp_path / "out", seeds=1, jobs=2)
    shutil.copytree(whole[0], job.out / "seed-0")
    write_json(job.out / "seeds.json", job.recipe.plan())
    before = _written(job.out / "seed-0")
    told, table = job.run(lambda *_: None), (job.out / "table.md").read_text()
    assert before and _written(job.out / "seed-0") == before
    assert (job.out / "seed-0" / "table.md").read_text() == (whole[0] / "table.md").read_text()
    assert table.strip() in told and (job.out / "report.html").exists()
    assert table == seeds_table({0: evaluated(job.by_seed()[0])}) and "seeds 0." in table
    assert list(replace(job, seeds=3).by_seed()) == [0, 1, 2]
    assert {job.recipe.training.seed for job in replace(job, seeds=3).by_seed().values()} == {0, 1, 2}
    other = replace(job.recipe, training=replace(job.recipe.training, batch_size=64))
    with pytest.raises(ValueError, match=r"another training\.batch_size"):
        replace(job, recipe=other).run(lambda *_: None)


def test_the_table_of_seeds_has_means_and_counts_and_what_stands_in_one_row_only(whole):
    rows = evaluated(Reproduction(recipe=recipe("smoke"), out=whole[0]))
    exchanged = {**rows, "baseline": rows["random states"], "random states": rows["baseline"]}
    table = seeds_table({3: rows, 5: exchanged})
    one, other = (rows[row].shares()["clean"].count for row in ("baseline", "random states"))
    spread = f"({100 / 24 * min(one, other):.1f} to {100 / 24 * max(one, other):.1f})"
    assert f"| baseline | {100 / 48 * (one + other):.1f} {spread} {one}, {other} of 24 |" in table
    assert "seeds 3, 5" in table
    beside = next(line for line in table.splitlines() if line.startswith("| random states | clean |"))
    by_seed = [tuple(map(int, pair.split(","))) for pair in beside.split("|")[3].split(";")]
    assert by_seed[0] == by_seed[1][::-1] and by_seed[0][0] - by_seed[0][1] == other - one
    assert beside.split("|")[5].split(",") == [f" {sum(by_seed[0])}", f" {sum(by_seed[0])} "]


def test_what_a_seed_lacks_is_not_taken_from_the_next_column(whole):
    """Pairs were put together by their place, and the p of one column stood under the name of another."""
    rows = evaluated(Reproduction(recipe=recipe("smoke"), out=whole[0]))
    short = {}
    for name, of in rows.items():
        columns = {attack: column for attack, column in of.columns.items() if column != "PGD"}
        short[name] = replace(of, record=replace(of.record, columns=columns))
    lines = seeds_table({0: short, 1: rows}).splitlines()
    mine = [line.split("|")[2:4] for line in lines if line.startswith("| random states | ") and ";" in line]
    names = [name.strip() for name, _ in mine]
    assert sorted(names) == ["AA", "All", "PGD", "clean", "joint"]
    assert [by_seed.strip().startswith("-; ") for name, by_seed in mine if name.strip() == "PGD"] == [True]
    whole_pairs = {pair.column: pair for pair in paired(rows["random states"], rows["baseline"])}
    gone = {name: of for name, of in rows.items() if name != "baseline"}  # whose seed has nothing beside it
    lines = seeds_table({0: rows, 1: gone, 2: {}, 3: rows}).splitlines()
    lines = [line for line in lines if line.startswith("| random")]
    assert all(line.split("|")[3].split(";")[1:3] == [" -", " -"] for line in lines if ";" in line) and len(lines) > 5
    assert lines[0].split("|")[2].split(")")[1].split(",")[2] == " -"
    for name, by_seed in mine:
        pair = whole_pairs[name.strip()]
        assert by_seed.strip().endswith(f"; {pair.first}, {pair.second}")


def test_a_defended_row_meets_the_apgds_of_the_bare_one(tmp_path, monkeypatch):
    """With APGD-CE alone a bound stood beside a tighter one."""
    short = replace(recipe("smoke"), auto_attacks=("apgd-ce", "apgd-t"))
    row, met = Row(Job(recipe=short, out=tmp_path), "baseline"), {}

    def asked(module, entries, *_, **__):
        met[type(module).__name__] = [entry.name for entry in entries]

    monkeypatch.setattr(row, "_evaluate", asked)
    model = rd.create_model(short.model, num_classes=10, seed=0, **short.model_options)
    row.evaluate(model, lambda *_: None)
    row.evaluate_defended(model, SimpleNamespace(images={}), lambda *_: None)
    bare, defended = met["DEQClassifier"], met["RegulatedClassifier"]
    apgds = [name for name in bare if name.startswith("apgd")]
    assert apgds == ["apgd-ce", "apgd-t"] and defended[-2:] == [f"{name} frozen" for name in apgds]


def test_rows_share_the_threads_that_there_are(monkeypatch):
    """OMP_NUM_THREADS, and what a container was given, were not looked at: as many as the machine has were taken."""

    def pool(jobs, context, initializer, initargs):
        raise InterruptedError(initargs[1])

    monkeypatch.setattr(processes, "ProcessPoolExecutor", pool)
    for threads, each in ((6, 2), (2, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        with pytest.raises(InterruptedError, match=f"^{each}$"):
            processes.run_rows(SimpleNamespace(jobs=3), print)
