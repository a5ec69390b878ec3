"""A streamed set shows what the set in memory shows: once an epoch, in an order that the generator alone decides."""

import threading
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from image_files import encoded, image_folder, numbers, parquet_set, pngs, table, write

from robustdeq.data import images, load
from robustdeq.seeds import generator


def stream(folder, **options):
    return load(str(folder), streaming=True, **options)


def epoch(images, size=4, seed=0):
    return list(images.batches(size, generator(seed)))


def shown(batches):
    return [int(number) for x, _ in batches for number in (x[:, 0, 0, 0] * 255).round()]


@pytest.fixture(params=["parquet", "images"])
def folder(request, tmp_path):
    """22 or 24 training images; the parquet files are three, of different sizes."""
    if request.param == "images":
        return image_folder(tmp_path, each=8)
    for shard, (first, count) in enumerate([(0, 9), (9, 1), (10, 12)]):
        write(tmp_path / f"train-{shard:05}-of-00003.parquet", table(pngs(first, count)), row_group_size=5)
    write(tmp_path / "test.parquet", table(pngs(100, 6)))
    return tmp_path


def test_an_epoch_shows_every_image_once(folder):
    train = stream(folder, validation=2).train
    batches = epoch(train)
    assert len(batches) == len(train) // 4 == 5
    seen = shown(batches)
    assert len(seen) == len(set(seen)) == 20 and set(seen) <= set(numbers(train.take(slice(None)).pixels))
    for x, y in batches:
        assert x.shape == (4, 3, 6, 6) and x.dtype == torch.float32 and y.dtype == torch.int64
        assert x.min() >= 0 and x.max() <= 1


def test_images_and_labels_are_those_in_memory(folder):
    streamed, memory = stream(folder), load(str(folder))
    assert torch.equal(streamed.test.take(slice(None)).pixels, memory.test.pixels)
    assert torch.equal(streamed.test.take(slice(None)).labels, memory.test.labels)
    assert streamed.train.classes == memory.train.classes and streamed.train.source == memory.train.source
    expected = {int(p[0, 0, 0]): (p, int(y)) for p, y in zip(memory.test.pixels, memory.test.labels)}
    for x, y in epoch(streamed.test, 2):
        for image, label in zip(x, y):
            stored, number = expected[int((image[0, 0, 0] * 255).round())]
            assert torch.equal((image * 255).round().byte(), stored) and label == number


def test_the_generator_alone_decides_the_order(folder):
    train = stream(folder).train
    first = shown(epoch(train))
    assert first == shown(epoch(train))
    assert first != shown(epoch(train, seed=1)) and first != sorted(first)


def test_a_small_buffer_still_shows_every_image_once(folder):
    train = replace(stream(folder, validation=0).train, buffer=3)
    assert sorted(shown(epoch(train, 1))) == sorted(numbers(train.take(slice(None)).pixels))


@pytest.mark.parametrize("count", [2, 3])
def test_processes_that_take_parts_of_every_batch_see_the_batches_of_one(folder, count):
    """All of them the same number of batches, also where the last rows fill the first part only."""
    train = stream(folder, validation=0).train
    size = 2 * count
    whole = list(train.batches(size, torch.Generator().manual_seed(0)))
    parts = [slice(rank * size // count, (rank + 1) * size // count) for rank in range(count)]
    taken = [list(train.batches(size, torch.Generator().manual_seed(0), part)) for part in parts]
    assert [len(batches) for batches in taken] == [len(whole)] * count and len(whole) > 1
    for index, (pixels, labels) in enumerate(whole):
        assert torch.equal(pixels, torch.cat([batches[index][0] for batches in taken]))
        assert torch.equal(labels, torch.cat([batches[index][1] for batches in taken]))


def test_batches_that_are_skipped_change_nothing_about_the_others(folder):
    train = stream(folder, validation=0).train
    whole, rest = (list(train.batches(4, torch.Generator().manual_seed(0), skip=skip)) for skip in (0, 2))
    assert len(rest) == len(whole) - 2 > 0
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(whole[2:], rest))


def test_rows_that_are_skipped_are_not_decoded(folder, monkeypatch):
    opened, whole = [], images.open_image
    monkeypatch.setattr(images, "open_image", lambda row: opened.append(row) or whole(row))
    train = stream(folder, validation=0).train
    rest = list(train.batches(4, torch.Generator().manual_seed(0), slice(1, 3), skip=3))
    assert len(opened) == 2 * len(rest) == 2 * (len(train) // 4 - 3)


def test_a_digest_knows_the_rows_and_not_the_place(folder, tmp_path):
    first, other = stream(folder, validation=6).train, stream(folder, validation=6, seed=1).train
    moved = folder.rename(tmp_path.parent / f"{tmp_path.name} moved")
    again = replace(stream(moved, validation=6).train, source=first.source)
    assert first.digest() == again.digest() != other.digest()


def test_take_reads_any_rows(folder):
    train = stream(folder, validation=0).train
    everything = train.take(slice(None))
    for rows in (slice(3, 9), slice(-4, None), torch.tensor([7, 1, 1, 19]), slice(None, None, 5)):
        some = train.take(rows)
        assert torch.equal(some.pixels, everything.pixels[torch.arange(len(train))[rows]])
        assert torch.equal(some.labels, everything.labels[torch.arange(len(train))[rows]])
        assert torch.equal(train.images(rows), some.images())


def test_training_shows_random_crops_and_the_rest_the_middle(tmp_path):
    ramp = np.arange(48, dtype=np.uint8)[None, :, None] * 5
    image = encoded(np.broadcast_to(ramp, (32, 48, 3)).copy())
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", table([image] * 12))
    splits = stream(tmp_path, image_size=8, validation=2)
    memory = load(str(tmp_path), image_size=8, validation=2)
    means = {round(float(x.mean()), 4) for x, _ in epoch(splits.train, 1)}
    assert len(means) > 5
    assert means == {round(float(x.mean()), 4) for x, _ in epoch(splits.train, 1)}, "crops follow the generator"
    assert all(x.shape == (2, 3, 8, 8) for x, _ in epoch(splits.train, 2))
    for x, _ in epoch(splits.test, 2):
        assert torch.equal(x, memory.test.images(slice(2)))


def test_grey_images_are_repeated_to_three_channels(tmp_path):
    grey = [encoded(np.full((5, 5), 10 * i, np.uint8)) for i in range(8)]
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", table(grey))
    assert stream(tmp_path).test.take(slice(2, 3)).pixels.eq(20).all()
    assert epoch(stream(tmp_path).test)[0][0].shape == (4, 3, 5, 5)


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"broken", "broken image"), (encoded(np.zeros((6, 9, 3), np.uint8)), "give image_size")],
    ids=["broken", "another size"],
)
def test_a_broken_image_stops_the_epoch_and_is_named(tmp_path, data, says):
    parquet_set(tmp_path)
    write(tmp_path / "train.parquet", table([*pngs(0, 13), data, *pngs(14, 6)]), row_group_size=5)
    with pytest.raises(ValueError, match=says) as caught:
        epoch(stream(tmp_path, validation=0).train, 1)
    assert f"{tmp_path} train row " in str(caught.value)
    assert says != "broken image" or "train row 13: " in str(caught.value)
    assert no_threads_left()


def test_an_epoch_that_is_given_up_leaves_no_thread(folder):
    batches = stream(folder).train.batches(2, generator(0))
    next(batches)
    batches.close()
    assert no_threads_left()


def no_threads_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "read ahead"))]


def test_another_column_of_labels_is_another_set(tmp_path):
    """Records of one were taken for those of the other."""
    for split, count in (("train", 12), ("test", 12)):
        whole = table(pngs(0, count))
        noisy = pa.array([0] * count, pa.int64())
        write(tmp_path / f"{split}.parquet", whole.append_column("noisy", noisy))
    found = [load(str(tmp_path), streaming=True, label_column=column).test for column in ("label", "noisy")]
    assert found[0].digest() != found[1].digest()
