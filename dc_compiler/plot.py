"""Line charts as inline SVG, for pages without scripts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dc_compiler.html_page import escape

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 80, 200, 20, 50  # margins; the right one holds the legend
# Colours that people with any sight tell apart (the first seven: Okabe and Ito 2008)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a7f00", "#7f3fbf", "#a0522d")
PALE = "#cccccc"
NAMESPACE = ' xmlns="http://www.w3.org/2000/svg"'
MOST_TICKS = 6
LONGEST = 24  # characters of a name in the legend


@dataclass(frozen=True)
class Axis:
    """What an axis shows; with ``is_log`` at equal distances for equal ratios."""

    title: str
    is_log: bool = False


@dataclass(frozen=True)
class Series:
    """Points (x, y) of one name, joined by a line where ``is_line``. A pale one has no entry in the legend. One that
    ``is_level`` is a broken line across the chart at the y of its first point, whose x takes no room."""

    name: str
    points: Sequence[tuple[float, float]]
    is_line: bool = True
    is_pale: bool = False
    is_level: bool = False


def chart(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """A heading and a chart for a page."""
    return f"<h2>{escape(title)}</h2><div class=chart>{svg(x, y, series)}</div>"


def drawing(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """One of several charts of a section."""
    return f"<div class=chart><h3>{escape(title)}</h3>{svg(x, y, series)}</div>"


def svg(x: Axis, y: Axis, series: Sequence[Series], attributes: str = "") -> str:
    """A chart as an ``svg`` element, of which more ``attributes`` may be given: :data:`NAMESPACE` makes it a file.

    Points that are not finite are left out; on a logarithmic axis those at 0 or below lie on its lower end.
    """
    kept = [replace(s, points=[p for p in s.points if all(map(math.isfinite, p))]) for s in series]
    across = _Scale(x.is_log, [p[0] for s in kept for p in s.points if not s.is_level], LEFT, WIDTH - RIGHT)
    up = _Scale(y.is_log, [p[1] for s in kept for p in s.points], HEIGHT - BOTTOM, TOP)
    parts = [*_grid(across, up, x, y)]
    named = [s for s in kept if not s.is_pale]
    for s in sorted(kept, key=lambda s: not s.is_pale):  # pale ones below the others
        parts += _drawn(s, across, up, PALE if s.is_pale else COLOURS[named.index(s) % len(COLOURS)])
    parts += _legend(named)
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg{attributes} {box} font-size="12" font-family="sans-serif">{"".join(parts)}</svg>'


class _Scale:
    """Where numbers lie between two ends in pixels."""

    def __init__(self, is_log: bool, values: Sequence[float], start: int, stop: int) -> None:
        self._is_log, self._start, self._stop = is_log, start, stop
        usable = [v for v in values if v > 0 or not is_log] or [1.0]
        low, high = self._height(min(usable)), self._height(max(usable))
        margin = 0.05 * (high - low) or (0.0 if is_log else 0.05 * abs(low)) or 0.5
        self._low, self._high = low - margin, high + margin

    def _height(self, value: float) -> float:
        return math.log10(value) if self._is_log else value

    def at(self, value: float) -> float:
        height = self._low if self._is_log and value <= 0 else self._height(value)
        return self._start + (self._stop - self._start) * (height - self._low) / (self._high - self._low)

    def ticks(self) -> list[float]:
        """Round numbers on the axis, a few."""
        if self._is_log:
            decades = range(math.floor(self._low), math.ceil(self._high) + 1)
            for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)):
                found = [f * 10.0**d for d in decades for f in factors if self._holds(math.log10(f) + d)]
                if len(found) > 2:
                    return found[:: -(-len(found) // MOST_TICKS)]
        raw = [10.0**self._low, 10.0**self._high] if self._is_log else [self._low, self._high]
        unit = _round_step((raw[1] - raw[0]) / MOST_TICKS)
        multiples = range(math.ceil(raw[0] / unit), math.floor(raw[1] / unit) + 1)
        return [m * unit for m in multiples if m > 0 or not self._is_log]

    def _holds(self, height: float) -> bool:
        return self._low <= height <= self._high


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... (and their tenths) that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(f * power for f in (1.0, 2.0, 5.0, 10.0) if f * power >= least * (1 - 1e-9))


def _grid(across: _Scale, up: _Scale, x: Axis, y: Axis) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in across.ticks():
        at = f"{across.at(value):.1f}"
        yield f'<path d="M{at} {TOP}V{bottom}" stroke="#eee"/>'
        yield f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{value:.6g}</text>'
    for value in up.ticks():
        at = f"{up.at(value):.1f}"
        yield f'<path d="M{LEFT} {at}H{right}" stroke="#eee"/>'
        yield f'<text x="{LEFT - 8}" y="{at}" dy="4" text-anchor="end">{value:.6g}</text>'
    yield f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#888"/>'
    yield f'<text x="{(LEFT + right) // 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x.title)}</text>'
    middle = (TOP + bottom) // 2
    yield f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{escape(y.title)}</text>'


def _drawn(series: Series, across: _Scale, up: _Scale, colour: str) -> Iterator[str]:
    if series.is_level:
        for _, y in series.points[:1]:
            line = f'd="M{LEFT} {up.at(y):.1f}H{WIDTH - RIGHT}" fill="none" stroke="{colour}" stroke-dasharray="6 4"'
            yield f"<path {line}><title>{escape(f'{series.name}: {y:.4g}')}</title></path>"
        return
    places = [(f"{across.at(x):.1f}", f"{up.at(y):.1f}") for x, y in series.points]
    if series.is_line and len(places) > 1:
        line = " ".join(",".join(p) for p in places)
        yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for (x, y), (left, top) in zip(series.points, places, strict=True):
        tip = escape(f"{series.name}: {x:.6g}, {y:.4g}")
        yield f'<circle cx="{left}" cy="{top}" r="3" fill="{colour}"><title>{tip}</title></circle>'


def _legend(series: Sequence[Series]) -> Iterator[str]:
    left = WIDTH - RIGHT + 16
    for i, s in enumerate(series):
        top = TOP + 10 + 18 * i
        yield f'<circle cx="{left}" cy="{top}" r="4" fill="{COLOURS[i % len(COLOURS)]}"/>'
        name = s.name if len(s.name) <= LONGEST else f"{s.name[: LONGEST // 2]}…{s.name[1 - LONGEST // 2 :]}"
        yield f'<text x="{left + 10}" y="{top}" dy="4">{escape(name)}</text>'
