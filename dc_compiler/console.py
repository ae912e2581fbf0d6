"""Terminal tables and progress (rich), built from report data; only cli.py prints them."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from dc_compiler import report as reporting
from dc_compiler.ort.bench import BenchResult
from dc_compiler.pass_manager import Progress as Callback
from dc_compiler.printable import printable

LINE_INTERVAL = 30.0  # seconds between two lines of progress
FILE_WIDTH = 200  # columns where the output is no terminal
MOST_ROWS = 50  # weights that a table shows, and notes, unless all are asked for


def rendered(items: Sequence[Any]) -> str:
    """Tables and lines as the text that standard output gets: with colours on a terminal. Lines are escaped here, the
    tables' cells where they are made."""
    text, terminal = io.StringIO(), sys.stdout.isatty()
    out = Console(file=text, force_terminal=terminal or None, width=None if terminal else FILE_WIDTH)
    for item in items:
        out.print(printable(item) if isinstance(item, str) else item, highlight=False, markup=False)
    return text.getvalue()


class _Forgiving:
    """A text stream that drops what it cannot write: progress that nobody sees must not stop the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def standard_error() -> Console:
    """A console on standard error for progress."""
    return Console(file=cast("TextIO", _Forgiving(sys.stderr)))


def tensor_table(rows: Sequence[reporting.TensorRow], most: int | None = MOST_ROWS) -> Table:
    """Per-tensor table in the form of the paper's Tables 2 to 5, with a total line.

    Of more than ``most`` weights the largest are shown, in the model's order, and one line stands for the others.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, (title, _) in enumerate(reporting.COLUMNS):
        left = i in (0, len(reporting.COLUMNS) - 1)
        table.add_column(title, justify="left" if left else "right", overflow="fold")
    by_size = sorted(range(len(rows)), key=lambda i: -rows[i].raw_bytes)
    shown = sorted(by_size[:most])
    for i in shown:
        table.add_row(*map(printable, reporting.cells(rows[i])))
    others = [rows[i] for i in sorted(by_size[len(shown) :])]
    if others:
        table.add_row(*reporting.total_cells(others, f"{len(others):,} smaller weights"))
    table.add_section()
    table.add_row(*reporting.total_cells(rows), style="bold")
    return table


def note_lines(notes: Sequence[str], most: int = MOST_ROWS) -> list[str]:
    """One line a note; of many, the first."""
    more = [f"and {len(notes) - most:,} more notes, which --json lists"] if len(notes) > most else []
    return [f"note: {n}" for n in notes[:most]] + more


def compile_summary(report: reporting.CompileReport) -> list[Any]:
    """What ``dcc compile`` shows: the table, what was checked, and the total."""
    lines: list[Any] = [tensor_table(report.tensors)]
    lines += reporting.samples_lines(report.samples)
    lines += reporting.training_lines(report.passes)
    lines += note_lines(report.notes)
    if report.verification is not None:
        lines += reporting.verification_lines(report.verification)
    if report.topology_bytes:
        kept = report.output_bytes - report.topology_bytes - sum(r.bytes for r in report.tensors if r.reason is None)
        lines.append(f"graph {report.topology_bytes:,} bytes; names, metadata and what was left alone {kept:,} bytes")
    where = f" -> {report.output}" if report.output else ""
    lines.append(
        f"{report.source}{where}: {report.original_bytes:,} -> {report.output_bytes:,} bytes, {report.ratio:.2f}x, "
        f"{report.form} form, {report.seconds:.1f} s, peak memory {report.peak_memory / 2**20:.0f} MiB"
    )
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
def progress_shown(console: Console) -> Iterator[Callback]:
    """A callback for ``compile_model(progress=...)``: bars on a terminal, elsewhere a line now and then."""
    if not console.is_terminal:
        yield progress_lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield progress_bars(bars)


def progress_bars(bars: Progress) -> Callback:
    """One bar a training. Work without a loss is quick, and its bar goes when there is more of that name."""
    runs = _Runs()
    tasks: dict[str, TaskID] = {}

    def update(name: str, done: int, total: int, loss: float | None) -> None:
        if runs.is_new(name, done, total):
            if name in tasks and not bars.tasks[bars.task_ids.index(tasks[name])].fields["loss"]:
                bars.remove_task(tasks[name])
            tasks[name] = bars.add_task(name, completed=done, total=total, loss=_loss(loss))
        bars.update(tasks[name], completed=done, loss=_loss(loss))

    return update


def progress_lines(console: Console, clock: Callable[[], float] = time.monotonic) -> Callback:
    """A plain line every ``LINE_INTERVAL`` seconds, so that nothing is said about quick runs."""
    runs = _Runs()
    starts: dict[str, tuple[float, int]] = {}
    shown = clock()

    def update(name: str, done: int, total: int, loss: float | None) -> None:
        nonlocal shown
        now = clock()
        if runs.is_new(name, done, total):
            starts[name] = now, done
        if now - shown < LINE_INTERVAL:
            return
        shown = now
        start, first = starts[name]
        texts = [f"{done:,} of {total:,}", _loss(loss)]
        if done > first:
            left = round((now - start) * (total - done) / (done - first))
            texts.append(f"{timedelta(seconds=left)} left")
        console.print(f"{name}: {', '.join(filter(None, texts))}", highlight=False, markup=False, soft_wrap=True)

    return update


class _Runs:
    """Tells the runs of one name apart: a pipeline may hold a pass twice."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}

    def is_new(self, name: str, done: int, total: int) -> bool:
        before = self._last.get(name)
        self._last[name] = done, total
        return before is None or done <= before[0] or total != before[1]


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"loss {loss:.4g}"
