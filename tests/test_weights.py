"""The weights that are handed out: each loads, is as small as it says, and gives the numbers of its card."""

import re
from pathlib import Path

import pytest

import robustdeq as rd

WEIGHTS = Path(__file__).parents[1] / "weights"
FEW = re.compile(r"first 100\s+test\s+images,[^:]*:\s+(\d+)\s+clean,\s+(\d+)\s+under\s+PGD-20")
ROUNDING = 2
"""So many of 100 images may differ between two machines."""


def test_all_of_them_are_small():
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*")) < 10e6


@pytest.mark.parametrize("name", sorted(folder.name for folder in WEIGHTS.iterdir()))
def test_a_hundred_images_are_as_the_card_says(name, cifar10):
    folder = WEIGHTS / name
    told = FEW.search((folder / "README.md").read_text())
    assert told, "the card says nothing of the first 100 test images"
    entry = rd.evaluation.Entry("PGD-20", "PGD", rd.attacks.PGD(rd.Linf(8 / 255), 2 / 255, 20))
    few = rd.data.load(str(cifar10)).test.take(slice(100))
    shares = rd.evaluate(rd.load_model(folder), few, suite=[entry], checks=0).shares()
    for name, count in zip(("clean", "PGD"), map(int, told.groups())):
        assert abs(shares[name].count - count) <= ROUNDING
