"""Evaluates a small DEQ, alone or under a launcher, for test_resumed.py and test_shards.py. Not a test itself."""

import time

import torch
from small_models import images_for, own

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.distributed import SINGLE, launched
from robustdeq.evaluation import Entry

THREAT = rd.Linf(0.1)


def found(out, distributed=SINGLE, progress=None):
    """Eight batches of ``quick``, with images and checks; and the model's own predictions for labels."""
    model = own(steps=3)
    x = images_for(model, 24)
    y = model(x).argmax(1)
    y[::7] = (y[::7] + 1) % 3
    return rd.evaluate(
        model, x, y, suite="quick", steps=4, threat=THREAT, batch_size=3, out=out, images=True, checks=6,
        distributed=distributed, progress=progress,
    )  # fmt: skip


def chained(out, steps, distributed=SINGLE, model=None):
    """Two attacks in one column; with few ``steps`` the first one leaves more for the second."""
    model = own(sharpness=8.0) if model is None else model
    x = images_for(model, 24)
    entries = [
        Entry("first", "A", PGD(THREAT, 0.05, steps, start="clean")),
        Entry("second", "A", PGD(THREAT, 0.05, 20)),
    ]
    given = {"suite": entries, "threat": THREAT, "batch_size": 3, "out": out, "checks": 0, "distributed": distributed}
    return rd.evaluate(model, x, model(x).argmax(1), **given)


def timeless(record):
    """The record without what no two runs share."""
    record = {key: value for key, value in record.items() if key != "environments"}
    cut = [part for facts in record["attacks"].values() for part in facts["batches"].values()]
    for part in [*cut, *record["clean"].values()]:
        part.pop("seconds")
        part.pop("environment", None)
    return record


def shared(out):
    """What a process of its own does, slowly: all of it, or under a launcher its share."""
    torch.set_num_threads(1)
    with launched() as together:
        found(out, together, lambda *_: time.sleep(0.02))
