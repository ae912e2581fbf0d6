"""Layers that run in integers: which weights are int8 tensors with a scale a channel, and what multiplies by them.

A weight on a scaled grid (``cluster(grid)``) with at most 256 points is such a tensor as it is. onnxruntime's own int8
kernels multiply by it, after the other factor was rounded to 8 bits as it comes: the operators below are those of its
dynamic quantization, which it fuses. The weight takes a quarter of the memory; numbers change, by about a percent of a
layer's output, so nobody gets this unasked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from dc_compiler import ir
from dc_compiler.codec import binding
from dc_compiler.model.names import default_opset, unused_name

LEAST_OPSET = 11  # that has DynamicQuantizeLinear
# Below, rounding the other factor takes about as long as integers save: benchmarks/layers.py measures it
LEAST_SIZE = 1 << 16
LEAST_EXTENT = 32
GRID = 2  # codebook kind of a frame (FORMAT.md 2)


def choose_int8(program: ir.Program) -> None:
    """Let every layer that can, and is large enough to gain, run in int8; a note tells how many cannot, and why.

    Looked at are products with a constant second factor: MatMul and Gemm of the main graph.
    """
    graph = program.proto.graph
    readers, outputs = _readers(graph), {o.name for o in graph.output}
    opset = default_opset(program.proto)
    chosen, others = 0, Counter[str]()
    for record, site in zip(program.records, program.sites, strict=True):
        if record.frame is None or record.is_vector or record.exact is not None:
            continue
        if opset < LEAST_OPSET:
            obstacle: str | None = f"operator set {opset} has no DynamicQuantizeLinear ({LEAST_OPSET} has)"
        elif site.graph is not graph or site.value_name in outputs:
            obstacle = "stored in a body, or an output"
        else:
            name = site.value_name
            obstacle = _layout_obstacle(name, record.frame, readers.get(name, [])) or _size_obstacle(record)
        if obstacle is None:
            record.execution = ir.INT8
            chosen += 1
        else:
            others[obstacle] += 1
    reasons = "".join(f"; {count} not: {reason}" for reason, count in others.most_common())
    program.notes.append(f"int8: {chosen} {'weight runs' if chosen == 1 else 'weights run'} in integers{reasons}")


def run_in_int8(graph: onnx.GraphProto, scales: Mapping[str, str], names: Counter[str]) -> None:
    """Let the layers that multiply by some weights, from now on int8, do so in integers.

    Args:
        scales: name of a float vector, by weight. names: of all values, to which new ones are added.
    """
    nodes: list[onnx.NodeProto] = []
    rounded: dict[str, Sequence[str]] = {}  # names of a value as uint8, of its scale and of its zero point
    for node in graph.node:
        if len(node.input) < 2 or node.input[1] not in scales:
            nodes.append(node)
            continue
        value = node.input[0]
        if value not in rounded:
            rounded[value] = [unused_name(f"{value}.{part}", names) for part in ("uint8", "scale", "zero")]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [value], rounded[value]))
        nodes += _integer_product(node, scales[node.input[1]], rounded[value], names)
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [v for v in graph.value_info if v.name not in scales]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _integer_product(
    node: onnx.NodeProto, scale: str, rounded: Sequence[str], names: Counter[str]
) -> list[onnx.NodeProto]:
    """MatMul or Gemm as a product of integers, times both scales, plus what Gemm adds."""

    def new(part: str) -> str:
        return unused_name(f"{node.output[0]}.{part}", names)

    value, value_scale, zero = rounded
    weight = node.input[1]
    nodes = []
    if ir.attribute(node, "transB", 0):
        nodes.append(helper.make_node("Transpose", [weight], [new("weight")], perm=[1, 0]))
        weight = nodes[-1].output[0]
    addend = node.input[2] if len(node.input) > 2 else ""
    product = new("product") if addend else node.output[0]
    sums, floats, scales = new("int32"), new("float"), new("scales")
    nodes += [
        helper.make_node("MatMulInteger", [value, weight, zero], [sums], name=node.name),
        helper.make_node("Cast", [sums], [floats], to=TensorProto.FLOAT),
        helper.make_node("Mul", [value_scale, scale], [scales]),
        helper.make_node("Mul", [floats, scales], [product]),
    ]
    if addend:
        nodes.append(helper.make_node("Add", [product, addend], [node.output[0]]))
    return nodes


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto | None]]:
    """Who reads each value; None stands for a node of a body."""
    readers: dict[str, list[onnx.NodeProto | None]] = {}
    for g in ir.walk_graphs(graph):
        for node in g.node:
            for name in set(node.input):
                readers.setdefault(name, []).append(node if g is graph else None)
    return readers


def _layout_obstacle(name: str, frame: bytes, readers: Sequence[onnx.NodeProto | None]) -> str | None:
    """Why a weight is no int8 tensor with a scale for each column of a product, or None."""
    info = binding.frame_info(frame)
    if info.elem_type != TensorProto.FLOAT or info.codebook_kind != GRID or info.channels == 0:
        return "not on a scaled grid of float32"
    if info.grid_lo < -128 or info.grid_lo + info.codebook_entries > 128:
        return "points of more than 8 bits"
    for node in readers:
        if node is None:
            return "read inside a body"
        if not _is_product(node, name):
            return f"read by {node.op_type}"
        if len(info.dims) != 2:
            return f"{len(info.dims)} axes"
        columns, inner = info.dims if ir.attribute(node, "transB", 0) else (info.dims[1], 1)
        if info.channels != columns or info.inner != inner:
            return "scales along another axis"
    return None


def _size_obstacle(record: ir.WeightRecord) -> str | None:
    is_small = record.size < LEAST_SIZE or min(record.shape) < LEAST_EXTENT
    return "too small to gain" if is_small else None


def _is_product(node: onnx.NodeProto, name: str) -> bool:
    """Whether a node is x times the value, plus something at most."""
    if node.domain not in ("", "ai.onnx") or list(node.input).count(name) != 1 or node.input[1:2] != [name]:
        return False
    if node.op_type == "Gemm":
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        return all(ir.attribute(node, key, value) == value for key, value in plain.items())
    return node.op_type == "MatMul"
