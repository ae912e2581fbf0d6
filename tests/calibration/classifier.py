"""A small classifier and samples for it."""

from __future__ import annotations

import functools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from single_layers import normal

Array = np.ndarray


@functools.cache
def classifier() -> onnx.ModelProto:
    """Three layers, whose classes are those of the labels below."""
    random = np.random.default_rng(0)
    shapes = {"a": (32, 128), "b": (128, 128), "c": (128, 8)}
    weights = {k: (random.standard_normal(s) * (2 / s[0]) ** 0.5).astype(np.float32) for k, s in shapes.items()}
    nodes, value = [], "x"
    for name in shapes:
        nodes.append(helper.make_node("MatMul", [value, name], [f"m{name}"]))
        nodes.append(helper.make_node("Relu", [f"m{name}"], [value := f"r{name}"]))
    nodes[-1] = helper.make_node("Mul", ["mc", "scale"], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n, k in (("x", 32), ("y", 8)))
    stored = [numpy_helper.from_array(w, k) for k, w in (weights | {"scale": np.float32(3)}).items()]
    graph = helper.make_graph(nodes, "classifier", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@functools.cache
def data(count: int = 600) -> dict[str, Array]:
    """Inputs, and the classifier's own answers, of which one in twenty is wrong."""
    x = normal(count, 32, seed=4)
    session = __import__("onnxruntime").InferenceSession(classifier().SerializeToString())
    labels = session.run(None, {"x": x})[0].argmax(1)
    labels[::20] = (labels[::20] + 1) % 8
    return {"x": x, "label": labels}
