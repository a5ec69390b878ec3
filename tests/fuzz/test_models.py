"""Model folders with damage, read by load_model and by `robustdeq evaluate`: refused, or the model that was saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import FOREVER, Damage, spoil, spoiled_folders, spoiled_json
from hypothesis import strategies as st
from law import asked, cases, every, sandbox, told, whatever
from small_models import images

import robustdeq as rd
from robustdeq.files import read_tensors, write_tensors
from robustdeq.models.zoo import CONFIG, WEIGHTS

EVALUATE = ["evaluate", "model", "--out", "out", "--subset", "2", "--checks", "2", "--set", "steps=1"]
X = images(2, shape=(1, 8, 8))


def same_as(known: torch.Tensor, sure: bool = False) -> Callable[[Any], str]:
    """Of a loaded model: it gives the logits of the one that was saved. sure: there must be none."""

    def wrong(model: Any) -> str:
        if sure:
            return "accepted"
        with torch.no_grad():
            return "" if torch.equal(model(X), known) else "another model"

    return wrong


@pytest.fixture(scope="module")
def known(model_folder):
    with torch.no_grad():
        return rd.load_model(model_folder)(X)


@cases(60)
def test_a_model_folder_with_a_spoiled_file(runs, model_folder, known, capfd):
    """A config that is another one is another model's; weights have a digest."""

    def body(name: str, how: str, damage: Damage | None) -> None:
        with sandbox(model_folder) as place:
            before = (place / "model" / name).read_bytes()
            spoil(place / "model", name, how, damage)
            sure = damage is not None and damage.sure
            other = damage is not None and name == CONFIG and not sure and _parsed(damage.data) != _parsed(before)
            right = whatever if other else same_as(known, sure)
            asked("model folders: load_model", f"{name}: {how}", lambda: rd.load_model(place / "model"), right=right)

    every(runs, lambda spoiled: body(*spoiled), spoiled_folders(model_folder, [CONFIG, WEIGHTS]))


@cases(15)
def test_a_model_folder_with_a_spoiled_file_is_evaluated(runs, model_folder, capfd):
    def body(name: str, how: str, damage: Damage | None) -> None:
        with sandbox(model_folder) as place:
            spoil(place / "model", name, how, damage)
            codes = (2,) if damage is not None and damage.sure else (0, 2)
            told("model folders: evaluate", EVALUATE, place, capfd, codes=codes, how=f"{name}: {how}")

    every(runs, lambda spoiled: body(*spoiled), spoiled_folders(model_folder, [CONFIG, WEIGHTS]))


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


@cases(20)
def test_a_config_that_asks_for_much_is_refused_and_nothing_is_allocated(runs, model_folder, capfd):
    """Sizes of gigabytes and more: `law.limits` looks at the memory that was held."""
    sizes = st.sampled_from([24000, 2**20 * 8, 2**31, 2**40, 2**62, 2**63, 2**70, 10**400])
    places = [("channels", 0), ("channels", 1), ("head_channels", 0), ("features",), ("num_classes",), ("expansion",),
              ("image_shape", 0), ("image_shape", 1), ("image_shape", 2), ("stem_stride",)]  # fmt: skip

    def body(at: tuple[Any, ...], size: int) -> None:
        with sandbox(model_folder) as place:
            file = place / "model" / CONFIG
            config = json.loads(file.read_text())
            if len(at) == 2:
                config[at[0]][at[1]] = size
            else:
                config[at[0]] = size
            file.write_text(json.dumps(config))
            how = f"{at}={str(size)[:25]}"
            free = at[0] == "image_shape" and at[1] > 0  # the weights say nothing of it, and nothing is held for it
            right = whatever if free else None
            asked("model folders: sizes", how, lambda: rd.load_model(place / "model"), right=right)
            told("model folders: sizes", EVALUATE, place, capfd, how=how)

    every(runs, body, st.sampled_from(places), sizes)


def _more(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors["x" + name] = tensors[name].clone()


def _shape(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name].reshape(1, *tensors[name].shape)


def _type(kind: torch.dtype) -> Callable[[dict[str, torch.Tensor], str], None]:
    def change(tensors: dict[str, torch.Tensor], name: str) -> None:
        tensors[name] = tensors[name].to(kind)

    return change


CHANGES: dict[str, Callable[[dict[str, torch.Tensor], str], Any]] = {
    "gone": lambda tensors, name: tensors.pop(name),
    "more": _more, "misshapen": _shape, "int8": _type(torch.int8), "bool": _type(torch.bool),
    "empty": lambda tensors, name: tensors.update({name: torch.zeros(0)}),
    "int64": _type(torch.int64), "uint8": _type(torch.uint8), "complex": _type(torch.complex64),
    "all gone": lambda tensors, name: tensors.clear(),
}  # fmt: skip


@cases(12)
def test_weights_of_another_model(runs, model_folder, capfd):
    """Whole files, with a digest of their own or none."""
    tensors, _ = read_tensors(model_folder / WEIGHTS, "")
    names = sorted(name for name, value in tensors.items() if value.is_floating_point())

    def body(name: str, change: str, sealed: bool) -> None:
        with sandbox(model_folder) as place:
            others = dict(tensors)
            CHANGES[change](others, name)
            write(place / "model" / WEIGHTS, others, sealed)
            asked("model folders: tensors", f"{name} {change}", lambda: rd.load_model(place / "model"))
            told("model folders: tensors", EVALUATE, place, capfd, how=f"{name} {change}")

    every(runs, body, st.sampled_from(names), st.sampled_from(sorted(CHANGES)), st.booleans())


def write(file: Path, tensors: dict[str, torch.Tensor], sealed: bool) -> None:
    if sealed:
        write_tensors(file, tensors)
        return
    from safetensors.torch import save_file

    save_file(tensors, file)


@cases(5)
def test_weights_that_are_no_numbers_are_read_and_flagged(runs, model_folder, capfd):
    tensors, _ = read_tensors(model_folder / WEIGHTS, "")
    names = sorted(name for name, value in tensors.items() if value.is_floating_point())

    def body(name: str, number: float) -> None:
        with sandbox(model_folder) as place:
            write_tensors(place / "model" / WEIGHTS, {**tensors, name: torch.full_like(tensors[name], number)})
            asked("model folders: NaN", f"{name} {number}", lambda: rd.load_model(place / "model"), right=whatever)
            ended = told("model folders: NaN", EVALUATE, place, capfd, codes=(0, 2), how=f"{name} {number}")
            silent = ended.code == 0 and "finite" not in ended.printed
            assert not silent or torch.isfinite(rd.load_model(place / "model")(X)).all(), (name, number, ended)

    numbers = st.sampled_from([float("nan"), float("inf"), float("-inf")])
    every(runs, body, st.sampled_from(names), numbers)


@cases(30)
def test_a_config_whose_values_are_of_another_kind(runs, model_folder, known):
    config = {**json.loads((model_folder / CONFIG).read_text()), "classes": [str(label) for label in range(10)]}

    def body(damage: Damage) -> None:
        with sandbox(model_folder) as place:
            (place / "model" / CONFIG).write_bytes(damage.data)
            right = same_as(known, True) if damage.sure else whatever
            asked("model folders: config", damage.how, lambda: rd.load_model(place / "model"), right=right)

    every(runs, body, spoiled_json(config, free=["classes"], forever=FOREVER))
