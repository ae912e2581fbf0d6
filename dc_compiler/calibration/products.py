"""Finds the values that every weight is multiplied with, and how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from dc_compiler import ir
from dc_compiler.calibration.moved import find_moved
from dc_compiler.calibration.unfold import AlongAxis, Channels, Patches, States, Unfold
from dc_compiler.calibration.views import Elements, Place, View, fewest_parts, split_inputs

LARGEST = 4096  # inputs up to which all pairs of them are looked at; more are taken in parts


@dataclass(frozen=True)
class Source:
    """Rows of inputs: what ``unfold`` makes of ``value``, in ``parts`` that are taken for independent."""

    value: str
    unfold: Unfold
    parts: int = 1


@dataclass(frozen=True)
class Product:
    """A weight's elements at ``place``, seen as matrices [g, o, k], times the rows of a source."""

    source: Source
    place: Place


def find_products(program: ir.Program) -> dict[str, list[Product]]:
    """For every weight of the main graph the products it takes part in, by the record's name: as it is stored, or moved
    (:mod:`dc_compiler.calibration.moved`). A weight that something else uses, too, or in a way that is not known, has
    none."""
    graph = program.proto.graph
    stored = {s.value_name: r for r, s in zip(program.records, program.sites, strict=True) if s.graph is graph}
    moved = find_moved(program)
    found: dict[str, list[Product]] = {}
    outside = _used_in_bodies(graph) | {o.name for o in graph.output}
    unknown = {r.name for name, r in stored.items() if name in outside}
    unknown |= {record.name for name, (record, _) in moved.items() if name in outside}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in moved:
                record, numbers = moved[name]
                product = _product(node, index, numbers.shape, numbers)
            elif name in stored and not stored[name].is_vector:
                record = stored[name]
                product = _product(node, index, record.shape)
            else:
                continue
            if product is not None:
                found.setdefault(record.name, []).append(product)
            elif not any(o in moved for o in node.output):
                unknown.add(record.name)
    return {name: products for name, products in found.items() if name not in unknown}


def _used_in_bodies(graph: onnx.GraphProto) -> set[str]:
    bodies = [g for g in ir.walk_graphs(graph) if g is not graph]
    inner = {name for g in bodies for node in g.node for name in node.input}
    return inner | {o.name for g in bodies for o in g.output}


def _product(
    node: onnx.NodeProto, index: int, shape: tuple[int, ...], numbers: np.ndarray | None = None
) -> Product | None:
    """The product of a node's input of this shape; ``numbers`` says which elements of the weight it is made of."""
    if node.domain not in ("", "ai.onnx"):
        return None
    found = next(_products(node, index, shape), None)
    if found is None:
        return None
    value, unfold, view = found
    parts = fewest_parts(view.extents[2], LARGEST)
    if parts is None:
        return None
    view = split_inputs(view, parts)
    return Product(Source(value, unfold, parts), view if numbers is None else Elements(view.apply(numbers)))


def _products(node: onnx.NodeProto, index: int, shape: tuple[int, ...]) -> Iterator[tuple[str, Unfold, View]]:
    """The value that a node multiplies its ``index``-th input of this shape with, how it makes rows of it, and the
    input's view as matrices."""
    view, rank = View(shape), len(shape)
    match node.op_type, index:
        case "Conv", 1:
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
        case "MatMul", 1 if rank >= 2:
            cut = view.reshape(-1, *shape[-2:]).transpose(0, 2, 1)
            yield node.input[0], AlongAxis(-1, batched=rank - 2), cut
        case "MatMul", 0 if rank == 2:
            yield node.input[1], AlongAxis(-2), view.reshape(1, *shape)
        case (("LSTM" | "GRU" | "RNN"), 1) if not ir.attribute(node, "layout", 0):
            yield node.input[0], AlongAxis(-1), view.reshape(1, -1, shape[-1])
        case (("LSTM" | "GRU" | "RNN"), 2) if node.output[0] and not ir.attribute(node, "layout", 0):
            yield node.output[0], States(), view


def _patches(node: onnx.NodeProto, kernel: tuple[int, ...], groups: int) -> Patches:
    rank = len(kernel)
    strides = tuple(ir.attribute(node, "strides", [1] * rank))
    dilations = tuple(ir.attribute(node, "dilations", [1] * rank))
    automatic = ir.attribute(node, "auto_pad", "NOTSET")
    given = list(ir.attribute(node, "pads", [0] * 2 * rank))
    pads = tuple(zip(given[:rank], given[rank:], strict=True)) if automatic == "NOTSET" else automatic
    return Patches(tuple(kernel), strides, dilations, pads, groups)
