"""Finds channels that one layer makes and one other takes in, with every tensor that has a part for each of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from dc_compiler import ir

LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
# What works on every element alone; of those with a function here, the value of a constant channel is known
PIECEWISE_LINEAR = frozenset({"Identity", "Dropout", "Relu", "LeakyRelu"})
ELEMENTWISE = PIECEWISE_LINEAR | frozenset(
    {"Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Mish", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh"}
)
POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})


@dataclass(frozen=True)
class Side:
    """A layer's weight, the axis of it that runs over the channels, and its bias (one element an output channel)."""

    node: onnx.NodeProto
    weight: ir.WeightRecord
    axis: int
    bias: ir.WeightRecord | None


@dataclass
class Link:
    """Channels between two layers.

    Attributes:
        between: nodes on the way whose effect on a constant matters, in order.
        vectors: tensors with one element a channel, the maker's bias among them.
        reshape: the constant shape [batch, inputs] that makes a matrix of the channels, if a Reshape does.
        is_uniform: a channel that is constant where it is made is constant where it is taken in: no padding.
    """

    maker: Side
    taker: Side
    channels: int
    between: list[onnx.NodeProto]
    vectors: list[ir.WeightRecord]
    reshape: onnx.TensorProto | None
    is_uniform: bool


@dataclass
class _Graph:
    """The main graph's consumers, the tensors that may be cut, constant shapes, and extents after the first of values
    where all are known; by value name."""

    consumers: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    tensors: dict[str, ir.WeightRecord] = field(default_factory=dict)
    shapes: dict[str, onnx.TensorProto] = field(default_factory=dict)
    extents: dict[str, list[int]] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)


def find_links(program: ir.Program) -> list[Link]:
    """Every pair of layers (Conv without groups, Gemm, MatMul) with only channel-wise operators between them.

    A tensor that is used twice, is to be left alone, or has scales joins no link.
    """
    graph = _survey(program)
    return [link for node in program.proto.graph.node if (link := _link(graph, node)) is not None]


def _survey(program: ir.Program) -> _Graph:
    result, main = _Graph(), program.proto.graph
    for g in ir.walk_graphs(main):  # what bodies use counts as used twice
        for node in g.node:
            for name in filter(None, node.input):
                result.consumers.setdefault(name, []).extend([node] if g is main else [node, node])
    result.outputs = {o.name for g in ir.walk_graphs(main) for o in g.output}  # a body may hand out what is ours
    fixed = result.outputs | {i.name for i in main.input}
    for record, site in zip(program.records, program.sites, strict=True):
        is_cuttable = record.reason is None or record.trainable
        plain = record.frame is None and (record.clustered is None or record.clustered.scales is None)
        if site.graph is main and is_cuttable and plain and record.tied == 1 and site.value_name not in fixed:
            result.tensors[site.value_name] = record
    for site in ir.weight_sites(main):
        if site.graph is main and site.tensor is not None and site.tensor.data_type == onnx.TensorProto.INT64:
            result.shapes[site.value_name] = site.tensor
    for info in onnx.shape_inference.infer_shapes(program.proto).graph.value_info:
        inner = list(info.type.tensor_type.shape.dim)[1:]
        if inner and all(d.HasField("dim_value") for d in inner):
            result.extents[info.name] = [d.dim_value for d in inner]
    return result


def _side(graph: _Graph, node: onnx.NodeProto, *, makes: bool) -> Side | None:
    """The layer as maker or taker of channels, or None when it is no such layer or its tensors cannot be cut."""
    if node.op_type not in LAYERS or node.domain not in ("", "ai.onnx"):
        return None
    weight = graph.tensors.get(node.input[1])
    if weight is None or ir.attribute(node, "group", 1) != 1 or ir.attribute(node, "transA", 0):
        return None
    if node.op_type != "Conv" and weight.values.ndim != 2:
        return None
    rows_are_outputs = node.op_type == "Conv" or bool(ir.attribute(node, "transB", 0))
    axis = 0 if rows_are_outputs == makes else 1
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = graph.tensors.get(node.input[2])
        outputs = weight.shape[0 if rows_are_outputs else 1]
        if bias is None or bias.shape != (outputs,):
            if makes:
                return None
            bias = None
    elif not makes:
        bias = _added(graph, node, weight.shape[1 - axis])
    return Side(node, weight, axis, bias)


def _added(graph: _Graph, node: onnx.NodeProto, outputs: int) -> ir.WeightRecord | None:
    """The vector that an Add right behind the layer adds to its outputs."""
    step = next(_steps(graph, node.output[0]), None)
    if node.op_type == "Conv" or step is None or step.op_type != "Add":
        return None
    vector = graph.tensors.get(step.input[1])
    return vector if vector is not None and vector.shape == (outputs,) else None


def _steps(graph: _Graph, value: str) -> Iterator[onnx.NodeProto]:
    """The nodes that take the value in, one after another, while each is the only one."""
    while value not in graph.outputs and len(graph.consumers.get(value, [])) == 1:
        node = graph.consumers[value][0]
        is_plain = node.domain in ("", "ai.onnx") and sum(bool(o) for o in node.output) == 1
        if not is_plain or node.input[0] != value:
            return
        yield node
        value = node.output[0]


def _link(graph: _Graph, node: onnx.NodeProto) -> Link | None:
    maker = _side(graph, node, makes=True)
    if maker is None:
        return None
    channels = maker.weight.shape[maker.axis]
    is_spatial = node.op_type == "Conv"  # channels are axis 1; else the last one
    vectors = [maker.bias] if maker.bias is not None else []
    between: list[onnx.NodeProto] = []
    reshape, is_uniform = None, True
    for step in _steps(graph, node.output[0]):
        taker = _side(graph, step, makes=False)
        if taker is not None:
            if is_spatial != (step.op_type == "Conv") or taker.weight.shape[taker.axis] % channels:
                return None
            is_uniform &= not _pads(step)
            return Link(maker, taker, channels, between, vectors, reshape, is_uniform)
        if step.op_type in ELEMENTWISE:
            between.append(step)
        elif step.op_type == "Add" and not is_spatial:
            added = graph.tensors.get(step.input[1])
            if added is None or added.shape != (channels,):
                return None
            vectors.append(added)
            between.append(step)
        elif step.op_type == "BatchNormalization" and node.op_type != "MatMul":  # whose outputs may have more axes
            found = [v for name in step.input[1:] if (v := graph.tensors.get(name)) is not None]
            if [v.shape for v in found] != [(channels,)] * 4:
                return None
            vectors += found
            between.append(step)
        elif step.op_type in POOLS and is_spatial:
            is_uniform &= not _pads(step)
        elif step.op_type == "Flatten" and is_spatial and ir.attribute(step, "axis", 1) == 1:
            is_spatial = False
        elif step.op_type == "Reshape" and is_spatial:
            reshape = _flattening(graph, step)
            if reshape is None:
                return None
            is_spatial = False
        else:
            return None
    return None


def _flattening(graph: _Graph, node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The constant shape [batch, inputs] of a Reshape that makes one row of every sample; None for any other."""
    shape = graph.shapes.get(node.input[1])
    if shape is None or list(shape.dims) != [2] or len(graph.consumers[node.input[1]]) > 1:
        return None
    batch, inputs = numpy_helper.to_array(shape)
    keeps_batch = batch == 0 and not ir.attribute(node, "allowzero", 0)
    if keeps_batch and inputs == -1:
        return shape
    extents = graph.extents.get(node.input[0])
    return shape if extents is not None and inputs == math.prod(extents) else None


def _pads(node: onnx.NodeProto) -> bool:
    """Whether windows of the node reach beyond its input."""
    ceils = bool(ir.attribute(node, "ceil_mode", 0))
    automatic = ir.attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return ceils or automatic or any(ir.attribute(node, "pads", []))


def constants(link: Link) -> np.ndarray | None:
    """What a channel that is fed by no weight is constantly, where the taker gets it: float64 [channels].

    None when that is not known exactly on every machine, or not constant.
    """
    if not link.is_uniform or _scaled(link.maker.node) or _scaled(link.taker.node):
        return None
    bias = link.maker.bias
    value = np.zeros(link.channels) if bias is None else bias.values.astype(np.float64)
    added = iter(link.vectors[0 if bias is None else 1 :])
    for node in link.between:
        if node.op_type == "Add":
            value = value + next(added).values.astype(np.float64)
        elif node.op_type == "Relu":
            value = np.maximum(value, 0)
        elif node.op_type == "LeakyRelu":
            slope = ir.attribute(node, "alpha", 0.01)
            value = np.where(value < 0, value * slope, value)
        elif node.op_type not in PIECEWISE_LINEAR:
            return None
    return value


def _scaled(node: onnx.NodeProto) -> bool:
    return any(ir.attribute(node, name, 1.0) != 1 for name in ("alpha", "beta"))
