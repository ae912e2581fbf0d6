"""Terminal tables and progress (rich), built from report data; only cli.py prints them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dc_compiler import report as reporting
from dc_compiler.bench import BenchResult
from dc_compiler.verify import Verification


def tensor_table(rows: Sequence[reporting.TensorRow]) -> Table:
    """Per-tensor table in the form of the paper's Tables 2 to 5, with a total line."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    texts = [reporting.cells(r) for r in rows]
    total = reporting.total_cells(rows)
    for i, (title, _) in enumerate(reporting.COLUMNS):
        left = i in (0, len(reporting.COLUMNS) - 1)
        table.add_column(title, justify="left" if left else "right", overflow="fold")
    for text in texts:
        table.add_row(*text)
    table.add_section()
    table.add_row(*total, style="bold")
    return table


def compile_summary(report: reporting.CompileReport) -> list[Any]:
    """What ``dcc compile`` shows: the table, what was checked, and the total."""
    lines: list[Any] = [tensor_table(report.tensors)]
    lines += [f"note: {n}" for n in report.notes]
    if report.verification is not None:
        lines += verification_lines(report.verification)
    if report.topology_bytes:
        kept = report.output_bytes - report.topology_bytes - sum(r.bytes for r in report.tensors if r.reason is None)
        lines.append(f"graph {report.topology_bytes:,} bytes; names, metadata and what was left alone {kept:,} bytes")
    where = f" -> {report.output}" if report.output else ""
    lines.append(
        f"{report.source}{where}: {report.original_bytes:,} -> {report.output_bytes:,} bytes, {report.ratio:.2f}x, "
        f"{report.form} form, {report.seconds:.1f} s, peak memory {report.peak_memory / 2**20:.0f} MiB"
    )
    return lines


def verification_lines(result: Verification) -> list[str]:
    """One line an output."""
    if result.skipped is not None:
        return [f"outputs not compared: {result.skipped}"]
    lines = []
    for o in result.outputs:
        facts = ["identical"] if o.identical else [f"max error {o.max_abs_error:.3g}"]
        if not o.identical and o.sqnr_db is not None:
            facts.append(f"SQNR {o.sqnr_db:.1f} dB")
        if not o.identical and o.cosine is not None:
            facts.append(f"cosine {o.cosine:.6f}")
        if o.top1_agreement is not None:
            facts.append(f"top-1 agreement {100 * o.top1_agreement:.2f} %")
        lines.append(f"output {o.name}: {', '.join(facts)} ({result.source})")
    if result.accuracy_before is not None and result.accuracy_after is not None:
        lines.append(f"accuracy: {result.accuracy_before:.4f} -> {result.accuracy_after:.4f}")
    return lines


def bench_table(result: BenchResult) -> Table:
    """Original and compiled side by side with ratios and their spread."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, title in enumerate(("", "original", "compiled", "compiled / original", "spread")):
        table.add_column(title, justify="left" if i == 0 else "right")
    for row in result.rows:
        table.add_row(row.name, row.original_text, row.compiled_text, f"{row.ratio:.3f}", row.spread_text)
    return table


@contextmanager
def progress_bar(console: Console) -> Iterator[Any]:
    """A callback for ``compile_model(progress=...)`` that draws a bar on a terminal and stays silent in a pipe."""
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield update
