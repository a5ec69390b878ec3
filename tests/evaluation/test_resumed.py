"""An evaluation that was stopped, or killed, goes on and ends with the record of one that was not."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from sharded import THREAT, found, timeless
from small_models import images_for, own

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.evaluation import Entry, Evaluation

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return found(tmp_path_factory.mktemp("whole"))


def _same(one, other):
    assert timeless(copy.deepcopy(one.record)) == timeless(copy.deepcopy(other.record))
    assert [flag.to_dict() for flag in one.flags] == [flag.to_dict() for flag in other.flags]
    assert all(torch.equal(one.images[name][:], other.images[name][:]) for name in other.images)


@pytest.mark.parametrize("calls", [1, 5, 12, 17, 27, 32])
def test_an_evaluation_that_was_stopped_ends_with_the_same_record(calls, whole, tmp_path):
    class Stop(Exception):
        pass

    seen = []

    def stop(done, total, text):
        seen.append(text)
        if len(seen) == calls:
            raise Stop

    with pytest.raises(Stop):
        found(tmp_path, progress=stop)
    with pytest.raises(ValueError, match="is unfinished"):
        Evaluation.read(tmp_path)
    _same(found(tmp_path), whole)
    assert Evaluation.read(tmp_path).shares() == whole.shares()


def test_a_process_that_was_killed_twice_leaves_nothing_that_hinders(whole, tmp_path):
    draw = random.Random(0)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    for _ in range(2):
        process = subprocess.Popen([sys.executable, HERE / "sharded.py", tmp_path / "cut"], env=environment)
        deadline = time.monotonic() + 60
        while not (tmp_path / "cut" / "evaluation.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.05, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        json.loads((tmp_path / "cut" / "evaluation.json").read_text())
    _same(found(tmp_path / "cut"), whole)


def _counting(calls):
    def count(model, x, y, indices):
        calls.append(indices.tolist())
        return x

    return count


def test_a_finished_batch_is_not_repeated(tmp_path):
    model = own()
    x = images_for(model, 20)
    y = model(x).argmax(1)
    calls = []
    given = {"suite": [Entry("count", "count", _counting(calls))], "batch_size": 8, "out": tmp_path, "checks": 0}
    for _ in range(2):
        rd.evaluate(model, x, y, **given)
    assert len(calls) == 3
    rd.evaluate(model, x, y, images=True, **given)  # its images were not kept
    assert len(calls) == 6
    rd.evaluate(model, x, y, images=True, **given)
    assert len(calls) == 6
    rd.evaluate(model, x, y, resume=False, **given)
    assert len(calls) == 9


def test_an_attack_runs_again_where_more_samples_stand_than_before(tmp_path):
    """An earlier attack of its column was made weaker, so what it no longer breaks has not been attacked yet."""
    model = own()
    x = images_for(model, 6)
    y = model(x).argmax(1)
    calls = []

    def evaluate(size):
        first = Entry("pgd", "A", PGD(rd.Linf(0.9), size, 5))
        second = Entry("count", "A", _counting(calls))
        return rd.evaluate(model, x, y, suite=[first, second], threat=rd.Linf(0.9), out=tmp_path, checks=0)

    evaluate(0.3)
    found = evaluate(0.0)
    standing = found.robust["pgd"].nonzero().flatten().tolist()
    assert calls[-1] == standing and sum(map(len, calls[:-1])) < len(standing)
    assert found.shares()["A"].count == len(standing)


def test_a_record_of_another_model_or_a_broken_one_is_refused(tmp_path):
    model = own()
    x = images_for(model, 4)
    y = model(x).argmax(1)
    given = {"suite": [Entry("none", "none", _counting([]))], "out": tmp_path, "checks": 0}
    with pytest.raises(ValueError, match="holds no evaluation"):
        Evaluation.read(tmp_path)
    rd.evaluate(model, x, y, threat=THREAT, **given)
    other = own(sharpness=2.0)
    with pytest.raises(ValueError, match="another weights"):
        rd.evaluate(other, x, y, threat=THREAT, **given)
    with pytest.raises(ValueError, match=r"another threat\.eps"):
        rd.evaluate(model, x, y, threat=rd.Linf(0.2), **given)
    (tmp_path / "evaluation.json").write_text('{"schema": 1}')
    with pytest.raises(ValueError, match="is not a record of schema 2"):
        rd.evaluate(model, x, y, threat=THREAT, **given)
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        rd.evaluate(model, x, y, threat=THREAT, **given)
