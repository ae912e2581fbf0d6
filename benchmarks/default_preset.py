"""The default preset: whole-file ratio and task metric, for pairs of a model and its test.

    python benchmarks/default_preset.py model.onnx eval.py [model.onnx eval.py ...]
        [--data inputs.npz [inputs.npz ...]] [--seeds 0 1 2] [--max-drop D] [--budget MINUTES]

A test script is run as `eval.py MODEL --custom-op LIBRARY` and prints a line `metric = value ...`. With --data, one
file a model, the preset calibrates on these inputs; every seed shares them out differently, and medians are shown.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from dc_compiler import compile_model, get_library_path
from dc_compiler.errors import DccError


class FailedTestError(Exception):
    """Why a test gave no metric."""


def metric(script: Path, model: Path) -> tuple[str, float]:
    """Name and value of what the test script prints first.

    Raises:
        FailedTestError: it ends with an error, or prints no metric.
    """
    command = [sys.executable, str(script), str(model), "--custom-op", get_library_path()]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise FailedTestError(f"{script} fails on {model}: {last}")
    match = re.search(r"^(\S+) = (\S+)", done.stdout, re.MULTILINE)
    if match is None:
        raise FailedTestError(f"{script} printed no line 'metric = value' for {model}: {done.stdout.strip()[:200]}")
    return match[1], float(match[2])


def main() -> None:
    """Compile and test every pair; print a table and the geometric mean of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", type=Path, metavar="MODEL TEST")
    parser.add_argument("--data", nargs="+", type=Path, help="a file a model")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--max-drop", type=float, help="instead of the default bound")
    parser.add_argument("--budget", type=float, help="minutes of training")
    parser.add_argument("--labels", help="name of their array in the files of --data")
    arguments = parser.parse_args()
    models, scripts = arguments.pairs[::2], arguments.pairs[1::2]
    data = arguments.data or [None] * len(models)
    if len(arguments.pairs) % 2 or len(data) != len(models):
        parser.error("give pairs of a model and its test, and with --data a file for each model")
    ratios = []
    titles = f"{'model':12} {'bytes':>11} {'compiled':>11} {'ratio':>7} {'seconds':>8}"
    print(f"{titles}  metric before -> after (relative change)")
    with tempfile.TemporaryDirectory() as folder:
        for model, script, inputs in zip(models, scripts, data, strict=True):
            name, before = metric(script, model)
            found = []
            for seed in arguments.seeds:
                output = Path(folder) / model.name
                options = {"data": inputs, "labels": arguments.labels, "seed": seed}
                options |= {"max_drop": arguments.max_drop, "budget": arguments.budget}
                report = compile_model(model, output, force=True, **options).report
                found.append((report.output_bytes, report.seconds, metric(script, output)[1]))
            size, seconds, after = (statistics.median(column) for column in zip(*found, strict=True))
            ratio = model.stat().st_size / size
            ratios.append(ratio)
            change = f"{before:.4f} -> {after:.4f} ({100 * (after / before - 1):+.2f} %)"
            sizes = f"{model.stat().st_size:11,} {size:11,.0f} {ratio:6.2f}x {seconds:8.1f}"
            each = (
                ""
                if len(found) == 1
                else f"  {' '.join(f'{model.stat().st_size / s:.2f}x {m:.4f}' for s, _, m in found)}"
            )
            print(f"{model.stem:12} {sizes}  {name} {change}{each}", flush=True)
    print(f"geometric mean {math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}x")


if __name__ == "__main__":
    try:
        main()
    except (DccError, FailedTestError) as e:
        raise SystemExit(str(e)) from None
