"""Biases that take up what rounding does to mean outputs: which they are, and that means stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from single_layers import network, normal

import dc_compiler
from dc_compiler.calibration.biases import find_biases
from dc_compiler.calibration.calibration import Calibration
from dc_compiler.model import files, importer
from dc_compiler.model.opened import open_weights
from dc_compiler.ort.samples import Samples
from dc_compiler.pass_manager import Context
from dc_compiler.passes.cluster import Cluster

Array = np.ndarray
Nodes = list[onnx.NodeProto]


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


# nodes, extents of a sample, stored tensors
FOUND: dict[str, tuple[Nodes, tuple[int, ...], dict[str, Array]]] = {
    "Conv": ([node("Conv", "x w b", "y")], (4, 6, 6), {"w": normal(8, 4, 3, 3), "b": normal(8)}),
    "Conv in groups": ([node("Conv", "x w b", "y", group=2)], (24, 9), {"w": normal(8, 12, 3), "b": normal(8)}),
    "Conv and Add": (
        [node("Conv", "x w", "m"), node("Add", "m b", "y")],
        (4, 6, 6),
        {"w": normal(8, 4, 3, 3), "b": normal(1, 8, 1, 1)},
    ),
    "Gemm": ([node("Gemm", "x w b", "y", transB=1)], (48,), {"w": normal(8, 48), "b": normal(8)}),
    "MatMul and Add": (
        [node("MatMul", "x w", "m"), node("Add", "b m", "y")],
        (3, 48),
        {"w": normal(48, 8), "b": normal(8)},
    ),
    "a bias in front": ([node("Gemm", "x w b", "y")], (48,), {"w": normal(48, 8), "b": normal(1, 8)}),
    "twice, each time together": (
        [node("Gemm", "x w b", "m"), node("Relu", "m", "r"), node("Gemm", "r w b", "y")],
        (8,),
        {"w": normal(8, 8), "b": normal(8)},
    ),
}
NONE: dict[str, tuple[Nodes, tuple[int, ...], dict[str, Array]]] = {
    "windows that may overlap": (
        [node("windows that may overlap", "x w b", "y", strides=[2, 2])],
        (16, 5, 5),
        {"w": normal(16, 8, 2, 2), "b": normal(8)},
    ),
    "no bias": ([node("MatMul", "x w", "y")], (12,), {"w": normal(12, 8)}),
    "another axis": (
        [node("Conv", "x w", "m"), node("Add", "m b", "y")],
        (4, 8),
        {"w": normal(8, 4, 1), "b": normal(8)},
    ),
    "a product that is read twice": (
        [node("MatMul", "x w", "m"), node("Add", "m b", "a"), node("Mul", "a m", "y")],
        (12,),
        {"w": normal(12, 8), "b": normal(8)},
    ),
    "a scaled bias": ([node("Gemm", "x w b", "y", beta=0.5)], (12,), {"w": normal(12, 8), "b": normal(8)}),
    "a bias of two weights": (
        [node("Gemm", "x w b", "m"), node("Gemm", "m v b", "y")],
        (8,),
        {"w": normal(8, 8), "v": normal(8, 8, seed=1), "b": normal(8)},
    ),
    "a bias that does more": (
        [node("Gemm", "x w b", "m"), node("Mul", "m b", "y")],
        (12,),
        {"w": normal(12, 8), "b": normal(8)},
    ),
    "not every time": (
        [node("Gemm", "x w b", "m"), node("MatMul", "m w", "y")],
        (8,),
        {"w": normal(8, 8), "b": normal(8)},
    ),
}


@pytest.mark.parametrize("name", [*FOUND, *NONE])
def test_which_weights_have_a_bias(name: str) -> None:
    nodes, shape, stored = (FOUND | NONE)[name]
    program = importer.build_program(files.read_model(network(nodes, shape, **stored)), min_size=1)
    assert find_biases(program, {"b"}) == ({"w": "b"} if name in FOUND else {})
    assert find_biases(program, set()) == {}


@pytest.mark.parametrize("name", [n for n in FOUND if not n.startswith("twice")])
def test_mean_outputs_stay(name: str) -> None:
    """In every channel, over the samples that statistics were taken of, but for the rounding of the bias."""
    nodes, shape, stored = FOUND[name]
    model = network(nodes, shape, **stored)
    samples = Samples(
        {"x": np.abs(normal(64, *shape, seed=3)) + 1}, None, files.read_model(model), trains=False, calibrates=True
    )
    program = importer.build_program(files.read_model(model), min_size=1)
    Cluster(mode="grid", step=1.5, calibrate=True).run(program, Context(calibration=Calibration(program, samples)))
    x = samples.take(samples.parts().train)["x"]
    wanted, found = outputs(model, x), outputs(open_weights(program, ()), x)
    axes = (0, *range(2, wanted.ndim)) if "Conv" in name else tuple(range(wanted.ndim - 1))
    assert np.abs(found - wanted).max() > 0.1  # the step is coarse
    drift = (found - wanted).mean(axis=axes)
    bias = next(r for r in program.records if r.name == "b").values
    assert np.abs(drift).max() < np.abs(bias).max() / 256 + 1e-4


def test_a_moved_bias_is_in_the_file(tmp_path: Path) -> None:
    """Rounded to bfloat16."""
    nodes, shape, stored = FOUND["Gemm"]
    x = np.abs(normal(64, *shape, seed=3)) + 1
    text = "cluster(grid,step=1.5,calibrate=true,shorten=true),encode"
    dc_compiler.compile_model(
        network(nodes, shape, **stored), tmp_path / "m.onnx", pipeline=text, data={"x": x}, min_size=1
    )
    tensors = dc_compiler.unpack_model(tmp_path / "m.onnx").graph.initializer
    bias = next(onnx.numpy_helper.to_array(t) for t in tensors if t.name == "b")
    short = stored["b"].astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.abs(bias - short).max() > 0.01
    np.testing.assert_array_equal(bias.view(np.uint32) & 0xFFFF, 0)


def outputs(model: onnx.ModelProto, x: Array) -> Array:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0], np.float64)
