"""Orders that show everything once, and cuts that lose nothing, for any sizes."""

from pathlib import Path, PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdeq.data.layout import split_of
from robustdeq.data.rows import FolderShard, hold_out
from robustdeq.data.workers import ahead, in_turn, shuffled
from robustdeq.seeds import generator

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=25)


def shards(lengths):
    names = iter(range(sum(lengths)))
    return [FolderShard(tuple((Path(str(next(names))), 0) for _ in range(length))) for length in lengths]


def names(found):
    return [int(str(file)) for shard in found for file, _ in shard.files]


@given(lengths=LENGTHS, data=st.data(), seed=st.integers(0, 99), spread=st.integers(1, 20))
@settings(max_examples=80, deadline=None)
def test_holding_out_partitions_the_rows(lengths, data, seed, spread):
    count = data.draw(st.integers(0, sum(lengths)))
    held, rest = hold_out(shards(lengths), count, seed, spread)
    assert len(names(held)) == count and sorted(names(held) + names(rest)) == list(range(sum(lengths)))
    assert names(held) == names(hold_out(shards(lengths), count, seed, spread)[0])


def test_held_out_rows_come_from_many_shards():
    held, _ = hold_out(shards([100] * 40), 32, seed=0)
    assert [len(shard) for shard in held] == [2] * 16
    with pytest.raises(ValueError, match="validation=9 of 8 images"):
        hold_out(shards([4, 4]), 9, seed=0)


@given(lengths=LENGTHS, together=st.integers(1, 9), buffer=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_shuffled_stream_shows_everything_once(lengths, together, buffer, seed):
    streams = [[(number, row) for row in range(length)] for number, length in enumerate(lengths)]
    mixed = list(in_turn(map(iter, streams), together))
    expected = sorted(item for stream in streams for item in stream)
    assert sorted(mixed) == expected
    assert sorted(shuffled(mixed, buffer, generator(seed))) == expected


def test_streams_are_read_in_turn():
    assert list(in_turn(map(iter, ["ab", "cde", "fg"]), 2)) == ["a", "c", "b", "d", "e", "f", "g"]


def test_reading_ahead_keeps_order_and_passes_errors_on():
    def numbers():
        yield from range(20)
        raise OSError("gone")

    found = []
    with pytest.raises(OSError, match="gone"):
        found.extend(iter(found.append(item) for item in ahead(numbers(), 3)))
    assert [item for item in found if item is not None] == list(range(20))


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train.parquet", "train"),
        ("data/valid-00000-of-00001-70d52db3c749a935.parquet", "validation"),
        ("plain_text/test-00000-of-00001.parquet", "test"),
        ("default/val/0000.parquet", "validation"),
        ("test_sets/train.parquet", "train"),
        ("cifar10-test.parquet", "test"),
        ("pretrained/contest.parquet", None),
        ("metadata.parquet", None),
    ],
)
def test_the_split_of_a_file(path, split):
    assert split_of(PurePath(path)) == split
