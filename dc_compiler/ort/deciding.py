"""Finds the float values by which a model decides about an output's shape or choice: scores before a selection, say."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, ValueInfoProto, helper

from dc_compiler import ir
from dc_compiler.ort import shapes

MOST = 8  # values that are compared for an output; the nearest to it count

FLOATS = frozenset(t.number for t in ir.ELEMENT_TYPES if t.is_compressible)
# Operators whose result jumps where a float changes a little: those that choose and order, and others
ORDERING = frozenset({"NonMaxSuppression", "NonZero", "TopK", "Unique"})
SELECTIONS = ORDERING | {
    "ArgMax", "ArgMin", "DynamicQuantizeLinear", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "Multinomial", "QuantizeLinear",
}  # fmt: skip
CHOOSING = frozenset({"Compress", "Gather", "GatherElements", "GatherND"})  # take from input 0 what input 1 says
PRODUCTS = frozenset({
    "Attention", "Conv", "ConvTranspose", "FusedConv", "FusedMatMul", "GRU", "Gemm", "LSTM", "MatMul", "MatMulNBits",
    "MultiHeadAttention", "RNN",
})  # fmt: skip
# What comes before these is as good a witness
PASSING = frozenset({
    "Ceil", "Flatten", "Floor", "Identity", "Reshape", "Round", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
SIZES = frozenset({"Shape", "Size"})  # of these nothing depends on values


@dataclass(frozen=True)
class Decision:
    """How an output depends on choices: the float ``values`` that these look at or choose from, nearest first.

    ``orders`` tells that the choices order what they choose, so that elements of two models need not stand at the same
    places; ``weighted`` that products come after the choices, which the values say nothing about.
    """

    values: tuple[str, ...]
    orders: bool
    weighted: bool


class Decisions:
    """The decisions in the main graph of a model.

    A selection is an operator of ``SELECTIONS``, a Cast from float to another kind, or a
    node with bodies, which may do any of this inside.

    Args:
        model: whose weights are not read.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.types = value_types(model)
        self._makers = {name: node for node in model.graph.node for name in node.output if name}
        self._moving = _depends_on_inputs(model.graph)

    def about(self, output: str) -> Decision:
        """What decides about an output, or about another value."""
        found: list[str] = []
        orders = False
        for node in self._upstream(output, ()):
            looked_at = [n for n in self._looked_at(node) if n in self._makers and self.types.get(n) in FLOATS]
            orders |= bool(looked_at) and node.op_type in ORDERING
            found += [self._source(n) for n in looked_at]
        values = tuple(dict.fromkeys(v for v in found if v != output))[:MOST]
        return Decision(values, orders, any(n.op_type in PRODUCTS for n in self._upstream(output, values)))

    def _upstream(self, value: str, until: Collection[str]) -> Iterator[onnx.NodeProto]:
        """Nodes that a value comes from, nearest first; not beyond ``until``, nor beyond what selections look at."""
        seen, queue = {value}, deque([value])
        while queue:
            node = self._makers.get(queue.popleft())
            if node is None or node.op_type in SIZES:
                continue
            yield node
            stop = {*until, *(n for n in self._looked_at(node) if self.types.get(n) in FLOATS)}
            fresh = [n for n in _read(node) if n in self._moving and n not in seen and n not in stop]
            seen.update(fresh)
            queue.extend(fresh)

    def _looked_at(self, node: onnx.NodeProto) -> list[str]:
        """Values by which a node selects, or from which it chooses by others that depend on the inputs."""
        if node.op_type in CHOOSING:
            return [node.input[0]] if node.input[0] in self._moving and node.input[1] in self._moving else []
        if node.op_type == "Cast":
            selects = self.types.get(node.output[0]) not in FLOATS
        else:
            selects = node.op_type in SELECTIONS or any(a.type == AttributeProto.GRAPH for a in node.attribute)
        return [n for n in _read(node) if n in self._moving] if selects else []

    def _source(self, name: str) -> str:
        node = self._makers.get(name)
        while node is not None and node.op_type in PASSING and node.input[0] in self._makers:
            name = node.input[0]
            node = self._makers.get(name)
        return name


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of the tensors of the main graph, as far as shape inference finds them."""
    return {name: value.elem_type for name, value in shapes.infer(shapes.skeleton(model)).items()}


def expose(model: onnx.ModelProto, values: Iterable[str], types: dict[str, int]) -> None:
    """Make these values of the main graph the model's only outputs."""
    del model.graph.output[:]
    for name in values:
        kind = helper.make_tensor_type_proto(types[name], None)
        model.graph.output.append(ValueInfoProto(name=name, type=kind))


def _read(node: onnx.NodeProto) -> list[str]:
    """Values that a node reads, those that its bodies capture included."""
    inner = (n for body in ir.subgraphs(node) for g in ir.walk_graphs(body) for n in g.node)
    return [name for n in (node, *inner) for name in n.input if name]


def _depends_on_inputs(graph: onnx.GraphProto) -> set[str]:
    """Values that depend on what the inputs hold, beyond their shapes."""
    stored = {t.name for t in graph.initializer}
    found = {i.name for i in graph.input} - stored
    for node in graph.node:
        if node.op_type not in SIZES and not found.isdisjoint(_read(node)):
            found.update(node.output)
    return found
