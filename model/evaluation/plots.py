"""Line plots as SVG text: what a report needs and no more, so that it needs no plotting library.

A plot is a value: two `Scale`s, `Line`s with an optional band, and `Level`s (horizontal reference lines).
`draw` turns it into one SVG element that a page can hold. Colours, dashes and sizes are the page's
business: every line has a class `s0`..`s5` for its colour, and a dash and a marker that tell it from the
others without colour too. Values stand in `<title>`s, so that pointing at a marker shows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from model.errors import DataError

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 12, 54
"""Room around the plotting area for ticks and names of the axes, in the units of the view box."""

COLOURS = 6
DASHES = ("", "7 4", "2 4", "10 4 2 4", "5 3 1 3 1 3", "14 4")
MARKERS = (
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
    "M-4-4H4V4H-4Z",
    "M0-5 5 0 0 5-5 0Z",
    "M0-5 5 4H-5Z",
    "M0 5 5-4H-5Z",
)
MOST_MARKERS = 12
"""Lines of more points are drawn without markers."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """One axis: its name, its range low < high, its ticks as (value, label).

    log: places go by log(1 + value - low), which shows 0, 1, 2, 4, ... at readable distances and needs
    no gap for 0.
    """

    name: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def __post_init__(self) -> None:
        """Raise DataError on an empty or endless range."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise DataError(f"axis {self.name!r}: wanted finite low < high, got {self.low} and {self.high}")

    def place(self, value: float) -> float:
        """Where `value` lies, 0 at `low` and 1 at `high`; outside values go to the nearer end."""
        inside = min(max(value, self.low), self.high) - self.low
        span = self.high - self.low
        return math.log1p(inside) / math.log1p(span) if self.log else inside / span


@dataclass(frozen=True)
class Line:
    """A named line. points: (x, y), finite, x ascending. band: (low, high) around each point, or empty.

    style: from 0; sets colour, dash and marker, so that a model keeps them through all plots of a page.
    """

    name: str
    points: tuple[Point, ...]
    band: tuple[Point, ...] = ()
    style: int = 0

    def __post_init__(self) -> None:
        """Raise DataError on points that no line can be drawn through."""
        if not self.points:
            raise DataError(f"line {self.name!r}: wanted at least one point, got none")
        if not all(math.isfinite(number) for point in (*self.points, *self.band) for number in point):
            raise DataError(f"line {self.name!r}: wanted finite numbers")
        if any(a[0] >= b[0] for a, b in zip(self.points, self.points[1:], strict=False)):
            raise DataError(f"line {self.name!r}: wanted ascending x")
        if self.band and len(self.band) != len(self.points):
            raise DataError(
                f"line {self.name!r}: wanted {len(self.points)} pairs in the band, got {len(self.band)}"
            )


@dataclass(frozen=True)
class Level:
    """A horizontal reference line, such as chance."""

    name: str
    value: float


@dataclass(frozen=True)
class Plot:
    """A picture of `lines` over two axes. `title` names it; `identity` is unique on the page (letters)."""

    identity: str
    title: str
    x: Scale
    y: Scale
    lines: tuple[Line, ...]
    levels: tuple[Level, ...] = field(default=())


def linear_scale(name: str, values: Iterable[float], *, from_zero: bool = True) -> Scale:
    """A linear axis over finite `values` that ends on ticks; from_zero: 0 belongs to it."""
    low, high = _range([*values, *([0.0] if from_zero else [])], name)
    step = _step(high - low)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple((index * step, _plain(index * step, step)) for index in range(first, last + 1))
    return Scale(name, ticks[0][0], ticks[-1][0], ticks)


def log_scale(name: str, values: Iterable[float]) -> Scale:
    """A logarithmic axis from 0 with a tick at each of the `values` (>= 0) that has room for its label."""
    present = sorted({0.0, *values})
    low, high = _range(present, name)
    bare = Scale(name, low, high, (), log=True)
    ticks: list[tuple[float, str]] = []
    for value in reversed(present):
        label = f"{value:g}"
        if ticks:
            next_value, next_label = ticks[-1]
            room = 6 + 9 * (len(label) + len(next_label)) / 2
            if (bare.place(next_value) - bare.place(value)) * (WIDTH - LEFT - RIGHT) < room:
                continue
        ticks.append((value, label))
    return Scale(name, low, high, tuple(reversed(ticks)), log=True)


def thin(points: Sequence[Point], most: int = 120) -> tuple[Point, ...]:
    """At most `most` (>= 2) of the points, first and last among them, denser at the start as log axes are."""
    if len(points) <= most:
        return tuple(points)
    ratio = len(points) ** (1 / (most - 1))
    chosen = {min(len(points), max(1, round(ratio**index))) - 1 for index in range(most)}
    return tuple(points[index] for index in sorted(chosen | {0, len(points) - 1}))


def draw(plot: Plot) -> str:
    """The plot as one SVG element (well-formed XML, all names escaped)."""
    names = f"{plot.identity}-title {plot.identity}-desc"
    box = f"0 0 {WIDTH} {HEIGHT}"
    svg = _svg({"viewBox": box, "role": "img", "aria-labelledby": names, "class": "plot"})
    _text(svg, "title", plot.title, id=f"{plot.identity}-title")
    _text(svg, "desc", describe(plot), id=f"{plot.identity}-desc")
    _axes(svg, plot)
    for level in plot.levels:
        _level(svg, plot, level)
    for line in plot.lines:
        _band(svg, plot, line)
    for line in plot.lines:
        _line(svg, plot, line)
    return ElementTree.tostring(svg, encoding="unicode")


def swatch(style: int | None) -> str:
    """A short piece of a line of that style for a legend; None: of a reference line."""
    svg = _svg(
        {"viewBox": "0 0 40 14", "width": "40", "height": "14", "aria-hidden": "true", "class": "swatch"}
    )
    drawn = _element(svg, "line", x1=1, y1=7, x2=39, y2=7)
    if style is None:
        drawn.set("class", "level")
    else:
        drawn.set("class", f"line s{style % COLOURS}")
        _dash(drawn, style)
        _marker(svg, 20, 7, style)
    return ElementTree.tostring(svg, encoding="unicode")


def describe(plot: Plot) -> str:
    """What the plot shows, in words, for those who do not see it: ends of every line, every level."""
    parts = [f"{plot.y.name} against {plot.x.name}."]
    for line in plot.lines:
        (x0, y0), (x1, y1) = line.points[0], line.points[-1]
        parts.append(f"{line.name}: {y0:.4g} at {x0:g}, {y1:.4g} at {x1:g}.")
    parts += [f"{level.name}: {level.value:.4g}." for level in plot.levels]
    return " ".join(parts)


def _svg(attributes: dict[str, str]) -> ElementTree.Element:
    return ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **attributes})


def _axes(svg: ElementTree.Element, plot: Plot) -> None:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value, label in plot.y.ticks:
        y = _y(plot, value)
        _element(svg, "line", x1=LEFT, y1=y, x2=right, y2=y).set("class", "grid")
        _text(svg, "text", label, x=_number(LEFT - 8), y=_number(y + 5), **{"class": "tick end"})
    for value, label in plot.x.ticks:
        x = _x(plot, value)
        _element(svg, "line", x1=x, y1=bottom, x2=x, y2=bottom + 5).set("class", "axis")
        _text(svg, "text", label, x=_number(x), y=_number(bottom + 21), **{"class": "tick"})
    _element(svg, "line", x1=LEFT, y1=bottom, x2=right, y2=bottom).set("class", "axis")
    middle = (LEFT + right) / 2
    _text(svg, "text", plot.x.name, x=_number(middle), y=_number(HEIGHT - 8), **{"class": "name"})
    height = (TOP + bottom) / 2
    turn = f"translate(14 {_number(height)}) rotate(-90)"
    _text(svg, "text", plot.y.name, transform=turn, **{"class": "name"})


def _level(svg: ElementTree.Element, plot: Plot, level: Level) -> None:
    y = _y(plot, level.value)
    drawn = _element(svg, "line", x1=LEFT, y1=y, x2=WIDTH - RIGHT, y2=y)
    drawn.set("class", "level")
    _text(drawn, "title", f"{level.name}: {level.value:.4g}")


def _band(svg: ElementTree.Element, plot: Plot, line: Line) -> None:
    if not line.band:
        return
    xs = [x for x, _ in line.points]
    upper = [(x, high) for x, (_, high) in zip(xs, line.band, strict=True)]
    lower = [(x, low) for x, (low, _) in zip(xs, line.band, strict=True)]
    shape = ElementTree.SubElement(svg, "polygon", {"points": _path(plot, [*upper, *reversed(lower)])})
    shape.set("class", f"band s{line.style % COLOURS}")


def _line(svg: ElementTree.Element, plot: Plot, line: Line) -> None:
    drawn = ElementTree.SubElement(svg, "polyline", {"points": _path(plot, line.points)})
    drawn.set("class", f"line s{line.style % COLOURS}")
    _dash(drawn, line.style)
    _text(drawn, "title", line.name)
    if len(line.points) > MOST_MARKERS:
        return
    for x, y in line.points:
        mark = _marker(svg, _x(plot, x), _y(plot, y), line.style)
        _text(mark, "title", f"{line.name}: {y:.4g} at {x:g}")


def _marker(svg: ElementTree.Element, x: float, y: float, style: int) -> ElementTree.Element:
    place = f"translate({_number(x)} {_number(y)})"
    shape = {"d": MARKERS[style % len(MARKERS)], "transform": place, "class": f"mark s{style % COLOURS}"}
    return ElementTree.SubElement(svg, "path", shape)


def _dash(drawn: ElementTree.Element, style: int) -> None:
    if dash := DASHES[style % len(DASHES)]:
        drawn.set("stroke-dasharray", dash)


def _x(plot: Plot, value: float) -> float:
    return LEFT + plot.x.place(value) * (WIDTH - LEFT - RIGHT)


def _y(plot: Plot, value: float) -> float:
    return HEIGHT - BOTTOM - plot.y.place(value) * (HEIGHT - TOP - BOTTOM)


def _path(plot: Plot, points: Iterable[Point]) -> str:
    return " ".join(f"{_number(_x(plot, x))},{_number(_y(plot, y))}" for x, y in points)


def _element(parent: ElementTree.Element, tag: str, **numbers: float) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, {key: _number(value) for key, value in numbers.items()})


def _text(parent: ElementTree.Element, tag: str, text: str, **attributes: str) -> None:
    ElementTree.SubElement(parent, tag, attributes).text = text


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _range(values: Sequence[float], name: str) -> tuple[float, float]:
    """Least and greatest, set apart when they are (nearly) the same. Raises DataError unless finite."""
    if not values or not all(math.isfinite(value) for value in values):
        raise DataError(f"axis {name!r}: wanted finite values, got {list(values)[:5]}")
    low, high = min(values), max(values)
    if high - low > 1e-9 * max(1.0, abs(low), abs(high)):
        return low, high
    margin = max(1.0, abs(low) / 2)
    return (low, low + margin) if low >= 0 else (low - margin, low)


def _step(span: float) -> float:
    """The least distance of ticks of 1, 2 or 5 times a power of ten that makes at most 8 of them."""
    power = 10.0 ** math.floor(math.log10(span / 7))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= span / 7 * (1 - 1e-9))


def _plain(value: float, step: float) -> str:
    """A tick's label with the digits that its distance needs."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    text = f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:g}"
    return text.replace("-", "−")
