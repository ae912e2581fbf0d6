"""Bodies of If, Loop and Scan nodes: where they stand, and how a value of one is made an output of the main graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dc_compiler import ir

FIXED = {"If": 0, "Loop": 1, "Scan": 0}  # outputs of a body that are none of its node's


@dataclass(frozen=True, eq=False)
class Body:
    """A graph, the node whose body it is, and the graph around it; the main graph has neither.

    Attributes:
        number: of the graph in the order of ``ir.walk_graphs``.
    """

    graph: onnx.GraphProto
    number: int = 0
    node: onnx.NodeProto | None = None
    outer: Body | None = None

    @property
    def depth(self) -> int:
        """Of the loops around it: how many axes, one a loop, come before those of a value that is made an output."""
        inner = 0 if self.outer is None else self.outer.depth
        return inner + (self.node is not None and self.node.op_type != "If")

    @property
    def is_open(self) -> bool:
        """Whether its values can be made outputs of the main graph. Not those of a branch inside a loop: iterations in
        which it does not run would give another shape than the others."""
        if self.node is None or self.outer is None:
            return True
        if self.node.op_type == "If" and self.outer.depth > 0:
            return False
        wanted = len(self.graph.output) - FIXED.get(self.node.op_type, -1)
        return self.node.op_type in FIXED and len(self.node.output) == wanted and self.outer.is_open


def walk_bodies(graph: onnx.GraphProto) -> Iterator[Body]:
    """The main graph and every body, in the order of ``ir.walk_graphs``."""
    counter = iter(range(1 << 62))

    def walk(graph: onnx.GraphProto, node: onnx.NodeProto | None, outer: Body | None) -> Iterator[Body]:
        body = Body(graph, next(counter), node, outer)
        yield body
        for inner in graph.node:
            for sub in ir.subgraphs(inner) if inner.attribute else ():
                yield from walk(sub, inner, body)

    return walk(graph, None, None)


def expose(body: Body, value: str, elem_type: int, label: str) -> str:
    """Make a value of a body, of this TensorProto.DataType, one of the main graph; in place.

    A Loop or Scan stacks it along a new first axis, one element an iteration. An If gives an empty tensor where the
    branch does not run.

    Returns:
        Its name in the main graph, which starts with ``label``.
    """
    level = 0
    while body.node is not None and body.outer is not None:
        inner, outer = f"{label}.{level}.inner", f"{label}.{level}"
        body.graph.node.append(helper.make_node("Identity", [value], [inner]))
        body.graph.output.append(helper.make_tensor_value_info(inner, elem_type, None))
        for other in ir.subgraphs(body.node):
            if other is not body.graph:
                _add_empty(other, elem_type, f"{inner}.empty")
        for attribute in body.node.attribute:
            if attribute.name in ("scan_output_axes", "scan_output_directions"):
                attribute.ints.append(0)
        body.node.output.append(outer)
        value, body, level = outer, body.outer, level + 1
    return value


def _add_empty(graph: onnx.GraphProto, elem_type: int, name: str) -> None:
    empty = numpy_helper.from_array(np.zeros(0, helper.tensor_dtype_to_np_dtype(elem_type)))
    graph.node.append(helper.make_node("Constant", [], [name], value=empty))
    graph.output.append(helper.make_tensor_value_info(name, elem_type, None))
