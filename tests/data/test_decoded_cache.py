"""A set is decoded once; what is kept equals a fresh decode, or is made anew; nothing half-written is ever read."""

import os
import time
import warnings

import pytest
import torch
from image_files import image_folder, parquet_set, pngs, table, write

from robustdeq.data import cache, load


def tensors(splits):
    return [t for part in (splits.train, splits.validation, splits.test) for t in (part.pixels, part.labels)]


def same(first, second):
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(tensors(first), tensors(second)))


@pytest.fixture
def decodes(monkeypatch):
    """How often something was decoded."""
    from robustdeq.data import sources

    made, whole = [], sources.decode_all
    monkeypatch.setattr(sources, "decode_all", lambda *given: made.append(given) or whole(*given))
    return made


@pytest.mark.parametrize("write_set", [parquet_set, image_folder])
def test_a_hit_equals_a_fresh_decode_bit_for_bit(tmp_path, decodes, own_cache, write_set):
    folder = str(write_set(tmp_path / "set"))
    fresh = load(folder)
    assert len(decodes) == 2 and len(list(own_cache.iterdir())) == 2
    kept = load(folder)
    assert len(decodes) == 2
    assert same(fresh, kept) and fresh.train.source == kept.train.source
    (tmp_path / "set").rename(tmp_path / "moved")
    load(str(tmp_path / "moved"))
    assert len(decodes) == 2, "the content decides, not the place"


def test_whatever_decides_the_result_decides_the_name(tmp_path, decodes):
    folder = parquet_set(tmp_path / "set")
    load(str(folder))
    load(str(folder), image_size=4)
    assert len(decodes) == 4
    load(str(folder), seed=5, validation=7)
    assert len(decodes) == 4, "the cut does not"
    stamp = (folder / "test.parquet").stat()
    write(folder / "test.parquet", table(pngs(101, 6)))
    os.utime(folder / "test.parquet", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert load(str(folder)).test.pixels[0, 0, 0, 0] == 101 and len(decodes) == 5


def test_moving_a_file_to_another_class_is_noticed(tmp_path):
    folder = image_folder(tmp_path / "set")
    before = load(str(folder), validation=0)
    (folder / "train/cat/0003.png").rename(folder / "train/dog/0003.png")
    after = load(str(folder), validation=0)
    assert before.train.labels.bincount().tolist() == [4, 4, 4]
    assert after.train.labels.bincount().tolist() == [3, 5, 4]


def flip_last_byte(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [flip_last_byte, lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\xff" * 100],
    ids=["one bit", "half", "empty", "other"],
)
def test_a_damaged_cache_is_rebuilt_with_a_warning(tmp_path, own_cache, damage):
    folder = str(parquet_set(tmp_path / "set"))
    fresh = load(folder)
    for file in own_cache.iterdir():
        file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(RuntimeWarning, match="damaged .* made anew"):
        assert same(fresh, load(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(fresh, load(folder))


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_killed_write_leaves_nothing_half_written(tmp_path, own_cache, monkeypatch, moment):
    def killed(*given):
        raise KeyboardInterrupt

    folder = str(parquet_set(tmp_path / "set"))
    with monkeypatch.context() as patch:
        patch.setattr(os, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            load(folder)
    assert list(own_cache.iterdir()) == []
    load(folder)
    assert len(list(own_cache.iterdir())) == 2


def test_leftovers_of_a_killed_run_are_removed_and_never_read(tmp_path, own_cache):
    own_cache.mkdir(parents=True)
    old, new = own_cache / ".a.safetensors.x1", own_cache / ".b.safetensors.x2"
    for file, age in ((old, 2 * cache.STALE), (new, 0)):
        file.write_bytes(b"half")
        os.utime(file, (time.time() - age,) * 2)
    load(str(parquet_set(tmp_path / "set")))
    assert not old.exists() and new.exists()


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("ROBUSTDEQ_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="ROBUSTDEQ_CACHE"):
        assert len(load(str(parquet_set(tmp_path / "set"))).train) == 18


def test_without_a_variable_the_cache_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("ROBUSTDEQ_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "robustdeq"
