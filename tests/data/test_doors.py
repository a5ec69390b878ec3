"""The methods of the sets, called with what they do not take: one ValueError, before anything is read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from image_files import parquet_set

import robustdeq as rd
from robustdeq.data import ImageSet, crop_and_flip, cut, digits, load
from robustdeq.data.images import one_line
from robustdeq.text import LONGEST


@pytest.fixture(params=["memory", "stream"])
def images(request, tmp_path):
    return load(parquet_set(tmp_path), validation=0, streaming=request.param == "stream").train


@pytest.mark.parametrize(
    "rows",
    [
        torch.tensor([0, 20]), torch.tensor([-21]), torch.tensor([0.5]), torch.tensor(3), torch.tensor([[0, 1]]),
        torch.tensor([True]), [0, 99], 3, "a", None, ..., True, slice(None, None, -1), slice(0, 3, 0), slice("a", "b"),
        slice(0, 2.5), torch.tensor([1j]), np.array(["a"]), object(),
    ],
)  # fmt: skip
def test_rows_that_are_none(images, rows):
    for method in (images.take, images.images):
        with pytest.raises(ValueError, match=r"rows .*; allowed: a slice forwards, or .*-20\.\.19"):
            method(rows)


@pytest.mark.parametrize(
    "rows", [[3, -1], (3, 19), np.array([3, 19]), torch.tensor([3, 19], dtype=torch.uint8), torch.tensor([3, 19]).int()]
)
def test_row_numbers_of_every_kind(images, rows):
    expected = images.take(torch.tensor([3, 19]))
    assert torch.equal(images.take(rows).pixels, expected.pixels)
    mask = torch.zeros(20, dtype=torch.bool)
    mask[[3, 19]] = True
    assert torch.equal(images.take(mask).labels, expected.labels)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("size", value) for value in (0, -1, 1.5, "a", True, None, 21)),
        *(("skip", value) for value in (-1, 1.5, "a", None)),
        *(("generator", value) for value in (None, 5, np.random.default_rng(0))),
        *(("part", value) for value in (5, "a", None)),
    ],
)
def test_batches_of_wrong_arguments(images, name, value):
    with pytest.raises(ValueError, match=rf"batches: {name}.*; allowed: "):
        images.batches(**{"size": 4, "generator": torch.Generator(), name: value})


@pytest.mark.parametrize("device", ["nope", "cuda:99", 5.5])
def test_a_device_that_is_not_here(images, device):
    with pytest.raises(ValueError, match="to: no device"):
        images.to(device)


def test_a_buffer_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="buffer=0"):
        replace(load(parquet_set(tmp_path), streaming=True).train, buffer=0)


PIXELS, LABELS = torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (PIXELS.float(), LABELS), (PIXELS, LABELS.int()), (PIXELS, LABELS[:3]), (PIXELS[0], LABELS), (None, None),
        (PIXELS.numpy(), LABELS.numpy()), (torch.tensor(3), torch.tensor(3)),
    ],
)  # fmt: skip
def test_tensors_that_are_no_image_set(pixels, labels):
    with pytest.raises(ValueError, match=r"allowed: pixels .N, C, H, W. uint8, labels .N,. int64"):
        ImageSet(pixels, labels, ("a",), "here")


@pytest.mark.parametrize("white", [0, -5, "x", 256, True])
def test_white_that_is_none(white):
    with pytest.raises(ValueError, match="white="):
        ImageSet(PIXELS, LABELS, ("a",), "here", white)


@pytest.mark.parametrize("name", ["test", "validation", "seed"])
@pytest.mark.parametrize("value", [-1, 1.5, True, "a", None, 2**63])
def test_digits_that_are_not_there(name, value):
    with pytest.raises(ValueError, match="allowed: "):
        digits(**{name: value})


@pytest.mark.parametrize("sizes, seed", [
    ((-5,), 0), ((1.5,), 0), (5, 0), (None, 0), (("a",), 0), ("5", 0), ((500, -200), 0), ((5,), -1), ((5,), "a"),
])  # fmt: skip
def test_cuts_that_are_none(sizes, seed):
    with pytest.raises(ValueError, match=r"cut: .*; allowed: "):
        cut(rd.data.digits().test, sizes, seed)


def test_only_a_set_is_cut():
    with pytest.raises(ValueError, match="cut: a NoneType"):
        cut(None, (5,), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"pad": -1}, {"pad": 1.5}, {"generator": None}, {"x": None}, {"x": torch.rand(3, 6, 6)}, {"total": 2}],
)
def test_crops_of_wrong_arguments(options):
    x = torch.rand(4, 3, 6, 6)
    with pytest.raises(ValueError, match=r"crop_and_flip: .*; allowed: "):
        crop_and_flip(**{"x": x, "generator": torch.Generator(), "pad": 1, "flip": True, **options})


def test_errors_leave_as_one_line():
    for error in (ValueError("a\nb\x1b\udcff" + 2000 * "x" + "the end"), OSError(13, "Permission\ndenied", "/a\nb")):
        with pytest.raises(ValueError, match=r"the end|cannot be read") as caught, one_line():
            raise error
        assert str(caught.value).isprintable() and len(str(caught.value)) <= LONGEST + 5
    with pytest.raises(ZeroDivisionError), one_line():
        raise ZeroDivisionError
