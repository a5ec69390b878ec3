"""Command lines with at least one mistake in them: two lines at most, exit code 2, and no file is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hypothesis import strategies as st
from junk import HUGE, TEXTS, broken_json, json_values, text_or, wrong_words
from law import cases, every, sandbox, told

from robustdeq.commands import COMMANDS
from robustdeq.commands.models import BUDGETS
from robustdeq.options import field_types
from robustdeq.recipe import Recipe
from robustdeq.recipes import RECIPES
from robustdeq.training import TrainConfig

BEGINNINGS = {
    "train": ["train", "smoke", "--out", "out"],
    "evaluate": ["evaluate", "model", "--out", "out", "--subset", "2", "--checks", "0"],
    "attack": ["attack", "model", "--out", "out", "--subset", "2", "--steps", "1"],
    "reproduce": ["reproduce", "smoke", "--out", "out"],
    "certify": ["certify", "model", "--out", "out", "--subset", "2", "--n", "20", "--attacked", "0"],
    "convert": ["convert", "model/config.json", "--out", "out"],
    "analyze": ["analyze", "model", "--out", "out", "--subset", "2", "--steps", "1"],
    "report": ["report", "model", "--out", "out"],
    "view": ["view", "model", "--space", "out"],
}
"""What is right of a command, so that one thing can be wrong. (Without --space, view serves a page.)"""
OUT = {"view": "--space"}
OWN = ("reproduce", "report", "view")
"""They need no --out, so that it cannot be missing."""
VERBS = st.sampled_from(sorted(BEGINNINGS))
HINTS = {verb: get_type_hints(COMMANDS[verb], include_extras=True) for verb in BEGINNINGS}
FREE = (
    "set", "out", "space", "beside", "surrogate", "data", "model", "recipe", "file", "folders", "image_column",
    "label_column",
)  # fmt: skip
"""Fields that take any text, and are drawn apart."""
CHOICES = ("suite", "method", "loss", "gradient", "attack_gradient", "objective", "states", "solver", "device")
POSITIONAL = ("model", "recipe", "file", "folders")
STRANGE = ["no/such", "model", "model/config.json", "model/config.json/x", "text.txt", "empty", "/dev/null", "x" * 300,
           "[/x]", "\x1b[2J", "a\nb\nc\nd", "\udcff", "owner/name", "owner/name/x", "~nobody", ":"]  # fmt: skip
"""Names of sources, models, recipes and files, none of which is one (but ``model``, where it is the wrong thing)."""


def spelled(flag: str, value: str) -> st.SearchStrategy[list[str]]:
    """--flag value, or --flag=value."""
    flag = f"--{flag.replace('_', '-')}"
    return st.sampled_from([[flag, value], [f"{flag}={value}"]])


def refused(kind: str, words: list[str], model: Path, capfd: Any, codes: tuple[int, ...] = (2,)) -> None:
    """The law; exit code 1 is a run that failed, which may have written."""
    with sandbox(model) as place:
        (place / "text.txt").write_text("not what is looked for")
        (place / "empty").mkdir()
        told(kind, words, place, capfd, codes=codes)


@st.composite
def wrong_flags(draw: Any) -> list[str]:
    """One value of a wrong kind, behind what is right."""
    verb = draw(st.sampled_from([verb for verb in sorted(BEGINNINGS) if verb != "convert"]))
    first, hints = BEGINNINGS[verb], HINTS[verb]
    flag = draw(st.sampled_from([name for name in hints if name not in FREE]))
    if flag in CHOICES and not (verb == "evaluate" and flag == "states"):
        value = draw(text_or(broken_json, json_values.map(str)).filter(lambda word: "\0" not in word))
    else:
        value = draw(wrong_words(hints[flag]))
    given = f"--{flag.replace('_', '-')}"
    if given in first:
        at = first.index(given)
        first = first[:at] + first[at + 2 :]
    return [*first, *draw(spelled(flag, value))]


@cases(60)
def test_a_flag_with_a_value_of_a_wrong_kind(runs, model_folder, capfd):
    every(runs, lambda words: refused("flags: wrong value", words, model_folder, capfd), wrong_flags())


@st.composite
def wrong_shapes(draw: Any) -> list[str]:
    """Words that are missing, too many, unknown, in the wrong place or said twice."""
    verb = draw(VERBS)
    first = list(BEGINNINGS[verb])
    how = draw(st.sampled_from(["missing", "more", "unknown", "twice", "bare", "verb", "short", "cut", "equals"]))
    if how == "missing":
        at = first.index(OUT.get(verb, "--out"))
        gone = draw(st.sampled_from([[1], [at, at + 1], [at + 1]] if verb not in OWN else [[1], [at + 1]]))
        return [word for number, word in enumerate(first) if number not in gone]
    if how == "more":
        return [*first[:2], draw(TEXTS.filter(lambda word: not word.startswith("-"))), *first[2:]]
    if how == "unknown":
        name = draw(TEXTS.filter(lambda word: word.replace("-", "_") not in HINTS[verb]))
        return [*first, f"--{name}", *draw(st.lists(TEXTS, max_size=2))]
    if how == "twice":
        flag = draw(st.sampled_from([word for word in first if word.startswith("--")]))
        return [*first, flag, first[first.index(flag) + 1]]
    if how == "bare":
        bare = {name for name, hint in HINTS[verb].items() if hint is bool or bool in get_args(hint)}
        valued = HINTS[verb].keys() - bare - {"set", *POSITIONAL}
        return [*first, f"--{draw(st.sampled_from(sorted(valued))).replace('_', '-')}"]
    if how == "verb":
        return [draw(TEXTS), *first[1:]]
    if how == "short":
        return [*first, draw(st.sampled_from(["-o", "-s", "-h=1", "-", "-1", "-eps"]))]
    if how == "equals":
        return [*first, draw(st.sampled_from(["--=", "--=x", "---", "--out", "--=--out", "--set==", "--set==1"]))]
    return first[: 1 if verb in OWN else draw(st.integers(1, 2))]


@cases(40)
def test_a_command_of_a_wrong_shape(runs, model_folder, capfd):
    every(runs, lambda words: refused("flags: wrong shape", words, model_folder, capfd), wrong_shapes())


@st.composite
def strange_names(draw: Any) -> list[str]:
    """A recipe, a model, a source, a file or a folder that is none, or is something else."""
    verb = draw(VERBS)
    first, name = list(BEGINNINGS[verb]), draw(st.sampled_from(STRANGE) | TEXTS.filter(lambda word: word[0] != "-"))
    places = ["first", "out", *(flag for flag in ("data", "beside", "surrogate") if flag in HINTS[verb])]
    where = draw(st.sampled_from(places))
    if where == "first":
        wrong = "text.txt" if verb == "convert" and name == "model" else "empty" if name == "model" else name
        return [first[0], wrong, *first[2:]]
    if where == "out":  # under a file there is no folder; the other word is wrong, so that nothing is worked on
        return [*first[:3], draw(st.sampled_from(["text.txt", "text.txt/x", "model/config.json/x/y", "/dev/null/x"])),
                *first[4:], *(["--checks", "-1"] if verb == "evaluate" and draw(st.booleans()) else [])]  # fmt: skip
    more = ["--defend"] if where == "beside" else []
    return [*first, *more, *draw(spelled(where, name))]


@cases(30)
def test_a_name_of_nothing(runs, model_folder, capfd):
    every(runs, lambda words: refused("flags: strange names", words, model_folder, capfd), strange_names())


SHORT = ['phases=[{"epochs":1,"attack_steps":1,"solver_steps":1}]', 'model_options={"steps": 2}']
"""What makes a run of some tenths of a second, where a huge number is none that hurts."""


def settable() -> dict[str, Any]:
    """The fields that --set takes, with what they state."""
    hints = {**field_types(Recipe), **field_types(TrainConfig)}
    return {name: hint for name, hint in hints.items() if name not in ("name", "training")}


LOOSE: dict[str, st.SearchStrategy[str]] = {
    "optimizer": text_or(st.sampled_from(['{"name": "adamw", "x": 1}', "5", "[]", "{}", "null", '{"name": 5}', "true",
                                          '{"name": "sgd", "momentum": "x"}', '{"name": "adamw", "betas": 5}',
                                          '{"name": "adamw", "betas": [0.9]}', '{"name": "adamw", "lr": 1}'])),
    "threat": text_or(st.sampled_from(['{"name": "Linf"}', '{"name": "L2", "eps": "x"}', "5", "[]", "{}", "true",
                                       '{"name": "Linf", "eps": NaN}', '{"name": "Linf", "eps": 1e400}', "null"])),
    "eps": st.sampled_from(["x", "-1", "NaN", "1e400", "true", "[]", "{}", "2", "9" * 5000, "8/255/2", "[/x]"]),
    "model_options": st.sampled_from(
        ["5", "[]", "null", "x", '{"x": 1}', '{"steps": "x"}', '{"steps": 0}', '{"channels": 5}', '{"channels": []}',
         '{"channels": [7, 7], "head_channels": [1, 1]}', '{"image_shape": [1, 7, 7]}', '{"image_shape": [3, 8, 8]}',
         '{"features": -1}', '{"dropout": 1}', '{"solver": {"name": "broyden", "memory": 0}}', '{"gradient": 5}',
         '{"channels": [null, 1]}', '{"num_classes": 3}', '{"seed": "x"}', '{"seed": -1}', '{"seed": 1e400}',
         '{"stem_stride": 3}', '{"image_shape": [1, 8]}', '{"solver": "phantom"}', '{"steps": NaN}', '{"name": "x"}',
         '{"config": 1}', '{"self": 1}', '{"\\u001b[2J": 1}', '{"image_shape": [1, 0, 0]}', '{"classes": 5}']
    ),
    "data": st.sampled_from(STRANGE).filter(lambda name: name != "model"),
    "model": st.sampled_from([*STRANGE, "5", "null"]),
    "image_column": st.sampled_from(["5", "x", "[]", "[/x]"]), "label_column": st.sampled_from(["5", "x", "{}"]),
    "auto_attacks": text_or(st.sampled_from(["[]", "5", '["x"]', "[5]", '["apgd-ce", null]', "{}", "null", "true"])),
    "streaming": text_or(st.sampled_from(["true", "1", "null", "[]"])),
    "image_size": st.sampled_from(["4", "0", "x", "[]"]),
}  # fmt: skip
"""Fields that state less than they take."""


@st.composite
def wrong_settings(draw: Any) -> list[str]:
    verb, fields = draw(st.sampled_from(["train", "reproduce"])), settable()
    name = draw(st.sampled_from(sorted(fields)))
    word = draw(LOOSE[name] if name in LOOSE else wrong_words(fields[name]))
    how = draw(st.sampled_from(["plain", "plain", "plain", "equals", "twice"]))
    if how == "equals":
        return [*BEGINNINGS[verb], f"--set={name}={word}"]
    if how == "twice":
        return [*BEGINNINGS[verb], "--set", f"{name}={word}", f"{name}={draw(TEXTS)}"]
    return [*BEGINNINGS[verb], "--set", f"{name}={word}"]


@cases(80)
def test_a_setting_of_a_wrong_kind(runs, model_folder, capfd):
    every(runs, lambda words: refused("settings of a recipe", words, model_folder, capfd), wrong_settings())


@st.composite
def huge_settings(draw: Any) -> list[str]:
    """Numbers of the right kind that no machine can serve, where nobody could want them."""
    names = ["batch_size", "accumulate", "validation_points", "pad", "validation", "image_size", "eps",
             "learning_rate", "weight_decay", "seed", "data_seed", "clip", "awp", "checkpoint_seconds"]  # fmt: skip
    name, number = draw(st.sampled_from(names)), draw(st.sampled_from([*HUGE[2:], -(2**70)]))
    return ["train", "smoke", "--out", "out", "--set", *SHORT, f"{name}={number}"]


@cases(15)
def test_a_setting_that_is_too_large(runs, model_folder, capfd):
    every(runs, lambda words: refused("settings: huge", words, model_folder, capfd, (0, 1, 2)), huge_settings())


@st.composite
def wrong_budgets(draw: Any) -> list[str]:
    """--set of evaluate: names and values that no suite takes."""
    suite = draw(st.sampled_from(["quick", "paper", "standard", "adaptive"]))
    others = st.sampled_from(["-1", "NaN", "1e400", "true", "{}", "[]", '"x"'])
    values = {name: text_or(broken_json, others) for name in BUDGETS}
    values["attacks"] = st.sampled_from(["5", "[]", "x", '["x"]', "[5]", "{}", "true", "[[]]", '["apgd-ce", 5]'])
    values["states"] = st.sampled_from(["5", "[]", "x", '["x"]', "[0]", "[4]", "{}", "true", "[1.5]", "[null]",
                                        '["Munroll-9-5"]', '["Munroll-1-0"]', "[[]]", '["Munroll-99999999999999999-1"]',
                                        '["Munroll-' + "9" * 5000 + '-1"]'])  # fmt: skip
    name = draw(st.sampled_from(sorted(values)) | TEXTS.filter(lambda word: "=" not in word and word not in values))
    value = draw(values.get(name, TEXTS).filter(lambda word: not word.strip().isdecimal()))
    more = draw(st.sampled_from([[], ["--states"], ["--defend"]]))
    return [*BEGINNINGS["evaluate"], "--suite", suite, *more, "--set", f"{name}={value}"]


@cases(40)
def test_a_budget_of_a_wrong_kind(runs, model_folder, capfd):
    every(runs, lambda words: refused("settings of a suite", words, model_folder, capfd), wrong_budgets())


def test_every_recipe_and_field_is_drawn_from():
    assert dataclasses.is_dataclass(Recipe) and "smoke" in RECIPES and set(LOOSE) <= set(settable())
