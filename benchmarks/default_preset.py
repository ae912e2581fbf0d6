"""The default preset without data: whole-file ratio and task metric, for pairs of a model and its test.

    python benchmarks/default_preset.py model.onnx eval.py [model.onnx eval.py ...]

A test script is run as `eval.py MODEL --custom-op LIBRARY` and prints a line `metric = value ...`.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from dc_compiler import compile_model, get_library_path


def metric(script: Path, model: Path) -> tuple[str, float]:
    """Name and value of what the test script prints first."""
    command = [sys.executable, str(script), str(model), "--custom-op", get_library_path()]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"^(\S+) = (\S+)", text, re.MULTILINE)
    if match is None:
        raise SystemExit(f"{script} printed no metric: {text}")
    return match[1], float(match[2])


def main() -> None:
    """Compile and test every pair; print a table and the geometric mean of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", type=Path)
    pairs = parser.parse_args().pairs
    ratios = []
    print(f"{'model':12} {'bytes':>11} {'compiled':>11} {'ratio':>7}  metric before -> after (relative change)")
    with tempfile.TemporaryDirectory() as folder:
        for model, script in zip(pairs[::2], pairs[1::2], strict=True):
            output = Path(folder) / model.name
            report = compile_model(model, output).report
            name, before = metric(script, model)
            _, after = metric(script, output)
            ratios.append(report.ratio)
            change = f"{before:.4f} -> {after:.4f} ({100 * (after / before - 1):+.2f} %)"
            sizes = f"{report.original_bytes:11,} {report.output_bytes:11,} {report.ratio:6.2f}x"
            print(f"{model.stem:12} {sizes}  {name} {change}", flush=True)
    print(f"geometric mean {math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}x")


if __name__ == "__main__":
    main()
