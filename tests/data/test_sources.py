"""Every layout gives the same images, labels and classes; the cut of the validation set; names in tables."""

import io
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import NAMES, encoded, image_folder, numbered, numbers, parquet_set, pngs, table, write
from PIL import Image

import robustdeq as rd
from robustdeq.data import load
from robustdeq.data.sources import title
from robustdeq.recipe import trainer_of
from robustdeq.recipes import recipe

BOTH = pytest.mark.parametrize("streaming", [False, True])
SPLITS = ("train", "validation", "test")


def in_memory(splits):
    return [getattr(splits, split).take(slice(None)) for split in SPLITS]


def check(splits, names=("0", "1", "2")):
    """20 training images, a tenth of them held out, and 6 test images; label i % 3."""
    train, held, test = in_memory(splits)
    assert (len(train), len(held), len(test)) == (18, 2, 6) == tuple(len(getattr(splits, split)) for split in SPLITS)
    assert sorted(numbers(train.pixels) + numbers(held.pixels)) == list(range(20))
    assert numbers(test.pixels) == list(range(100, 106))
    for images, first in ((train, 0), (held, 0), (test, 100)):
        assert images.classes == names and images.labels.dtype == torch.int64
        for pixels, label in zip(images.pixels, images.labels):
            number = int(pixels[0, 0, 0])
            assert np.array_equal(pixels.permute(1, 2, 0), numbered(number)) and label == (number - first) % 3


@BOTH
@pytest.mark.parametrize(
    "files",
    [
        ("train.parquet", "test.parquet"),
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001-a1b2c3.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("data/train-00000-of-00001.parquet", "data/valid-00000-of-00001.parquet"),
        ("train.parquet", "validation.parquet"),
        ("training.parquet", "val.parquet"),
        ("test_sets/mine [1]/train.parquet", "test_sets/mine [1]/test.parquet"),
    ],
    ids=lambda files: files[1],
)
def test_parquet_in_the_layouts_of_the_hub(tmp_path, files, streaming):
    write(tmp_path / files[0], table(pngs(0, 20)), row_group_size=7)
    write(tmp_path / files[1], table(pngs(100, 6)))
    write(tmp_path / ".hidden/train.parquet", table(pngs(0, 3)))
    check(load(str(tmp_path), streaming=streaming))


@BOTH
def test_a_split_in_several_files_is_read_in_order(tmp_path, streaming):
    for shard, (first, count) in enumerate([(100, 1), (101, 0), (101, 5)]):
        write(
            tmp_path / f"data/test-{shard:05}-of-00003.parquet",
            table(pngs(first, count), labels=[0, 1, 2][:count] if count < 3 else [1, 2, 0, 1, 2]),
        )
    write(tmp_path / "data/train-00000-of-00001.parquet", table(pngs(0, 20)))
    check(load(str(tmp_path), streaming=streaming))


@BOTH
def test_an_image_folder(tmp_path, streaming):
    train, held, test = in_memory(load(str(image_folder(tmp_path)), validation=3, streaming=streaming))
    for images, first in ((train, 0), (held, 0), (test, 12)):
        assert images.classes == tuple(NAMES)
        assert images.labels.tolist() == [(number - first) // 4 for number in numbers(images.pixels)]
    assert sorted(numbers(test.pixels)) == list(range(12, 24)) != numbers(test.pixels)


@pytest.mark.parametrize(
    ("columns", "wanted", "classes"),
    [
        ({"names": NAMES}, {}, tuple(NAMES)),
        ({"image": "image"}, {}, ("0", "1", "2")),
        ({"image": "picture", "label": "labels"}, {}, ("0", "1", "2")),
        ({"nested": False}, {}, ("0", "1", "2")),
        ({"label": "fine_label", "coarse_label": True}, {}, ("0", "1", "2")),
        ({"label": "width"}, {"label_column": "width"}, ("0", "1", "2")),
        ({"image": "one", "two": True}, {"image_column": "one"}, ("0", "1", "2")),
    ],
)
def test_columns_and_classes(tmp_path, columns, wanted, classes):
    for split, first, count in (("train", 0, 20), ("test", 100, 6)):
        more = {"coarse_label": [0] * count, "two": [b""] * count}
        options = {name: more.get(name, value) for name, value in columns.items()}
        write(tmp_path / f"{split}.parquet", table(pngs(first, count), **options))
    check(load(str(tmp_path), **wanted), classes)
    if "coarse_label" in columns:
        assert load(str(tmp_path), label_column="coarse_label").train.classes == ("0",)
    if "width" in wanted.values():
        with pytest.raises(ValueError, match=r"no label columns; columns: img: .*, width: int64"):
            load(str(tmp_path))  # an integer that is not called a label may be an id


@BOTH
def test_labels_that_are_text_become_classes(tmp_path, streaming):
    for split in ("train", "test"):
        names = ["eel", "10", "cat", "9", "cat", "eel"]
        write(tmp_path / f"{split}.parquet", table(pngs(0, 6)).set_column(1, "label", [names]))
    splits = load(str(tmp_path), streaming=streaming)
    assert splits.test.classes == ("9", "10", "cat", "eel")
    assert splits.test.take(slice(None)).labels.tolist() == [3, 1, 2, 0, 2, 3]


@pytest.mark.filterwarnings("ignore:.*files are not read")
def test_class_folders_hidden_files_and_other_files(tmp_path):
    for name in ("2", "10", "1", "fox"):
        for split in ("train", "test"):
            place = tmp_path / split / name / "inner"
            (place.parent / ".hidden").mkdir(parents=True)
            place.mkdir()
            Image.fromarray(numbered(7)).save(place / "7.png")
            for other in (place / ".x.png", place.parent / ".hidden" / "x.png", place / "notes.txt", place / "x.eps"):
                other.write_bytes(b"not an image")
    splits = load(str(tmp_path), validation=0)
    assert splits.train.classes == ("1", "2", "10", "fox") and sorted(splits.test.labels.tolist()) == [0, 1, 2, 3]


@BOTH
def test_what_is_not_used_is_said_and_withheld_test_labels_make_the_validation_set_the_test_set(tmp_path, streaming):
    parquet_set(tmp_path)
    (tmp_path / "test.parquet").rename(tmp_path / "validation.parquet")
    write(tmp_path / "test.parquet", table(pngs(50, 5), labels=[-1] * 5))
    with pytest.warns(UserWarning, match="not used: test .labels withheld"):
        check(load(str(tmp_path), streaming=streaming))
    (tmp_path / "test.parquet").rename(tmp_path / "extra.parquet")
    with pytest.warns(UserWarning, match="extra.parquet: not read"):
        check(load(str(tmp_path), streaming=streaming))


@BOTH
@pytest.mark.parametrize("validation", [None, 4, 6])
def test_a_published_validation_set_beside_a_test_set_is_the_validation_set(tmp_path, validation, streaming):
    write(parquet_set(tmp_path) / "valid.parquet", table(pngs(50, 6)))
    train, held, _ = in_memory(load(str(tmp_path), validation=validation, streaming=streaming))
    assert sorted(numbers(train.pixels)) == list(range(20))
    assert len(held) == (validation or 6) and set(numbers(held.pixels)) <= set(range(50, 56))


@BOTH
@given(seed=st.integers(0, 2**31), count=st.integers(1, 19))
@settings(max_examples=8, deadline=None)
def test_the_seed_holds_out_images_of_the_training_set(tmp_path_factory, streaming, seed, count):
    folder = tmp_path_factory.getbasetemp() / "one set"
    if not folder.exists():
        parquet_set(folder)
    first, second = (load(str(folder), validation=count, seed=seed, streaming=streaming) for _ in range(2))
    one, two = in_memory(first), in_memory(second)
    assert first.seed == seed and len(first.validation) == count == len(one[1])
    assert sorted(numbers(one[0].pixels) + numbers(one[1].pixels)) == list(range(20))
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(one, two))
    assert numbers(one[2].pixels) == list(range(100, 106))


@BOTH
def test_different_seeds_hold_out_different_images(tmp_path, streaming):
    parquet_set(tmp_path)
    options = {"validation": 8, "streaming": streaming}
    held = {tuple(numbers(in_memory(load(str(tmp_path), seed=s, **options))[1].pixels)) for s in range(5)}
    assert len(held) > 2


def test_digits_are_a_source():
    assert torch.equal(load("digits").test.pixels, rd.data.digits().test.pixels)
    assert len(load("digits", validation=50, seed=3).validation) == 50


def test_grey_images_have_one_channel_unless_one_is_coloured(tmp_path):
    grey = [encoded(np.full((5, 5), 10 * i, np.uint8)) for i in range(8)]
    for channels, images in ((1, grey), (3, [*grey, encoded(numbered(0, (5, 5)))])):
        write(tmp_path / "train.parquet", table(grey))
        write(tmp_path / "test.parquet", table(images))
        splits = load(str(tmp_path), validation=1)
        assert splits.train.pixels.shape == (7, channels, 5, 5) and (splits.test.pixels[3] == 30).all()


def test_image_size_brings_all_images_to_one_square(tmp_path):
    images = [encoded(np.full((7 + i, 9, 3), 20 * i, np.uint8)) for i in range(6)]
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", table(images))
    test = load(str(tmp_path), image_size=5, validation=1).test
    assert test.pixels.shape == (6, 3, 5, 5)
    assert all((pixels == 20 * i).all() for i, pixels in enumerate(test.pixels))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (("cifar10", (50, 10), 10, (3, 32, 32), True), "CIFAR-10 (JPEG)"),
        (("cifar10", (50, 10), 10, (3, 32, 32), False), "CIFAR-10"),
        (("mine", (50_000, 10_000), 10, (3, 32, 32), True), "CIFAR-10 (JPEG)"),
        (("mine", (50_000, 9_000), 10, (3, 32, 32), True), "mine (JPEG)"),
        (("cifar10/", (50, 10), 10, (3, 32, 32), False), "cifar10"),
        (("mine/", (50_000, 10_000), 10, (3, 32, 32), True), "CIFAR-10 (JPEG)"),
        (("CIFAR_100", (50_000, 10_000), 100, (3, 32, 32), False), "CIFAR-100"),
        (("imagenet-1k", (9, 9), 1000, (3, 375, 500), True), "ImageNet-1k"),
    ],
)
def test_jpeg_coded_small_images_are_told_from_exact_ones(stored, expected):
    assert title(*stored) == expected


def test_the_source_of_jpeg_files_says_so(tmp_path):
    jpegs = [encoded(numbered(i, (32, 32)), "JPEG") for i in range(6)]
    for split in ("train", "test"):
        write(tmp_path / "cifar10" / f"{split}.parquet", table(jpegs))
    for streaming in (False, True):
        assert load(str(tmp_path / "cifar10"), validation=1, streaming=streaming).test.source == "cifar10 (JPEG)"
    write(tmp_path / "cifar10" / "train.parquet", table([*jpegs, encoded(numbered(0, (32, 32)))]))
    assert load(str(tmp_path / "cifar10"), validation=1).test.source == "cifar10"


def test_the_real_cifar10(cifar10, tmp_path):
    (tmp_path / "test.parquet").symlink_to(cifar10 / "test.parquet")
    write(tmp_path / "train.parquet", pq.read_table(cifar10 / "test.parquet").slice(0, 200))  # all take too long
    test, splits = load(str(tmp_path)).test, load(str(cifar10), streaming=True)
    assert test.labels.bincount().tolist() == [1000] * 10 and test.classes == tuple("0123456789")
    means = test.images().mean((0, 2, 3))
    assert torch.allclose(means, torch.tensor([0.494, 0.485, 0.450]), atol=0.01)  # of the published PNG test set
    assert [len(getattr(splits, split)) for split in SPLITS] == [45_000, 5_000, 10_000]
    assert splits.train.source == "CIFAR-10 (JPEG)"
    stored = pq.read_table(cifar10 / "test.parquet").column("img")[9_000].as_py()["bytes"]
    image = splits.test.take(torch.tensor([9_000, 3])).pixels[0]
    assert np.array_equal(image.permute(1, 2, 0), np.asarray(Image.open(io.BytesIO(stored))))
    assert torch.equal(image, test.pixels[9_000])


@pytest.mark.slow
def test_the_whole_real_cifar10(cifar10):
    splits = load(str(cifar10))
    assert torch.cat([splits.train.labels, splits.validation.labels]).bincount().tolist() == [5000] * 10


def test_a_published_validation_set_is_mixed(tmp_path):
    """It may be stored by class, and a training judges the first of them."""
    for split, first, count in (("train", 0, 20), ("validation", 50, 12), ("test", 100, 6)):
        write(tmp_path / f"{split}.parquet", table(pngs(first, count)))
    held = [load(str(tmp_path), seed=seed).validation for seed in (0, 0, 1)]
    assert held[0].digest() == held[1].digest() != held[2].digest()
    assert sorted(held[0].pixels.flatten(1).sum(1).tolist()) == sorted(held[2].pixels.flatten(1).sum(1).tolist())


def test_the_number_that_white_has_belongs_to_a_set():
    digits = rd.data.digits().test
    assert digits.digest() != replace(digits, white=255).digest()


@BOTH
def test_a_test_split_alone_can_be_judged_on_and_not_be_trained_on(tmp_path, streaming):
    parquet_set(tmp_path)
    whole = load(str(tmp_path), validation=1, streaming=streaming).test
    (tmp_path / "train.parquet").unlink()
    for validation in (None, 7):
        splits = load(str(tmp_path), streaming=streaming, validation=validation)
        assert torch.equal(splits.test.take(slice(6)).pixels, whole.take(slice(6)).pixels)
        assert (len(splits.train), len(splits.validation), len(splits.test)) == (0, 0, 6)
    chosen = recipe("cifar10-small").changed({"data": str(tmp_path), "streaming": streaming})
    with pytest.raises(ValueError, match="no training images, a test split alone; allowed: train, and test"):
        trainer_of(chosen, tmp_path / "out", chosen.load())


def test_class_folders_of_a_test_split_alone_name_the_classes(tmp_path):
    splits = load(str(image_folder(tmp_path, splits=("test",))))
    assert splits.test.classes == load(str(image_folder(tmp_path / "whole"))).test.classes
    assert (len(splits.train), len(splits.test)) == (0, 4 * len(NAMES))
