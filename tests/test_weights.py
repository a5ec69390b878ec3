"""The weights that are handed out: each loads, is as small as it says, and gives the numbers of its card."""

import re
from pathlib import Path

import pytest

import robustdeq as rd

WEIGHTS = Path(__file__).parents[1] / "weights"
FEW = re.compile(r"first (\d+)\s+test\s+images,[^:]*:\s+(\d+)\s+clean,\s+(\d+)\s+under\s+PGD-20")
ROUNDING = 0.02
"""So large a share of the images may differ between two machines."""


@pytest.mark.parametrize("name", sorted(folder.name for folder in WEIGHTS.iterdir()))
def test_a_file_is_as_large_as_the_card_says(name):
    size = (WEIGHTS / name / "model.safetensors").stat().st_size
    assert f"({size / 1e6:.0f} MB)" in (WEIGHTS / name / "README.md").read_text()


@pytest.mark.parametrize("name", sorted(folder.name for folder in WEIGHTS.iterdir()))
def test_a_few_images_are_as_the_card_says(name, cifar10):
    folder = WEIGHTS / name
    told = FEW.search((folder / "README.md").read_text())
    assert told, "the card says nothing of the first test images"
    count, *expected = map(int, told.groups())
    entry = rd.evaluation.Entry("PGD-20", "PGD", rd.attacks.PGD(rd.Linf(8 / 255), 2 / 255, 20))
    few = rd.data.load(str(cifar10)).test.take(slice(count))
    shares = rd.evaluate(rd.load_model(folder), few, suite=[entry], checks=0).shares()
    for name, number in zip(("clean", "PGD"), expected):
        assert abs(shares[name].count - number) <= ROUNDING * count
