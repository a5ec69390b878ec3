"""Evaluation folders with damage: the same command again and Evaluation.read refuse them, or say what they said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from damage import Damage, spoil, spoiled_folders, spoiled_json
from hypothesis import strategies as st
from law import asked, cases, every, sandbox, told, whatever
from torch import Tensor

import robustdeq as rd
from robustdeq.cli import main
from robustdeq.evaluation import recordfile

COMMAND = ["evaluate", "model", "--out", "found", "--subset", "4", "--batch-size", "2", "--images", "--checks", "2",
           "--set", "steps=2"]  # fmt: skip
MEASURED = ("seconds", "environment", "environments", "sha256")
"""What a record may say otherwise a second time."""


class Found(NamedTuple):
    """Folders called ``found``: finished, and killed after some batches; what the finished one says; its images."""

    done: Path
    half: Path
    said: Any
    images: dict[str, Tensor]


def said(folder: Path) -> Any:
    """What a record says, but for what depends on the machine and the moment."""

    def fixed(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fixed(inner) for name, inner in value.items() if name not in MEASURED}
        return [fixed(inner) for inner in value] if isinstance(value, list) else value

    return fixed(json.loads((folder / "evaluation.json").read_text()))


@pytest.fixture(scope="module")
def found(tmp_path_factory, model_folder) -> Found:
    place, patch, saves = tmp_path_factory.mktemp("found"), pytest.MonkeyPatch(), []
    save = recordfile.RecordFile.save

    def kept(file: recordfile.RecordFile) -> None:
        save(file)
        saves.append(file)
        if len(saves) == 4:
            shutil.copytree(file.folder, place / "half" / "found", ignore=shutil.ignore_patterns(".lock"))

    shutil.copytree(model_folder, place / "model")
    with patch.context() as inside:
        inside.chdir(place)
        inside.setattr(recordfile.RecordFile, "save", kept)
        assert main(COMMAND) == 0
    (place / "done").mkdir()
    (place / "found").rename(place / "done" / "found")
    done, half = place / "done" / "found", place / "half" / "found"
    assert len(saves) > 5 and not (half / "table.md").exists()
    images = {name: kept[:] for name, kept in rd.Evaluation.read(done).images.items()}
    return Found(done, half, said(done), images)


def files(folder: Path) -> list[str]:
    """Every file, the record three times as often."""
    images = [str(path.relative_to(folder)) for path in sorted((folder / "images").iterdir())]
    return ["evaluation.json"] * 3 * len(images) + images


def spoiled(folder: Path) -> st.SearchStrategy[tuple[str, str, Damage | None]]:
    return st.sampled_from(files(folder)).flatmap(lambda name: spoiled_folders(folder, [name]))


def again(kind: str, folder: Path, found: Found, model: Path, capfd: Any, spoiling: Any) -> None:
    name, how, damage = spoiling
    with sandbox(folder, model) as place:
        spoil(place / "found", name, how, damage)

        def right() -> str:
            same = said(place / "found") == found.said
            return "" if same else "OTHER OUTCOMES with exit code 0"

        told(kind, COMMAND, place, capfd, codes=(0, 2), right=right, how=f"{name}: {how}")
        if (place / "found" / "evaluation.json").is_file() and not kind.endswith("killed"):
            asked(f"{kind}, then read", f"{name}: {how}", lambda: read(place / "found"), right=images_of(found))


def read(folder: Path) -> dict[str, Tensor]:
    evaluation = rd.Evaluation.read(folder)
    evaluation.table()
    return {name: kept[:] for name, kept in evaluation.images.items()}


def images_of(found: Found) -> Any:
    """Of what ``read`` gives: they are the images that were kept."""

    def wrong(images: dict[str, Tensor]) -> str:
        same = images.keys() == found.images.keys()
        return "" if same and all(torch.equal(images[name], found.images[name]) for name in images) else "other images"

    return wrong


@cases(15)
def test_a_finished_evaluation_with_a_spoiled_file(runs, found, model_folder, capfd):
    kind = "evaluation folders: finished"
    every(runs, lambda one: again(kind, found.done, found, model_folder, capfd, one), spoiled(found.done))


@cases(10)
def test_a_killed_evaluation_with_a_spoiled_file(runs, found, model_folder, capfd):
    kind = "evaluation folders: killed"
    every(runs, lambda one: again(kind, found.half, found, model_folder, capfd, one), spoiled(found.half))


@cases(60)
def test_a_spoiled_evaluation_is_read(runs, found):
    """A record that says what it said, or a ValueError; so do its images."""

    def body(spoiling: Any) -> None:
        name, how, damage = spoiling
        with sandbox(found.done) as place:
            spoil(place / "found", name, how, damage)

            def right(images: dict[str, Tensor]) -> str:
                return images_of(found)(images) or ("" if said(place / "found") == found.said else "other outcomes")

            asked("evaluation folders: read", f"{name}: {how}", lambda: read(place / "found"), right=right)

    every(runs, body, spoiled(found.done))


@cases(25)
def test_a_record_with_a_digest_of_its_own_is_of_the_right_kinds(runs, found):
    """Somebody wrote it with a program: whatever stands in it, it is a ValueError or a table."""
    value = json.loads((found.done / "evaluation.json").read_text())
    del value["sha256"]

    def body(damage: Damage) -> None:
        with sandbox(found.done) as place:
            try:
                other = json.loads(damage.data)
                sealed = {"sha256": recordfile._seal(other), **other}
            except (ValueError, TypeError, RecursionError):
                return
            (place / "found" / "evaluation.json").write_text(json.dumps(sealed))
            asked("evaluation folders: sealed", damage.how, lambda: read(place / "found"), right=whatever)

    every(runs, body, spoiled_json(value))


@cases(10)
def test_an_evaluation_that_is_none_beside_another(runs, found, model_folder, capfd):
    """--beside of a spoiled folder."""
    command = ["evaluate", "model", "--out", "out", "--defend", "--beside", "found", "--subset", "4", "--checks", "0",
               "--batch-size", "2", "--set", "steps=1"]  # fmt: skip

    def body(spoiling: Any) -> None:
        name, how, damage = spoiling
        with sandbox(found.done, model_folder) as place:
            spoil(place / "found", name, how, damage)
            told("evaluation folders: beside", command, place, capfd, codes=(0, 2), how=f"{name}: {how}")

    every(runs, body, spoiled_folders(found.done, ["evaluation.json"]))
