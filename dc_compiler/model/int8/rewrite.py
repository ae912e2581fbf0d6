"""Puts operators on integers in the place of layers whose weights became int8."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import onnx
from onnx import helper

from dc_compiler import ir
from dc_compiler.model.int8.convolutions import CHANNEL_OPSET, CONTRIB, dequantized, dequantized_bias, rounded
from dc_compiler.model.int8.products import integer_product
from dc_compiler.model.names import default_opset, unused_name
from dc_compiler.model.sparse import RUN_DOMAIN


def run_in_int8(
    model: onnx.ModelProto,
    weights: Mapping[str, tuple[str, int]],
    ranges: Mapping[str, ir.Range],
    names: Counter[str],
    from_kept: Collection[str] = (),
) -> None:
    """Let the layers that multiply by some weights, from now on int8, do so in integers.

    Args:
        weights: by name, that of their scales (a float vector), and how many these are.
        ranges: of values that are rounded to 8 bits wherever they are read.
        names: of all values, to which new ones are added.
        from_kept: weights whose products the library may run from what is kept of them.
    """
    graph, opset = model.graph, default_opset(model)
    _round_values(graph, ranges, opset, names)
    _multiply_in_integers(graph, weights, opset, names, from_kept)
    stale = weights.keys()
    kept = [v for v in graph.value_info if v.name not in stale]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    needs_contrib = opset < CHANNEL_OPSET and any(n.domain == CONTRIB for n in graph.node)
    if needs_contrib and all(o.domain != CONTRIB for o in model.opset_import):
        model.opset_import.add(domain=CONTRIB, version=1)


def _round_values(graph: onnx.GraphProto, ranges: Mapping[str, ir.Range], opset: int, names: Counter[str]) -> None:
    """Round values where they are made; whoever reads them in the main graph or a body reads what was rounded."""
    floats: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []

    def add(value: str) -> None:
        if value in ranges:
            pair = rounded(graph, value, ranges[value], opset, names)
            floats[value] = pair[1].output[0]
            nodes.extend(pair)

    for value in graph.input:
        add(value.name)
    for node in graph.node:
        _rename_inputs(node, floats)
        nodes.append(node)
        for name in node.output:
            add(name)
    _replace(graph, nodes)


def _rename_inputs(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let a node, and the bodies that it holds, read other values."""
    for i, name in enumerate(node.input):
        if name in names:
            node.input[i] = names[name]
    for body in ir.subgraphs(node):
        own = set(ir.defined(body))
        visible = {old: new for old, new in names.items() if old not in own}
        for inner in body.node:
            _rename_inputs(inner, visible)
        for output in body.output:
            output.name = visible.get(output.name, output.name)


def _multiply_in_integers(
    graph: onnx.GraphProto,
    weights: Mapping[str, tuple[str, int]],
    opset: int,
    names: Counter[str],
    from_kept: Collection[str],
) -> None:
    nodes: list[onnx.NodeProto] = []
    integers: dict[str, Sequence[str]] = {}  # names of a value as uint8, of its scale and of its zero point
    floats: dict[str, str] = {}  # of weights of convolutions
    scales = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "DequantizeLinear"}
    for node in graph.node:
        weight = node.input[1] if len(node.input) > 1 else ""
        if weight not in weights:
            nodes.append(node)
            continue
        scale, channels = weights[weight]
        value = node.input[0]
        if node.op_type == "Conv":
            if weight not in floats:
                nodes.append(dequantized(graph, weight, scale, channels, opset, names))
                floats[weight] = nodes[-1].output[0]
            node.input[1] = floats[weight]
            if opset < CHANNEL_OPSET and len(node.input) > 2 and node.input[2]:
                nodes += dequantized_bias(node, scales[value], scale, names)
                node.input[2] = nodes[-1].output[0]
            nodes.append(node)
            continue
        if value not in integers:
            integers[value] = [unused_name(f"{value}.{part}", names) for part in ("integers", "step", "zero")]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [value], integers[value]))
        product = integer_product(node, scale, integers[value], names)
        if weight in from_kept:
            for part in product:
                part.domain = RUN_DOMAIN
        nodes += product
    _replace(graph, nodes)


def _replace(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
