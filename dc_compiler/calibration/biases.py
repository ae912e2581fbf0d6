"""Finds the biases that can make up for what a change of a weight does to the mean of its layer's outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx

from dc_compiler import ir
from dc_compiler.calibration.grams import Gram

Array = np.ndarray
CONVOLUTIONS = frozenset({"Conv", "FusedConv"})
PRODUCTS = CONVOLUTIONS | {"Gemm", "MatMul", "FusedMatMul", "FusedGemm"}


def find_biases(program: ir.Program, changeable: Collection[str]) -> dict[str, str]:
    """For weights, by the record's name, the vector that is added to all that they make and to nothing else.

    It is an input of the same node, or of an Add right behind it, with an element for each output channel.

    Args:
        changeable: names of the records that may be changed.
    """
    pairs: dict[str, set[str | None]] = {}
    counts: Counter[str] = Counter()
    graph = program.proto.graph
    stored = {s.value_name: r for r, s in zip(program.records, program.sites, strict=True) if s.graph is graph}
    readers = _readers(graph)
    for node in graph.node:
        for index, name in enumerate(node.input):
            record = stored.get(name)
            if record is None or record.is_vector:
                continue
            bias = _bias(node, index, record.shape, stored, readers)
            pairs.setdefault(record.name, set()).add(None if bias is None else bias.name)
            if bias is not None:
                counts[bias.name] += 1
    by_name = {r.name: r for r in program.records}
    owners = {w: next(iter(found)) for w, found in pairs.items() if len(found) == 1}
    weights = Counter(owners.values())
    return {
        w: b
        for w, b in owners.items()
        if b is not None and b in changeable and weights[b] == 1 and counts[b] == by_name[b].tied
    }


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto | None]]:
    """Nodes that take a value in, None for the graph's own outputs and for bodies."""
    found: dict[str, list[onnx.NodeProto | None]] = {o.name: [None] for o in graph.output}
    for inner in ir.walk_graphs(graph):
        for node in inner.node:
            for name in node.input:
                found.setdefault(name, []).append(node if inner is graph else None)
    return found


def _bias(
    node: onnx.NodeProto,
    index: int,
    shape: tuple[int, ...],
    stored: Mapping[str, ir.WeightRecord],
    readers: Mapping[str, list[onnx.NodeProto | None]],
) -> ir.WeightRecord | None:
    """The bias that comes to what a node makes of the weight of this shape that is its ``index``-th input."""
    if node.op_type not in PRODUCTS or index != 1 or len(shape) < 2:
        return None
    is_convolution = node.op_type in CONVOLUTIONS
    if is_convolution:
        channels = shape[0]
    elif len(shape) > 2 or any(ir.attribute(node, a, 1.0) != 1.0 for a in ("alpha", "beta")):
        return None
    else:
        channels = shape[0] if ir.attribute(node, "transB", 0) else shape[1]
    if len(node.input) > 2 and node.input[2]:
        own = stored.get(node.input[2])
        return own if own is not None and own.size == channels and own.shape[-1:] == (channels,) else None
    return next(_added(node, channels, len(shape) - 2 if is_convolution else 0, stored, readers), None)


def _added(
    node: onnx.NodeProto,
    channels: int,
    behind: int,
    stored: Mapping[str, ir.WeightRecord],
    readers: Mapping[str, list[onnx.NodeProto | None]],
) -> Iterator[ir.WeightRecord]:
    """A vector that the only reader of a node's output adds to it: one element for each of the channels, whose axis has
    so many ``behind`` it."""
    found = readers.get(node.output[0], [])
    if ir.attribute(node, "activation", "") or len(found) != 1 or found[0] is None or found[0].op_type != "Add":
        return
    for name in found[0].input:
        bias = stored.get(name)
        if bias is not None and bias.size == channels and bias.shape[-1 - behind :] == (channels, *[1] * behind):
            yield bias


def shift(before: Array, after: Array, gram: Gram, channels: int) -> Array:
    """What is to be added to a bias so that mean outputs stay, float64 [channels].

    Args:
        before, after: values of the original's weight and of the changed one, whose ``gram`` is at a View. Where it
            tells how inputs lag behind the original's, this is made up for as well.
    """
    place = gram.place
    change = place.apply(before).astype(np.float64) - place.apply(after)
    sums = np.matmul(change, gram.moments.means[:, :, None].astype(np.float64))
    if gram.moments.lag is not None:
        sums = sums + np.matmul(place.apply(before).astype(np.float64), gram.moments.lag.means[:, :, None])
    outputs = place.extents[1]  # of each group; parts that inputs were taken in add up
    return np.asarray(sums.reshape(channels // outputs, -1, outputs).sum(axis=1).reshape(-1))
