"""Where tensors are stored in a graph and its bodies, and who consumes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper

from dc_compiler.ir.record import Use


@dataclass
class Site:
    """Where a record's tensor is stored: an initializer of ``graph``, or a Constant ``node`` in it."""

    graph: onnx.GraphProto
    tensor: onnx.TensorProto | None
    node: onnx.NodeProto | None

    @property
    def value_name(self) -> str:
        if self.node is not None:
            return str(self.node.output[0])
        assert self.tensor is not None
        return self.tensor.name


def walk_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and, depth first, every graph inside its nodes (If, Loop, Scan bodies)."""
    yield graph
    for node in graph.node:
        for sub in subgraphs(node):
            yield from walk_graphs(sub)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs held by the node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node, or None for scalars, strings, sparse values and attribute references."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.ref_attr_name:
        return None
    tensor: onnx.TensorProto | None = None
    if attribute.name == "value":
        tensor = attribute.t
    elif attribute.name == "value_floats":
        tensor = helper.make_tensor("", TensorProto.FLOAT, [len(attribute.floats)], attribute.floats)
    return tensor


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute, text as str; ``default`` when it is not given."""
    found = next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
    return found.decode() if isinstance(found, bytes) else found


def weight_sites(graph: onnx.GraphProto) -> Iterator[Site]:
    """Every place of the graph and its bodies that stores a tensor, in a fixed order."""
    for g in walk_graphs(graph):
        for tensor in g.initializer:
            yield Site(g, tensor, None)
        for node in g.node:
            tensor_or_none = constant_tensor(node)
            if tensor_or_none is not None:
                yield Site(g, tensor_or_none, node)


def find_uses(graph: onnx.GraphProto) -> dict[str, list[Use]]:
    """Consumers of every value name, in the graph and in its bodies.

    Bodies may give their own values a name that another body also uses; the uses of such names are merged, which
    only affects the choice of the channel axis.
    """
    uses: dict[str, list[Use]] = {}
    for g in walk_graphs(graph):
        for node in g.node:
            transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
            for index, name in enumerate(node.input):
                if name:
                    uses.setdefault(name, []).append(Use(node.op_type, index, transposed, node.name))
    return uses
