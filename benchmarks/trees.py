"""`python benchmarks/trees.py [--quick]`: tree ensembles beside xz, xz by column, treelite and ccp_alpha.

Prints the table of docs/measured.md. A random forest and boosted trees are grown by scikit-learn on made-up samples and
exported by skl2onnx (`pip install skl2onnx`; treelite is compared where it is installed). What takes data gets samples
that the trees have not seen; scores are of yet others. `--quick` grows a tenth.
"""

from __future__ import annotations

import argparse
import lzma
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from sklearn.base import BaseEstimator
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier

from dc_compiler import InferenceSession, compile_model

Array = np.ndarray
DROP = 0.5  # points
ALPHAS = (0.0002, 0.0005, 0.001, 0.002)
WAYS = {
    "dcc lossless": "encode(lossless)",
    "dcc, no data (the default)": "canonicalize,encode",
    "dcc cluster(trees)": "cluster(trees),encode",
    f"dcc prune(trees,drop={DROP})": f"prune(trees,drop={DROP}),encode",
    "dcc both": f"prune(trees,drop={DROP}),cluster(trees),encode",
}


@dataclass(frozen=True)
class Task:
    """A model, samples to calibrate on and samples to test on."""

    name: str
    estimator: BaseEstimator
    grown: tuple[Array, Array]
    given: tuple[Array, Array]
    tested: tuple[Array, Array]


def tasks(part: int) -> Iterator[Task]:
    """The forest of the paper's kind of size and two boosted models; ``part`` divides how many samples each takes."""
    x, y = make_classification(20_000, 20, n_informative=10, n_classes=3, random_state=0)
    x, n = x.astype(np.float32), 5000 // part
    parts = [(x[a:b], y[a:b]) for a, b in ((0, n), (5000, 12_000), (12_000, 20_000))]
    yield Task("random forest, 100 trees", RandomForestClassifier(100, random_state=0), *parts)
    yield Task("boosted trees, 3 classes", GradientBoostingClassifier(n_estimators=100, random_state=0), *parts)
    x, y = make_regression(20_000, 15, n_informative=10, noise=5, random_state=0)
    x, y = x.astype(np.float32), y.astype(np.float32)
    parts = [(x[a:b], y[a:b]) for a, b in ((0, n), (5000, 12_000), (12_000, 20_000))]
    yield Task("boosted trees, regression", GradientBoostingRegressor(n_estimators=200, random_state=0), *parts)


def export(estimator: BaseEstimator, x: Array, path: Path) -> None:
    """Write the model through skl2onnx."""
    to_onnx = import_module("skl2onnx").to_onnx  # no dependency of dcc

    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "classes_") else None
    onnx.save(to_onnx(estimator, x[:1], options=options, target_opset={"": 17, "ai.onnx.ml": 3}), path)


def by_column(model: onnx.ModelProto) -> int:
    """Bytes of xz over each attribute by itself, as 4 bytes an element, and over the rest."""
    total, rest = 0, onnx.ModelProto()
    rest.CopyFrom(model)
    for node in rest.graph.node:
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            if isinstance(value, list) and value:
                is_text = isinstance(value[0], bytes)
                kind = np.float32 if isinstance(value[0], float) else np.int32
                content = b"\n".join(value) if is_text else np.array(value, kind).tobytes()
                total += len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
                attribute.CopyFrom(onnx.AttributeProto(name=attribute.name, type=attribute.type))
    return total + len(lzma.compress(rest.SerializeToString(), preset=9))


def score(session: Any, x: Array, y: Array) -> float:
    """Accuracy, or the share of the variance that is explained."""
    said = np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0]).ravel()
    return float((said == y).mean() if y.dtype.kind == "i" else 1 - np.square(said - y).mean() / y.var())


def seconds(make: Any, times: int = 5) -> float:
    """Median of some calls."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        make()
        found.append(time.perf_counter() - start)
    return median(found)


def measured(task: Task, folder: Path) -> Iterator[str]:
    """Rows of the table."""
    source = folder / "in.onnx"
    estimator = task.estimator.fit(*task.grown)
    export(estimator, task.grown[0], source)
    model, size = onnx.load(source), source.stat().st_size
    session = onnxruntime.InferenceSession(source)
    nodes = sum(len(a.ints) for n in model.graph.node for a in n.attribute if a.name == "nodes_nodeids")
    before = score(session, *task.tested)
    load = seconds(lambda: onnxruntime.InferenceSession(source))
    feed = {session.get_inputs()[0].name: task.tested[0][:1000]}
    run = seconds(lambda: session.run(None, feed))
    yield f"| {task.name} | {size:,} | {nodes:,} nodes | {before:.4f} | | 1.00x | 1.00x |"
    yield _row("xz", size, len(lzma.compress(source.read_bytes(), preset=9 | lzma.PRESET_EXTREME)))
    yield _row("xz, by column", size, by_column(model))
    yield from _treelite(estimator, size)
    data = {session.get_inputs()[0].name: task.given[0], "labels": task.given[1]}
    for way, pipeline in WAYS.items():
        needs = {"data": data, "labels": "labels"} if "trees" in pipeline else {}
        target = folder / "out.onnx"
        start = time.perf_counter()
        report = compile_model(source, target, pipeline=pipeline, force=True, **needs).report  # type: ignore[arg-type]
        took = time.perf_counter() - start
        packed = InferenceSession(target)
        loads = seconds(lambda file=target: InferenceSession(file)) / load
        runs = seconds(lambda opened=packed: opened.run(None, feed)) / run
        after = score(packed, *task.tested)
        yield _row(way, size, report.output_bytes, f"{after:.4f} | {took:.1f} s | {loads:.2f}x | {runs:.2f}x")
    if isinstance(task.estimator, RandomForestClassifier):
        yield from _by_alpha(task, folder, size, score(session, *task.given))


def _row(way: str, size: int, found: int, more: str = "| | |") -> str:
    return f"| {way} | {found:,} | {size / found:.2f}x | {more} |"


def _treelite(estimator: BaseEstimator, size: int) -> Iterator[str]:
    try:
        treelite = import_module("treelite")
    except ImportError:
        return
    content = treelite.sklearn.import_model(estimator).serialize_bytes()
    yield _row("treelite", size, len(content))
    yield _row("treelite, xz", size, len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)))


def _by_alpha(task: Task, folder: Path, size: int, before: float) -> Iterator[str]:
    """Forests grown again and pruned by scikit-learn: the smallest that keeps within the drop on the samples given."""
    best: Mapping[str, Any] = {}
    for alpha in ALPHAS:
        forest = RandomForestClassifier(100, random_state=0, ccp_alpha=alpha).fit(*task.grown)
        path = folder / f"alpha{alpha}.onnx"
        export(forest, task.grown[0], path)
        session = onnxruntime.InferenceSession(path)
        if 100 * (before - score(session, *task.given)) <= DROP:
            best = {"alpha": alpha, "path": path, "score": score(session, *task.tested)}
    if not best:
        yield f"| scikit-learn's ccp_alpha | | | no alpha of {ALPHAS} keeps within {DROP} points | | | |"
        return
    packed = len(lzma.compress(best["path"].read_bytes(), preset=9 | lzma.PRESET_EXTREME))
    result = compile_model(best["path"], preset="lossless").report.output_bytes
    yield _row(f"ccp_alpha={best['alpha']}, xz", size, packed, f"{best['score']:.4f} | | |")
    yield _row(f"ccp_alpha={best['alpha']}, dcc lossless", size, result, f"{best['score']:.4f} | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples")
    arguments = parser.parse_args()
    print("| | bytes | ratio | score | compiled in | load | 1000 rows |")
    print("|---|---|---|---|---|---|---|")
    for task in tasks(10 if arguments.quick else 1):
        with TemporaryDirectory() as folder:
            for row in measured(task, Path(folder)):
                print(row, flush=True)


if __name__ == "__main__":
    main()
