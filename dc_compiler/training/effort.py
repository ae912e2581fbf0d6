"""How much training a number of minutes allows, by an estimate from the model alone: results depend on no machine."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx

from dc_compiler import ir

# Multiply-adds of the forward pass, with all that training them takes, a second on two cores of a server; measured on
# a residual network, a file classifier, a recurrent net and two small ones: 6 to 12 for each core
MACS = 8e9
WEIGHTS = 7e7  # that are moved and rounded, likewise
# Multiply-adds of the forward pass that judging and one try of a preset that trains may take: a few minutes
EFFORT = 3e12
TRIES = 3  # of such a preset, that share a budget


def step_seconds(macs: float, batch: int, weights: int) -> float:
    """About what a step of training takes.

    Args:
        macs: of the forward pass of one sample. weights: that are trained.
    """
    return batch * macs / MACS + weights / WEIGHTS


def effort_of(minutes: float) -> float:
    """Multiply-adds that one try of a preset that trains may take."""
    return minutes * 60 * MACS / TRIES


def cost(program: ir.Program, inputs: Mapping[str, np.ndarray]) -> float:
    """Multiply-adds of one sample in the layers with weights, as far as shapes are known."""
    model = onnx.ModelProto()
    model.CopyFrom(program.proto)
    for value in model.graph.input:
        if value.name in inputs:
            shape = [1, *inputs[value.name].shape[1:]]
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, shape))
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.output)}
    stored = {s.value_name: r for r, s in zip(program.records, program.sites, strict=True) if len(r.shape) > 1}
    total = 0.0
    for node in graph.node:
        output = math.prod(max(1, d) for d in shapes.get(node.output[0], [])[1:])
        for name in node.input:
            if name in stored:
                record = stored[name]
                channels, _ = ir.channel_layout(record.shape, record.uses)
                total += record.size * max(1.0, output / channels)
    return total
