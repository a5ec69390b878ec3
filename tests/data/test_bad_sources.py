"""What a user can hand over by mistake: each kind is one printable line that says what to do, and nothing is silent."""

import json
import os
import warnings
from pathlib import Path

import huggingface_hub
import numpy as np
import pyarrow as pa
import pytest
import torch
from image_files import NAMES, encoded, image_folder, numbered, parquet_set, pngs, table, write
from PIL import Image

from robustdeq.data import images, load

BOTH = pytest.mark.parametrize("streaming", [False, True])
ODD = [b"a\nb", b"c\x1b[31m", b"\xff\xfe", "\u2028x".encode(), "\u202ey".encode(), b"e\r"]


def message(source, **options) -> str:
    """Of ``load``, and of reading all of it."""
    with pytest.raises(ValueError) as caught:
        splits = load(source, **{"validation": 0, **options})
        splits.train.take(slice(None)), splits.test.take(slice(None))
    text = str(caught.value)
    assert type(caught.value) is ValueError and text.isprintable() and len(text) < 1100
    return text


def both(folder: Path, whole: pa.Table) -> str:
    for split in ("train", "test"):
        write(folder / f"{split}.parquet", whole)
    return str(folder)


def noted(features, whole=None) -> pa.Table:
    """With these features in the note that the `datasets` library writes; text as it is."""
    text = features if isinstance(features, str) else json.dumps({"info": {"features": features}})
    return (table(pngs(0, 6)) if whole is None else whole).replace_schema_metadata({"huggingface": text})


# ---------------------------------------------------------------------------------------------------- image folders


@BOTH
def test_what_systems_leave_in_folders_is_not_read(tmp_path, streaming):
    image_folder(tmp_path)
    (tmp_path / "train" / "__MACOSX").mkdir()
    (tmp_path / ".git" / "train").mkdir(parents=True)
    for name in ("._0000.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png"):
        for place in (".", "train", "train/cat", "train/__MACOSX"):
            (tmp_path / place / name).write_bytes(b"not an image")
    (tmp_path / "train" / "cat" / ".nowhere.png").symlink_to("nowhere")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = load(str(tmp_path), validation=0, streaming=streaming)
    assert len(splits.train.take(slice(None))) == 12 and splits.train.classes == tuple(NAMES)


@pytest.mark.parametrize("name", ["train/cat/all", "train/cat/all.png", "train/fox", "val", "notes"])
@pytest.mark.parametrize("target", ["nowhere", ".", "..", "itself"])
def test_a_link_to_nowhere_or_in_a_circle(tmp_path, name, target):
    link = image_folder(tmp_path / "set") / name
    link.symlink_to(link if target == "itself" else link.parent if target == "." else link.parent / target)
    if target == ".." and "/" not in name:
        return  # that leads out of the set
    text = message(str(tmp_path / "set"))
    assert f"{link}" in text and "a link" in text


@BOTH
def test_links_are_followed(tmp_path, streaming):
    image_folder(tmp_path / "a")
    for split in ("train", "test"):
        (tmp_path / "b").mkdir(exist_ok=True)
        (tmp_path / "b" / split).symlink_to(tmp_path / "a" / "train")
    (tmp_path / "a" / "train" / "cat" / "more").symlink_to(tmp_path / "a" / "test" / "cat")
    splits = load(str(tmp_path / "b"), validation=0, streaming=streaming)
    assert len(splits.train.take(slice(None))) == len(splits.test) == 16


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["train/cat/0000.png", "train/cat", "train", "."])
def test_what_may_not_be_read(tmp_path, name):
    place = image_folder(tmp_path / "set") / name
    mode = place.stat().st_mode
    try:
        place.chmod(0)
        assert "cannot be read (Permission denied)" in message(str(tmp_path / "set"))
    finally:
        place.chmod(mode)


@BOTH
@pytest.mark.parametrize("name", ODD)
def test_files_and_folders_may_have_any_name_and_are_named_in_one_line(tmp_path, name, streaming):
    folder = image_folder(tmp_path / os.fsdecode(name))
    file = folder / "train" / "cat" / os.fsdecode(name + b".png")
    file.write_bytes(pngs(1, 1)[0])
    splits = load(folder, validation=0, streaming=streaming)
    assert len(splits.train.take(slice(None))) == 13 and splits.train.source.isprintable() and splits.train.digest()
    file.write_bytes(b"no image")
    assert "broken image" in message(folder, streaming=streaming)
    file.write_bytes(b"")
    assert "the file is empty" in message(folder, streaming=streaming)


@pytest.mark.parametrize("name", ODD)
def test_a_class_that_cannot_be_printed(tmp_path, name):
    image_folder(tmp_path)
    (tmp_path / "train" / "eel").rename(tmp_path / "train" / os.fsdecode(name))
    (tmp_path / "test" / "eel").rename(tmp_path / "test" / os.fsdecode(name))
    assert "a class is called" in message(str(tmp_path)) and "rename it" in message(str(tmp_path))


def test_what_lies_beside_the_images_is_not_passed_over_in_silence(tmp_path):
    (image_folder(tmp_path) / "train" / "cat" / "x.heic").write_bytes(b"")
    (tmp_path / "test" / "cat" / "x.txt").write_bytes(b"")
    with pytest.warns(UserWarning, match="2 files are not read") as caught:
        load(str(tmp_path))
    assert len(caught) == 1
    (tmp_path / "train" / "cat" / "x.heic").unlink()
    (tmp_path / "test" / "cat" / "x.txt").unlink()
    (tmp_path / "train" / "0001.png").write_bytes(pngs(1, 1)[0])
    assert f"{tmp_path / 'train' / '0001.png'}: an image in no class folder" in message(str(tmp_path))
    parquet_set(tmp_path / "b")
    (tmp_path / "b" / "test.parq").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"1 files are not read.*test\.parq"):
        load(str(tmp_path / "b"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(image_folder(tmp_path) / "train" / "cat" / "x.png")
    assert "neither a file nor a folder" in message(str(tmp_path))


@BOTH
def test_transparency_is_said_once(tmp_path, streaming):
    picture = Image.fromarray(numbered(1))
    picture.putalpha(100)
    both(tmp_path, table([encoded(picture)] * 40))
    with pytest.warns(RuntimeWarning, match="on white") as caught:
        splits = load(str(tmp_path), streaming=streaming)
        if streaming:
            list(splits.train.batches(2, torch.Generator()))
    assert len(caught) == 1


# ----------------------------------------------------------------------------------------------------- parquet files


@BOTH
@pytest.mark.parametrize("nested", [False, True])
def test_a_parquet_file_names_no_other_file(tmp_path, nested, streaming):
    secret = tmp_path / "secret.png"
    secret.write_bytes(pngs(1, 1)[0])
    for value in (str(secret), "/etc/passwd", "http://127.0.0.1:9/x.png"):
        kinds = [{"bytes": value, "path": value}, {"bytes": None, "path": value}] if nested else [value]
        for kind in kinds:
            whole = pa.table({"image": [kind] * 6, "label": [0, 1, 2] * 2})
            for note in (None, {"image": {"_type": "Image"}, "label": {"_type": "Value", "dtype": "int64"}}):
                source = both(tmp_path / "set", noted(note, whole) if note else whole)
                assert "no image column" in message(source, streaming=streaming)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    typed = pa.array([{"bytes": None, "path": str(secret)}] * 6, kind)
    source = both(tmp_path / "set", pa.table({"image": typed, "label": [0, 1, 2] * 2}))
    assert "row 0: no image in column 'image'" in message(source, streaming=streaming)


@pytest.mark.parametrize(
    "note",
    [
        "{", "", "null", "5", '{"info": 5}', '{"info": {"features": 5}}', {"img": {"_type": "Nope"}},
        {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": 5}},
        {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "a", "b"]}},
    ],
)  # fmt: skip
def test_a_damaged_note_about_the_columns(tmp_path, note):
    assert "what it notes of its columns cannot be read" in message(both(tmp_path, noted(note)))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({}, "no image columns; columns: none"),
        ({"a": [1.5] * 6}, "no image columns; columns: a: float64"),
        ({"img": pngs(0, 6), "label": [0.0, 1.0, 2.0] * 2}, "no label columns"),
        ({"img": pngs(0, 6), "label": [True, False] * 3}, "no label columns"),
        ({"img": pngs(0, 6), "label": [[0]] * 6}, "no label columns"),
        ({"img": [[x] for x in pngs(0, 6)], "label": [0] * 6}, "no image columns"),
        ({"img": [[[1, 2], [3, 4]]] * 6, "label": [0] * 6}, "no image columns"),
        ({"img": [{"path": "x"}] * 6, "label": [0] * 6}, "no image columns"),
        ({"img": pngs(0, 6), "": [0] * 6}, "no label columns"),
        ({"img": pngs(0, 6), "a": [0] * 6, "b": [0] * 6}, "label_column=... (allowed: 'a', 'b')"),
        ({"one\n": pngs(0, 6), "two": pngs(0, 6), "label": [0] * 6}, r"image_column=... (allowed: 'one\n', 'two')"),
        ({"img": pngs(0, 6), "label": [None] * 6}, "no label columns"),
        ({"img": pngs(0, 6), "label": ["a", None, "b"] * 2}, "label None; allowed: a class of the training set"),
        ({"img": pngs(0, 6), "label": ["a", "", "b"] * 2}, "a class is called ''"),
        ({"img": pngs(0, 6), "label": ["a", "b\x1b", "b"] * 2}, r"a class is called 'b\x1b'"),
        ({"img": pngs(0, 6), "label": [0, -5, 2] * 2}, "train row 1: label -5; allowed: 0 to 2"),
        ({"img": pngs(0, 6), "label": [0, 1, 99999] * 2}, "holds 99999; allowed: less than the 12 images"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no image has the label")
def test_columns_of_other_kinds(tmp_path, columns, says):
    assert says in message(both(tmp_path, pa.table(columns)))


def test_two_columns_of_one_name(tmp_path):
    arrays = [pa.array(values) for values in (pngs(0, 6), [0] * 6, [1] * 6)]
    whole = pa.Table.from_arrays(arrays, ["img", "label", "label"])
    assert "several columns are called 'label'" in message(both(tmp_path, whole))


def test_numbers_that_no_label_has_are_said(tmp_path):
    with pytest.warns(UserWarning, match="goes up to 5, but no image has the label 2, 3, 4"):
        load(both(tmp_path, table(pngs(0, 6), labels=[0, 1, 0, 0, 1, 5])))


def test_files_that_differ_say_in_what(tmp_path):
    write(tmp_path / "train.parquet", table(pngs(0, 6), names=[f"class {n}" for n in range(1000)]))
    write(tmp_path / "test.parquet", table(pngs(0, 6), names=NAMES))
    assert "test.parquet: class names ('cat', 'dog', 'eel'); allowed: ('class 0'" in message(str(tmp_path))


def test_rows_that_went_away_are_missed(tmp_path):
    splits = load(both(tmp_path, table(pngs(0, 20))), streaming=True, validation=0)
    write(tmp_path / "train.parquet", table(pngs(0, 15)))
    with pytest.raises(ValueError, match="train row 15: missing, there were 20 rows"):
        splits.train.take(slice(None))


# ---------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("source", [None, 5, 1.5, [], {}, b"digits", "", True, object()])
def test_a_source_of_another_kind(source):
    assert "load: source=" in message(source) and "allowed: digits, a folder" in message(source)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("validation", [-1, 1.5, True, "5", [], float("nan"), 10**9]),
        ("seed", [-1, 1.0, True, None, "a", 2**63, 2**70]),
        ("image_size", [0, -1, 8.0, True, "8", (8, 8), 10**6, 2**63]),
        ("streaming", ["no", 1, 0, None]),
        ("image_column", [5, "", [], b"img"]),
        ("label_column", [5, "", [], "img"]),
    ],
)
def test_arguments_of_other_kinds(tmp_path, name, values):
    source = str(parquet_set(tmp_path))
    for value in values:
        text = message(source, **{name: value})
        assert (name in text or "is no " in text) and "allowed: " in text
        assert "allowed: " in message("digits", **{name: value}) or "do not apply" in message("digits", **{name: value})


def test_memory_is_reckoned_before_anything_is_decoded(tmp_path, monkeypatch):
    """Of all splits together."""
    source, opened, whole = str(parquet_set(tmp_path)), [], images.open_image
    monkeypatch.setattr(images, "open_image", lambda row: opened.append(row) or whole(row))
    monkeypatch.setattr(images, "MAX_BYTES", 25 * 3 * 16)
    assert "26 images of 4x4" in message(source, image_size=4)
    train = load(source, image_size=4, streaming=True, validation=1).train
    monkeypatch.setattr(images, "MAX_BYTES", 18 * 3 * 16)
    with pytest.raises(ValueError, match=r"19 images of 4x4.*; give streaming=True or a smaller image_size="):
        train.take(slice(None))
    assert not opened
    assert len(train.take(slice(18))) == 18


def test_mixed_sizes_name_the_option(tmp_path):
    for split, side in (("train", 28), ("test", 32)):
        write(tmp_path / f"{split}.parquet", table([encoded(np.zeros((side, side), np.uint8))] * 6))
    for streaming in (False, True):
        text = message(str(tmp_path), streaming=streaming)
        assert "train 28x28, test 32x32" in text and "image_size=" in text


@pytest.mark.parametrize(
    "source",
    [
        "/nowhere/x", "./x", "../x", "~/nowhere", "~nobody/x", "x\\y", "C:\\x", "a/b/c", "runs/x", "data/cifar10",
        "here/cifar10", "uoft-cs/cifar10/", "https://huggingface.co/datasets/uoft-cs/cifar10", Path("uoft-cs/cifar10"),
        "a\0b", "x" * 5000, "x" * 300 + "/y", "owner/\ud800", "cifar10/", " ", "Digits", "a/b:c",
    ],
)  # fmt: skip
def test_a_mistyped_path_is_never_asked_of_the_hub(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **options: pytest.fail("asked"))
    assert "no such folder" in message(source) or "cannot be read" in message(source)
