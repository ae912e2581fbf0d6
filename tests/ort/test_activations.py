"""Statistics of activations: of the weights a Program has now, over batches in order, without keeping the values."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dc_compiler import ir
from dc_compiler.errors import InvalidArgumentError, ModelError
from dc_compiler.model import files, importer
from dc_compiler.ort import activations as module
from dc_compiler.ort.activations import activations, gram
from dc_compiler.ort.samples import Samples
from dc_compiler.pass_manager import Context, PassManager
from dc_compiler.recipe import parse_pipeline

Array = np.ndarray


def network(batch: int | str = "n", domain: str = "") -> onnx.ModelProto:
    """x [batch, 16] -> w1, Relu -> h [batch, 32] -> w2 -> y [batch, 4]."""
    random = np.random.default_rng(0)
    weights = {"w1": random.standard_normal((16, 32)), "w2": random.standard_normal((32, 4))}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["h"], domain=domain),
        helper.make_node("MatMul", ["h", "w2"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, k]) for n, k in (("x", 16), ("y", 4)))
    stored = [numpy_helper.from_array(w.astype(np.float32), k) for k, w in weights.items()]
    graph = helper.make_graph(nodes, "network", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def setup(count: int = 1000, batch: int | str = "n", **options: Any) -> tuple[ir.Program, Samples, Array]:
    model = network(batch)
    x = np.random.default_rng(1).standard_normal((count, 16)).astype(np.float32)
    samples = Samples({"x": x}, None, files.read_model(model), **{"trains": False, **options})
    return importer.build_program(files.read_model(model), min_size=16), samples, x


def values_of(program: ir.Program) -> dict[str, Array]:
    return {r.name: np.asarray(r.values) for r in program.records}


def hidden(program: ir.Program, x: Array) -> Array:
    return np.asarray(np.maximum(x @ values_of(program)["w1"], 0))


def extremes(total: tuple[float, float] | None, batch: Array) -> tuple[float, float]:
    low, high = float(batch.min()), float(batch.max())
    return (low, high) if total is None else (min(total[0], low), max(total[1], high))


def test_gram_matrix_of_what_a_matmul_takes_in() -> None:
    program, samples, x = setup()
    found = activations(program, ["h", "x"], gram, samples)
    h = hidden(program, x).astype(np.float64)
    np.testing.assert_allclose(found["h"], h.T @ h, rtol=1e-5)
    np.testing.assert_allclose(found["x"], x.astype(np.float64).T @ x, rtol=1e-6)


def test_gram_matrix_flattens_what_is_before_the_last_axis() -> None:
    batch = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    rows = batch.reshape(6, 4)
    np.testing.assert_array_equal(gram(gram(None, batch), batch), 2 * rows.T @ rows)


def test_the_weights_are_those_the_program_has_now() -> None:
    program, samples, x = setup()
    manager = PassManager(parse_pipeline("prune(density=0.3),cluster(bits=3),encode(lossless)"))
    manager.run(program, Context())
    assert np.count_nonzero(values_of(program)["w1"]) < 0.4 * 16 * 32
    low, high = activations(program, ["h"], extremes, samples)["h"]
    assert low == 0
    assert high == pytest.approx(hidden(program, x).max(), rel=1e-5)


def test_any_reduction_goes() -> None:
    program, samples, x = setup(100)

    def mean(total: tuple[int, Array] | None, batch: Array) -> tuple[int, Array]:
        count, sums = total or (0, np.zeros(batch.shape[1:]))
        return count + len(batch), sums + batch.sum(axis=0)

    count, sums = activations(program, ["y"], mean, samples)["y"]
    assert count == 100
    np.testing.assert_allclose(sums / count, (hidden(program, x) @ values_of(program)["w2"]).mean(axis=0), rtol=1e-4)


def test_rows_are_those_trained_on_unless_others_are_asked_for() -> None:
    program, samples, x = setup(500, trains=True)
    parts = samples.parts()
    np.testing.assert_allclose(activations(program, ["x"], gram, samples)["x"], gram(None, x[parts.train]), rtol=1e-6)
    found = activations(program, ["x"], gram, samples, parts.validation)
    np.testing.assert_allclose(found["x"], gram(None, x[parts.validation]), rtol=1e-6)


@pytest.mark.parametrize("bytes_at_a_time", [1, 4000, 1 << 25])
def test_the_result_does_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch, bytes_at_a_time: int) -> None:
    """Nor is any sample lost or counted twice, however large a batch is."""
    monkeypatch.setattr(module, "BATCH_BYTES", bytes_at_a_time)
    found = []
    for threads in (1, 3):
        program, samples, x = setup(300, threads=threads)
        found.append(activations(program, ["h"], gram, samples)["h"])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], gram(None, hidden(program, x)), rtol=1e-5)


def test_a_fixed_batch() -> None:
    program, samples, x = setup(20, batch=8)
    kept = samples.parts().check
    assert len(kept) == 16
    np.testing.assert_allclose(
        activations(program, ["h"], gram, samples)["h"], gram(None, hidden(program, x[kept])), rtol=1e-5
    )


def test_feeds_of_different_shapes_run_as_they_are() -> None:
    model = network()
    x = np.random.default_rng(1).standard_normal((7, 16)).astype(np.float32)
    samples = Samples([{"x": x[:3]}, {"x": x[3:]}], None, files.read_model(model), trains=False)
    program = importer.build_program(files.read_model(model), min_size=16)
    np.testing.assert_allclose(
        activations(program, ["h"], gram, samples)["h"], gram(None, hidden(program, x)), rtol=1e-5
    )


def test_memory_does_not_grow_with_the_number_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 1 << 16)
    peaks = []
    for count in (2_000, 20_000):
        program, samples, _ = setup(count, trains=True, threads=2)
        samples.read()
        samples.parts()
        tracemalloc.start()
        activations(program, ["h"], gram, samples, np.arange(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 20_000 * 8 * 4  # the order of the rows, drawn again


def test_names_that_the_graph_does_not_compute() -> None:
    program, samples, _ = setup(10)
    for name in ("w1", "nothing"):
        with pytest.raises(InvalidArgumentError, match=f"computes no '{name}'"):
            activations(program, [name], gram, samples)


def test_samples_that_the_program_does_not_run_on() -> None:
    model = network()
    model.graph.node[1].CopyFrom(helper.make_node("Reshape", ["a", "shape"], ["h"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([5, 32]), "shape"))
    samples = Samples({"x": np.zeros((9, 16), np.float32)}, None, files.read_model(model), trains=False)
    program = importer.build_program(files.read_model(model), min_size=16)
    with pytest.raises(ModelError, match="does not run on the samples"):
        activations(program, ["y"], gram, samples)
