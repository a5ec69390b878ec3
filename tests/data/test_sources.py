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
from robustdeq.data import ImageSet, load
from robustdeq.data.sources import title


def union(splits):
    return sorted(numbers(splits.train.pixels) + numbers(splits.validation.pixels))


def check(splits, names=("0", "1", "2")):
    """20 training images, a tenth of them held out, and 6 test images; label i % 3."""
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (18, 2, 6)
    assert union(splits) == list(range(20)) and numbers(splits.test.pixels) == list(range(100, 106))
    for part, first in ((splits.train, 0), (splits.validation, 0), (splits.test, 100)):
        assert part.classes == names and part.labels.dtype == torch.int64
        for pixels, label in zip(part.pixels, part.labels):
            number = int(pixels[0, 0, 0])
            assert np.array_equal(pixels.permute(1, 2, 0), numbered(number))
            assert label == (number - first) % 3


LAYOUTS = [
    ("train.parquet", "test.parquet"),
    ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001-a1b2c3.parquet"),
    ("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"),
    ("default/train/0000.parquet", "default/test/0000.parquet"),
    ("train.parquet", "validation.parquet"),
    ("data/train-00000-of-00001.parquet", "data/valid-00000-of-00001.parquet"),
    ("training.parquet", "val.parquet"),
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("files", LAYOUTS, ids=lambda files: files[1])
def test_parquet_in_the_layouts_of_the_hub(tmp_path, files, streaming):
    write(tmp_path / files[0], table(pngs(0, 20)), row_group_size=7)
    write(tmp_path / files[1], table(pngs(100, 6)))
    splits = load(str(tmp_path), streaming=streaming)
    parts = {name: getattr(splits, name) for name in ("train", "validation", "test")}
    check(replace(splits, **{name: part.take(slice(None)) for name, part in parts.items()}))


def test_a_split_in_several_parts_is_read_in_order(tmp_path):
    for part in range(3):
        write(tmp_path / f"data/train-{part:05}-of-00003.parquet", table(pngs(4 * part, 4)))
    write(tmp_path / "data/test-00000-of-00001.parquet", table(pngs(100, 3)))
    assert union(load(str(tmp_path))) == list(range(12))


@pytest.mark.parametrize("streaming", [False, True])
def test_an_image_folder(tmp_path, streaming):
    splits = load(str(image_folder(tmp_path)), validation=3, streaming=streaming)
    for part, first in ((splits.train, 0), (splits.validation, 0), (splits.test, 12)):
        part = part.take(slice(None))
        assert part.classes == tuple(NAMES)
        assert part.labels.tolist() == [(number - first) // 4 for number in numbers(part.pixels)]
    assert sorted(numbers(splits.test.take(slice(None)).pixels)) == list(range(12, 24))


def test_class_names_are_those_noted_in_the_file(tmp_path):
    check(load(str(parquet_set(tmp_path, names=NAMES))), tuple(NAMES))


@pytest.mark.parametrize("columns", [{"image": "image"}, {"image": "picture", "label": "y"}, {"nested": False}])
def test_columns_are_found_by_their_types(tmp_path, columns):
    write(tmp_path / "train.parquet", table(pngs(0, 20), **columns))
    write(tmp_path / "test.parquet", table(pngs(100, 6), **columns))
    check(load(str(tmp_path)))


def test_of_several_labels_the_fine_one_is_taken(tmp_path):
    for file, first, count in (("train", 0, 20), ("test", 100, 6)):
        made = table(pngs(first, count), label="fine_label", coarse_label=[0] * count)
        write(tmp_path / f"{file}.parquet", made)
    check(load(str(tmp_path)))


def test_withheld_test_labels_make_the_published_validation_set_the_test_set(tmp_path):
    write(tmp_path / "train.parquet", table(pngs(0, 20)))
    write(tmp_path / "validation.parquet", table(pngs(100, 6)))
    write(tmp_path / "test.parquet", table(pngs(50, 5), labels=[-1] * 5))
    check(load(str(tmp_path)))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("validation", [None, 4, 6])
def test_a_published_validation_set_beside_a_test_set_is_the_validation_set(tmp_path, validation, streaming):
    parquet_set(tmp_path)
    write(tmp_path / "valid.parquet", table(pngs(50, 6)))
    splits = load(str(tmp_path), validation=validation, streaming=streaming)
    assert sorted(numbers(splits.train.take(slice(None)).pixels)) == list(range(20))
    held = numbers(splits.validation.take(slice(None)).pixels)
    assert len(held) == (validation or 6) and set(held) <= set(range(50, 56))


@given(seed=st.integers(0, 2**31), count=st.integers(0, 19))
@settings(max_examples=15, deadline=None)
def test_the_same_seed_holds_out_the_same_images(tmp_path_factory, seed, count):
    folder = tmp_path_factory.getbasetemp() / "one set"
    if not folder.exists():
        parquet_set(folder)
    first, second = (load(str(folder), validation=count, seed=seed) for _ in range(2))
    assert first.seed == seed and len(first.validation) == count and union(first) == list(range(20))
    assert torch.equal(first.validation.pixels, second.validation.pixels)
    assert torch.equal(first.train.pixels, second.train.pixels)
    assert numbers(first.test.pixels) == list(range(100, 106))


def test_different_seeds_hold_out_different_images(tmp_path):
    folder = str(parquet_set(tmp_path))
    assert len({tuple(numbers(load(folder, validation=8, seed=seed).validation.pixels)) for seed in range(5)}) == 5


def test_digits_are_a_source():
    assert torch.equal(load("digits").test.pixels, rd.data.digits().test.pixels)
    assert len(load("digits", validation=50, seed=3).validation) == 50


def test_grey_images_have_one_channel_unless_one_is_coloured(tmp_path):
    grey = [encoded(np.full((5, 5), 10 * i, np.uint8)) for i in range(8)]
    write(tmp_path / "train.parquet", table(grey))
    write(tmp_path / "test.parquet", table(grey))
    splits = load(str(tmp_path), validation=1)
    assert splits.train.pixels.shape == (7, 1, 5, 5) and splits.test.pixels[3, 0, 0, 0] == 30
    write(tmp_path / "test.parquet", table([*grey, encoded(numbered(0, (5, 5)))]))
    splits = load(str(tmp_path), validation=1)
    assert splits.train.pixels.shape == (7, 3, 5, 5) and (splits.test.pixels[3] == 30).all()


def test_image_size_brings_all_images_to_one_square(tmp_path):
    images = [encoded(np.full((7 + i, 9, 3), 20 * i, np.uint8)) for i in range(6)]
    write(tmp_path / "train.parquet", table(images))
    write(tmp_path / "test.parquet", table(images))
    test = load(str(tmp_path), image_size=5, validation=1).test
    assert test.pixels.shape == (6, 3, 5, 5)
    assert all((pixels == 20 * i).all() for i, pixels in enumerate(test.pixels))


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (("cifar10", [50, 10], 10, (3, 32, 32), True), "CIFAR-10 (JPEG)"),
        (("cifar10", [50, 10], 10, (3, 32, 32), False), "CIFAR-10"),
        (("mine", [50_000, 10_000], 10, (3, 32, 32), True), "CIFAR-10 (JPEG)"),
        (("mine", [50_000, 9_000], 10, (3, 32, 32), True), "mine (JPEG)"),
        (("CIFAR_100", [50_000, 10_000], 100, (3, 32, 32), False), "CIFAR-100"),
        (("imagenet-1k", [9, 9], 1000, (3, 375, 500), True), "ImageNet-1k"),
    ],
)
def test_jpeg_coded_small_images_are_told_from_exact_ones(given_, expected):
    assert title(*given_) == expected


def test_the_source_of_jpeg_files_says_so(tmp_path):
    for split in ("train", "test"):
        jpegs = [encoded(numbered(i, (32, 32)), "JPEG") for i in range(6)]
        write(tmp_path / "cifar10" / f"{split}.parquet", table(jpegs))
    for streaming in (False, True):
        assert load(str(tmp_path / "cifar10"), validation=1, streaming=streaming).test.source == "CIFAR-10 (JPEG)"
    write(tmp_path / "cifar10" / "train.parquet", table([*jpegs, encoded(numbered(0, (32, 32)))]))
    assert load(str(tmp_path / "cifar10"), validation=1).test.source == "CIFAR-10"


def test_the_real_cifar10_test_images(cifar10, tmp_path):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    for split in ("train", "test"):  # the training images take too long for every run of the tests
        (folder / f"{split}.parquet").symlink_to(cifar10 / "test.parquet")
    splits = load(str(folder), validation=100)
    test = splits.test
    assert isinstance(test, ImageSet) and test.source == "CIFAR-10 (JPEG)"
    assert test.pixels.shape == (10_000, 3, 32, 32) and test.pixels.dtype == torch.uint8
    assert test.labels.bincount().tolist() == [1000] * 10 and test.classes == tuple("0123456789")
    means = test.images().mean((0, 2, 3))
    assert torch.allclose(means, torch.tensor([0.494, 0.485, 0.450]), atol=0.01)  # of the published PNG test set


def test_the_real_cifar10_streamed(cifar10):
    splits = load(str(cifar10), streaming=True)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [45_000, 5_000, 10_000]
    assert splits.train.source == "CIFAR-10 (JPEG)"
    rows = torch.tensor([9_000, 3])
    stored = pq.read_table(cifar10 / "test.parquet").column("img")[9_000].as_py()["bytes"]
    expected = np.asarray(Image.open(io.BytesIO(stored)))
    assert np.array_equal(splits.test.take(rows).pixels[0].permute(1, 2, 0), expected)


@pytest.mark.slow
def test_the_whole_real_cifar10(cifar10):
    splits = load(str(cifar10))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [45_000, 5_000, 10_000]
    labels = torch.cat([splits.train.labels, splits.validation.labels])
    assert labels.bincount().tolist() == [5000] * 10
