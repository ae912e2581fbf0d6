"""What notebooks show of results: a line that sums up, and a table."""

from __future__ import annotations

from dc_compiler import html_page
from dc_compiler import report as reporting

MOST = 20  # weights: the largest


def summary(report: reporting.CompileReport) -> str:
    """One line: the file, its sizes, and how near outputs are."""
    facts = [report.source]
    if report.form == "not compiled":
        facts.append(f"not compiled, {report.output_bytes:,} bytes")
    else:
        where = f" -> {report.output}" if report.output else ""
        facts[0] += where
        facts.append(f"{report.original_bytes:,} -> {report.output_bytes:,} bytes, {report.ratio:.2f}x")
        facts.append(f"{report.form} form")
    result = report.verification
    if result is not None and result.scores is not None:
        facts.append(f"{result.scores.metric} {result.scores.before:.4g} -> {result.scores.after:.4g}")
    elif result is not None and not result.compared:
        facts.append("outputs not compared")
    elif result is not None and result.same_bits:
        facts.append("outputs identical")
    elif result is not None and result.worst_cosine is not None:
        facts.append(f"cosine of outputs {result.worst_cosine:.5f}")
    return ", ".join([f"{facts[0]}: {facts[1]}", *facts[2:]])


def table(report: reporting.CompileReport) -> str:
    """The summary and the largest weights as HTML that stands in a page of others."""
    rows = sorted(report.tensors, key=lambda r: -r.raw_bytes)[:MOST]
    titles = [title for title, _ in reporting.COLUMNS]
    total = reporting.total_cells(report.tensors, f"all {len(report.tensors):,} tensors")
    return f"<p>{html_page.escape(summary(report))}</p>{html_page.table(titles, map(reporting.cells, rows), total)}"
