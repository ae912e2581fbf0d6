"""Modelled energy: bytes and multiply-adds of layers, however they run; and counters of processors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dc_compiler import compile_model
from dc_compiler.ort import bench
from dc_compiler.ort.energy import (
    BYTE_MULTIPLY_ADD,
    FLOAT_MULTIPLY_ADD,
    KEPT_BYTES,
    MEMORY_BYTE,
    counted,
    energy,
)

FLOAT = TensorProto.FLOAT


def network(kernel: bool = False) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    w = random.standard_normal((512, 256)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    x: list[int | str | None] = ["n", 512]
    if kernel:
        w = random.standard_normal((32, 16, 3, 3)).astype(np.float32)
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
        x = ["n", 16, 10, 10]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", FLOAT, x)], [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_dense_layer() -> None:
    """Every weight comes from memory once a run, and multiplies for every row."""
    for batch in (1, 8):
        found = energy(network(), {"x": (batch, 512)})
        assert found is not None
        assert found.memory == pytest.approx(4 * 512 * 256 * MEMORY_BYTE)
        assert found.operations == pytest.approx(batch * 512 * 256 * FLOAT_MULTIPLY_ADD)


def test_a_convolution() -> None:
    found = energy(network(kernel=True), {"x": (2, 16, 10, 10)})
    assert found is not None
    assert found.operations == pytest.approx(2 * 32 * 8 * 8 * 16 * 9 * FLOAT_MULTIPLY_ADD)


def test_what_runs_in_another_way() -> None:
    shapes = {"x": (4, 512)}
    decoded = compile_model(network(), pipeline="cluster(grid),encode").model
    integer = compile_model(network(), pipeline="cluster(grid),encode", execution="int8").model
    sparse = compile_model(network(), pipeline="prune(density=0.1),cluster,encode", force=True).model
    dense, same, bytes_, kept = (energy(m, shapes) for m in (network(), decoded, integer, sparse))
    assert dense is not None
    assert bytes_ is not None
    assert kept is not None
    assert same == dense
    assert bytes_.memory == pytest.approx(dense.memory / 4)
    assert bytes_.operations == pytest.approx(dense.operations * BYTE_MULTIPLY_ADD / FLOAT_MULTIPLY_ADD)
    share = round(0.1 * 512 * 256) / (512 * 256)
    assert kept.operations == pytest.approx(dense.operations * share, rel=1e-3)
    assert kept.memory == pytest.approx(dense.memory * share * KEPT_BYTES / 4, rel=1e-3)


def test_no_layers_or_no_shapes() -> None:
    assert energy(network(), {}) is None
    model = network()
    model.graph.node[0].op_type = "Add"
    assert energy(model, {"x": (1, 512)}) is None


def test_counters(tmp_path: Path) -> None:
    """Packages are added up, parts of packages are in them already; what cannot be read is not there."""
    assert counted(tmp_path) is None
    for name, value in (("intel-rapl:0", "1500000"), ("intel-rapl:1", "500000"), ("intel-rapl:0:0", "9000000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(value + "\n")
    (tmp_path / "intel-rapl:2").mkdir()
    assert counted(tmp_path) == pytest.approx(2.0)


def test_bench_shows_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joules = iter(range(1000))
    monkeypatch.setattr("dc_compiler.ort.energy.counted", lambda: float(next(joules)))
    monkeypatch.setattr(bench, "LATENCY_SECONDS", 0.01)
    monkeypatch.setattr(bench, "ENERGY_SECONDS", 0.01)
    onnx.save(network(), tmp_path / "a.onnx")
    compile_model(network(), tmp_path / "b.onnx", pipeline="prune(density=0.1),cluster,encode", force=True)
    rows = {r.name: r for r in bench.bench(tmp_path / "a.onnx", tmp_path / "b.onnx").rows}
    assert rows["energy, model"].ratio < 0.2
    assert rows["energy, counted"].original > 0
