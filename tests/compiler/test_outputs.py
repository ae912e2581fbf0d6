"""Declared outputs: a compiled model reports the shapes that onnxruntime infers for the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models.graphs import GRAPHS
from onnx import helper, numpy_helper

from dc_compiler import InferenceSession, compile_model, unpack_model
from dc_compiler.model import packed
from dc_compiler.model.outputs import declare_shapes


def reported(model: onnx.ModelProto | Path) -> list[tuple[str, str, list[Any]]]:
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return [(o.name, o.type, o.shape) for o in InferenceSession(content).get_outputs()]


def without_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    for output in model.graph.output:
        if output.type.WhichOneof("value") == "tensor_type":
            output.type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("name", GRAPHS)
def test_outputs_are_reported_alike(name: str, tmp_path: Path) -> None:
    """Whatever the original left undeclared, also after unpacking."""
    net = without_shapes(GRAPHS[name]()[0])
    result = compile_model(net, preset="lossless", min_size=16)
    onnx.save(result.model, tmp_path / "out.onnx")
    assert reported(tmp_path / "out.onnx") == reported(net)
    if packed.is_compiled(result.model):
        assert reported(unpack_model(tmp_path / "out.onnx")) == reported(net)


def convolution() -> onnx.ModelProto:
    """Open extents that only inference relates to the weights: y [n, 8, ?, ?]."""
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((8, 3, 7, 7)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 3, "h", "w_"])],
        [helper.make_tensor_value_info("y", 1, None)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("form", ["session", "graph"])
def test_symbolic_names_are_kept(form: str) -> None:
    result = compile_model(convolution(), emit=form)
    assert reported(result.model) == [("y", "tensor(float)", ["n", 8, None, None])]


def test_declaring() -> None:
    """Only what differs is touched: denotations stay."""

    def dims(output: onnx.ValueInfoProto) -> list[int | str | None]:
        found = output.type.tensor_type.shape.dim
        return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in found]

    same = helper.make_tensor_value_info("same", 1, ["n", 3, None])
    same.type.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"
    less = helper.make_tensor_value_info("less", 1, ["n", None])
    unknown = helper.make_tensor_value_info("unknown", 1, None)
    unranked = helper.make_tensor_value_info("unranked", 1, None)
    scalar = helper.make_tensor_value_info("scalar", 1, [])
    sequence = helper.make_tensor_sequence_value_info("sequence", 1, None)
    graph = onnx.GraphProto(output=[same, less, unknown, unranked, scalar, sequence])
    before = [onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in graph.output]
    declare_shapes(
        graph,
        {"same": ["n", 3, None], "less": ["n", 0], "unknown": [None, "m", 2], "unranked": [], "scalar": []},
    )
    assert [dims(o) for o in graph.output[1:3]] == [["n", 0], [None, "m", 2]]
    assert [o for o in graph.output if o.name not in ("less", "unknown")] == [before[0], *before[3:]]
