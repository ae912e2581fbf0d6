"""Follows weights that are cut, joined and turned before they are used: which of their elements stand where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from dc_compiler import ir

Array = np.ndarray
# Operators that only move elements, and how many of their first inputs are moved (None: all)
MOVES: dict[str, int | None] = {
    "Cast": 1, "Concat": None, "Flatten": 1, "Identity": 1, "Reshape": 1, "Slice": 1, "Split": 1, "Squeeze": 1,
    "Transpose": 1, "Unsqueeze": 1,
}  # fmt: skip
MOST = 1 << 26  # numbers of elements that are kept, four bytes each


@dataclass(frozen=True)
class Part:
    """A value made of one weight's elements.

    Attributes:
        elem_type: TensorProto.DataType of the value.
        numbers: of the element of the flat weight that stands at each place, int32; None for the weight as it is
            stored.
    """

    record: ir.WeightRecord
    elem_type: int
    numbers: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the value."""
        return self.record.shape if self.numbers is None else self.numbers.shape


def move(
    node: onnx.NodeProto,
    parts: Mapping[str, Part],
    constants: Mapping[str, Array],
    opsets: Sequence[onnx.OperatorSetIdProto],
    most: int,
) -> dict[str, Part]:
    """What a node that only moves elements makes of parts of one weight, by name; nothing of other nodes, and nothing
    where its outputs have more than ``most`` elements.

    The node is run on numbers of elements instead of values.

    Args:
        parts, constants: its inputs.
    """
    if node.op_type not in MOVES or node.domain not in ("", "ai.onnx"):
        return {}
    moved = node.input[: MOVES[node.op_type]]
    if not all(name in parts for name in moved) or any(name in parts for name in node.input[len(moved) :]):
        return {}
    first = parts[moved[0]]
    if any(p.record is not first.record for p in parts.values()):
        return {}
    if node.op_type == "Cast":  # numbers of elements keep their type
        return {node.output[0]: replace(first, elem_type=ir.attribute(node, "to", first.elem_type))}
    if first.record.size > most:
        return {}
    feeds = {name: _numbers(part).astype(np.int64) for name, part in parts.items()} | dict(constants)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), None) for n, a in feeds.items()
    ]
    wanted = [o for o in node.output if o]
    outputs = [helper.make_tensor_value_info(o, onnx.TensorProto.INT64, None) for o in wanted]
    graph = helper.make_graph([node], "move", inputs, outputs)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    try:
        found = [np.asarray(a) for a in ReferenceEvaluator(model).run(None, feeds)]
    except Exception:  # whatever it lacks: the weight is not followed then
        return {}
    if sum(a.size for a in found) > most:
        return {}
    return {name: replace(first, numbers=a.astype(np.int32)) for name, a in zip(wanted, found, strict=True)}


def _numbers(part: Part) -> Array:
    if part.numbers is not None:
        return part.numbers
    return np.arange(part.record.size, dtype=np.int32).reshape(part.shape)
