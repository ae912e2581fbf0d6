"""Finds the values that every weight is multiplied with, and how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from dc_compiler import ir
from dc_compiler.calibration.bodies import Body
from dc_compiler.calibration.moved import Part, starts
from dc_compiler.calibration.scopes import Scope, find_scopes
from dc_compiler.calibration.unfold import AlongAxis, Channels, Patches, Stacked, States, Unfold
from dc_compiler.calibration.views import Elements, Place, View, fewest_parts, split_inputs

LARGEST = 4096  # inputs up to which all pairs of them are looked at; more are taken in parts
# Operators of com.microsoft that multiply their first two inputs as the named ones do
FUSED = {
    "Attention": "MatMul", "DecoderMaskedSelfAttention": "MatMul", "FusedConv": "Conv", "FusedGemm": "Gemm",
    "FusedMatMul": "MatMul", "GemmFastGelu": "MatMul", "PackedAttention": "MatMul",
}  # fmt: skip

# Operators on integers, and those that multiply as they do
INTEGER = {
    "ConvInteger": "Conv", "DynamicQuantizeMatMul": "MatMul", "MatMulInteger": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
}  # fmt: skip
# Operators whose other factor is integers, and those that make these of floats
ON_INTEGERS = frozenset({"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "QLinearConv", "QLinearMatMul"})
ROUNDS = frozenset({"DynamicQuantizeLinear", "QuantizeLinear"})


@dataclass(frozen=True)
class Source:
    """Rows of inputs: what ``unfold`` makes of ``value``, in ``parts`` that are taken for independent.

    ``graph`` is the number of the graph in which it is seen, in the order of ``ir.walk_graphs``: rows count as often as
    this runs. ``elem_type`` is the value's TensorProto.DataType.
    """

    value: str
    unfold: Unfold
    parts: int = 1
    graph: int = 0
    elem_type: int = onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class Product:
    """A weight's elements at ``place``, seen as matrices [g, o, k], times the rows of a source; those of its ``group``
    alone, if that is given."""

    source: Source
    place: Place
    group: int | None = None


def find_products(program: ir.Program) -> dict[str, list[Product]]:
    """For every weight the products that it takes part in, by the record's name: as it is stored, or moved
    (:mod:`dc_compiler.calibration.moved`), in the main graph or in bodies. A weight that something else uses, too, or
    in a way that is not known, has none."""
    found: dict[str, list[Product]] = {}
    unknown: set[str] = set()
    for scope in find_scopes(program):
        given = [part for o in scope.body.graph.output if (part := scope.part(o.name)) is not None]
        unknown |= {record.name for part in given for record in part.records}
        for node in scope.body.graph.node:
            if any(o in scope.parts for o in node.output):
                continue  # it moves a weight, or holds it
            for index, name in enumerate(node.input):
                part = scope.part(name) if name else None
                if part is None:
                    continue
                products = _products_of(part, node, index, scope)
                if not products:
                    unknown |= {record.name for record in part.records}
                for name, product in products:
                    found.setdefault(name, []).append(product)
    return {name: products for name, products in found.items() if name not in unknown}


def _products_of(part: Part, node: onnx.NodeProto, index: int, scope: Scope) -> list[tuple[str, Product]]:
    """The products of a part as a node's input, with the name of the record; none if there is any that is not known."""
    result: list[tuple[str, Product]] = []
    for made, unfold, view in _products(node, index, part.shape):
        value = _as_floats(scope, node, made)
        body = None if value is None else _seen_in(scope, value)
        pieces = fewest_parts(view.extents[2], LARGEST)
        if value is None or body is None or pieces is None:
            continue
        for _ in range(body.depth):
            unfold = Stacked(unfold)
        cut = split_inputs(view, pieces)
        is_float = ir.is_compressible(part.elem_type)
        source = Source(value, unfold, pieces, body.number, part.elem_type if is_float else onnx.TensorProto.FLOAT)
        if part.numbers is None:
            result.append((part.records[0].name, Product(source, cut)))
            continue
        products = _products_of_each(part, source, cut.apply(part.numbers))
        if products is None:
            return []
        result.extend(products)
    return result


def _as_floats(scope: Scope, node: onnx.NodeProto, value: str) -> str | None:
    """What an operator multiplies by, before it was rounded to integers; None where that is not to be seen."""
    if node.op_type not in ON_INTEGERS:
        return value
    maker = next((n for n in scope.body.graph.node if value in n.output), None)
    return maker.input[0] if maker is not None and maker.op_type in ROUNDS else None


def _products_of_each(part: Part, source: Source, numbers: np.ndarray) -> list[tuple[str, Product]] | None:
    """The products of each weight of a part, whose elements ``numbers`` [g, o, k] multiply the source's rows; None
    where weights are joined along the inputs, so that errors of one are to be made up for by another."""
    if len(part.records) == 1:
        return [(part.records[0].name, Product(source, Elements(numbers)))]
    bounds = starts(part.records)
    owners = np.searchsorted(bounds, numbers, "right") - 1
    if (owners != owners[:, :, :1]).any():
        return None
    result = []
    for i, record in enumerate(part.records):
        for group in np.flatnonzero((owners[:, :, 0] == i).any(axis=1)):
            own = numbers[group][owners[group, :, 0] == i] - np.int32(bounds[i])
            result.append((record.name, Product(source, Elements(own[None]), int(group))))
    return result


def _seen_in(scope: Scope, value: str) -> Body | None:
    """The innermost body that a computed value can be seen in, of those around the nodes of ``scope``."""
    home = scope.home(value)
    if home is None or value not in home.values:
        return None
    body: Body | None = scope.body
    while body is not None and body is not home.body and not body.is_open:
        body = body.outer
    return body if body is not None and body.is_open else None


def _products(node: onnx.NodeProto, index: int, shape: tuple[int, ...]) -> Iterator[tuple[str, Unfold, View]]:
    """The values that a node multiplies its ``index``-th input of this shape with, how it makes rows of them, and the
    input's view as matrices."""
    view, rank = View(shape), len(shape)
    match _plain(node), index:
        case ("Conv", 1) | ("QLinearConv", 3):
            groups = ir.attribute(node, "group", 1)
            yield node.input[0], _patches(node, shape[2:], groups), view.reshape(groups, shape[0] // groups, -1)
        case "ConvTranspose", 1:
            groups = ir.attribute(node, "group", 1)
            cut = view.reshape(groups, shape[0] // groups, -1).transpose(0, 2, 1)
            yield node.input[0], Channels(groups), cut
        case "Gemm", 1:
            axis = 0 if ir.attribute(node, "transA", 0) else 1
            cut = view if ir.attribute(node, "transB", 0) else view.transpose(1, 0)
            yield node.input[0], AlongAxis(axis), cut.reshape(1, *cut.extents)
        case "Gemm", 0:
            axis = 1 if ir.attribute(node, "transB", 0) else 0
            cut = view.transpose(1, 0) if ir.attribute(node, "transA", 0) else view
            yield node.input[1], AlongAxis(axis), cut.reshape(1, *cut.extents)
        case ("MatMul", 1) | ("QLinearMatMul", 3) if rank >= 2:
            axis = -2 if ir.attribute(node, "transA", 0) else -1
            cut = view.reshape(-1, *shape[-2:])
            cut = cut if ir.attribute(node, "transB", 0) else cut.transpose(0, 2, 1)
            yield node.input[0], AlongAxis(axis, shape[:-2]), cut
        case "MatMul", 0 if rank == 2:
            axis = -1 if ir.attribute(node, "transB", 0) else -2
            cut = view.transpose(1, 0) if ir.attribute(node, "transA", 0) else view
            yield node.input[1], AlongAxis(axis), cut.reshape(1, *cut.extents)
        case (("LSTM" | "GRU" | "RNN"), 1):
            yield node.input[0], AlongAxis(-1, samples_axis=1), view.reshape(1, -1, shape[-1])
        case (("LSTM" | "GRU" | "RNN"), 2) if node.output[0]:
            yield node.output[0], States(ir.attribute(node, "direction", "forward")), view
            if len(node.input) > 5 and node.input[5]:
                yield node.input[5], AlongAxis(-1, shape[:1], samples_axis=1), view


def _plain(node: onnx.NodeProto) -> str:
    """The operator of the standard that multiplies its inputs as this one does; empty if none is known."""
    if node.op_type in INTEGER:
        return INTEGER[node.op_type]
    if node.domain in ("", "ai.onnx"):
        is_odd = node.op_type in ("LSTM", "GRU", "RNN") and ir.attribute(node, "layout", 0)
        return "" if is_odd else node.op_type
    if node.domain != "com.microsoft" or any(ir.attribute(node, a, 0) for a in ("transBatchA", "transBatchB")):
        return ""
    return FUSED.get(node.op_type, "")


def _patches(node: onnx.NodeProto, kernel: tuple[int, ...], groups: int) -> Patches:
    rank = len(kernel)
    strides = tuple(ir.attribute(node, "strides", [1] * rank))
    dilations = tuple(ir.attribute(node, "dilations", [1] * rank))
    automatic = ir.attribute(node, "auto_pad", "NOTSET")
    given = list(ir.attribute(node, "pads", [0] * 2 * rank))
    pads = tuple(zip(given[:rank], given[rank:], strict=True)) if automatic == "NOTSET" else automatic
    return Patches(tuple(kernel), strides, dilations, pads, groups)
