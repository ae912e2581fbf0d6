"""Time grows with the size of a model, not with its square: four times as much takes four times as long, not 16."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from dc_compiler import compile_model, compiler, inspect_model, unpack_model
from dc_compiler.console import MOST_ROWS, TensorTable, rendered
from dc_compiler.ort.verify import Verification

LIMIT = 8.0  # half way between 4 and 16
ROUNDS = 5


def chain(nodes: list[onnx.NodeProto], last: str, weights: list[onnx.TensorProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 8])],
        [helper.make_tensor_value_info(last, 1, ["n", 8])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weights(count: int, kind: str) -> onnx.ModelProto:
    """``count`` products with weights of 8 x 8, in initializers or in Constant nodes."""
    random = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array((random.integers(-3, 4, (8, 8)) / 4).astype(np.float32), f"w{i}") for i in range(count)
    ]
    nodes = [helper.make_node("MatMul", ["x" if i == 0 else f"v{i - 1}", f"w{i}"], [f"v{i}"]) for i in range(count)]
    if kind == "constants":
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors] + nodes
        tensors = []
    return chain(nodes, f"v{count - 1}", tensors)


def operators(count: int) -> onnx.ModelProto:
    """A weight and ``count`` nodes without any."""
    names = ["x", *(f"v{i}" for i in range(count))]
    nodes = [helper.make_node("Neg" if i % 2 else "Abs", [names[i]], [names[i + 1]]) for i in range(count - 1)]
    nodes.append(helper.make_node("MatMul", [names[count - 1], "w"], [names[count]]))
    return chain(nodes, names[count], [numpy_helper.from_array(np.eye(8, dtype=np.float32) + 1, "w")])


def ratio(action: Callable[[onnx.ModelProto], object], make: Callable[[int], onnx.ModelProto], count: int) -> float:
    """Processor time for ``4 * count`` over that for ``count``: what else the machine does hardly counts."""
    models = [make(count), make(4 * count)]
    ratios = []
    for _ in range(ROUNDS):
        times = []
        for model in models:
            gc.collect()
            start = time.process_time()
            action(model)
            times.append(time.process_time() - start)
        ratios.append(times[1] / times[0])
        if ratios[-1] < LIMIT:
            break
    return min(ratios)


@pytest.fixture
def own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnxruntime's part: loading and running models."""
    monkeypatch.setattr("dc_compiler.ort.verify.verify", lambda *_, **__: Verification("made-up inputs"))
    monkeypatch.setattr(compiler, "shapes_of_outputs", lambda *_: ({}, None))


@pytest.mark.parametrize("form", ["session", "graph"])
@pytest.mark.parametrize("kind", ["initializers", "constants"])
def test_many_small_weights(kind: str, form: str, own_work: None, tmp_path: Path) -> None:
    def compile_and_back(model: onnx.ModelProto) -> None:
        path = tmp_path / f"{len(model.graph.node)}.onnx"
        compile_model(model, path, pipeline="cluster,encode", min_size=1, emit=form, force=True)
        inspect_model(path)
        unpack_model(path)

    assert ratio(compile_and_back, lambda n: weights(n, kind), 250) < LIMIT


@pytest.mark.parametrize("form", ["session", "graph"])
def test_many_nodes(form: str, own_work: None) -> None:
    def compile_it(model: onnx.ModelProto) -> None:
        compile_model(model, pipeline="encode(lossless)", min_size=1, emit=form)

    assert ratio(compile_it, operators, 10_000) < LIMIT


def test_tables_stay_readable(tmp_path: Path) -> None:
    """Of many weights the largest are shown, and a line for the others; with ``--all`` every one."""
    model = weights(2 * MOST_ROWS, "initializers")
    large = numpy_helper.from_array(np.zeros((8, 9), np.float32), "large")
    model.graph.initializer.append(large)
    model.graph.node.append(helper.make_node("MatMul", ["x", "large"], ["y"]))
    model.graph.output.append(helper.make_tensor_value_info("y", 1, None))
    onnx.save(model, tmp_path / "m.onnx")
    rows = inspect_model(tmp_path / "m.onnx", min_size=1).tensors
    lines = rendered([TensorTable(rows)]).splitlines()
    assert len(lines) == MOST_ROWS + 3
    assert [line.split()[0] for line in lines[1:-2]] == [*(f"w{i}" for i in range(MOST_ROWS - 1)), "large"]
    assert lines[-2].split()[:4] == [str(MOST_ROWS + 1), "smaller", "weights", f"{64 * (MOST_ROWS + 1):,}"]
    assert lines[-1].split()[:3] == ["all", "weights", f"{64 * 2 * MOST_ROWS + 72:,}"]
    every = rendered([TensorTable(rows, every=True)]).splitlines()
    assert len(every) == 2 * MOST_ROWS + 3
