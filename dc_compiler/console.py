"""Terminal tables and progress (rich), built from report data; only cli.py prints them."""

from __future__ import annotations

import contextlib
import io
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dc_compiler import report as reporting
from dc_compiler.diff import REMOVED, SAME, ModelDiff, WeightDiff
from dc_compiler.exploration.frontier import FrontierReport
from dc_compiler.exploration.sensitivity import SensitivityReport
from dc_compiler.ort.bench import BenchResult
from dc_compiler.pass_manager import Progress as Callback
from dc_compiler.printable import printable
from dc_compiler.report.joint import COLUMNS as JOINT_COLUMNS
from dc_compiler.report.joint import FAILED, JointReport

LINE_INTERVAL = 30.0  # seconds between two lines of progress
FILE_WIDTH = 200  # columns where the output is no terminal
NARROW = frozenset({"name", "shape", "kept", "bytes", "ratio", "sqnr_db", "coder"})  # columns of a narrow terminal
REASON_WIDTH = 28  # columns in which a reason may be folded
WIDEST = 10_000
MOST_ROWS = 50  # weights that a table shows, and notes, unless all are asked for
SMALL = 100  # a tensor that is left alone with less than a hundredth of all bytes has no line of its own
SHORTEST = 16  # columns that names have at least


def rendered(items: Sequence[Any]) -> str:
    """Tables and lines as the text that standard output gets: with colours on a terminal. Lines are escaped here, the
    tables' cells where they are made."""
    text, terminal = io.StringIO(), sys.stdout.isatty()
    out = Console(file=text, force_terminal=terminal or None, width=None if terminal else FILE_WIDTH)
    for item in items:
        if isinstance(item, str):  # a terminal breaks lines at words, a file gets them whole
            out.print(printable(item), highlight=False, markup=False, soft_wrap=not terminal)
        else:
            out.print(item)
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


@dataclass(frozen=True)
class TensorTable:
    """Per-tensor table in the form of the paper's Tables 2 to 5, with a total line.

    Unless ``every`` weight is to be shown, small ones that were left alone share a line, and of more than ``MOST_ROWS``
    the largest are shown, in the model's order, and one line stands for the others. Where the terminal is too narrow
    for all columns, those that are not in ``NARROW`` and details of reasons are left out and names are shortened in the
    middle, so that numbers stay whole.
    """

    rows: Sequence[reporting.TensorRow]
    every: bool = False

    def __rich_console__(self, out: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        lines = self._lines()
        table = _table_of(lines, range(len(reporting.COLUMNS)))
        whole = Measurement.get(out, options.update(max_width=WIDEST), table).maximum
        if whole - max(0, max(len(line[-1]) for line in lines) - REASON_WIDTH) <= options.max_width:
            yield table
            return
        places = [i for i, (_, key) in enumerate(reporting.COLUMNS) if key in NARROW]
        brief = [[*line[:-1], line[-1].split(":")[0]] for line in lines]
        yield _fitting(out, options, lambda fitted: _table_of(fitted, places), brief)
        yield Text("(--json and --report, or a wider terminal, show more columns and every reason)")

    def _lines(self) -> list[list[str]]:
        """Cells of all lines, the total last."""
        rows = self.rows
        small = set() if self.every else set(_left_alone(rows))
        by_size = sorted((i for i in range(len(rows)) if i not in small), key=lambda i: -rows[i].raw_bytes)
        shown = sorted(by_size if self.every else by_size[:MOST_ROWS])
        lines = [[printable(c) for c in reporting.cells(rows[i])] for i in shown]
        others = [rows[i] for i in by_size[len(shown) :]]
        if others:
            lines.append(reporting.total_cells(others, f"{len(others):,} smaller weights"))
        if small:
            total = reporting.total_cells([rows[i] for i in sorted(small)], f"{len(small):,} small tensors")
            lines.append([*total[:-1], "left alone (--all)"])
        return [*lines, reporting.total_cells(rows)]


def _left_alone(rows: Sequence[reporting.TensorRow]) -> list[int]:
    """Places of tensors that were left alone and hardly count; of one, the line that it takes says more."""
    whole = sum(r.raw_bytes for r in rows)
    found = [i for i, r in enumerate(rows) if r.reason is not None and r.raw_bytes * SMALL < whole]
    return found if len(found) > 1 else []


def shortened(name: str, room: int) -> str:
    """The name in so many characters: its middle, which says least, is left out."""
    if len(name) <= room:
        return name
    front = (room - 1) // 2
    return f"{name[:front]}…{name[len(name) - (room - 1 - front) :]}"


def _fitting(
    out: Console, options: ConsoleOptions, make: Callable[[list[list[str]]], Table], lines: list[list[str]]
) -> Table:
    """The table that is made of lines, whose names are as short as the width asks for."""
    width = Measurement.get(out, options.update(max_width=WIDEST), make(lines)).maximum
    longest = max(len(line[0]) for line in lines)
    room = max(SHORTEST, longest - max(0, width - options.max_width))
    return make([[shortened(line[0], room), *line[1:]] for line in lines])


def _table_of(lines: Sequence[Sequence[str]], places: Sequence[int]) -> Table:
    """A table of the columns at these places; names and reasons may be folded, numbers never."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    texts = 0, len(reporting.COLUMNS) - 1
    for i in places:
        title = reporting.COLUMNS[i][0]
        table.add_column(
            title, justify="left" if i in texts else "right", overflow="fold", no_wrap=i not in texts,
            min_width=10 if i in texts else None,
        )  # fmt: skip
    for line in lines[:-1]:
        table.add_row(*(line[i] for i in places))
    table.add_section()
    table.add_row(*(lines[-1][i] for i in places), style="bold")
    return table


def note_lines(notes: Sequence[str], most: int = MOST_ROWS) -> list[str]:
    """One line a note; of many, the first."""
    more = [f"and {len(notes) - most:,} more notes, which --json lists"] if len(notes) > most else []
    return [f"note: {n}" for n in notes[:most]] + more


def compile_summary(report: reporting.CompileReport, *, every: bool = False) -> list[Any]:
    """What ``dcc compile`` shows: the table, of ``every`` weight or the large ones, what was checked, and the total."""
    lines: list[Any] = [TensorTable(report.tensors, every)]
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


@dataclass(frozen=True)
class JointTable:
    """A line a model of one call, and one for all of them; names are shortened where room is short."""

    result: JointReport

    def __rich_console__(self, out: Console, options: ConsoleOptions) -> Iterator[Table]:
        lines = [[printable(c) for c in cells] for cells in (*self.result.cells(), self.result.total_cells())]
        yield _fitting(out, options, _joint_table, lines)


def _joint_table(lines: list[list[str]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for i, title in enumerate(JOINT_COLUMNS):
        is_text = i in (0, len(JOINT_COLUMNS) - 1)
        table.add_column(title, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for line in lines[:-1]:
        table.add_row(*line, style="red" if line[-1] == FAILED else None)
    table.add_section()
    table.add_row(*lines[-1], style="bold")
    return table


def joint_summary(result: JointReport) -> list[Any]:
    """What ``dcc compile`` shows after the last of several models."""
    return ["", JointTable(result), *result.failures()]


@dataclass(frozen=True)
class DiffTable:
    """What changed, a line a weight: how it is stored (``->`` where that differs), and how far its values moved. Where
    the terminal is too narrow for all columns, coders and shares kept are left out and names shortened in the middle.
    """

    weights: Sequence[WeightDiff]

    def __rich_console__(self, out: Console, options: ConsoleOptions) -> Iterator[Table]:
        wide = [_diff_cells(w) for w in self.weights]
        brief = [[w[i] for i in (0, 1, 2, 6, 7, 8)] for w in wide]
        titles = ["weight", "change", "bytes", "coder", "bits", "kept %", "moved %", "max abs", "SQNR dB"]
        table = _plain_table(titles, wide)
        if Measurement.get(out, options.update(max_width=WIDEST), table).maximum <= options.max_width:
            yield table
            return
        titles = [titles[i] for i in (0, 1, 2, 6, 7, 8)]
        yield _fitting(out, options, lambda fitted: _plain_table(titles, fitted), brief)


def _diff_cells(weight: WeightDiff) -> list[str]:
    one, other = weight.before, weight.after

    def both(text: Callable[[reporting.TensorRow], str]) -> str:
        texts = [text(row) for row in (one, other) if row is not None]
        return texts[0] if len(set(texts)) == 1 else " -> ".join(texts)

    changed, most, sqnr = weight.changed_share, weight.max_abs, weight.sqnr_db
    return [
        printable(weight.name),
        weight.change,
        both(lambda r: f"{r.bytes:,}"),
        both(lambda r: r.coder or r.execution),
        both(lambda r: f"{r.bits or 8 * r.raw_bytes // max(1, math.prod(r.shape))}"),
        both(lambda r: "" if r.kept is None else f"{100 * r.kept:.1f}"),
        "" if changed is None else f"{100 * changed:.1f}",
        "" if most is None else f"{most:.2g}",
        "" if sqnr is None else f"{sqnr:.1f}",
    ]


def diff_summary(result: ModelDiff, *, every: bool = False) -> list[Any]:
    """What ``dcc diff`` shows: the largest weights that changed, or ``every`` one; what else did; and the sizes."""
    differing = [w for w in result.weights if every or w.change != SAME]
    by_size = sorted(differing, key=lambda w: -max(r.raw_bytes for r in (w.before, w.after) if r is not None))
    chosen = {w.name for w in (by_size if every else by_size[:MOST_ROWS])}
    shown = [w for w in differing if w.name in chosen]
    lines: list[Any] = [DiffTable(shown)] if shown else []
    if len(differing) > len(shown):
        lines.append(f"{len(differing) - len(shown):,} smaller weights that changed are not shown (--all)")
    lines += [_fact_text(f.what, f.before, f.after) for f in result.facts]
    counts = Counter(w.change for w in result.weights)
    order = sorted(counts, key=[SAME, *sorted(c for c in counts if c not in (SAME, REMOVED)), REMOVED].index)
    told = ", ".join(f"{counts[c]:,} {c if c != 'stored' else 'stored otherwise'}" for c in order) or "none"
    ratio = f", {result.before_bytes / result.after_bytes:.2f}x" if result.after_bytes else ""
    sizes = f"{result.before_bytes:,} -> {result.after_bytes:,} bytes{ratio}"
    return [*lines, f"weights: {told}", f"{result.before} -> {result.after}: {sizes}"]


def _fact_text(what: str, before: str | None, after: str | None) -> str:
    if before is None and after is None:
        return f"{what}: differ"
    if before is None or after is None:
        return f"{what}: {'only in the second' if before is None else 'only in the first'}: {after or before}"
    return f"{what}: {before} -> {after}"


def bench_table(result: BenchResult) -> Table:
    """Original and compiled side by side with ratios and their spread."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, title in enumerate(("", "original", "compiled", "compiled / original", "spread")):
        table.add_column(title, justify="left" if i == 0 else "right")
    for row in result.rows:
        table.add_row(row.name, row.original_text, row.compiled_text, f"{row.ratio:.3f}", row.spread_text)
    return table


def sensitivity(report: SensitivityReport, most: int = MOST_ROWS) -> list[Any]:
    """What ``dcc sensitivity`` shows: the weights that cost most for a bit, and what the figures mean."""
    if not report.curves:
        return report.facts()
    middle = len(report.steps) // 2
    titles = ["weight", "elements", "bits", *(f"at {s:g}" for s in report.steps), "a kB"]
    table = _plain_table(titles)
    for c in report.curves[:most]:
        moved = [f"{p.divergence:.1e}" for p in c.points]
        table.add_row(printable(c.name), f"{c.elements:,}", f"{c.points[middle].bits:.1f}", *moved, f"{c.per_kb:.1e}")
    table.add_section()
    moved = [f"{p.divergence:.1e}" for p in report.together]
    elements = sum(c.elements for c in report.curves)
    bits = report.together[middle].bits
    table.add_row("all at once", f"{elements:,}", f"{bits:.1f}", *moved, "", style="bold")
    more = len(report.curves) - most
    others = [f"{more:,} less sensitive weights are not shown; --json and --report list all"] if more > 0 else []
    return [table, *others, f"bits: entropy of a weight's indices at step {report.steps[middle]:g}", *report.facts()]


def frontier(report: FrontierReport) -> list[Any]:
    """What ``dcc frontier`` shows: the original and all points, and what the figures mean."""
    table = _plain_table(report.titles())
    for line in report.lines():
        table.add_row(*line)
    return [table, *report.facts()]


def _plain_table(titles: Sequence[str], lines: Sequence[Sequence[str]] = ()) -> Table:
    """A table whose first column may be folded, and whose others are numbers."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for i, title in enumerate(titles):
        table.add_column(title, justify="right" if i else "left", overflow="fold", no_wrap=i > 0)
    for line in lines:
        table.add_row(*line)
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
