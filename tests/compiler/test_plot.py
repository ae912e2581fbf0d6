"""Charts: where points lie, what axes say, and names that are long or odd."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from dc_compiler.plot import BOTTOM, COLOURS, HEIGHT, LEFT, NAMESPACE, PALE, RIGHT, TOP, WIDTH, Axis, Series, svg

SVG = "{http://www.w3.org/2000/svg}"


def drawn(x: Axis, y: Axis, *series: Series) -> ElementTree.Element:
    return ElementTree.fromstring(svg(x, y, series, NAMESPACE))


def places(chart: ElementTree.Element, colour: str = COLOURS[0]) -> list[tuple[float, float]]:
    """Centres of the points of a colour, without the legend's."""
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in chart.iter(f"{SVG}circle")
            if c.attrib["fill"] == colour and len(c)]  # fmt: skip


def texts(chart: ElementTree.Element) -> list[str]:
    return [t.text or "" for t in chart.iter(f"{SVG}text")]


def test_equal_distances_for_equal_differences_or_ratios() -> None:
    chart = drawn(Axis("x", is_log=True), Axis("y"), Series("s", [(1, 0), (10, 1), (100, 2)]))
    (x0, y0), (x1, y1), (x2, y2) = places(chart)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert LEFT < x0 < x1 < x2 < WIDTH - RIGHT
    assert TOP < y2 < y1 < y0 < HEIGHT - BOTTOM
    assert [t for t in texts(chart) if t[0].isdigit()] == ["1", "10", "100", "0", "0.5", "1", "1.5", "2"]
    assert {"x", "y", "s"} <= set(texts(chart))


def test_zero_lies_on_the_end_of_a_logarithmic_axis() -> None:
    chart = drawn(Axis("x"), Axis("y", is_log=True), Series("s", [(0, 0), (1, 1e-3), (2, 1e-1)]))
    assert places(chart)[0][1] == HEIGHT - BOTTOM


@pytest.mark.parametrize("points", [[], [(1, 1)], [(1, math.inf), (2, math.nan)], [(0, 0)], [(5, 3), (5, 3)]])
@pytest.mark.parametrize("is_log", [False, True])
def test_whatever_the_points_it_is_a_chart(points: list[tuple[float, float]], is_log: bool) -> None:
    chart = drawn(Axis("x", is_log), Axis("y", is_log), Series("s", points))
    assert len(places(chart)) == sum(all(map(math.isfinite, p)) for p in points)
    assert not re.search("nan|inf", svg(Axis("x", is_log), Axis("y", is_log), [Series("s", points)]))


def test_a_line_joins_points_and_pale_ones_have_no_legend() -> None:
    chart = drawn(Axis("x"), Axis("y"), Series("a", [(0, 0), (1, 1)], is_pale=True), Series("b", [(0, 1)]))
    assert [line.attrib["stroke"] for line in chart.iter(f"{SVG}polyline")] == [PALE]
    assert len(places(chart, PALE)) == 2
    assert "b" in texts(chart)
    assert "a" not in texts(chart)


def test_names_are_escaped_and_shortened() -> None:
    odd, long = "<b>&\x1b", "a" * 20 + "b" * 20
    chart = drawn(Axis("x"), Axis("y"), Series(odd, [(0, 0)]), Series(long, [(1, 1)]))
    assert r"<b>&\x1b" in texts(chart)
    assert "a" * 12 + "…" + "b" * 11 in texts(chart)


def test_a_level_is_a_line_across_that_takes_no_room() -> None:
    level = Series("original", [(1, 3)], is_level=True)
    chart = drawn(Axis("x", is_log=True), Axis("y"), level, Series("s", [(10, 1), (100, 2)]))
    assert places(chart) == []
    assert len(places(chart, COLOURS[1])) == 2
    (line,) = (p for p in chart.iter(f"{SVG}path") if "stroke-dasharray" in p.attrib)
    height = float(line.attrib["d"].split("H")[0].split()[1])
    assert line.attrib["d"] == f"M{LEFT} {height:.1f}H{WIDTH - RIGHT}"
    assert TOP < height < min(y for _, y in places(chart, COLOURS[1]))
    assert min(x for x, _ in places(chart, COLOURS[1])) < LEFT + 50
    assert line[0].text == "original: 3"
    assert "original" in texts(chart)
