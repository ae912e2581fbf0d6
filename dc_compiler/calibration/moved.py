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
    """A value made of elements of weights.

    Attributes:
        records: the weights, each once.
        elem_type: TensorProto.DataType of the value.
        numbers: of the element that stands at each place, in the flat weights one after the other, int32; None for a
            weight as it is stored.
    """

    records: tuple[ir.WeightRecord, ...]
    elem_type: int
    numbers: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the value."""
        return self.records[0].shape if self.numbers is None else self.numbers.shape

    def elements(self) -> Array:
        """``numbers``, made for a weight as it is stored."""
        if self.numbers is not None:
            return self.numbers
        return np.arange(self.records[0].size, dtype=np.int32).reshape(self.shape)


def starts(records: Sequence[ir.WeightRecord]) -> Array:
    """Numbers of the first elements of weights that are counted one after the other, and of all elements."""
    return np.cumsum([0, *(r.size for r in records)])


def can_move(node: onnx.NodeProto) -> bool:
    """Whether an operator only moves elements."""
    return node.op_type in MOVES and node.domain in ("", "ai.onnx")


def move(
    node: onnx.NodeProto,
    parts: Mapping[str, Part],
    constants: Mapping[str, Array],
    opsets: Sequence[onnx.OperatorSetIdProto],
    most: int,
) -> dict[str, Part]:
    """What a node that only moves elements makes of parts, by name; nothing of other nodes, and nothing where the
    weights or its outputs have more than ``most`` elements.

    The node is run on numbers of elements instead of values.

    Args:
        parts, constants: its inputs.
    """
    if not can_move(node):
        return {}
    moved = node.input[: MOVES[node.op_type]]
    if not all(name in parts for name in moved) or any(name in parts for name in node.input[len(moved) :]):
        return {}
    first = parts[moved[0]]
    if node.op_type in ("Cast", "Identity"):  # numbers of elements keep their type
        return {node.output[0]: replace(first, elem_type=ir.attribute(node, "to", first.elem_type))}
    records = tuple({id(r): r for part in parts.values() for r in part.records}.values())
    if sum(r.size for r in records) > most:
        return {}
    feeds = {name: _counted(part, records) for name, part in parts.items()} | dict(constants)
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
    return {name: Part(records, first.elem_type, a.astype(np.int32)) for name, a in zip(wanted, found, strict=True)}


def _counted(part: Part, records: Sequence[ir.WeightRecord]) -> Array:
    """Numbers of a part's elements, int64, where more weights are counted."""
    numbers: Array = part.elements().astype(np.int64)
    own, at = starts(part.records), {id(r): start for r, start in zip(records, starts(records), strict=False)}
    shifts = np.array([at[id(r)] for r in part.records]) - own[:-1]
    numbers += shifts[np.searchsorted(own, numbers, "right") - 1] if len(shifts) > 1 else shifts[0]
    return numbers
