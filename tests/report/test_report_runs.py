"""A folder is read as far as it goes, and what is missing is said."""

import json
import shutil

import pytest

from robustdeq.evaluation import Evaluation
from robustdeq.report.runs import names, read_runs


def _only(folder):
    (run,) = read_runs([folder])
    return run


def test_a_training_is_read_with_the_evaluations_in_it(whole):
    run = _only(whole)
    assert [one.name for one in run.evaluations] == ["mine/bare", "mine/defended"] and run.missing == []
    (training,) = run.trainings
    assert [row["epoch"] for row in training.epochs] == [1, 2, 3] and training.plan["recipe"] == "smoke"
    assert training.environment is not None and "torch" in training.environment["packages"]


def test_an_evaluation_is_the_one_on_record(whole):
    run = _only(whole / "bare")
    assert run.evaluations[0].evaluation.shares() == Evaluation.read(whole / "bare").shares()


def test_an_unfinished_evaluation_counts_the_attacks_that_ended(run):
    record = json.loads((run / "bare" / "evaluation.json").read_text())
    shares = Evaluation.read(run / "bare").shares()
    del record["attacks"]["joint"]["batches"]["6"]
    _write(run / "bare", record)
    read = _only(run / "bare")
    assert read.missing == ["bare is unfinished: joint, 1 of 2 batches. The attacks that ended are shown."]
    left = read.evaluations[0].evaluation.shares()
    assert list(left) == ["clean", "PGD", "All"] and left["PGD"] == shares["PGD"] and not read.evaluations[0].finished
    assert read.evaluations[0].evaluation.uncounted() is None


def test_an_evaluation_that_has_only_begun_shows_its_clean_images(run):
    record = json.loads((run / "bare" / "evaluation.json").read_text())
    del record["clean"]["6"]
    _write(run / "bare", record)
    read = _only(run / "bare")
    assert "clean images, 1 of 2 batches" in read.missing[0]
    assert read.evaluations[0].evaluation.shares()["clean"].total == 6


def test_samples_behind_a_gap_are_left_out(run):
    """Of several processes that were killed one may have been ahead: its samples were taken for the first ones."""
    record = json.loads((run / "bare" / "evaluation.json").read_text())
    del record["clean"]["0"]
    _write(run / "bare", record)
    read = _only(run / "bare")
    assert "clean images, 0 of 2 batches" in read.missing[0]
    assert read.evaluations[0].evaluation.shares()["clean"].total == 0


def _write(folder, record):
    """With the digest that belongs to it: as a run leaves it that was killed."""
    from robustdeq.evaluation.record import RECORD, Record
    from robustdeq.evaluation.recordfile import _write
    from robustdeq.options import make

    _write(folder / RECORD, make(Record, {key: value for key, value in record.items() if key != "sha256"}))


@pytest.mark.parametrize("damage", ["version", "cut", "edited", "number"])
def test_of_a_record_that_cannot_be_read_the_printed_table_is_left(run, damage):
    file = run / "bare" / "evaluation.json"
    text = file.read_text()
    changed = {"version": text.replace('"schema": 7', '"schema": 6'), "cut": text[: len(text) // 2],
               "edited": text.replace('"points": 12', '"points": 11', 1), "number": "17"}  # fmt: skip
    assert changed[damage] != text
    file.write_text(changed[damage])
    (run / "bare" / "table.md").write_text("| accuracy | <b> |")
    read = _only(run / "bare")
    assert read.evaluations == [] and read.tables == {"bare": "| accuracy | <b> |"}
    assert "cannot be read" in read.missing[0]


def test_a_log_with_cut_lines_gives_the_others(run):
    lines = (run / "log.jsonl").read_text().splitlines()
    (run / "log.jsonl").write_text("\n".join([*lines[:-1], lines[-1][:40], "[]", '{"step": "x"}', "\x00"]))
    (run / "last.safetensors").write_bytes(b"junk")
    read = _only(run)
    assert read.missing[0] == "mine: 4 lines of log.jsonl cannot be read."
    assert read.missing[1] == "mine is unfinished: 2 of 3 epochs."
    assert read.trainings[0].environment is None


def test_what_is_no_run_is_refused(tmp_path):
    for wrong in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ValueError, match=r"report: .*; allowed: a folder that train, evaluate or reproduce wrote"):
            read_runs([wrong])


def test_a_folder_given_twice_counts_once(whole):
    assert len(read_runs([whole / "bare", whole / "bare"])) == 1


def test_names_are_the_shortest_that_differ(tmp_path):
    places = [tmp_path / "a" / "quick", tmp_path / "b" / "quick"]
    assert names(places) == ["a/quick", "b/quick"] and names(places[:1]) == ["quick"]


def test_rows_that_are_not_there_yet_are_named(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole / "bare", out / "evaluation" / "baseline")
    (out / "recipe.json").write_text(json.dumps({"recipe": "smoke", "rows": {"baseline": {}, "random states": {}}}))
    run = _only(out)
    assert [one.name for one in run.evaluations] == ["baseline"]
    assert run.missing == [
        "baseline: its training is not here, so no training curves.",
        "baseline: no analysis along the states yet.",
        "random states: not trained yet.",
    ]
