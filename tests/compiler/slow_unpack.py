"""What `dcc unpack` must give, by other means: protobuf's own classes, and one weight after another."""

from __future__ import annotations

import itertools
import math

import onnx
from onnx import TensorProto

from dc_compiler import ir
from dc_compiler.codec import binding
from dc_compiler.model import packed
from dc_compiler.model.importer import DOMAIN
from dc_compiler.model.sparse import RUN_DOMAIN


def slow_unpack(model: onnx.ModelProto) -> onnx.ModelProto:
    """The standard model behind a compiled one of either form."""
    opened = packed.open_packed(model, "the model")
    result = _outer_around_inner(model, opened.inner) if opened.form == "session" else _without_decoders(model)
    for payload in opened.payloads:
        if payload.weights[0].execution == ir.ATTRIBUTES:
            _fill(result.graph, payload)
            continue
        result.graph.initializer.extend(_decode(payload))
    for node in result.graph.node:
        if node.domain == RUN_DOMAIN:
            node.ClearField("domain")
    imports = [o for o in result.opset_import if o.domain not in (DOMAIN, RUN_DOMAIN)]
    facts = [p for p in result.metadata_props if not p.key.startswith(f"{DOMAIN}.")]
    del result.opset_import[:], result.metadata_props[:]
    result.opset_import.extend(imports)
    result.metadata_props.extend(facts)
    return result


def _fill(graph: onnx.GraphProto, payload: packed.Payload) -> None:
    """Give the one node that names the payload its attributes."""
    marked = [(n, a) for n in graph.node for a in n.attribute if a.name == "dcc.attributes"]
    ((node, mark),) = [(n, a) for n, a in marked if a.s.decode() == payload.weights[0].name]
    at = list(node.attribute).index(mark)
    packed_ones = onnx.NodeProto.FromString(binding.decode(payload.frame).tobytes()).attribute
    every = [*node.attribute[:at], *packed_ones, *node.attribute[at + 1 :]]
    del node.attribute[:]
    node.attribute.extend(every)


def _decode(payload: packed.Payload) -> list[TensorProto]:
    if payload.is_int8:
        parts = [array.tobytes() for array in binding.decode_points(payload.frame)]
    else:
        elements = binding.decode(payload.frame).reshape(-1)
        ends = list(itertools.accumulate(math.prod(w.dims) for w in payload.weights))
        parts = [elements[start:end].tobytes() for start, end in zip([0, *ends], ends, strict=False)]
    return [
        TensorProto(name=w.name, data_type=w.elem_type, dims=w.dims, raw_data=part)
        for w, part in zip(payload.weights, parts, strict=True)
    ]


def _outer_around_inner(model: onnx.ModelProto, inner: onnx.ModelProto) -> onnx.ModelProto:
    """What the outer model says about itself, around the inner graph."""
    inputs = {i.name for i in model.graph.input}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.graph.CopyFrom(inner.graph)
    result.graph.ClearField("doc_string")
    if model.graph.HasField("doc_string"):
        result.graph.doc_string = model.graph.doc_string
    result.graph.metadata_props.extend(model.graph.metadata_props)
    result.graph.initializer.extend(t for t in model.graph.initializer if t.name in inputs)
    del result.functions[:], result.opset_import[:]
    result.functions.extend(inner.functions)
    result.opset_import.extend(inner.opset_import)
    return result


def _without_decoders(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without DecodeWeights nodes, their buffers (of one node or two) and their payloads."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    unread = {name for node in model.graph.node if node.domain == DOMAIN for name in node.input}
    kept = []
    for node in reversed(model.graph.node):
        if unread.intersection(node.output):
            unread.update(node.input)
        elif node.domain != DOMAIN:
            kept.append(node)
    tensors = [t for t in model.graph.initializer if t.name not in unread]
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(reversed(kept))
    result.graph.initializer.extend(tensors)
    return result
