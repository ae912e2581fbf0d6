"""Size against the metric of a test: dcc and its peers over their whole range, one table and one plot a model.

    python benchmarks/frontier.py model.onnx data.npz eval.py [model.onnx data.npz eval.py ...] [--plots FOLDER]

The arrays of the data are named as the model's inputs; labels, if there are any, are not used. A test script is run as
`eval.py MODEL --custom-op LIBRARY` and prints a line `metric = value ...`. Bytes are those of whole files. NNCodec
needs older libraries than dcc: `--nncodec PYTHON` names the interpreter of an environment that has it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from default_preset import metric
from peers import Result, nncodec, quantized

from dc_compiler import compile_model
from dc_compiler.errors import DccError
from dc_compiler.model import files
from dc_compiler.plot import NAMESPACE, Axis, Series, svg
from dc_compiler.recipe import CALIBRATED_MIN_SIZE, PRESETS

STEPS = (0.08, 0.15, 0.25, 0.4, 0.6, 0.9, 1.3, 2.0)
NAIVE = ((None, 8), (None, 6), (None, 5), (None, 4), (0.7, 6), (0.5, 6))  # density and bits
NEAR = 0.1  # of the original's metric: what lost more is in the table, but not in the plot
QPS = (-40, -36, -32, -28, -24, -20, -16)


def ours(model: Path, data: Path, folder: Path) -> Iterator[Result]:
    """The default preset without data and calibrated, at every step; the paper's pipeline without retraining."""
    preset = PRESETS["default"]
    assert preset.calibrated is not None
    for step in STEPS:
        text = preset.pipeline.replace("cluster(grid)", f"cluster(grid,step={step})")
        yield _compiled(model, folder, "dcc, no data", f"step {step}", text, min_size=preset.min_size)
    for step in STEPS:
        text = preset.calibrated.replace("step=0.5", f"step={step}")
        yield _compiled(
            model, folder, "dcc, data", f"step {step}", text, data=data, min_size=CALIBRATED_MIN_SIZE
        )  # fmt: skip
    for density, bits in NAIVE:
        pruned = "" if density is None else f"prune(density={density}),"
        text = f"{pruned}cluster(kmeans,bits={bits}),encode(huffman)"
        setting = f"{bits} bits" + ("" if density is None else f", {100 * density:g} % kept")
        yield _compiled(model, folder, "naive k-means, Huffman", setting, text)


def _compiled(model: Path, folder: Path, way: str, setting: str, pipeline: str, **options: object) -> Result:
    target = folder / "compiled.onnx"
    try:
        compile_model(model, target, pipeline=pipeline, **options)  # type: ignore[arg-type]
    except DccError as e:
        return Result(way, setting, note=str(e))
    return Result(way, setting, files.file_size(target), target)


def main() -> None:
    """Test everything of every model; print a table and write a plot for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("triples", nargs="+", type=Path, metavar="MODEL DATA TEST")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write MODEL.svg there")
    parser.add_argument("--nncodec", default=sys.executable, metavar="PYTHON", help="interpreter that has NNCodec")
    parser.add_argument("--qps", type=int, nargs="+", default=QPS, help="NNCodec's quantization parameters")
    arguments = parser.parse_args()
    if len(arguments.triples) % 3:
        parser.error("give a model, its data and its test, once or more")
    for i in range(0, len(arguments.triples), 3):
        model, data, script = arguments.triples[i : i + 3]
        compare(model, data, script, arguments)


def reached(points: Sequence[tuple[float, float]], least: float) -> float | None:
    """The largest ratio of points (ratio, metric) with a metric of at least ``least``; where the next larger ratio has
    less, between the two, on a line over the ratio's logarithm. None where no point has it."""
    ordered = sorted(points)
    good = [i for i, (_, value) in enumerate(ordered) if value >= least]
    if not good:
        return None
    ratio, value = ordered[good[-1]]
    if good[-1] + 1 == len(ordered):
        return ratio
    further, worse = ordered[good[-1] + 1]
    return float(ratio * (further / ratio) ** ((value - least) / (value - worse)))


def _summary(curves: Mapping[str, Sequence[tuple[float, float]]], before: float) -> None:
    """Print the largest ratios at an equal metric."""
    bounds = {"within 0.5 %": before - 0.005 * abs(before), "within 1 point": before - 0.01}
    print(f"\n{'largest ratio':28} {'':20} " + " ".join(f"{title:>16}" for title in bounds))
    for way, points in curves.items():
        found = (reached(points, bound) for bound in bounds.values())
        print(f"{way:28} {'':20} " + " ".join(f"{'-' if r is None else f'{r:.2f}x':>16}" for r in found))


def compare(model: Path, data: Path, script: Path, arguments: argparse.Namespace) -> None:
    """The table and the plot of one model."""
    size = files.file_size(model)
    name, before = metric(script, model)
    print(f"\n{model.stem}: {name}\n{'':28} {'':20} {'bytes':>12} {'ratio':>8} {'metric':>8} {'change':>9}")
    curves: dict[str, list[tuple[float, float]]] = {}

    def show(result: Result, value: float) -> None:
        ratio, change = size / result.bytes, 100 * (value / before - 1) if before else 0.0
        curves.setdefault(result.way, []).append((ratio, value))
        figures = f"{result.bytes:12,} {ratio:7.2f}x {value:8.4f} {change:+7.2f} %"
        print(f"{result.way:28} {result.setting:20} {figures}", flush=True)

    show(Result("original", "", size, model), before)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for results in (
            quantized(model, data, folder), nncodec(model, folder, arguments.nncodec, arguments.qps),
            ours(model, data, folder),
        ):  # fmt: skip
            for result in results:
                if result.model is None:
                    print(f"{result.way:28} {result.setting:20} {result.note}", flush=True)
                    continue
                show(result, metric(script, result.model)[1])
    _summary(curves, before)
    if arguments.plots is not None:
        arguments.plots.mkdir(parents=True, exist_ok=True)
        near = {way: [p for p in points if p[1] >= before - NEAR * abs(before)] for way, points in curves.items()}
        lines = [Series(way, points) for way, points in near.items() if points]
        axes = Axis("original bytes / file bytes", is_log=True), Axis(name)
        (arguments.plots / f"{model.stem}.svg").write_text(svg(*axes, lines, NAMESPACE) + "\n")


if __name__ == "__main__":
    main()
