"""Size, load time, latency and peak memory of two models, side by side in one run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from dc_compiler.errors import DccError, InvalidArgumentError, ModelError
from dc_compiler.model import files, packed
from dc_compiler.ort import data, energy, made_up, memory
from dc_compiler.ort.sessions import Sessions

LOAD_RUNS = 5
LATENCY_SECONDS = 2.0  # at least this long, and at least LATENCY_RUNS pairs
LATENCY_RUNS = 10
ENERGY_SECONDS = 1.0


@dataclass(frozen=True)
class BenchRow:
    """One figure: medians of both sides, the median of the ratios of pairs measured one after the other, and their
    quartiles."""

    name: str
    unit: str
    original: float
    compiled: float
    ratio: float
    low: float
    high: float

    @property
    def original_text(self) -> str:
        return _text(self.original, self.unit)

    @property
    def compiled_text(self) -> str:
        return _text(self.compiled, self.unit)

    @property
    def spread_text(self) -> str:
        return "" if self.low == self.high else f"{self.low:.3f} to {self.high:.3f}"


@dataclass(frozen=True)
class BenchResult:
    """All rows: size, load time, peak memory, latency, and energy as far as it is known."""

    rows: list[BenchRow]
    threads: int


def bench(
    original: Path, compiled: Path, *, threads: int = 1, seed: int = 0, custom_op_libraries: Iterable[Path] = ()
) -> BenchResult:
    """Measure both models with onnxruntime on the CPU.

    Energy is modelled (:mod:`dc_compiler.ort.energy`), and counted where processors do. Load time and peak memory come
    from fresh processes, alternating; latency from one process, alternating runs on
    the same made-up inputs. ``custom_op_libraries`` have operators that the models need beside onnxruntime's own.

    Raises:
        ModelError: a model is missing, or onnxruntime cannot run it.
        InvalidArgumentError: fewer than one thread, or a library does not exist.
    """
    if threads < 1:
        raise InvalidArgumentError(f"threads {threads} is not valid; give 1 or more")
    sessions = Sessions(custom_op_libraries)
    sources = [files.read_model(p) for p in (original, compiled)]
    registers = [packed.is_compiled(s.proto) for s in sources]
    rows = [_row("file size", "bytes", [float(sources[0].size)], [float(sources[1].size)])]
    protos = [s.proto for s in sources]
    del sources
    loads = [[_load_in_process(p, r, threads, sessions) for p, r in zip((original, compiled), registers, strict=True)]
             for _ in range(LOAD_RUNS)]  # fmt: skip
    rows.append(_row("load time", "s", [a["seconds"] for a, _ in loads], [b["seconds"] for _, b in loads]))
    rows.append(_row("peak memory", "bytes", [a["peak"] for a, _ in loads], [b["peak"] for _, b in loads]))
    first = sessions.open(original, threads, compiled=registers[0])
    second = sessions.open(compiled, threads, compiled=registers[1])
    found = made_up.feeds(first, data.input_specs(protos[0]), protos[0], seed, count=1)
    if found.reason is not None:
        raise ModelError(found.reason)
    feed = found.feeds[0]
    rows.append(_row("latency", "s", *_latencies(first, second, feed)))
    rows += _energy_rows(protos, [first, second], feed)
    return BenchResult(rows, threads)


def _latencies(first: object, second: object, feed: data.Feed) -> tuple[list[float], list[float]]:
    """Seconds of alternating runs of both sessions."""
    times: tuple[list[float], list[float]] = ([], [])
    for session in (first, second):
        session.run(None, feed)  # type: ignore[attr-defined]
    end = time.perf_counter() + LATENCY_SECONDS
    while len(times[0]) < LATENCY_RUNS or (time.perf_counter() < end and len(times[0]) < 2000):
        order = (0, 1) if len(times[0]) % 2 == 0 else (1, 0)
        for side in order:
            start = time.perf_counter()
            (first, second)[side].run(None, feed)  # type: ignore[attr-defined]
            times[side].append(time.perf_counter() - start)
    return times


def _energy_rows(protos: Sequence[onnx.ModelProto], sessions: Sequence[Any], feed: data.Feed) -> list[BenchRow]:
    """Energy of a run as modelled, where the graphs tell, and as the processors count it, where they do."""
    rows = []
    shapes = {name: tuple(array.shape) for name, array in feed.items()}
    modelled = [energy.energy(proto, shapes) for proto in protos]
    if all(m is not None for m in modelled):
        before, after = ([m.total] for m in modelled if m is not None)
        rows.append(_row("energy, model", "J", before, after))
    counted = [_counted_joules(session, feed) for session in sessions]
    if all(c is not None for c in counted):
        before, after = ([c] for c in counted if c is not None)
        rows.append(_row("energy, counted", "J", before, after))
    return rows


def _counted_joules(session: Any, feed: data.Feed) -> float | None:
    """Joules a run of all processors together, over a second; None where nobody counts them."""
    before = energy.counted()
    if before is None:
        return None
    runs, end = 0, time.perf_counter() + ENERGY_SECONDS
    while time.perf_counter() < end or not runs:
        session.run(None, feed)
        runs += 1
    after = energy.counted()
    return None if after is None or after < before else (after - before) / runs


def _row(name: str, unit: str, original: list[float], compiled: list[float]) -> BenchRow:
    ratios = sorted(c / o for o, c in zip(original, compiled, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
    return BenchRow(
        name, unit, statistics.median(original), statistics.median(compiled), statistics.median(ratios), low, high
    )


def _load_in_process(path: Path, compiled: bool, threads: int, sessions: Sessions) -> dict[str, float]:
    code = "import sys; from dc_compiler.ort.bench import load_worker; load_worker(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(path), str(int(compiled)), str(threads), *map(str, sessions.libraries)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    if done.returncode < 0:
        raise ModelError(f"onnxruntime cannot load {path}: the process died of signal {-done.returncode}")
    if done.returncode:
        raise ModelError(f"onnxruntime cannot load {path}: {' '.join(done.stderr.split()[-60:])}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def load_worker(path: str, compiled: str, threads: str, *libraries: str) -> None:
    """Entry of the measuring process: loads the model once and prints seconds and the growth of peak memory."""
    import onnxruntime  # noqa: F401  # its own loading is not what is measured

    sessions = Sessions(libraries)
    before = memory.resident()
    start = time.perf_counter()
    try:
        session = sessions.open(Path(path), int(threads), compiled=compiled == "1")
    except DccError as e:
        raise SystemExit(str(e)) from None
    seconds = time.perf_counter() - start
    sys.stdout.write(json.dumps({"seconds": seconds, "peak": memory.peak() - before}))
    del session


def _text(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value:,.0f}"
    if unit == "J":
        return f"{1e6 * value:,.2f} uJ"
    return f"{1000 * value:.2f} ms"
