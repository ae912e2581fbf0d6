"""Layers in int8: `--execution int8` beside floats and onnxruntime's own quantizers; size, latency and metric.

    python benchmarks/int8.py model.onnx data.npz eval.py [model.onnx data.npz eval.py ...] [--batches 1 16]

The arrays of the data are named as the model's inputs; dcc and the static quantizer find ranges on them. A test script
is run as `eval.py MODEL --custom-op LIBRARY` and prints a line `metric = value ...`. Latencies are of one thread, the
original's over each model's, run in turn: medians with quartiles.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from default_preset import FailedTestError, metric
from peers import Result, quantized

from dc_compiler import InferenceSession, compile_model, session_options
from dc_compiler.errors import DccError
from dc_compiler.model import files
from dc_compiler.ort import data as reading

Array = np.ndarray
ROUNDS, LEAST_ROUNDS = 41, 5
MOST_SECONDS = 20.0  # of runs of one model and batch
PEERS = ("int8 static", "int8 dynamic")


def made(model: Path, data: Path, folder: Path) -> Iterator[Result]:
    """The files to compare."""
    yield Result("original", "", files.file_size(model), model)
    for execution in ("dense", "int8"):
        for given, name in ((None, "no data"), (data, "data")):
            target = folder / f"{execution}{name.replace(' ', '_')}.onnx"
            try:
                compile_model(model, target, data=given, execution=execution)
            except DccError as e:
                yield Result(f"dcc {execution}, {name}", "", note=str(e))
                continue
            yield Result(f"dcc {execution}, {name}", "", files.file_size(target), target)
    yield from (_loadable(r) for r in quantized(model, data, folder) if r.way in PEERS)


def _loadable(result: Result) -> Result:
    """The result, or why onnxruntime cannot load what its own quantizer wrote."""
    if result.model is not None:
        try:
            InferenceSession(result.model, session_options(log_severity_level=4))
        except Exception as e:  # onnxruntime's exceptions share no base class
            return Result(result.way, result.setting, note=f"does not load: {' '.join(str(e).split())[:60]}")
    return result


def speedups(models: Sequence[Path], feed: reading.Feed) -> list[Array]:
    """Latency of the first model over each one's, round by round."""
    sessions = [InferenceSession(m, session_options(intra_op_num_threads=1, log_severity_level=4)) for m in models]
    times: list[list[float]] = [[] for _ in models]
    end = time.perf_counter() + MOST_SECONDS
    while len(times[0]) < LEAST_ROUNDS or (len(times[0]) < ROUNDS and time.perf_counter() < end):
        for session, own in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            own.append(time.perf_counter() - start)
    first = np.array(times[0])
    return [first / np.array(t) for t in times]


def line(result: Result, original: Result, test: Path, ratios: Sequence[Array]) -> str:
    """What is shown of a result."""
    if result.model is None:
        return f"{result.way:28}{result.note}"
    try:
        value = f"{metric(test, result.model)[1]:.4f}"
    except FailedTestError:
        value = "-"
    spreads = [np.percentile(r, [50, 25, 75]).tolist() for r in ratios]
    shown = "".join(f"{f'{median:.2f} ({low:.2f}-{high:.2f})':>20}" for median, low, high in spreads)
    return f"{result.way:28}{result.bytes:12,}{original.bytes / result.bytes:7.2f}x{value:>9}{shown}"


def measure(model: Path, data: Path, test: Path, batches: Sequence[int]) -> None:
    """Print a line for each way."""
    with tempfile.TemporaryDirectory() as folder:
        results = list(made(model, data, Path(folder)))
        table = reading.read(data, reading.input_specs(onnx.load(model))).joined().feeds[0]
        runnable = {r.way: r.model for r in results if r.model is not None}
        found = [speedups(list(runnable.values()), reading.take(table, np.arange(b))) for b in batches]
        ratios = {way: [of_batch[i] for of_batch in found] for i, way in enumerate(runnable)}
        head = "".join(f"{f'batch {b}':>20}" for b in batches)
        print(f"\n{model.stem:28}{'bytes':>12}{'ratio':>8}{'metric':>9}{head}")
        for result in results:
            print(line(result, results[0], test, ratios.get(result.way, [])), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("triples", nargs="+", type=Path, metavar="MODEL DATA TEST")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    arguments = parser.parse_args(argv)
    if len(arguments.triples) % 3:
        parser.error("give a model, its data and its test, once or more")
    for i in range(0, len(arguments.triples), 3):
        model, data, test = arguments.triples[i : i + 3]
        measure(model, data, test, arguments.batches)


if __name__ == "__main__":
    main()
