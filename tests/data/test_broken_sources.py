"""Whatever is wrong with a source is one line that names the split or file, and the row where there is one."""

import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from image_files import NAMES, encoded, image_folder, numbered, parquet_set, pngs, table, write
from PIL import Image

from robustdeq.data import load

BOTH = pytest.mark.parametrize("streaming", [False, True])
HALF = {kind: encoded(numbered(0, (32, 32)), kind) for kind in ("PNG", "JPEG")}
HALF = {kind: data[: len(data) // 2] for kind, data in HALF.items()}


def message(folder, **options) -> str:
    with pytest.raises(ValueError) as caught:
        splits = load(str(folder), **options)
        if options.get("streaming"):
            splits.train.take(slice(None)), splits.test.take(slice(None))
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"not an image", "broken image"),
        (HALF["PNG"], "broken image"),
        (HALF["JPEG"], "broken image"),
        (b"", "no image"),
        (None, "no image"),
        (encoded(np.zeros((6, 6), np.uint16)), "mode I;16"),
        (encoded(numbered(0, (6, 7))), "6x7 pixels where the images before it have 6x6"),
    ],
    ids=["text", "half a PNG", "half a JPEG", "empty", "null", "16 bits", "another size"],
)
def test_a_broken_image_is_named_by_split_and_row(tmp_path, data, says):
    parquet_set(tmp_path)
    write(tmp_path / "train.parquet", table([*pngs(0, 13), data, *pngs(14, 6)]), row_group_size=5)
    text = message(tmp_path)
    assert f"{tmp_path} train row 13: " in text and says in text


@BOTH
def test_the_row_is_counted_over_all_files_of_a_split(tmp_path, streaming):
    parquet_set(tmp_path, names=NAMES)
    (tmp_path / "train.parquet").unlink()
    for shard, images in enumerate([pngs(0, 3), [], [*pngs(3, 150), b"broken", *pngs(154, 9)]]):
        write(tmp_path / f"train-{shard:05}-of-00003.parquet", table(images, names=NAMES))
    assert f"{tmp_path} train row 153: broken" in message(tmp_path, streaming=streaming, validation=0)


@BOTH
@pytest.mark.parametrize("label", [-1, 3, None])
def test_a_label_that_names_no_class(tmp_path, label, streaming):
    parquet_set(tmp_path, names=NAMES)
    write(tmp_path / "train.parquet", table(pngs(0, 9), labels=[0, 1, 2, 0, label, 1, 2, 0, 1], names=NAMES))
    text = message(tmp_path, streaming=streaming, validation=0)
    assert f"train row 4: label {label}; allowed: 0 to 2." in text


@BOTH
def test_labels_of_the_test_set_that_the_training_set_lacks(tmp_path, streaming):
    write(parquet_set(tmp_path) / "test.parquet", table(pngs(0, 2), labels=[0, 99999]))
    assert "column 'label' holds 99999; allowed: less than the 22 images" in message(tmp_path, streaming=streaming)
    for split, names in (("train", ["cat", "dog"]), ("test", ["dog", "fox"])):
        write(tmp_path / f"{split}.parquet", table(pngs(0, 2)).set_column(1, "label", [names]))
    text = message(tmp_path, streaming=streaming, validation=0)
    assert "test row 1: label fox; allowed: a class of the training set." in text


@BOTH
def test_a_damaged_parquet_file(tmp_path, streaming):
    parquet_set(tmp_path, names=NAMES)
    file = write(tmp_path / "train.parquet", table(pngs(0, 20), names=NAMES), row_group_size=5, use_dictionary=False)
    data = bytearray(file.read_bytes())
    page = pq.read_metadata(file).row_group(1).column(0).data_page_offset
    data[page : page + 20] = bytes(20)
    file.write_bytes(data)
    assert f"{tmp_path} train row 0 or later: damaged" in message(tmp_path, streaming=streaming, validation=0)
    os.truncate(file, file.stat().st_size // 2)
    assert f"{file}: not a whole parquet file" in message(tmp_path, streaming=streaming)


@pytest.mark.parametrize(
    ("file", "changed", "says"),
    [
        ("train", table(pngs(0, 5)).drop_columns(["label"]), "no label columns; columns: img: "),
        ("test", table(pngs(0, 5)).drop_columns(["label"]), "no label columns; columns: img: "),
        (
            "test",
            table(pngs(0, 5)).drop_columns(["img"]),
            "no image columns; columns: label: int64; name one with image_",
        ),
        ("train", table(pngs(0, 5), image="one", two=[b""] * 5), "several image columns; columns: "),
        ("test", table(pngs(0, 5), names=NAMES), "allowed: "),
    ],
)
def test_files_without_the_columns_of_the_others(tmp_path, file, changed, says):
    parquet_set(tmp_path)
    path = write(tmp_path / f"{file}.parquet", changed)
    text = message(tmp_path)
    assert f"{path}: " in text and says in text


@BOTH
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split(tmp_path, split, streaming):
    write(parquet_set(tmp_path) / f"{split}.parquet", table([]))
    assert f"{tmp_path}: the {split} split is empty" in message(tmp_path, streaming=streaming)


def test_missing_splits_and_shards(tmp_path):
    parquet_set(tmp_path)
    (tmp_path / "test.parquet").unlink()
    assert "no validation split; there: train" in message(tmp_path)
    (tmp_path / "train.parquet").rename(tmp_path / "validation.parquet")
    assert "no train split; there: validation" in message(tmp_path)
    (tmp_path / "validation.parquet").rename(tmp_path / "train-00000-of-00003.parquet")
    write(tmp_path / "train-00002-of-00003.parquet", table(pngs(0, 5)))
    assert "shard 1 of 3 is missing" in message(tmp_path)
    write(tmp_path / "train.parquet", table(pngs(0, 5)))
    assert "not shards of one split" in message(tmp_path)
    write(tmp_path / "b/train.parquet", table(pngs(0, 5)))
    assert "in several folders" in message(tmp_path)
    write(tmp_path / "c/validation.parquet", table(pngs(0, 2)).set_column(1, "label", [["cat", "dog"]]))
    assert "no train split; there: validation" in message(tmp_path / "c")


def test_splits_of_several_sizes(tmp_path):
    write(parquet_set(tmp_path) / "test.parquet", table([encoded(numbered(0, (6, 8)))]))
    assert "train 6x6, test 6x8" in message(tmp_path)
    assert load(str(tmp_path), image_size=6).test.pixels.shape == (1, 3, 6, 6)


@BOTH
def test_a_broken_file_in_an_image_folder(tmp_path, streaming):
    file = image_folder(tmp_path) / "train" / "dog" / "0005.png"
    file.write_bytes(HALF["PNG"])
    assert f"{file}: broken image" in message(tmp_path, streaming=streaming, validation=0)
    Image.fromarray(numbered(0, (9, 9))).save(file)
    assert "pixels where the images before it have" in message(tmp_path, streaming=streaming, validation=0)


def test_classes_of_an_image_folder(tmp_path):
    image_folder(tmp_path)
    assert "do not apply" in message(tmp_path, label_column="label")
    (tmp_path / "test" / "fox").mkdir()
    assert f"{tmp_path / 'test' / 'fox'}: no class of the training set" in message(tmp_path)
    (tmp_path / "test" / "fox").rename(tmp_path / "train" / "fox")
    assert f"{tmp_path / 'train' / 'fox'}: no image" in message(tmp_path)
    (tmp_path / "val").mkdir()
    (tmp_path / "validation").mkdir()
    assert "are the same split" in message(tmp_path)


def test_links_to_nowhere_and_files_in_disguise(tmp_path):
    file = image_folder(tmp_path) / "train" / "cat" / "new.png"
    Image.fromarray(numbered(0)).save(file, "EPS")
    assert f"{file}: broken image; allowed: PNG" in message(tmp_path)
    file.unlink()
    file.symlink_to(tmp_path / "nowhere.png")
    assert f"{file}: a link to a file that is not there" in message(tmp_path)


def test_no_set_at_all(tmp_path):
    assert "no parquet file and no image folder" in message(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    assert "the train split is empty" in message(tmp_path)
    assert "no such folder" in message(tmp_path / "nowhere")
    (tmp_path / "file.bin").write_bytes(b"")
    assert "allowed: a folder" in message(tmp_path / "file.bin")
    assert "unknown data set 'digit'" in message("digit") and "did you mean 'digits'" in message("digit")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"validation": -1}, "validation=-1"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"image_size": 0}, "image_size=0"),
        ({"streaming": "no"}, "streaming='no'"),
        ({"streaming": 1}, "streaming=1"),
        ({"label_column": 3}, "label_column=3"),
        ({"image_column": "label"}, "'label' is no image column"),
        ({"label_column": "coarse"}, "'coarse' is no label column; columns: img: "),
        ({"validation": 20}, "20"),
        ({"validation": 20, "streaming": True}, "20"),
    ],
)
def test_options_that_are_not_allowed(tmp_path, options, says):
    text = message(parquet_set(tmp_path), **options)
    assert says in text and ("allowed: " in text or "_column=" in text)


@pytest.mark.parametrize("options", [{"image_size": 4}, {"streaming": True}, {"label_column": "label"}])
def test_digits_cannot_be_resized_or_streamed(options):
    assert "do not apply" in message("digits", **options)


def test_a_set_too_large_for_memory_is_to_be_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr("robustdeq.data.images.MAX_BYTES", 1000)
    assert "give streaming=True" in message(parquet_set(tmp_path))
    assert len(load(str(tmp_path), streaming=True).train) == 18
