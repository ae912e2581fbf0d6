"""Finds the tensors of layers that are quantized already: tables of integers, their zero points, biases and scales."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from dc_compiler.ir.dtypes import ElementType, find_element_type
from dc_compiler.ir.record import Quantized, Use
from dc_compiler.ir.roles import MICROSOFT, STANDARD, Roles, hands_on
from dc_compiler.ir.site import Site, attribute, constant_tensor, find_uses, walk_graphs

LEAST = 16  # elements of a table worth an entry in the list of weights
MOST_ZEROS = 1 << 20  # zero points that are looked at
_FAMILY = ("quantize", "qlinear", "integer", "nbits", "bnb4", "qattention", "qgemm", "qmoe", "qordered")

# Operator -> where the zero point of each input with a table of integers is
_ZERO_POINTS: dict[str, dict[int, int]] = {
    "ConvInteger": {1: 3}, "DequantizeLinear": {0: 2}, "DynamicQuantizeMatMul": {1: 3}, "MatMulInteger": {0: 2, 1: 3},
    "MatMulIntegerToFloat": {0: 4, 1: 5}, "QAttention": {1: 7}, "QGemm": {0: 2, 3: 5}, "QLinearConv": {0: 2, 3: 5},
    "QLinearMatMul": {0: 2, 3: 5},
}  # fmt: skip
# The same of operators whose table may hold several numbers of few bits in a byte; zero is in the middle if not given
_BLOCKED: dict[str, dict[int, int]] = {"GatherBlockQuantized": {0: 3}, "MatMulNBits": {1: 3}}


def may_be_quantized(kind: ElementType | None) -> bool:
    """Whether tables of this type can be part of a quantized layer."""
    return kind is not None and (kind.quantizes or (kind.framed and kind.compute is None))


@dataclass
class _Survey:
    """Who takes each value, and what is stored under each name."""

    consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = field(default_factory=dict)
    stored: dict[str, onnx.TensorProto] = field(default_factory=dict)

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> _Survey:
        found = cls()
        for graph in walk_graphs(proto.graph):
            found.stored.update((t.name, t) for t in graph.initializer)
            for node in graph.node:
                tensor = constant_tensor(node)
                if tensor is not None:
                    found.stored[node.output[0]] = tensor
                for index, name in enumerate(node.input):
                    if name:
                        found.consumers.setdefault(name, []).append((node, index))
        return found

    def users(self, name: str) -> Iterator[tuple[onnx.NodeProto, int]]:
        """Operators that use a table, or its elements moved, in the end; not those that move it."""
        pending, seen = [name], {name}
        while pending:
            for node, index in self.consumers.get(pending.pop(), ()):
                if hands_on(node, index) and not _is_of_family(node):
                    new = [o for o in node.output if o and o not in seen]
                    pending += new
                    seen.update(new)
                else:
                    yield node, index

    def number(self, name: str) -> int | None:
        """The number that all elements of a stored tensor of integers have; None where there is no such."""
        tensor = self.stored.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL or np.prod(tensor.dims) > MOST_ZEROS:
            return None
        values = numpy_helper.to_array(tensor).reshape(-1)
        if values.size == 0 or (values != values[0]).any():
            return None
        return int(values[0])


def find_quantized(proto: onnx.ModelProto, sites: list[Site]) -> dict[str, Quantized]:
    """The tables of integers and short floats that are part of quantized layers, by the name of their value.

    These are operands of products and rows that are looked up, and whatever else operators on quantized values take.
    Tables of fewer than ``LEAST`` elements are left out.
    """
    tables = [s for s in sites if may_be_quantized(find_element_type(s.elem_type)) and np.prod(s.shape) >= LEAST]
    if not tables:
        return {}
    survey, roles = _Survey.of(proto), Roles.of(proto)
    found: dict[str, Quantized] = {}
    for site in tables:
        name, kind = site.value_name, find_element_type(site.elem_type)
        assert kind is not None
        is_of_layer = any(_is_of_family(node) for node, _ in survey.users(name))
        if (kind.quantizes or is_of_layer) and roles.obstacle(name) is None:
            found[name] = Quantized(True, _zero_of(survey, name, kind))
        elif is_of_layer:
            found[name] = Quantized(False)
    return found


def uses_as_floats(proto: onnx.ModelProto, tables: Container[str]) -> dict[str, list[Use]]:
    """Consumers of what DequantizeLinear makes of tables, by the table's name."""
    made = {
        n.output[0]: n.input[0]
        for g in walk_graphs(proto.graph)
        for n in g.node
        if n.op_type == "DequantizeLinear" and n.input[0] in tables
    }
    found: dict[str, list[Use]] = {}
    for output, uses in find_uses(proto.graph, made).items() if made else ():
        found.setdefault(made[output], []).extend(uses)
    return found


def is_on_quantized(op_type: str) -> bool:
    """Whether an operator works on quantized values, by its name."""
    return any(part in op_type.lower() for part in _FAMILY)


def _is_of_family(node: onnx.NodeProto) -> bool:
    return node.domain in (*STANDARD, MICROSOFT) and is_on_quantized(node.op_type)


def _zero_of(survey: _Survey, name: str, kind: ElementType) -> int | None:
    """The number that stands for zero for all who use a table of integers."""
    zeros = {_zero_for(survey, node, index, kind) for node, index in survey.users(name)}
    return zeros.pop() if len(zeros) == 1 else None


def _zero_for(survey: _Survey, node: onnx.NodeProto, index: int, kind: ElementType) -> int | None:
    place = _ZERO_POINTS.get(node.op_type, {}).get(index)
    if place is None and index not in _BLOCKED.get(node.op_type, {}):
        return None
    if place is not None:
        given = node.input[place] if len(node.input) > place else ""
        return survey.number(given) if given else 0
    given = node.input[3] if len(node.input) > 3 else ""
    bits = attribute(node, "bits", 4)
    if given or (bits < kind.bits):  # a byte holds several
        return None
    return 0 if kind.dtype.kind == "i" or kind.name == "int4" else 1 << (bits - 1)
