"""Small models and samples to train on."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dc_compiler import ir
from dc_compiler.model import files, importer
from dc_compiler.ort.samples import Samples
from dc_compiler.pass_manager import Context

Array = NDArray[Any]


def perceptron(dtype: Any = np.float32, *, softmax: bool = False, hidden: int = 32) -> onnx.ModelProto:
    """x [n, 16] -> Gemm -> Relu -> Gemm -> y [n, 3], with random weights."""
    random = np.random.default_rng(1)
    weights = {
        "w1": random.standard_normal((16, hidden)) / 4,
        "b1": random.standard_normal(hidden) / 10,
        "w2": random.standard_normal((hidden, 3)) / 6,
        "b2": random.standard_normal(3) / 10,
    }
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    last = "logits" if softmax else "y"
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], [last]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", [last], ["y"], axis=-1))
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", kind, ["n", 16])],
        [helper.make_tensor_value_info("y", kind, ["n", 3])],
        [numpy_helper.from_array(w.astype(dtype), k) for k, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def samples(count: int = 600, dtype: Any = np.float32) -> dict[str, Array]:
    """Points around three centres, and which centre it is."""
    random = np.random.default_rng(2)
    labels = random.integers(0, 3, count)
    centres = random.standard_normal((3, 16))
    return {"x": (centres[labels] + 0.7 * random.standard_normal((count, 16))).astype(dtype), "labels": labels}


def program(model: onnx.ModelProto, min_size: int = 16) -> ir.Program:
    return importer.build_program(files.read_model(model), min_size=min_size)


def context(model: onnx.ModelProto, arrays: dict[str, Array], labels: str | None = "labels", seed: int = 0) -> Context:
    """What a compilation with these samples gives to passes."""
    data = Samples(arrays, labels, files.read_model(model), seed=seed)
    return Context(seed=seed, jobs=1, samples=data)


def weight(net: ir.Program, name: str) -> ir.WeightRecord:
    return next(r for r in net.records if r.name == name)
