"""Finds the float values by which a model decides about an output's shape or choice: scores before a selection, say."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import onnx
from onnx import AttributeProto, ValueInfoProto, helper

from dc_compiler import ir
from dc_compiler.ort import shapes

MOST = 8  # values that are compared for an output; the nearest to it count

FLOATS = frozenset(t.number for t in ir.ELEMENT_TYPES if t.is_compressible)
# Operators whose result jumps where a float changes a little
SELECTIONS = frozenset({
    "ArgMax", "ArgMin", "DynamicQuantizeLinear", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "Multinomial", "NonMaxSuppression", "NonZero", "QuantizeLinear", "TopK", "Unique",
})  # fmt: skip
ROUNDINGS = frozenset({"Ceil", "Floor", "Round"})
SIZES = frozenset({"Shape", "Size"})  # of these nothing depends on values


def deciding_values(model: onnx.ModelProto, output: str, types: dict[str, int]) -> list[str]:
    """Float values of the main graph that selections on the way to an output look at, nearest first.

    Args:
        types: element types of values, as :func:`value_types` finds them.

    A selection is an operator of ``SELECTIONS``, a Cast from float to another kind (rounding before it included), or a
    node with bodies, which may do any of this inside.
    """
    makers = {name: node for node in model.graph.node for name in node.output if name}
    moving = _depends_on_inputs(model.graph)
    found: list[str] = []
    seen, queue = {output}, deque([output])
    while queue:
        node = makers.get(queue.popleft())
        if node is None or node.op_type in SIZES:
            continue
        selects = _selects(node, types)
        for name in _read(node):
            if name not in moving:
                continue
            if selects and types.get(name) in FLOATS and name in makers:
                found.append(_before_rounding(name, makers))
            elif name not in seen:
                queue.append(name)
            seen.add(name)
    return list(dict.fromkeys(found))[:MOST]


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of the tensors of the main graph, as far as shape inference finds them."""
    return {name: value.elem_type for name, value in shapes.infer(shapes.skeleton(model)).items()}


def expose(model: onnx.ModelProto, values: Iterable[str], types: dict[str, int]) -> None:
    """Make these values of the main graph the model's only outputs."""
    del model.graph.output[:]
    for name in values:
        kind = helper.make_tensor_type_proto(types[name], None)
        model.graph.output.append(ValueInfoProto(name=name, type=kind))


def _selects(node: onnx.NodeProto, types: dict[str, int]) -> bool:
    if node.op_type == "Cast":
        return types.get(node.output[0]) not in FLOATS
    return node.op_type in SELECTIONS or any(a.type == AttributeProto.GRAPH for a in node.attribute)


def _read(node: onnx.NodeProto) -> list[str]:
    """Values that a node reads, those that its bodies capture included."""
    inner = (n for body in ir.subgraphs(node) for g in ir.walk_graphs(body) for n in g.node)
    return [name for n in (node, *inner) for name in n.input if name]


def _before_rounding(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    while name in makers and makers[name].op_type in ROUNDINGS and makers[name].input[0] in makers:
        name = makers[name].input[0]
    return name


def _depends_on_inputs(graph: onnx.GraphProto) -> set[str]:
    """Values that depend on what the inputs hold, beyond their shapes."""
    stored = {t.name for t in graph.initializer}
    found = {i.name for i in graph.input} - stored
    for node in graph.node:
        if node.op_type not in SIZES and not found.isdisjoint(_read(node)):
            found.update(node.output)
    return found
