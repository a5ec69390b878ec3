"""Certifies a small smoothed DEQ, alone or under a launcher, for test_certify.py. Not a test itself."""

import time

import torch
from small_models import images_for, own

import robustdeq as rd
from robustdeq.distributed import SINGLE, launched


def smoothed(sigma=0.3):
    return rd.Smoothing(sigma)(own(sharpness=8.0, steps=3))


def points():
    """24 images, and the labels that the model gives them, but for every seventh."""
    model = own(sharpness=8.0, steps=3)
    x = images_for(model, 24)
    y = model(x).argmax(1)
    y[::7] = (y[::7] + 1) % 3
    return x, y


def found(out=None, distributed=SINGLE, progress=None, **options):
    given = {"n0": 20, "n": 300, "together": 64, "batch_size": 3, **options}
    return rd.certify(smoothed(), *points(), out=out, distributed=distributed, progress=progress, **given)


def timeless(certificate):
    """The record without what no two runs share."""
    record = certificate.record.to_json()
    record.pop("environments")
    for batch in record["batches"].values():
        batch.pop("seconds")
        batch.pop("environment")
    return record


def shared(out):
    """What a process of its own does, slowly: all of it, or under a launcher its share."""
    torch.set_num_threads(1)
    with launched() as together:
        found(out, together, lambda *_: time.sleep(0.05))
