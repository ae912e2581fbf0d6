"""Shapes and element types of every value of a model: by inference, and where that ends by running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from dc_compiler.errors import ModelError

Feed = Mapping[str, np.ndarray]
Known = dict[str, tuple[int, tuple[int, ...]]]  # value name -> element type, shape


def known_values(
    model: onnx.ModelProto, feeds: Sequence[Feed], open_session: Callable[[onnx.ModelProto], Any]
) -> Known:
    """Element type and shape of the values of the main graph.

    Args:
        model: all inputs have fully known shapes.
        feeds: inputs to run the model on where inference knows not all: it does not know operators of other domains. A
            shape that differs between them depends on the data, so it is not known.
        open_session: what runs a model.
    """
    found = _inferred(model)
    names = [name for node in model.graph.node for name in node.output if name]
    unknown = [name for name in names if name not in found]
    if not unknown:
        return found
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in unknown)  # onnxruntime finds out the types
    try:
        session = open_session(exposed)
        results = [session.run(unknown, dict(feed)) for feed in feeds]
    except (ModelError, ValueError, RuntimeError):
        return found  # what cannot be run at once is told when the training graph is opened
    for name, *values in zip(unknown, *results, strict=True):
        shapes = {v.shape for v in values if isinstance(v, np.ndarray)}
        if len(shapes) == 1 and values[0].dtype.kind in "iubf":
            found[name] = helper.np_dtype_to_tensor_dtype(values[0].dtype), shapes.pop()
    return found


def declare(graph: onnx.GraphProto, known: Known) -> None:
    """Write what is known into the graph, so that whoever reads it need not infer it."""
    places = {v.name: v for v in (*graph.input, *graph.output)}
    del graph.value_info[:]
    for name, (elem_type, shape) in known.items():
        info = helper.make_tensor_value_info(name, elem_type, shape)
        if name in places:
            places[name].CopyFrom(info)
        else:
            graph.value_info.append(info)


def _inferred(model: onnx.ModelProto) -> Known:
    graph = onnx.shape_inference.infer_shapes(model).graph
    result: Known = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if kind.elem_type and kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            result[value.name] = kind.elem_type, tuple(d.dim_value for d in kind.shape.dim)
    return result
