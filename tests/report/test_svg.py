from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from pipeline.report import svg

finite = st.floats(-1e6, 1e6, allow_nan=False)


def parse(markup: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(str(markup))


def share(element: ElementTree.Element, name: str) -> float:
    return float(element.attrib[name].removesuffix("%"))


@given(st.lists(finite, min_size=1, max_size=6))
def test_a_domain_holds_its_values_and_its_ticks(values: list[float]) -> None:
    low, high = svg.domain(values)
    assert low < min(values) <= max(values) < high
    ticks = svg.ticks((low, high))
    assert 1 <= len(ticks) <= 9
    assert all(low - 1e-6 * (high - low) <= tick <= high + 1e-6 * (high - low) for tick in ticks)


def test_ticks_are_round() -> None:
    assert svg.ticks((0.0, 1.05)) == pytest.approx([0, 0.5, 1.0])
    assert svg.ticks((0.822, 0.853)) == pytest.approx([0.83, 0.84, 0.85])


def test_dots_lie_where_their_values_lie() -> None:
    drawn = parse(svg.dots([0.2, 0.4, 0.9], 0.5, (0.0, 1.0), "as given"))
    assert [share(dot, "cx") for dot in drawn.findall("circle")] == [20, 40, 90]
    mean = drawn.findall("line[@class='mean']")
    assert [share(line, "x1") for line in mean] == [50]
    assert drawn.attrib["aria-label"] == "as given"


def test_interval_keeps_clear_of_zero_when_it_does() -> None:
    drawn = parse(svg.interval(2.0, 1.0, 3.0, (-1.0, 4.0), "difference"))
    line, zero = drawn.find("line[@class='interval']"), drawn.find("line[@class='zero']")
    assert line is not None
    assert zero is not None
    assert (share(zero, "x1"), share(line, "x1"), share(line, "x2")) == (20, 40, 80)


def test_histogram_heights_are_proportional_to_rows_and_stack_up() -> None:
    drawn = parse(svg.histogram([[("keep", 30), ("remove", 10)], [("keep", 0), ("remove", 20)]], str, "x"))
    bars = drawn.findall("rect")
    assert [bar.attrib["class"] for bar in bars] == ["keep", "remove", "remove"]
    heights = [share(bar, "height") for bar in bars]
    assert heights[0] == pytest.approx(3 * heights[1], rel=1e-2)
    assert heights[2] == pytest.approx(2 * heights[1], rel=1e-2)
    assert share(bars[1], "y") + heights[1] == pytest.approx(share(bars[0], "y"), abs=0.02)
    assert share(bars[0], "y") + heights[0] == pytest.approx(100, abs=0.02)


def test_histogram_of_nothing_is_drawn() -> None:
    assert parse(svg.histogram([[("keep", 0)]], str, "x")).findall("rect") == []


def test_curves_fall_where_values_fall_and_mark_the_epoch() -> None:
    line = svg.Series("train", "train_loss", [(1, 2.0), (2, 1.0), (3, 0.5)])
    drawn = parse(svg.curves([line], (2.0, "e* = 2"), str))
    polyline = drawn.find(".//polyline")
    assert polyline is not None
    points = [tuple(map(float, pair.split(","))) for pair in polyline.attrib["points"].split()]
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[0][1] < points[1][1] < points[2][1]  # downwards on the screen
    mark = drawn.find("line[@class='mark']")
    assert mark is not None
    assert share(mark, "x1") == pytest.approx(points[1][0])
    assert "e* = 2" in [text.text for text in drawn.findall("text")]


@given(st.floats(-1, 2))
def test_bars_never_leave_their_track(value: float) -> None:
    fill = parse(svg.bar(value)).find("rect[@class='fill']")
    assert fill is not None
    assert 0 <= share(fill, "width") <= 100


def test_names_are_escaped() -> None:
    drawn = svg.stack([("keep", "<script>", 1.0)], 'a"><script>')
    assert "<script" not in drawn
    assert parse(drawn).attrib["aria-label"] == 'a"><script>'
