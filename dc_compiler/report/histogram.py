"""A small picture of how one weight's values are spread."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from dc_compiler.html_page import escape
from dc_compiler.report.spread import Spread

WIDTH, HEIGHT = 260, 90
AXIS = 14  # pixels below for the numbers
STAGES = BEFORE, PRUNED, AFTER = "#9aa1a8", "#d55e00", "#0072b2"


def histogram(spread: Spread) -> str:
    """A heading, the bins as SVG, and what they do not show."""
    most = max((max(c) for c in (spread.before, spread.pruned, spread.after) if c), default=0)
    shapes = [
        *_bars(spread.before, most, BEFORE, 1.0, 0.45),
        *_bars(spread.after, most, AFTER, 0.55 if spread.before else 1.0, 1.0),
        *_outline(spread.pruned, most, PRUNED),
        f'<path d="M0 {HEIGHT}H{WIDTH}" stroke="#eee"/>',
        *_numbers(spread.end),
    ]
    box = f'viewBox="0 0 {WIDTH} {HEIGHT + AXIS}" width="{WIDTH}" height="{HEIGHT + AXIS}"'
    drawn = f'<svg {box} font-size="10" font-family="sans-serif">{"".join(shapes)}</svg>'
    return f"<h3>{escape(spread.name)}</h3>{drawn}<span class='faint small'>{escape(_told(spread))}</span>"


def _bars(counts: Sequence[int] | None, most: int, colour: str, width: float, opacity: float) -> Iterator[str]:
    if not counts or not most:
        return
    each = WIDTH / len(counts)
    for i, count in enumerate(counts):
        if count:
            height = _height(count, most)
            left, top = each * (i + (1 - width) / 2), HEIGHT - height
            place = f'x="{left:.1f}" y="{top:.1f}" width="{each * width:.1f}" height="{height:.1f}"'
            yield f'<rect {place} fill="{colour}" fill-opacity="{opacity:g}"/>'


def _outline(counts: Sequence[int] | None, most: int, colour: str) -> Iterator[str]:
    if not counts or not any(counts):
        return
    each = WIDTH / len(counts)
    steps = "".join(f"V{HEIGHT - _height(c, most):.1f}H{each * (i + 1):.1f}" for i, c in enumerate(counts))
    yield f'<path d="M0 {HEIGHT}{steps}V{HEIGHT}" fill="none" stroke="{colour}" stroke-width="1.2"/>'


def _height(count: int, most: int) -> float:
    return HEIGHT * math.log1p(count) / math.log1p(most)


def _numbers(end: float) -> Iterator[str]:
    for at, anchor, value in ((0, "start", -end), (WIDTH // 2, "middle", 0.0), (WIDTH, "end", end)):
        yield f'<text x="{at}" y="{HEIGHT + AXIS - 3}" text-anchor="{anchor}">{value:.2g}</text>'


def _told(spread: Spread) -> str:
    shares = ((spread.before, spread.zeros_before), (spread.after, spread.zeros_after))
    zeros = [share for counts, share in shares if counts is not None]
    texts = [f"zero: {' -> '.join(f'{100 * z:.1f} %' for z in zeros)}"] if any(zeros) else []
    if spread.values is not None:
        texts.append(f"{spread.values:,} {'value' if spread.values == 1 else 'values'} in the sample")
    return "; ".join(texts)
