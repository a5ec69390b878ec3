"""Pictures by their closed forms; whatever is drawn lies inside its frame, and text is text."""

import base64
import io
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustdeq.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from robustdeq.data.pictures import data_uri, magnified
from robustdeq.view import Settings, look
from robustdeq.view.shown import chart, figure, line, outcome, result


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_is_the_image_in_8_bits(channels):
    numbers = torch.arange(channels * 6).reshape(channels, 2, 3)
    shown = pixels(data_uri(numbers / 255)).reshape(2, 3, channels)
    assert np.array_equal(shown, numbers.permute(1, 2, 0).numpy())


def test_of_other_channels_the_mean_is_shown():
    assert np.array_equal(pixels(data_uri(torch.stack([torch.zeros(2, 2), torch.ones(2, 2)]))), np.full((2, 2), 128))


def test_a_perturbation_of_nothing_is_grey_and_one_of_eps_is_white():
    shift = torch.tensor([[[0.0, 0.2, -0.2]]])
    assert torch.allclose(magnified(shift, 0.2)[0], torch.tensor([[[0.5, 1.0, 0.0]]]))


def points(svg):
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([^"]+)" cy="([^"]+)"', svg)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=4), st.booleans(),
    st.sampled_from([None, 1.0]),
)  # fmt: skip
def test_every_point_that_can_be_shown_lies_in_the_frame(values, log, top):
    lines = [line(f"line {k}", row, "clean") for k, row in enumerate(values)]
    svg = chart("any", lines, log=log, top=None if log else top)
    shown = [v for row in values for v in row if math.isfinite(v) and (v > 0 or not log)]
    assert len(points(svg)) == len(shown)
    slack = 0.06  # what is written of a number
    right, bottom = WIDTH - RIGHT + slack, HEIGHT - BOTTOM + slack
    assert all(LEFT - slack <= x <= right and TOP - slack <= y <= bottom for x, y in points(svg))
    assert "nan" not in "".join(re.findall(r' d="([^"]*)"', svg))


def test_a_curve_is_where_its_axis_says():
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    middle = (LEFT + right) / 2, (TOP + bottom) / 2
    svg = chart("linear", [line("a", [0.0, 0.5, 1.0], "clean")], top=1.0)
    assert points(svg) == [(LEFT, bottom), middle, (right, TOP)]
    svg = chart("decades", [line("a", [1.0, 0.1, 0.01], "clean")], log=True)
    assert points(svg) == [(LEFT, TOP), middle, (right, bottom)]


def test_a_curve_is_broken_where_it_has_no_number():
    svg = chart("broken", [line("a", [1.0, math.nan, 1.0, 2.0], "clean")])
    assert svg.count("M") == 2 and len(points(svg)) == 3


def test_names_are_text():
    name = "<script>alert(1)</script>"
    for html in (chart(name, [line(name, [1.0], "clean")], keys=True), figure(torch.zeros(1, 2, 2), name, name + '"')):
        assert "<script" not in html and "&lt;script&gt;" in html


@pytest.mark.parametrize("attack", ["none", "PGD"])
@pytest.mark.parametrize("defended", [False, True])
def test_a_look_is_told_whole_and_names_are_text(attack, defended, sharp, image):
    x, label = image
    classes = ["<img src=x onerror=alert(1)>", "b&b", "c", "d"]
    found = look(sharp, x, label, Settings(attack=attack, defended=defended, sees="static", eps=0.3, steps=3))
    html = result(found, classes)
    assert "<img src=x" not in html
    courses = (1 + (attack != "none")) * (1 + defended)
    assert html.count("<th scope=row>") == courses == len(found.courses)
    images = 1 + 2 * (attack != "none") + 2 * defended
    assert html.count("<img ") == images == html.count(' alt="')
    assert html.count('role="img"') == courses + 2 + 2 * (courses > 1)
    assert all(text for text in re.findall(r'aria-label="([^"]*)"', html))
    told = outcome(found, classes)
    stands = int(found.deployed.states.prediction[-1, 0]) == label
    assert ("leads" in told) == (attack == "PGD" and not stands) and len(told.splitlines()) == 1


def test_what_is_not_finite_is_said(sharp, image):
    x, label = image
    found = look(sharp, torch.full_like(x, math.nan), label, Settings(attack="none"))
    assert "not finite" in outcome(found, list("abcd")) and "not finite" in result(found, list("abcd"))
