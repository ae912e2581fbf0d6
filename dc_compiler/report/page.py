"""The page of a report: headline, where the bytes are, how weights changed, what was compared and what was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dc_compiler import html_page
from dc_compiler import report as reporting
from dc_compiler.ort.verify import Verification
from dc_compiler.pass_manager import PassReport
from dc_compiler.plot import Axis, Series, chart, drawing
from dc_compiler.report import measured
from dc_compiler.report.histogram import STAGES, histogram

MOST_BARS = 20  # weights with a bar of their own
FILE_PARTS = (*reporting.PARTS, "graph and the rest")  # what the bytes of a file hold


def page(report: reporting.CompileReport, frontier: measured.MeasuredFrontier | None = None) -> str:
    """The whole page, with the frontier of the model if it has been measured."""
    return html_page.page(f"dcc: {report.source}", [], parts(report, frontier))


def parts(report: reporting.CompileReport, frontier: measured.MeasuredFrontier | None = None) -> list[str]:
    """What is below its title."""
    return [
        html_page.tiles(_headline(report)),
        *_bytes(report),
        *_spreads(report),
        *_trainings(report.passes),
        *_tries(report.passes),
        *([] if frontier is None else [measured.section(frontier, report)]),
        *_verification(report),
        *_notes(report),
        _weights(report),
        *_again(report),
    ]


def _headline(report: reporting.CompileReport) -> Iterator[tuple[str, str, str]]:
    is_made = report.form != "not compiled"
    if is_made:
        sizes = f"{size_text(report.original_bytes)} to {size_text(report.output_bytes)}"
        yield "smaller", f"{report.ratio:.2f}x", sizes
    yield from _quality(report.verification)
    weights = sum(1 for r in report.tensors if r.reason is None and r.exact is None)
    elements = sum(r.raw_bytes for r in report.tensors)
    yield "weights", f"{weights:,}", f"of {len(report.tensors):,} tensors with {size_text(elements)}"
    if is_made:
        yield "form", report.form, "one node holds the model" if report.form == "session" else "a node a weight"
    if report.seconds:
        yield "compiled in", f"{report.seconds:.1f} s", f"peak memory {size_text(report.peak_memory)}"


def _quality(result: Verification | None) -> Iterator[tuple[str, str, str]]:
    if result is None:
        return
    where = f"{result.feeds} {'run' if result.feeds == 1 else 'runs'} on {result.source}"
    if result.scores is not None:
        scores = result.scores
        yield scores.metric, f"{scores.after:.4g}", f"the original {scores.before:.4g}; {where}"
    if not result.compared:
        yield "outputs", "not compared", result.skipped or "they say nothing"
    elif result.same_bits:
        yield "outputs", "identical", where
    elif result.worst_cosine is not None:
        yield "cosine of outputs", f"{result.worst_cosine:.5f}", f"the furthest of them; {where}"


def size_text(count: float) -> str:
    """Bytes in a unit that leaves three digits."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:,.3g} GB"


def _bytes(report: reporting.CompileReport) -> Iterator[str]:
    """The file by what its bytes hold, then its largest weights."""
    if report.form == "not compiled":
        return
    rows = sorted(report.tensors, key=lambda r: -r.bytes)
    yield html_page.section(
        "Where the bytes are",
        html_page.key(FILE_PARTS),
        html_page.bars(FILE_PARTS, [("the file", _file_parts(report), size_text(report.output_bytes))]),
        html_page.paragraph("and, to a scale of their own, the weights that take most of them:") if rows else "",
        html_page.bars(reporting.PARTS, [_bar(r) for r in rows[:MOST_BARS] if r.bytes]) if rows else "",
    )


def files_by_bytes(files: Sequence[tuple[str, reporting.CompileReport]]) -> Iterator[str]:
    """Several files, each a name and its report, by what their bytes hold."""
    lines = [(name, _file_parts(r), f"{size_text(r.output_bytes)}, {r.ratio:.1f}x") for name, r in files]
    if lines:
        yield html_page.section("Where the bytes are", html_page.key(FILE_PARTS), html_page.bars(FILE_PARTS, lines))


def _file_parts(report: reporting.CompileReport) -> list[int]:
    """Bytes of a compiled file in the order of ``FILE_PARTS``."""
    packed = [_parts(r) for r in report.tensors]
    sums = [sum(column) for column in zip(*packed, strict=True)] or [0] * len(reporting.PARTS)
    return [*sums, max(0, report.output_bytes - sum(sums))]


def _bar(row: reporting.TensorRow) -> tuple[str, Sequence[int], str]:
    return row.name, _parts(row), f"{size_text(row.bytes)}, {row.ratio:.1f}x"


def _parts(row: reporting.TensorRow) -> Sequence[int]:
    return row.parts or (row.bytes, *[0] * (len(reporting.PARTS) - 1))


def _spreads(report: reporting.CompileReport) -> Iterator[str]:
    if not report.spreads:
        return
    cells = "".join(f"<div class=cell>{histogram(s)}</div>" for s in report.spreads)
    stages = []
    if any(s.before and s.after for s in report.spreads):
        stages = ["in the original", "in the file"]
        if any(s.pruned for s in report.spreads):
            stages.insert(1, "as pruning left them, before clustering")
    told = "on logarithmic heights; values that are exactly zero are counted apart"
    yield html_page.section(
        "How values are spread",
        html_page.paragraph(f"Of the {len(report.spreads)} largest weights, {told}."),
        html_page.key(stages, STAGES if len(stages) > 2 else STAGES[::2]),
        f"<div class=grid>{cells}</div>",
    )


def _trainings(passes: Sequence[PassReport]) -> Iterator[str]:
    """Losses and errors of every pass that trained, epoch by epoch."""
    charts = "".join(c for p in passes for c in _curves(p))
    lines = reporting.training_lines(passes)
    if lines:
        drawn = f"<div class=charts>{charts}</div>" if charts else ""
        yield html_page.section("Training", html_page.sentences(lines), drawn)


def _curves(step: PassReport) -> Iterator[str]:
    curve = step.facts.get("curve", [])
    if len(curve) < 2:
        return
    losses = [Series(part, _points(curve, f"{part} loss")) for part in ("training", "validation")]
    yield drawing(f"{step.name}: loss", Axis("step"), Axis("loss", is_log=True), losses)
    errors = [(at, 100 * share) for at, share in _points(curve, "validation error")]
    if any(share for _, share in errors):
        yield drawing(f"{step.name}: error", Axis("step"), Axis("error, %"), [Series("validation", errors)])


def _points(curve: Sequence[Mapping[str, float | None]], key: str) -> list[tuple[float, float]]:
    return [(p["step"] or 0.0, value) for p in curve if (value := p[key]) is not None]


def _tries(passes: Sequence[PassReport]) -> Iterator[str]:
    """What a search for a step has tried."""
    for step in passes:
        tried = [t for t in step.facts.get("tries", []) if t.get("divergence") is not None]
        if len(tried) > 1:
            points = sorted((t["bytes"], t["divergence"]) for t in tried)
            axes = Axis("bytes of the file", is_log=True), Axis("divergence of the outputs", is_log=True)
            yield chart("Steps that were tried", *axes, [Series("on the validation part", points)])


def _verification(report: reporting.CompileReport) -> Iterator[str]:
    result = report.verification
    if result is None:
        return
    lines = reporting.verification_lines(result)
    is_missing = [line for line in lines if _says_what_is_missing(line, result)]
    shown = [line for line in lines if line not in is_missing]
    yield html_page.section("What was compared", html_page.sentences(shown))
    if result.source != "data" and result.skipped is None and not result.same_bits:
        is_missing.append("inputs were made up, so what real ones would show is not known: give --data")
    told = html_page.sentences(is_missing) or html_page.paragraph("Every output and every changed weight was reached.")
    yield html_page.section("What was not", told)


def _says_what_is_missing(line: str, result: Verification) -> bool:
    starts = ("outputs not compared", "changed weights that")
    return line.startswith(starts) or "not compared" in line or "not counted" in line or line in result.notes


def _notes(report: reporting.CompileReport) -> Iterator[str]:
    facts = [*reporting.samples_lines(report.samples), *report.notes]
    if facts:
        yield html_page.section("Notes", html_page.sentences(facts))


def _weights(report: reporting.CompileReport) -> str:
    titles = [title for title, _ in reporting.COLUMNS]
    lines = map(reporting.cells, report.tensors)
    return html_page.section(
        "Every weight", html_page.table(titles, lines, reporting.total_cells(report.tensors), notes=True)
    )


def _again(report: reporting.CompileReport) -> Iterator[str]:
    if report.recipe:
        data = " with the same --data and --labels" if report.samples is not None else ""
        told = f"Saved as recipe.toml, this makes the same file again{data}: dcc compile IN -o OUT --recipe recipe.toml"
        yield html_page.section("The recipe", html_page.paragraph(told), html_page.verbatim(report.recipe.rstrip()))
    elif report.pipeline:
        yield html_page.section("The pipeline", html_page.verbatim(f"{report.pipeline}\nseed {report.seed}"))
