"""What is shown while a compilation runs, and about training afterwards."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from dc_compiler import console
from dc_compiler.pass_manager import PassReport
from dc_compiler.report import CompileReport, TensorRow, training_lines

FACTS = {
    "steps": 1250,
    "best epoch": 7,
    "training loss": 0.0123456,
    "validation loss before": 0.25,
    "validation loss after": 0.03125,
}
ERRORS = {"training error": 0.004, "validation error before": 0.1, "validation error after": 0.0155}


class Clock:
    """Tells the time it is set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_now_and_then() -> None:
    out, clock = io.StringIO(), Clock()
    progress = console.progress_lines(Console(file=out), clock)
    for step in range(1, 71):
        clock.now += 1
        progress("finetune", step, 70, 1 / step)
    progress("encode", 1, 1, None)
    for step in range(1, 70):
        clock.now += 2
        progress("finetune", step, 70, 0.5)
    clock.now += 30
    progress("encode", 2, 3, None)
    assert out.getvalue().splitlines() == [
        "finetune: 30 of 70, loss 0.03333, 0:00:40 left",
        "finetune: 60 of 70, loss 0.01667, 0:00:10 left",
        "finetune: 10 of 70, loss 0.5, 0:02:00 left",
        "finetune: 25 of 70, loss 0.5, 0:01:30 left",
        "finetune: 40 of 70, loss 0.5, 0:01:00 left",
        "finetune: 55 of 70, loss 0.5, 0:00:30 left",
        "encode: 2 of 3",
    ]


def test_quick_runs_say_nothing() -> None:
    out, clock = io.StringIO(), Clock()
    with console.progress_shown(Console(file=out)) as progress:
        progress("encode", 1, 2, None)
        progress("finetune", 2, 2, 0.5)
    assert out.getvalue() == ""
    progress = console.progress_lines(Console(file=out), clock)
    clock.now = console.LINE_INTERVAL - 0.1
    progress("encode", 1, 2, None)
    assert out.getvalue() == ""


def test_one_bar_a_training() -> None:
    bars = Progress(console=Console(file=io.StringIO()))
    progress = console.progress_bars(bars)
    for name, done, total, loss in (
        ("finetune", 1, 2, 0.5), ("finetune", 2, 2, 0.25), ("check", 1, 1, None), ("finetune", 1, 2, 0.125),
        ("finetune", 2, 2, 0.0625), ("check", 1, 1, None),
    ):  # fmt: skip
        progress(name, done, total, loss)
    shown = [(t.description, t.completed, t.total, t.fields["loss"]) for t in bars.tasks]
    assert shown == [
        ("finetune", 2, 2, "loss 0.25"),
        ("finetune", 2, 2, "loss 0.0625"),
        ("check", 1, 1, ""),
    ]


def test_a_continued_training_starts_its_bar_where_it_was() -> None:
    bars = Progress(console=Console(file=io.StringIO()))
    progress = console.progress_bars(bars)
    progress("finetune", 700, 1000, 0.5)
    assert bars.tasks[0].completed == 700
    assert bars.tasks[0].speed is None


@pytest.mark.parametrize("facts", [FACTS, FACTS | ERRORS])
def test_training_takes_one_line(facts: dict[str, float]) -> None:
    passes = [PassReport("finetune", 3, 12.34, facts), PassReport("encode", 3, 0.1, {"bytes": 5})]
    [line] = training_lines(passes)
    with_errors = (
        "finetune: 1,250 steps in 12.3 s, epoch 7 kept; training loss 0.01235, error 0.40 %; "
        "validation loss 0.25 -> 0.03125, error 10.00 % -> 1.55 %"
    )
    without = "finetune: 1,250 steps in 12.3 s, epoch 7 kept; training loss 0.01235; validation loss 0.25 -> 0.03125"
    assert line == (with_errors if "training error" in facts else without)
    report = CompileReport("m", "", 0, "session", 2, 1, 0, [], passes=passes)
    assert line in console.compile_summary(report)
    assert line.replace(">", "&gt;") in report.to_html()
    assert report.to_dict()["passes"][0]["facts"] == facts


def shown(width: int) -> list[str]:
    """The table of a packed weight and one left alone, in a terminal so wide."""
    rows = [
        TensorRow(
            "encoder.layer.0.weight", (500, 20, 5, 5), "float32", 1_000_000, 278_910, kept=0.25, bits=5,
            coded_index_bits=4.8, position_bits=4, coded_position_bits=3.9, sqnr_db=32.1, coder="huffman",
        ),
        TensorRow("encoder.layer.0.bias", (500,), "float32", 2_000, 2_000, reason="fewer than the minimum of 1024"),
    ]  # fmt: skip
    out = io.StringIO()
    Console(file=out, width=width).print(console.TensorTable(rows))
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [70, 80, 100, 130, 200])
def test_numbers_stay_whole_in_a_narrow_terminal(width: int) -> None:
    lines = shown(width)
    assert all(len(line) <= width for line in lines)
    for numbers in ("500x20x5x5", "278,910", "280,910", "3.59x", "32.1"):
        assert any(numbers in line.split() for line in lines), numbers
    text = " ".join(" ".join(lines).split())
    assert ("4.80" in text) == (width >= 130)
    assert "left alone" in text
    assert ("minimum of 1024" in text) == (width >= 130)
    assert ("--json and --report" in text) == (width < 130)
