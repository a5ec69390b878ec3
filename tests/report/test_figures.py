"""Figures for papers: refused without data, and bands that hold what they say."""

import numpy as np
import pytest
from scipy.stats import binom

from robustdeq.evaluation import Share
from robustdeq.report.figures import (
    accuracy_figure,
    entropy_figure,
    median_band,
    state_figure,
    training_figure,
)


@pytest.mark.parametrize("figure", [entropy_figure, state_figure, accuracy_figure, training_figure])
def test_figures_need_rows(figure, tmp_path):
    for rows in (None, 5, {}, [], "x"):
        with pytest.raises(ValueError, match=r"a figure of .*; allowed: one or more rows by name"):
            figure(tmp_path / "a.png", rows)
    assert not list(tmp_path.iterdir())


def test_figures_need_what_they_draw(tmp_path):
    with pytest.raises(ValueError, match="entropy_figure: a has clean images of shape"):
        entropy_figure(tmp_path / "a.png", {"a": ([1.0], [[1.0]])})
    for row in (None, {}, {"states": []}, [1]):
        with pytest.raises(ValueError, match=r"state_figure: a is a .*; allowed"):
            state_figure(tmp_path / "a.png", {"a": row})
    assert not list(tmp_path.iterdir())


def test_every_figure_is_a_png_and_an_svg_and_the_same_each_time(tmp_path):
    states = [{key: {"count": 3, "total": 5} for key in ("clean", "own", "transfer")}] * 3
    drawn = {
        entropy_figure: {"a $b": ([[0.1, 0.2]] * 3, [[0.4, 0.5]] * 3)},
        state_figure: {"a": {"states": states}},
        accuracy_figure: {"a": {"clean": Share(9, 10), "All": Share(3, 10)}, "b": {"clean": Share(0, 0)}},
        training_figure: {"a": [{"epoch": 1, "loss": 2.0, "accuracy_clean": 0.5, "validation": {"clean": 0.4}}]},
    }
    for figure, rows in drawn.items():
        for name in ("one", "two"):
            figure(tmp_path / name, rows)
        for suffix, head in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
            one, two = ((tmp_path / name).with_suffix(suffix).read_bytes() for name in ("one", "two"))
            assert one == two and one.startswith(head)


@pytest.mark.parametrize("count", [1, 6, 9, 50])
def test_the_band_of_the_median_is_as_likely_as_it_says(count):
    """By the binomial law of how many of the samples lie below the median."""
    low, high = (int(end[0]) for end in median_band(np.arange(count)[None, ::-1]))
    outside = 2 * binom.cdf(low, count, 0.5)  # the median lies below the order statistic number ``low``
    assert low == count - 1 - high
    assert outside <= 0.05 or low == 0
    assert 2 * binom.cdf(low + 1, count, 0.5) > 0.05
