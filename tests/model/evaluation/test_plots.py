"""Plots are read back as a person reads them: by their ticks. What is drawn must be what was given."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import DataError
from model.evaluation.plots import (
    COLOURS,
    HEIGHT,
    LEFT,
    MOST_MARKERS,
    RIGHT,
    WIDTH,
    Level,
    Line,
    Plot,
    Scale,
    draw,
    linear_scale,
    log_scale,
    swatch,
    thin,
)

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</title><script>alert('x')</script> & \"<b>\" ü 漢"
finite = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


def parsed(plot: Plot) -> ElementTree.Element:
    return ElementTree.fromstring(draw(plot))


def ticks(svg: ElementTree.Element, axis: str) -> list[tuple[float, float]]:
    """(coordinate, value of its label) of every tick."""
    wanted, coordinate = ("tick", "x") if axis == "x" else ("tick end", "y")
    found = [text for text in svg.iter(f"{SVG}text") if text.get("class") == wanted]
    shift = 0.0 if axis == "x" else -5.0  # a label stands a little below its line
    return [(float(text.get(coordinate)) + shift, float(text.text.replace("−", "-"))) for text in found]


def value_at(svg: ElementTree.Element, axis: str, coordinate: float, log: bool = False) -> float:
    marks = ticks(svg, axis)
    (c0, v0), (c1, v1) = marks[0], marks[-1]
    share = (coordinate - c0) / (c1 - c0)
    if log:
        return v0 + 2 ** (share * math.log2(1 + v1 - v0)) - 1
    return v0 + share * (v1 - v0)


def polylines(svg: ElementTree.Element) -> list[list[tuple[float, float]]]:
    return [coordinates(line.get("points")) for line in svg.iter(f"{SVG}polyline")]


def coordinates(points: str) -> list[tuple[float, float]]:
    return [tuple(float(part) for part in pair.split(",")) for pair in points.split()]


def plot_of(*lines: Line, levels: tuple[Level, ...] = (), log: bool = False) -> Plot:
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [level.value for level in levels]
    ys += [y for line in lines for pair in line.band for y in pair]
    x = log_scale("budget", xs) if log else linear_scale("steps", xs)
    return Plot("p", "a plot", x, linear_scale("mAP", ys), lines, levels)


BUDGETS = Line("model", ((0, 74.5), (1, 40.0), (2, 22.25), (4, 14.0), (8, 9.5), (255, 2.0)))


def test_a_line_reads_back_by_its_ticks() -> None:
    svg = parsed(plot_of(BUDGETS, log=True))
    drawn = polylines(svg)[0]
    assert [round(value_at(svg, "x", x, log=True), 1) for x, _ in drawn] == [0, 1, 2, 4, 8, 255]
    assert [value_at(svg, "y", y) for _, y in drawn] == pytest.approx([y for _, y in BUDGETS.points], abs=0.1)


def test_every_budget_stands_over_its_own_tick() -> None:
    svg = parsed(plot_of(BUDGETS, log=True))
    by_label = {value: place for place, value in ticks(svg, "x")}
    for (x, _), (place, _) in zip(BUDGETS.points, polylines(svg)[0], strict=True):
        assert by_label[x] == pytest.approx(place, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=20, unique_by=lambda point: point[0]))
def test_any_points_read_back(points: list[tuple[float, float]]) -> None:
    line = Line("l", tuple(sorted(points)))
    plot = plot_of(line)
    svg = parsed(plot)
    for (x, y), (px, py) in zip(line.points, polylines(svg)[0], strict=True):
        assert value_at(svg, "x", px) == pytest.approx(x, abs=(plot.x.high - plot.x.low) / 1000)
        assert value_at(svg, "y", py) == pytest.approx(y, abs=(plot.y.high - plot.y.low) / 1000)


@settings(max_examples=100, deadline=None)
@given(st.lists(finite, min_size=1, max_size=10), st.booleans())
def test_ticks_of_a_linear_axis_are_few_even_and_hold_the_data(values: list[float], from_zero: bool) -> None:
    scale = linear_scale("y", values, from_zero=from_zero)
    places = [value for value, _ in scale.ticks]
    assert scale.low <= min(values) + 1e-6
    assert scale.high >= max(values) - 1e-6
    assert 3 <= len(places) <= 9
    steps = [b - a for a, b in pairwise(places)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert len({label for _, label in scale.ticks}) == len(places)
    if from_zero:
        assert scale.low <= 0 <= scale.high


@given(st.sets(st.floats(0, 1e6), min_size=1, max_size=30))
def test_labels_of_a_logarithmic_axis_never_touch(values: set[float]) -> None:
    scale = log_scale("eps", values)
    assert scale.ticks[-1][0] == max(values)
    for (a, left), (b, right) in pairwise(scale.ticks):
        room = (scale.place(b) - scale.place(a)) * (WIDTH - LEFT - RIGHT)
        assert room > 9 * (len(left) + len(right)) / 2


def test_a_level_lies_at_its_value() -> None:
    svg = parsed(plot_of(BUDGETS, levels=(Level("chance", 15.0),), log=True))
    line = next(line for line in svg.iter(f"{SVG}line") if line.get("class") == "level")
    assert value_at(svg, "y", float(line.get("y1"))) == pytest.approx(15.0, abs=0.1)
    assert line.get("y1") == line.get("y2")
    assert line.find(f"{SVG}title").text == "chance: 15"


def test_a_band_runs_along_both_its_edges() -> None:
    band = ((30.0, 50.0), (10.0, 20.0))
    svg = parsed(plot_of(Line("m", ((0, 40), (1, 15)), band)))
    edges = [value_at(svg, "y", y) for _, y in coordinates(svg.find(f"{SVG}polygon").get("points"))]
    assert edges == pytest.approx([50, 20, 10, 30], abs=0.1)


def test_everything_lies_inside_the_picture() -> None:
    svg = parsed(plot_of(BUDGETS, replace(BUDGETS, style=1), levels=(Level("chance", 15),), log=True))
    for x, y in [point for line in polylines(svg) for point in line]:
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


def test_a_marker_tells_its_value_and_long_lines_have_none() -> None:
    svg = parsed(plot_of(BUDGETS, log=True))
    told = [mark.find(f"{SVG}title").text for mark in svg.iter(f"{SVG}path")]
    assert told[1] == "model: 40 at 1"
    assert len(told) == len(BUDGETS.points)
    long = Line("long", tuple((float(x), 1.0 + x) for x in range(MOST_MARKERS + 1)))
    assert not list(parsed(plot_of(long)).iter(f"{SVG}path"))


def test_lines_differ_without_colour() -> None:
    looks = set()
    for style in range(2 * COLOURS):
        svg = ElementTree.fromstring(swatch(style))
        looks.add((svg.find(f"{SVG}line").get("stroke-dasharray"), svg.find(f"{SVG}path").get("d")))
    assert len(looks) == 2 * COLOURS


def test_the_swatch_looks_like_the_line() -> None:
    for style in range(COLOURS):
        svg = parsed(plot_of(replace(BUDGETS, style=style), log=True))
        small = ElementTree.fromstring(swatch(style))
        drawn = svg.find(f"{SVG}polyline")
        for name in ("class", "stroke-dasharray"):
            assert small.find(f"{SVG}line").get(name) == drawn.get(name)
        assert small.find(f"{SVG}path").get("d") == svg.find(f"{SVG}path").get("d")
    assert ElementTree.fromstring(swatch(None)).find(f"{SVG}path") is None


def test_hostile_names_stay_text() -> None:
    line = Line(HOSTILE, BUDGETS.points)
    plot = replace(plot_of(line, levels=(Level(HOSTILE, 1),), log=True), title=HOSTILE)
    plot = replace(plot, x=replace(plot.x, name=HOSTILE))
    text = draw(plot)
    svg = ElementTree.fromstring(text)
    assert "<script" not in text
    assert svg.find(f"{SVG}title").text == HOSTILE
    assert {element.tag for element in svg.iter()} <= {
        f"{SVG}{tag}" for tag in ("svg", "title", "desc", "line", "text", "polyline", "polygon", "path")
    }


def test_the_description_names_ends_and_levels() -> None:
    svg = parsed(plot_of(BUDGETS, levels=(Level("chance", 15.0),), log=True))
    told = svg.find(f"{SVG}desc").text
    assert "model: 74.5 at 0, 2 at 255." in told
    assert "chance: 15." in told
    assert svg.get("aria-labelledby") == "p-title p-desc"


@given(st.integers(1, 3000), st.integers(2, 200))
def test_thinning_keeps_both_ends_and_invents_nothing(count: int, most: int) -> None:
    points = [(float(x), float(-x)) for x in range(count)]
    kept = thin(points, most)
    assert len(kept) <= most + 1
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert list(kept) == sorted(set(kept) & set(points))


@pytest.mark.parametrize(
    ("points", "band", "wanted"),
    [
        ((), (), "at least one point"),
        (((0, 1), (0, 2)), (), "ascending"),
        (((1, 1), (0, 2)), (), "ascending"),
        (((0, math.nan),), (), "finite"),
        (((math.inf, 1),), (), "finite"),
        (((0, 1),), ((0, math.nan),), "finite"),
        (((0, 1), (1, 2)), ((0, 1),), "2 pairs"),
    ],
)
def test_lines_that_cannot_be_drawn_are_refused(points: tuple, band: tuple, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted):
        Line("l", points, band)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (math.nan, 1), (0, math.inf)])
def test_axes_without_a_range_are_refused(low: float, high: float) -> None:
    with pytest.raises(DataError, match="low < high"):
        Scale("x", low, high, ())


@pytest.mark.parametrize("make", [linear_scale, log_scale])
def test_axes_over_numbers_that_are_none_are_refused(make) -> None:
    with pytest.raises(DataError, match="finite values"):
        make("x", [1.0, math.nan])


def test_an_axis_over_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="finite values"):
        linear_scale("x", [], from_zero=False)
