"""Charts: axes that cover what is shown, well-formed SVG, matrices that stay small for 150 classes."""

from xml.etree import ElementTree

import numpy as np
import pytest

from se_jax.report import charts
from tests.report.parsed import drawn


@pytest.mark.parametrize("low, high", [(0, 1), (0, 0.0123), (3, 3), (0, 80_000), (0, 0)])
def test_ticks_are_few_and_cover_the_range(low, high):
    found = charts.ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 8


def test_line_chart_drops_what_is_not_finite():
    chart = charts.lines([("a<b", 0, [1, 2, 3], [1.0, float("nan"), 2.0])], x_label="x", y_label="y", marks=True)
    tree = ElementTree.fromstring(drawn("lines", chart))
    assert [title.text for title in tree.iter("title")] == ["a<b: 1 at step 1", "a<b: 2 at step 3"]
    assert tree.find("path").get("d").count(" ") == 2  # two points
    assert "nan" not in drawn("lines", chart)
    assert charts.lines([("a", 0, [], [])], x_label="x", y_label="y") is None
    assert "nothing recorded" in drawn("lines", None)


def test_a_line_chart_places_points_between_its_axes():
    chart = charts.lines([("a", 0, [0, 100], [0.0, 4.0])], x_label="x", y_label="y")
    assert chart["curves"][0]["path"] == f"M{chart['left']}.0 {chart['bottom']}.0L{chart['right']}.0 {chart['top']}.0"


def test_bars_are_logarithmic_only_where_values_differ_much():
    near, far = (charts.bars([("site", [("a", 1.0), ("b", high)])], x_label="std") for high in (2.0, 200.0))
    assert "logarithmic" not in drawn("bars", near) and "logarithmic" in drawn("bars", far)
    short, long = (float(bar.get("width")) for bar in ElementTree.fromstring(drawn("bars", near)).iter("rect"))
    assert long == pytest.approx(2 * short, rel=0.01)
    assert charts.bars([], x_label="std") is None


def test_intervals_lie_on_one_axis_with_its_zero():
    groups = [("a", [("one", 1.0, 0.5, 1.5), ("two", -1.0, -2.0, 0.0)]), ("b", [("alone", 2.0, float("nan"), 2.0)])]
    chart = charts.intervals(groups, x_label="points")
    tree = ElementTree.fromstring(drawn("intervals", chart))
    one, two, alone = (float(dot.get("cx")) for dot in tree.iter("circle"))
    zero = float(next(path for path in tree.iter("path") if path.get("class") == "frame").get("d")[1:].split()[0])
    assert one - zero == pytest.approx(zero - two, abs=0.2) and alone - zero == pytest.approx(2 * (one - zero), abs=0.2)
    assert [t.text for t in tree.iter("title")] == ["one: 1, 0.5 to 1.5", "two: -1, -2 to 0", "alone: 2"]
    assert "nan" not in drawn("intervals", chart)
    assert charts.intervals([("a", [])], x_label="points") is None
    away = charts.intervals([("a", [("x", 40.0, 39.0, 41.0)])], x_label="mIoU")
    assert away["zero"] is None


@pytest.mark.parametrize("count, numbers, names", [(11, True, 2), (19, True, 2), (40, False, 4), (150, False, 4)])
def test_a_matrix_is_readable_and_small_at_any_size(count, numbers, names):
    shares = np.full((count, count), 0.1 / (count - 1))
    np.fill_diagonal(shares, 0.9)
    shares[1] = np.nan
    chart = charts.heat_map(shares, [f"class {k}" for k in range(count)], x_label="x", y_label="y")
    text = drawn("heat_map", chart)
    tree = ElementTree.fromstring(text)  # well-formed
    assert len(text) < 100_000
    assert text.count(">class 7</text>") == names
    assert (">90</text>" in text) == numbers
    assert text.count('class="over"') == count - 1 and text.count('class="unknown"') == 1
    side = float(tree.get("viewBox").split()[2])
    assert all(-1 <= float(node.get("x", 0)) <= side for node in tree.iter())
    assert "<title>class 0: 90.0 % class 0" in text
