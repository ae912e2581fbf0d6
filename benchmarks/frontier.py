"""Size against the metric of a test: dcc and its peers over their whole range, a table and a plot a model.

    python benchmarks/frontier.py model.onnx data.npz eval.py [model.onnx data.npz eval.py ...] [--results FOLDER]

The arrays of the data are named as the model's inputs; labels, if there are any, are not used. A test script is run as
`eval.py MODEL --custom-op LIBRARY` and prints a line `metric = value ...`. Bytes are those of whole files. NNCodec
needs older libraries than dcc: `--nncodec PYTHON` names the interpreter of an environment that has it. With
`--training FILE [--labels NAME]`, dcc also trains on these samples, for a model alone: preset `smallest`.

FOLDER gets the points of every model as MODEL.csv and a plot, MODEL.svg; with --only, other points that are there stay.
frontier_page.py makes a page of them, as docs/frontier.md was made of docs/frontier.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from default_preset import FailedTestError, metric
from frontier_page import NNCODEC, ORIGINAL, Measured, Point, read, summary, summary_of_all
from peers import Result, nncodec, quantized

from dc_compiler import compile_model
from dc_compiler.calibration.search import around_grid
from dc_compiler.errors import DccError
from dc_compiler.model import files
from dc_compiler.pass_manager import PassManager
from dc_compiler.recipe import MEASURED_MIN_SIZE, parse_pipeline

STEPS = (0.08, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
NAIVE = ((None, 8), (None, 6), (None, 5), (None, 4), (0.7, 6), (0.5, 6))  # density and bits
BUDGET = 10.0  # minutes
QPS = tuple(range(-38, 1, 2))


@dataclass(frozen=True)
class Case:
    """A model, inputs and a test, and where files may be written meanwhile."""

    model: Path
    data: Path
    test: Path
    folder: Path


def _no_data(case: Case, arguments: argparse.Namespace) -> Iterator[Result]:
    return _default(case, arguments, "dcc, no data", None)


def _with_data(case: Case, arguments: argparse.Namespace) -> Iterator[Result]:
    return _default(case, arguments, "dcc, data", case.data)


def _default(case: Case, arguments: argparse.Namespace, way: str, data: Path | None) -> Iterator[Result]:
    """The default preset, with what it finds out about the model, at every step."""
    settled = compile_model(case.model, data=data).report.pipeline
    for step in arguments.steps:
        yield _compiled(case, way, f"step {step:g}", at_step(settled, step), data=data, min_size=MEASURED_MIN_SIZE)


def _trained(case: Case, arguments: argparse.Namespace) -> Iterator[Result]:
    if arguments.training is not None:
        options = {"data": arguments.training, "labels": arguments.labels}
        yield _compiled(case, "dcc, trained", "smallest", preset="smallest", **options)


def _budgeted(case: Case, arguments: argparse.Namespace) -> Iterator[Result]:
    if arguments.budget:
        setting = f"{arguments.budget:g} minutes"
        yield _compiled(case, "dcc, data, budget", setting, data=case.data, budget=arguments.budget)


def _naive(case: Case, arguments: argparse.Namespace) -> Iterator[Result]:
    for density, bits in NAIVE:
        pruned = "" if density is None else f"prune(density={density}),"
        text = f"{pruned}cluster(kmeans,bits={bits}),encode(huffman)"
        setting = f"{bits} bits" + ("" if density is None else f", {100 * density:g} % kept")
        yield _compiled(case, "naive k-means" if density is None else "naive pruning, k-means", setting, text)


def _quantized(case: Case, arguments: argparse.Namespace) -> Iterator[Result]:
    return quantized(case.model, case.data, case.folder)


def _nncodec(case: Case, arguments: argparse.Namespace) -> Iterator[Result]:
    return nncodec(case.model, case.folder, arguments.nncodec, arguments.qps)


# What is measured, in the order of the table. Of what gets coarser and coarser, nothing is asked beyond the first point
# that is not worth a look.
WAYS: Mapping[str, Callable[[Case, argparse.Namespace], Iterator[Result]]] = {
    "onnxruntime": _quantized, "nncodec": _nncodec, "no-data": _no_data, "data": _with_data,
    "budget": _budgeted, "trained": _trained, "naive": _naive,
}  # fmt: skip
LADDERS = frozenset({"nncodec", "no-data", "data"})


def at_step(pipeline: str, step: float) -> str:
    """A pipeline with another step of its cluster(grid)."""
    parts = around_grid(parse_pipeline(pipeline))
    assert parts is not None
    before, cluster, after = parts
    return PassManager([*before, cluster.with_options({"step": repr(step)}), *after]).text()


def _compiled(case: Case, way: str, setting: str, pipeline: str | None = None, **options: object) -> Result:
    target = case.folder / "compiled.onnx"
    try:
        compile_model(case.model, target, pipeline=pipeline, **options)  # type: ignore[arg-type]
    except DccError as e:
        return Result(way, setting, note=str(e))
    return Result(way, setting, files.file_size(target), target)


def measure(model: Path, data: Path, test: Path, arguments: argparse.Namespace) -> Measured:
    """Test everything of a model; print a line for each point, and keep it. Gives all points, those kept before too."""
    name, before = metric(test, model)
    measured = Measured(
        model.stem, name, command(model, data, test, arguments), [Point(ORIGINAL, "", files.file_size(model), before)]
    )  # fmt: skip
    print(f"\n{model.stem}: {name}", *measured.lines(), sep="\n", flush=True)
    old = read_known(arguments.results, model)
    with tempfile.TemporaryDirectory() as folder:
        case = Case(model, data, test, Path(folder))
        for way in arguments.only:
            for result in WAYS[way](case, arguments):
                point = _tested(result, test)
                measured.points.append(point)
                print(measured.line(point), flush=True)
                if arguments.results is not None:  # now, as it takes hours
                    joined(measured, old).write(arguments.results)
                if way in LADDERS and point.value is not None and not measured.is_near(point.value):
                    break
    return joined(measured, old)


def read_known(folder: Path | None, model: Path) -> Measured | None:
    """What is kept of a model."""
    known = None if folder is None else folder / f"{model.stem}.csv"
    return read(known) if known is not None and known.exists() else None


def _tested(result: Result, test: Path) -> Point:
    if result.model is None:
        return Point(result.way, result.setting, note=result.note)
    try:
        return Point(result.way, result.setting, result.bytes, metric(test, result.model)[1])
    except FailedTestError as e:
        return Point(result.way, result.setting, note=str(e).replace(str(result.model), "it"))


def command(model: Path, data: Path, test: Path, arguments: argparse.Namespace) -> str:
    """What measures the points again, without what differs from machine to machine."""
    words = ["python", "benchmarks/frontier.py", *(p.name for p in (model, data, test))]
    for option, numbers, usual in (("--qps", arguments.qps, QPS), ("--steps", arguments.steps, STEPS)):
        if tuple(numbers) != usual:
            words += [option, *(f"{n:g}" for n in numbers)]
    if arguments.budget != BUDGET:
        words += ["--budget", f"{arguments.budget:g}"]
    if arguments.training is not None:
        words += ["--training", arguments.training.name]
        words += [] if arguments.labels is None else ["--labels", arguments.labels]
    return shlex.join(words)


def joined(new: Measured, old: Measured | None) -> Measured:
    """All points of ``new``, and those of ``old`` of other ways, the ways in the order in which they came."""
    if old is None:
        return new
    ways = {p.way for p in new.points}
    order = list(dict.fromkeys(p.way for p in [*old.points, *new.points]))
    points = [*new.points, *(p for p in old.points if p.way not in ways)]
    return dataclasses.replace(new, points=sorted(points, key=lambda p: order.index(p.way)))


def main(argv: Sequence[str] | None = None) -> None:
    """Test everything of every model; print tables, and keep what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("triples", nargs="+", type=Path, metavar="MODEL DATA TEST")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where points and plots are kept")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS), help="measure these ways only")
    parser.add_argument("--nncodec", default=sys.executable, metavar="PYTHON", help=f"interpreter that has {NNCODEC}")
    parser.add_argument("--qps", type=int, nargs="+", default=QPS, help=f"{NNCODEC}'s quantization parameters")
    parser.add_argument("--steps", type=float, nargs="+", default=STEPS, help="of dcc's grid")
    parser.add_argument(
        "--budget", type=float, default=BUDGET, metavar="MINUTES", help="of training on the data; 0: none"
    )
    parser.add_argument("--training", type=Path, metavar="FILE", help="samples to train on")
    parser.add_argument("--labels", metavar="NAME", help="its array of labels")
    arguments = parser.parse_args(argv)
    if len(arguments.triples) % 3:
        parser.error("give a model, its data and its test, once or more")
    if arguments.training is not None and len(arguments.triples) > 3:
        parser.error("--training is for one model")
    found = []
    for i in range(0, len(arguments.triples), 3):
        model, data, test = arguments.triples[i : i + 3]
        measured = measure(model, data, test, arguments)
        print("", *summary(measured), sep="\n", flush=True)
        found.append(measured)
    print("", *summary_of_all(found), sep="\n")


if __name__ == "__main__":
    try:
        main()
    except (DccError, FailedTestError) as e:
        raise SystemExit(str(e)) from None
