"""Whatever is drawn lies within its axes, ticks are round numbers, and a gap is a gap."""

import math
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from robustdeq.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, Series
from robustdeq.report.curves import training_charts
from robustdeq.report.runs import Trained

VALUES = st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(math.nan), st.just(math.inf))
NUMBERS = re.compile(r"-?\d+\.\d")


def _chart(*values, **options):
    return Chart("title", "x", "y", (Series("line", list(range(1, len(values) + 1)), values),), **options)


@given(st.lists(VALUES, min_size=1, max_size=12), st.booleans())
def test_points_and_ticks_lie_within_the_axes(values, log):
    chart = _chart(*values, log=log)
    series = chart.series[0]
    drawn = [y for y in values if y is not None and math.isfinite(y) and (y > 0 or not log)]
    assert len(chart.points(series)) == len(drawn) and chart.empty == (not drawn)
    if chart.empty:
        return
    for x, y in chart.points(series):
        assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 and TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1
    for tick in chart.y_ticks:
        assert TOP - 0.1 <= tick.at <= HEIGHT - BOTTOM + 0.1
    for tick in chart.x_ticks:
        assert LEFT - 0.1 <= tick.at <= WIDTH - RIGHT + 0.1
    assert len({tick.text for tick in chart.y_ticks}) == len(chart.y_ticks) >= 2


def test_ticks_are_round_numbers():
    share = _chart(0.0, 0.93, floor=0.0, ceiling=1.0)
    assert [tick.text for tick in share.y_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert [tick.text for tick in _chart(0.02, 0.7, log=True).y_ticks] == ["0.01", "0.1", "1"]
    assert [tick.text for tick in _chart(*range(8)).x_ticks] == [str(t) for t in range(1, 9)]


def test_a_missing_value_is_a_gap_and_not_a_zero():
    chart = _chart(1.0, None, 2.0, 3.0)
    path = chart.path(chart.series[0])
    assert path.count("M") == 2 and path.count("L") == 1
    assert "from 1 at 1 to 3 at 4" in chart.text


def test_a_band_goes_forth_above_and_back_below():
    series = Series("line", [1, 2], [1.0, 2.0], low=[0.5, 1.5], high=[1.5, 2.5])
    chart = Chart("title", "x", "y", (series,))
    numbers = [float(number) for number in NUMBERS.findall(chart.band(series))]
    xs, ys = numbers[::2], numbers[1::2]
    assert xs == [*xs[:2], *reversed(xs[:2])] and ys[0] < ys[3] and ys[1] < ys[2]
    assert chart.band(Series("line", [1], [1.0])) == ""


def test_hours_are_those_of_the_updates_so_far_and_no_epoch_without_its_seconds_is_placed():
    rows = [
        {"epoch": 1, "seconds": 1800.0},  # not judged
        {"epoch": 2, "seconds": 3600.0, "validation": {"clean": 0.5, "robust": 0.2}},
        {"epoch": 3, "seconds": 900.0, "validation": {"clean": 0.6, "robust": 0.3}},
    ]

    def by_hours(epochs):
        charts = training_charts(Trained("run", Path("run"), epochs, [], {}, None))
        return [chart for chart in charts if "by hours" in chart.title]

    (chart,) = by_hours(rows)
    robust = chart.series[1]
    assert (chart.title, chart.x_label) == ("Held-out images, by hours", "hours of updates")
    assert (list(robust.x), list(robust.y)) == ([1.5, 1.75], [0.2, 0.3])
    averaged = [row | {"validation_ema": {"clean": 0.7, "robust": 0.4}} for row in rows]
    (chart,) = by_hours(averaged)
    assert chart.title.endswith("average of the weights") and chart.series[1].y[-1] == 0.4
    charts = training_charts(Trained("run", Path("run"), rows * 50, [], {}, None))
    (held,) = [chart for chart in charts if "two gradients" in chart.title]
    assert held.path(held.series[0]).count("M") == 1  # a line, though it is of some epochs only and without marks
    assert not by_hours([rows[0], {key: value for key, value in rows[1].items() if key != "seconds"}, rows[2]])
