"""Models of one layer, its weight, and inputs for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dc_compiler import ir
from dc_compiler.model import files, importer
from dc_compiler.ort.samples import Samples

Array = np.ndarray


def normal(*shape: int, seed: int = 0) -> Array:
    """Standard normal values, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer(op: str, weight: Array, shape: tuple[int, ...], index: int = 1, **attributes: Any) -> onnx.ModelProto:
    """x [n, *shape] and the weight ``w`` go through one operator, whose output is ``y``; the weight is its ``index``-th
    input."""
    inputs = ["x", "w"] if index else ["w", "x"]
    node = helper.make_node(op, inputs, ["y"], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "layer", [x], [y], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def opened(model: onnx.ModelProto, x: Array) -> tuple[ir.Program, Samples]:
    """The model as a program, and samples for it, all of which statistics are taken of."""
    samples = Samples({"x": x}, None, files.read_model(model), trains=False)
    return importer.build_program(files.read_model(model), min_size=1), samples


def network(nodes: list[onnx.NodeProto], shape: tuple[int, ...], **stored: Array) -> onnx.ModelProto:
    """x [n, *shape] to y, with stored tensors."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(v, k) for k, v in stored.items()]
    graph = helper.make_graph(nodes, "network", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def numbers(*values: int) -> Array:
    """Integers that say how a node works, int64."""
    return np.array(values, np.int64)
