"""Image sets: splits, batches, augmentation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import robustdeq as rd
from robustdeq.data import crop_and_flip, cut
from robustdeq.seeds import generator, mix


def test_digits_are_the_real_ones_in_disjoint_splits():
    splits = rd.data.digits()
    sizes = [len(part) for part in (splits.train, splits.validation, splits.test)]
    assert sum(sizes) == 1797 and sizes[1:] == [100, 360]
    assert splits.train.images().shape[1:] == (1, 8, 8)
    low, high = splits.train.images().aminmax()
    assert low == 0 and high == 1
    assert splits.train.classes == tuple("0123456789")
    again = rd.data.digits()
    assert torch.equal(again.test.pixels, splits.test.pixels)
    assert not torch.equal(rd.data.digits(seed=1).test.pixels, splits.test.pixels)


def test_cut_partitions_a_set():
    whole = rd.data.digits().train
    numbered = type(whole)(whole.pixels, torch.arange(len(whole)), whole.classes, whole.source, whole.white)
    parts = cut(numbered, (10, 20), seed=3)
    assert [len(part) for part in parts] == [10, 20, len(whole) - 30]
    assert torch.equal(torch.cat([part.labels for part in parts]).sort().values, torch.arange(len(whole)))
    with pytest.raises(ValueError, match="allowed: a sum below"):
        cut(whole, (len(whole),), seed=0)


def test_batches_show_every_image_at_most_once_and_depend_on_the_generator_only():
    images = rd.data.digits().train
    numbered = type(images)(images.pixels, torch.arange(len(images)), images.classes, images.source, images.white)
    epoch = [rows for _, rows in numbered.batches(100, generator(0, 1))]
    flat = torch.cat(epoch)
    assert len(flat) == len(images) // 100 * 100 == len(flat.unique())
    assert all(torch.equal(a, b) for a, b in zip(epoch, (rows for _, rows in numbered.batches(100, generator(0, 1)))))
    assert not torch.equal(flat, torch.cat([rows for _, rows in numbered.batches(100, generator(0, 2))]))


def test_parts_of_batches_and_skipped_batches_are_those_of_the_whole_epoch():
    images = rd.data.digits().train
    whole = list(images.batches(60, generator(0)))
    halves = [list(images.batches(60, generator(0), part)) for part in (slice(0, 30), slice(30, 60))]
    for (x, y), (x_one, y_one), (x_two, y_two) in zip(whole, *halves, strict=True):
        assert torch.equal(x, torch.cat([x_one, x_two])) and torch.equal(y, torch.cat([y_one, y_two]))
    rest = list(images.batches(60, generator(0), skip=3))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[3:], rest, strict=True))
    x = whole[0][0]
    cropped = crop_and_flip(x, generator(1), pad=1, flip=True)
    half = crop_and_flip(x[30:], generator(1), pad=1, flip=True, total=60, first=30)
    assert torch.equal(cropped[30:], half)


@given(pad=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_crop_and_flip_gives_a_shifted_zero_padded_image(pad, flip, seed):
    x = torch.rand(3, 2, 5, 4, generator=generator(seed)) + 0.1
    moved = crop_and_flip(x, generator(seed, 1), pad=pad, flip=flip)
    padded = torch.nn.functional.pad(x, (pad, pad, pad, pad))
    for before, after in zip(padded, moved):
        windows = [before[:, i : i + 5, j : j + 4] for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
        windows += [window.flip(2) for window in windows] if flip else []
        assert any(torch.equal(after, window) for window in windows)


def test_every_shift_and_both_directions_occur():
    x = torch.zeros(400, 1, 3, 3)
    x[:, 0, 1, 0] = 1
    moved = crop_and_flip(x, generator(0), pad=1, flip=True)
    assert len(torch.unique(moved.flatten(1), dim=0)) == 3 * 3 + 1  # every place of the point, and outside


def test_mix_separates_neighbours():
    seeds = {mix(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**63 for seed in seeds)
