"""Follows weights that are cut, joined and turned before they are used: which of their elements stand where."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dc_compiler import ir

Array = np.ndarray
# Operators that only move elements, and how many of their first inputs are moved (None: all)
MOVES: dict[str, int | None] = {
    "Cast": 1, "Concat": None, "Flatten": 1, "Identity": 1, "Reshape": 1, "Slice": 1, "Split": 1, "Squeeze": 1,
    "Transpose": 1, "Unsqueeze": 1,
}  # fmt: skip
MOST = 1 << 26  # elements of all weights that are followed


def find_moved(program: ir.Program) -> dict[str, tuple[ir.WeightRecord, Array]]:
    """Values of the main graph that are made of one weight's elements, moved: the record, and for each element of the
    value its number in the flat weight, int64.

    The nodes are run on numbers of elements instead of values. Weights that are used as they are stored are not among
    the values.
    """
    graph = program.proto.graph
    stored = {s.value_name: r for r, s in zip(program.records, program.sites, strict=True) if s.graph is graph}
    weights = {name: r for name, r in stored.items() if not r.is_vector}
    constants = {
        s.value_name: s.tensor for s in ir.weight_sites(graph)
        if s.graph is graph and s.tensor is not None and s.value_name not in weights
    }  # fmt: skip
    nodes, origin = _moving_nodes(graph, weights, constants)
    used = {r.name: r for records in origin.values() for r in records.values()}
    if not nodes or sum(r.size for r in used.values()) > MOST:
        return {}
    first, numbers = 0, []
    starts: dict[str, int] = {}
    for name, record in weights.items():
        if record.name in used:
            starts[record.name] = first
            values = np.arange(first, first + record.size, dtype=np.int64).reshape(record.shape)
            numbers.append(numpy_helper.from_array(values, name))
            first += record.size
    wanted = [o for node in nodes for o in node.output if o]
    outputs = [helper.make_tensor_value_info(o, onnx.TensorProto.INT64, None) for o in wanted]
    needed = {name for node in nodes for name in node.input}
    kept = [t for name, t in constants.items() if name in needed]
    made = helper.make_graph(nodes, "moves", [], outputs, [*numbers, *_named(kept, constants)])
    model = helper.make_model(made, opset_imports=program.proto.opset_import, ir_version=8)
    try:
        found = ReferenceEvaluator(model).run(None, {})
    except Exception:  # whatever it lacks: a weight is not followed then
        return {}
    result = {}
    for name, value in zip(wanted, found, strict=True):
        records = list(origin[name].values())
        if len(records) == 1:
            result[name] = records[0], np.asarray(value) - starts[records[0].name]
    return result


def _named(tensors: list[onnx.TensorProto], constants: dict[str, onnx.TensorProto]) -> list[onnx.TensorProto]:
    """The tensors under the names of their values: those of Constant nodes have none of their own."""
    names = {id(t): name for name, t in constants.items()}
    result = []
    for tensor in tensors:
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.name = names[id(tensor)]
        result.append(copy)
    return result


def _moving_nodes(
    graph: onnx.GraphProto, weights: dict[str, ir.WeightRecord], constants: dict[str, onnx.TensorProto]
) -> tuple[list[onnx.NodeProto], dict[str, dict[str, ir.WeightRecord]]]:
    """The nodes that move weights, in order, and of every value that they make the records that it is made of."""
    nodes: list[onnx.NodeProto] = []
    origin: dict[str, dict[str, ir.WeightRecord]] = {}
    for node in graph.node:
        if node.op_type not in MOVES or node.domain not in ("", "ai.onnx"):
            continue
        count = MOVES[node.op_type]
        moved = node.input[:count] if count is not None else node.input[:]
        if not all(name in weights or name in origin for name in moved):
            continue
        if not all(name in constants for name in node.input[len(moved) :] if name):
            continue
        sources: dict[str, ir.WeightRecord] = {}
        for name in moved:
            sources |= origin.get(name) or {weights[name].name: weights[name]}
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type == "Cast":  # numbers of elements keep their type
            copy.op_type = "Identity"
            del copy.attribute[:]
        nodes.append(copy)
        origin |= {name: sources for name in node.output if name}
    return nodes, origin
