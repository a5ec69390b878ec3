"""Run folders with damage, and the same command again: refused, or the weights of the undamaged run, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from damage import Damage, spoil, spoiled_folders
from hypothesis import strategies as st
from law import cases, contents, every, sandbox, told

from robustdeq.cli import main
from robustdeq.training import trainer

COMMAND = ["train", "smoke", "--out", "run", "--set", 'phases=[{"epochs":3,"attack_steps":0,"solver_steps":1}]',
           'model_options={"steps": 2}', "batch_size=1000", "learning_rate=0.02", "ema=0.5", "validation_points=20",
           "validation_steps=1"]  # fmt: skip
"""Three updates, each judged."""


class Runs(NamedTuple):
    """Folders called ``run`` of a finished run and of one that was killed after its second epoch; the final model."""

    done: Path
    half: Path
    model: dict[str, bytes | None]


@pytest.fixture(scope="module")
def runs_of(tmp_path_factory) -> Runs:
    place, patch = tmp_path_factory.mktemp("runs"), pytest.MonkeyPatch()
    done, half = place / "done" / "run", place / "half" / "run"
    saved, save = [], trainer.save_checkpoint

    def kept(path: Path, *arguments: Any) -> None:
        save(path, *arguments)
        saved.append(path)
        if len(saved) == 2:
            shutil.copytree(path.parent, half, ignore=shutil.ignore_patterns(".lock"))

    done.parent.mkdir()
    with patch.context() as inside:
        inside.chdir(done.parent)
        inside.setattr(trainer, "save_checkpoint", kept)
        assert main(COMMAND) == 0
    found = Runs(done, half, contents(done / "model"))
    best, last = (json.loads(line).get("best") for line in (done / "log.jsonl").read_text().splitlines()[-2:])
    assert best is not None and last is not None and len(saved) == 3 and not (half / "model").exists()
    return found


def same_model(folder: Path, runs: Runs) -> Callable[[], str]:
    """What is wrong with the model that a command ended with: bit for bit that of the undamaged run is right."""

    def wrong() -> str:
        found = contents(folder)
        if found.get("model.safetensors") != runs.model["model.safetensors"]:
            return "OTHER WEIGHTS with exit code 0"
        return "" if found == runs.model else "ANOTHER CONFIG of the model with exit code 0"

    return wrong


FILES = ["last.safetensors"] * 4 + ["config.json", "log.jsonl", "best/config.json", "best/model.safetensors"]


def again(kind: str, folder: Path, runs: Runs, capfd: Any, name: str, how: str, damage: Damage | None) -> None:
    with sandbox(folder) as place:
        spoil(place / "run", name, how, damage)

        right = same_model(place / "run" / "model", runs)
        told(kind, COMMAND, place, capfd, codes=(0, 2), right=right, how=f"{name}: {how}")


@cases(20)
def test_a_finished_run_with_a_spoiled_file(runs, runs_of, capfd):
    spoiled = st.sampled_from(FILES).flatmap(lambda name: spoiled_folders(runs_of.done, [name]))
    every(runs, lambda one: again("run folders: finished", runs_of.done, runs_of, capfd, *one), spoiled)


@cases(12)
def test_a_killed_run_with_a_spoiled_file(runs, runs_of, capfd):
    spoiled = st.sampled_from(FILES).flatmap(lambda name: spoiled_folders(runs_of.half, [name]))
    every(runs, lambda one: again("run folders: killed", runs_of.half, runs_of, capfd, *one), spoiled)


@cases(6)
def test_a_finished_run_with_a_spoiled_model(runs, runs_of, capfd):
    """What the command writes, it writes again."""
    names = ["model/config.json", "model/model.safetensors"]
    spoiled = st.sampled_from(names).flatmap(lambda name: spoiled_folders(runs_of.done, [name]))
    every(runs, lambda one: again("run folders: model", runs_of.done, runs_of, capfd, *one), spoiled)


@pytest.mark.parametrize("of", ["done", pytest.param("half", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["best", "best/config.json", "best/model.safetensors", "last.safetensors", "log.jsonl",
                                  "config.json", "tensorboard", "model"])  # fmt: skip
@pytest.mark.parametrize("how", ["gone", *(pytest.param(f"empty {what}", marks=pytest.mark.slow)
                                           for what in ("folder", "file"))])  # fmt: skip
def test_a_run_of_which_something_is_gone(how, name, of, runs_of, capfd):
    folder: Path = getattr(runs_of, of)
    if not (folder / name).exists():
        return
    with sandbox(folder) as place:
        path = place / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if how == "empty folder":
            path.mkdir()
        elif how == "empty file":
            path.touch()

        right = same_model(place / "run" / "model", runs_of)
        told(f"run folders: gone ({of})", COMMAND, place, capfd, codes=(0, 2), right=right, how=f"{name} {how}")


@cases(8)
def test_a_run_with_spoiled_lines_in_its_log(runs, runs_of, capfd):
    """The log is no part of what is trained: a line that cannot be read belongs to no step."""
    lines = (runs_of.half / "log.jsonl").read_text().splitlines()
    strange = ["", "{", "null", "5", "[]", '"x"', '{"step": null}', '{"step": "x"}', '{"step": []}', '{"step": 1e400}',
               '{"step": NaN}', '{"step": -1}', '{"x": 1}', "\ufeff", "\0", "[" * 100_000,
               '{"step": true}', '{"step": {"step": 1}}', '{"step": ' + "9" * 5000 + "}",
               '{"step": 1' + "0" * 400 + "}"]  # fmt: skip

    def body(line: str, at: int, instead: bool) -> None:
        with sandbox(runs_of.half) as place:
            spoiled = [*lines[:at], line, *lines[at + instead :]]
            (place / "run" / "log.jsonl").write_text("\n".join(spoiled) + "\n")

            def right() -> str:
                if other := same_model(place / "run" / "model", runs_of)():
                    return other
                kept = {line for line in (place / "run" / "log.jsonl").read_text().splitlines()}
                gone = set(spoiled[:at]) - kept
                return f"lines of the log that were right are gone: {len(gone)}" if gone else ""

            how = f"{line[:30]!r} {at} {instead}"
            told("run folders: log", COMMAND, place, capfd, codes=(0, 2), right=right, how=how)

    every(runs, body, st.sampled_from(strange), st.integers(0, len(lines)), st.booleans())
