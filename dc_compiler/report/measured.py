"""Points that ``dcc frontier --json`` wrote, and where a compiled file lies among them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dc_compiler import html_page, schemas
from dc_compiler import report as reporting
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.plot import Axis, Series, drawing

SIZE = Axis("original bytes / file bytes", is_log=True)


@dataclass(frozen=True)
class MeasuredFrontier:
    """Ratios and what is lost at each, of the model in ``source``, which has ``original_bytes``. ``metric`` names
    ``scores``, which begin with the original's; both are None and empty without labels."""

    source: str
    original_bytes: int
    divergences: list[tuple[float, float]]
    metric: str | None
    scores: list[tuple[float, float]]


def read(path: Path) -> MeasuredFrontier:
    """The points of a file.

    Raises:
        InvalidArgumentError: ``dcc frontier --json`` did not write it.
    """
    try:
        given: dict[str, Any] = json.loads(path.read_bytes())
        if given["schema"] != schemas.identifier("frontier"):
            raise ValueError
        points = given["points"]
        divergences = [(float(p["ratio"]), float(p["divergence"])) for p in points[1:] if p["divergence"] is not None]
        scores = [(float(p["ratio"]), float(p["score"])) for p in points if p["score"] is not None]
        metric = None if given["metric"] is None else str(given["metric"])
        return MeasuredFrontier(str(given["source"]), int(points[0]["bytes"]), divergences, metric, scores)
    except (ValueError, KeyError, TypeError, IndexError):
        raise InvalidArgumentError(f"{path} is not what 'dcc frontier --json' writes") from None


def section(frontier: MeasuredFrontier, report: reporting.CompileReport) -> str:
    """Charts of the frontier with the size of the file, and its score where it has the same metric."""
    charts = "".join(_charts(frontier, report))
    told = f"Compiled step by step from {frontier.source} by dcc frontier; the file's size is marked."
    if frontier.original_bytes != report.original_bytes:
        told += f" That model has {frontier.original_bytes:,} bytes, this one {report.original_bytes:,}."
    return html_page.section("Frontier", html_page.paragraph(told), f"<div class=charts>{charts}</div>")


def _charts(frontier: MeasuredFrontier, report: reporting.CompileReport) -> Iterator[str]:
    if frontier.metric is not None and frontier.scores:
        result = report.verification
        scores = None if result is None else result.scores
        is_same = scores is not None and scores.metric == frontier.metric
        here = [(report.ratio, scores.after)] if scores is not None and is_same else []
        level, curve = Series("original", frontier.scores[:1], is_level=True), Series("frontier", frontier.scores[1:])
        marks = _mark(here, frontier.scores, report)
        yield drawing("Quality against size", SIZE, Axis(frontier.metric), [level, curve, *marks])
    if frontier.divergences:
        axis, curve = Axis("divergence of the outputs", is_log=True), Series("frontier", frontier.divergences)
        yield drawing("Divergence against size", SIZE, axis, [curve, *_mark([], frontier.divergences, report)])


def _mark(
    here: list[tuple[float, float]], points: list[tuple[float, float]], report: reporting.CompileReport
) -> list[Series]:
    """The file where its height is known, else its size from bottom to top."""
    if here:
        return [Series("this file", here, is_line=False)]
    heights = [y for _, y in points]
    return [Series("this file's size", [(report.ratio, min(heights)), (report.ratio, max(heights))])]
