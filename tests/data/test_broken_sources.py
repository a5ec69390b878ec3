"""Whatever is wrong with a source is one line that names the file, and the row where there is one."""

import os

import numpy as np
import pytest
from image_files import NAMES, encoded, image_folder, numbered, parquet_set, pngs, table, write
from PIL import Image

from robustdeq.data import load


def message(folder, **options) -> str:
    with pytest.raises(ValueError) as caught:
        splits = load(str(folder), **options)
        if options.get("streaming"):
            splits.train.take(slice(None)), splits.test.take(slice(None))
    text = str(caught.value)
    assert "\n" not in text
    return text


def broken_at(folder, row, data, **options) -> str:
    """The message for a set whose training image ``row`` is ``data``."""
    parquet_set(folder)
    images = pngs(0, 20)
    images[row] = data
    write(folder / "train.parquet", table(images), **options)
    return message(folder)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"not an image", "broken image"),
        (half(encoded(numbered(0, (32, 32)))), "broken image"),
        (half(encoded(numbered(0, (32, 32)), "JPEG")), "broken image"),
        (b"", "no image"),
        (None, "no image"),
        (encoded(np.zeros((6, 6), np.uint16)), "mode I;16"),
        (encoded(numbered(0, (6, 7))), "6x7 pixels where the images before it have 6x6"),
    ],
    ids=["text", "half a PNG", "half a JPEG", "empty", "null", "16 bits", "another size"],
)
def test_a_broken_image_is_named_by_file_and_row(tmp_path, data, says):
    text = broken_at(tmp_path, 13, data, row_group_size=5)
    assert f"{tmp_path / 'train.parquet'} row 13: " in text and says in text


@pytest.mark.parametrize("label", [-1, 3, None])
def test_a_label_that_names_no_class(tmp_path, label):
    parquet_set(tmp_path, names=NAMES)
    write(tmp_path / "train.parquet", table(pngs(0, 9), labels=[0, 1, 2, 0, label, 1, 2, 0, 1], names=NAMES))
    for streaming in (False, True):
        text = message(tmp_path, streaming=streaming, validation=1)
        assert f"train.parquet row 4: label {label}; allowed: 0 to 2." in text


def test_labels_that_cannot_be_class_numbers(tmp_path):
    file = write(parquet_set(tmp_path) / "test.parquet", table(pngs(0, 2), labels=[0, 10**9]))
    assert f"{file}: column 'label' holds 1000000000" in message(tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_truncated_parquet_file(tmp_path, streaming):
    file = parquet_set(tmp_path) / "train.parquet"
    os.truncate(file, file.stat().st_size // 2)
    assert f"{file}: not a whole parquet file" in message(tmp_path, streaming=streaming)


def test_a_parquet_file_damaged_inside_is_named_with_the_row(tmp_path):
    parquet_set(tmp_path)
    file = write(tmp_path / "train.parquet", table(pngs(0, 20)), row_group_size=5, compression="zstd")
    data = bytearray(file.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 200] = bytes(200)
    file.write_bytes(data)
    text = message(tmp_path)
    assert f"{file} row 5: " in text or f"{file} row 10: " in text


def test_missing_columns(tmp_path):
    parquet_set(tmp_path)
    for file in ("train", "test"):
        path = write(tmp_path / f"{file}.parquet", table(pngs(0, 5)).drop_columns(["label"]))
        text = message(tmp_path)
        assert f"{path}: " in text or file == "test"
        assert "no label column" in text and "img: struct" in text
        parquet_set(tmp_path)
    write(tmp_path / "test.parquet", table(pngs(0, 5)).drop_columns(["img"]))
    assert "test.parquet: no image column" in message(tmp_path)


def test_several_columns_of_one_kind(tmp_path):
    parquet_set(tmp_path)
    write(tmp_path / "train.parquet", table(pngs(0, 5), label="a", b=[0] * 5))
    assert "train.parquet: several label columns (a, b)" in message(tmp_path)


def test_files_that_disagree(tmp_path):
    parquet_set(tmp_path, names=NAMES)
    write(tmp_path / "test.parquet", table(pngs(0, 5), names=NAMES[::-1]))
    assert "test.parquet: " in message(tmp_path) and "as in the first training file" in message(tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split(tmp_path, split, streaming):
    parquet_set(tmp_path)
    file = write(tmp_path / f"{split}.parquet", table([]))
    assert f"{file}: the {split} split is empty" in message(tmp_path, streaming=streaming)


def test_missing_splits(tmp_path):
    parquet_set(tmp_path)
    (tmp_path / "test.parquet").unlink()
    assert "no validation split; found train" in message(tmp_path)
    (tmp_path / "train.parquet").rename(tmp_path / "test.parquet")
    assert "no train split; found test" in message(tmp_path)


def test_incomplete_and_ambiguous_splits(tmp_path):
    write(tmp_path / "a/train-00000-of-00003.parquet", table(pngs(0, 5)))
    write(tmp_path / "a/train-00002-of-00003.parquet", table(pngs(0, 5)))
    assert "part 1 of 3 is missing" in message(tmp_path)
    write(tmp_path / "a/train.parquet", table(pngs(0, 5)))
    assert "not parts of one split" in message(tmp_path)
    write(tmp_path / "b/train.parquet", table(pngs(0, 5)))
    assert "in several folders" in message(tmp_path)


def test_splits_of_several_sizes(tmp_path):
    parquet_set(tmp_path)
    write(tmp_path / "test.parquet", table([encoded(numbered(0, (6, 8)))]))
    assert "train 6x6, test 6x8" in message(tmp_path)
    assert load(str(tmp_path), image_size=6).test.pixels.shape == (1, 3, 6, 6)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_broken_file_in_an_image_folder(tmp_path, streaming):
    image_folder(tmp_path)
    file = tmp_path / "train" / "dog" / "0005.png"
    file.write_bytes(half(file.read_bytes()))
    assert f"{file}: broken image" in message(tmp_path, streaming=streaming, validation=0)
    Image.fromarray(numbered(0, (9, 9))).save(file)
    assert "x9 pixels where" in message(tmp_path, streaming=streaming, validation=0) or streaming


def test_classes_of_an_image_folder(tmp_path):
    image_folder(tmp_path)
    (tmp_path / "test" / "fox").mkdir()
    assert f"{tmp_path / 'test' / 'fox'}: no class of the training set" in message(tmp_path)
    (tmp_path / "test" / "fox").rename(tmp_path / "train" / "fox")
    assert f"{tmp_path / 'train' / 'fox'}: no image" in message(tmp_path)
    (tmp_path / "val").mkdir()
    (tmp_path / "validation").mkdir()
    assert "are both validation" in message(tmp_path)


def test_no_set_at_all(tmp_path):
    assert "no parquet file and no image folder" in message(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    assert "the train split is empty" in message(tmp_path)
    assert "no such folder" in message(tmp_path / "nowhere")
    (tmp_path / "file.bin").write_bytes(b"")
    assert "allowed: a folder" in message(tmp_path / "file.bin")
    assert "did you mean 'digits'" in message("digit")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"validation": -1}, "validation=-1"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"image_size": 0}, "image_size=0"),
        ({"validation": 20}, "20"),
        ({"validation": 20, "streaming": True}, "20"),
        ({"validation": 21, "streaming": True}, "21"),
    ],
)
def test_options_that_are_not_allowed(tmp_path, options, says):
    text = message(parquet_set(tmp_path), **options)
    assert says in text and "allowed: " in text


def test_digits_cannot_be_resized_or_streamed():
    for options in ({"image_size": 4}, {"streaming": True}):
        assert "do not apply" in message("digits", **options)


def test_a_set_too_large_for_memory_is_to_be_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr("robustdeq.data.decode.MAX_BYTES", 1000)
    assert "give streaming=True" in message(parquet_set(tmp_path))
    assert len(load(str(tmp_path), streaming=True).train) == 18
