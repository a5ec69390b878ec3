"""Several processes share the batches; what they find together is what one finds."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from launcher import launch, launch_function
from sharded import chained, found, shared, timeless
from small_models import images_for, own

import robustdeq as rd
from robustdeq.distributed import Distributed


def _record(folder):
    return timeless(json.loads((folder / "evaluation.json").read_text()))


def test_two_processes_leave_the_record_of_one(tmp_path):
    """The two begin where one was interrupted, with the part of a process that is no more."""

    class Stop(Exception):
        pass

    def stop(done, total, text):
        if text == "pgd-4 unrolled" and done == 12:
            raise Stop

    whole = found(tmp_path / "one")
    with pytest.raises(Stop):
        found(tmp_path / "two", progress=stop)
    os.rename(tmp_path / "two" / "evaluation.json", tmp_path / "two" / "evaluation.5.json")
    launch_function(shared, tmp_path / "two")
    assert _record(tmp_path / "two") == _record(tmp_path / "one")
    assert [path.name for path in (tmp_path / "two").glob("evaluation*")] == ["evaluation.json"]
    kept = rd.Evaluation.read(tmp_path / "two")
    assert kept.shares() == whole.shares()
    assert all(torch.equal(kept.images[name][:], whole.images[name][:]) for name in whole.images)


class Meeting(Distributed):
    """Threads for processes, which need no second import of everything."""

    def __init__(self, meeting, rank):
        super().__init__(rank, 2)
        object.__setattr__(self, "meeting", meeting)

    def barrier(self):
        self.meeting.wait(60)


def test_a_batch_that_one_process_does_anew_is_not_lost_to_the_copy_of_another(tmp_path):
    """With a weaker first attack the second one, which is the same, has other samples to attack."""
    for name in ("one", "two"):
        chained(tmp_path / name, 20)
    one = chained(tmp_path / "one", 0)
    meeting, models = threading.Barrier(2), [own(sharpness=8.0), own(sharpness=8.0)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda rank: chained(tmp_path / "two", 0, Meeting(meeting, rank), models[rank]), range(2)))
    assert _record(tmp_path / "two") == _record(tmp_path / "one")
    assert rd.Evaluation.read(tmp_path / "two").shares() == one.shares()


@pytest.mark.slow
def test_the_command_line_under_a_launcher_speaks_once(tmp_path):
    model = rd.save_model(rd.create_model("mdeq-nano", seed=0, steps=2), tmp_path / "model")
    command = ["-m", "robustdeq", "evaluate", model, "--subset", "6", "--batch-size", "2", "--checks", "0"]
    out = launch(*command, "--set", "steps=2", "--out", tmp_path / "found")
    assert out.count("| clean |") == 1 and out.strip() == (tmp_path / "found" / "table.md").read_text().strip()


def test_processes_need_a_folder_they_share():
    model = own()
    x = images_for(model)
    with pytest.raises(ValueError, match=r"^evaluate: 2 processes without out"):
        rd.evaluate(model, x, model(x).argmax(1), suite="quick", distributed=Distributed(0, 2))
