"""Reads compiled models of either form: which weights they hold, and the standard model they stand for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from dc_compiler import ir
from dc_compiler.codec import binding
from dc_compiler.errors import CorruptFrameError, InvalidArgumentError, ModelError
from dc_compiler.model import files
from dc_compiler.model.importer import DOMAIN
from dc_compiler.model.sparse import RUN_DOMAIN, run_dense

# Version 2 tells how each weight is executed; it is written where that is not plainly decoding it
MANIFEST_VERSIONS = (1, 2)
FREE_BYTES = 64 << 20  # what every file may decode to (native/model/budget.h has the same numbers)
BYTES_PER_STORED = 1024  # and what each byte stored in it adds


@dataclass(frozen=True)
class PackedWeight:
    """A packed weight of a compiled model: its name, element type and shape as the model declares them, and how it is
    executed."""

    name: str
    elem_type: int
    dims: tuple[int, ...]
    execution: str = ir.DECODE


@dataclass(frozen=True)
class Payload:
    """A frame and the weights it decodes to, one after another, usually one; or an int8 weight and its scales."""

    frame: bytes
    weights: tuple[PackedWeight, ...]

    @property
    def label(self) -> str:
        """The weight's name; several weights share the name of the first."""
        more = f" and {len(self.weights) - 1} more" if len(self.weights) > 1 and not self.is_int8 else ""
        return self.weights[0].name + more

    @property
    def is_int8(self) -> bool:
        """Whether it gives the points of a grid, as int8, and the scales."""
        return self.weights[0].execution == ir.INT8


@dataclass(frozen=True)
class PackedModel:
    """A compiled model taken apart. ``inner`` is the graph that runs: the model itself in graph form."""

    form: str
    payloads: tuple[Payload, ...]
    inner: onnx.ModelProto
    topology_bytes: int


def is_compiled(model: onnx.ModelProto) -> bool:
    """Whether the model needs dcc's library."""
    return any(o.domain == DOMAIN for o in model.opset_import)


def is_written(model: onnx.ModelProto) -> bool:
    """Whether dcc wrote this model; a graph form in which no weight is packed needs no library."""
    return is_compiled(model) or any(p.key == f"{DOMAIN}.version" for p in model.metadata_props)


class Budget:
    """What a compiled model may take when decoded; the runtime's rule (SECURITY.md).

    limit   bytes; None for ``FREE_BYTES`` and ``BYTES_PER_STORED`` for each stored byte
    """

    def __init__(self, limit: int | None, stored: int) -> None:
        self.limit = FREE_BYTES + BYTES_PER_STORED * stored if limit is None else limit
        self.left = self.limit

    def spend(self, size: int, what: str) -> None:
        """Count bytes that are about to be allocated.

        Raises:
            ModelError: the file would take more than it may.
        """
        self.left -= size
        if self.left < 0:
            raise ModelError(
                f"{what} would take what the file decodes to over {self.limit:,} bytes; "
                "if you trust the file, allow more with --max-decoded-bytes"
            )


def open_packed(model: onnx.ModelProto, label: str, max_decoded_bytes: int | None = None) -> PackedModel:
    """Find the packed weights of a compiled model, without decoding them.

    What the model declares is checked as the runtime checks it, before anything is allocated for it.

    Args:
        max_decoded_bytes: what topology and weights may take; None for the runtime's own bound.

    Raises:
        ModelError: the model was not written by dcc, is damaged, or would take more than it may.
        CorruptFrameError: a frame is damaged, or the inner model is one that a packed model must not hold.
    """
    if not is_written(model):
        raise ModelError(f"{label} was not compiled by dcc")
    nodes = [n for n in model.graph.node if n.domain == DOMAIN]
    if len(nodes) == 1 and nodes[0].op_type == "CompiledModel":
        return _open_session(model, nodes[0], label, max_decoded_bytes)
    return _open_graph(model, nodes, label, max_decoded_bytes)


def unpack(model: onnx.ModelProto, label: str, max_decoded_bytes: int | None = None) -> onnx.ModelProto:
    """The plain standard ONNX model that a compiled model stands for; weights as the library decodes them.

    Raises:
        ModelError, CorruptFrameError: as :func:`open_packed`, or a weight does not decode.
    """
    opened = open_packed(model, label, max_decoded_bytes)
    tensors = [t for p in opened.payloads for t in _decode(p, label)]
    result = _unpack_session(model, opened.inner) if opened.form == "session" else _without_decoders(opened.inner)
    result.graph.initializer.extend(tensors)
    run_dense(result)
    _remove_imports(result)
    kept = [p for p in result.metadata_props if not p.key.startswith(f"{DOMAIN}.")]
    del result.metadata_props[:]
    result.metadata_props.extend(kept)
    files.check_is_model(result, f"what {label} holds")
    return result


def write_manifest(payloads: Sequence[Sequence[PackedWeight]]) -> bytes:
    """The list of weights in front of the inner model (FORMAT.md 9.2), by payload."""
    tells_execution = any(w.execution != ir.DECODE for weights in payloads for w in weights)
    out = bytearray(_varint(MANIFEST_VERSIONS[tells_execution]) + _varint(len(payloads)))
    for weights in payloads:
        out += _varint(len(weights))
        for weight in weights:
            out += _text(weight.name)
            out += bytes([weight.elem_type, len(weight.dims)])
            for extent in weight.dims:
                out += _varint(extent)
            if tells_execution:
                out += _text(weight.execution)
    return bytes(out)


class _Reader:
    """Bounds-checked reader of the manifest."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.version = self.varint()

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.position:
            raise CorruptFrameError("the topology ends inside its list of weights")
        self.position += count
        return self.data[self.position - count : self.position]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise CorruptFrameError("the topology holds a number of more than 64 bits")

    def text(self) -> str:
        try:
            return self.take(self.varint()).decode()
        except UnicodeDecodeError:
            raise CorruptFrameError("the topology holds a name that is not UTF-8") from None

    def weight(self) -> PackedWeight:
        name = self.text()
        elem_type, rank = self.take(2)
        dims = tuple(self.varint() for _ in range(rank))
        return PackedWeight(name, elem_type, dims, self.text() if self.version > 1 else ir.DECODE)


def _open_session(
    model: onnx.ModelProto, node: onnx.NodeProto, label: str, max_decoded_bytes: int | None
) -> PackedModel:
    initializers = {t.name: t.raw_data for t in model.graph.initializer}
    count = next((a.i for a in node.attribute if a.name == "model_inputs"), -1)
    names = list(node.input[count:]) if 0 <= count < len(node.input) else []
    if not names or any(n not in initializers for n in names):
        raise ModelError(f"{label}: node '{node.name}' lacks its topology or a packed weight")
    stored = sum(len(initializers[n]) for n in names)
    budget = Budget(max_decoded_bytes, stored)
    for name in names:
        budget.spend(_decoded_bytes(initializers[name], f"{label}: '{name}'"), f"{label}: '{name}'")
    content = binding.decode(initializers[names[0]]).tobytes()
    reader = _Reader(content)
    if reader.version not in MANIFEST_VERSIONS:
        raise ModelError(f"{label} was compiled by a newer dcc; update dc-compiler")
    try:
        binding.check_topology(content, len(names) - 1, stored, budget.left)
    except CorruptFrameError as e:
        raise CorruptFrameError(f"{label}: {e}") from None
    reader.varint()  # the number of payloads has been checked
    payloads = [
        Payload(initializers[name], tuple(reader.weight() for _ in range(reader.varint()))) for name in names[1:]
    ]
    inner_label = f"the model packed in {label}"
    inner = files.parse_model(content[reader.position :], inner_label)
    files.check_is_model(inner, inner_label)
    weights = {w.name for p in payloads for w in p.weights} | {t.name for t in inner.graph.initializer}
    inputs = [i for i in inner.graph.input if i.name not in weights]
    _check_ports(node.input[:count], model.graph.input, inputs, f"{label}: input")
    _check_ports(node.output, model.graph.output, inner.graph.output, f"{label}: output")
    return PackedModel("session", tuple(payloads), inner, len(initializers[names[0]]))


def _check_ports(
    names: Sequence[str],
    outer: Sequence[onnx.ValueInfoProto],
    inner: Sequence[onnx.ValueInfoProto],
    what: str,
) -> None:
    """Refuse a node whose inputs or outputs are not those of the inner model: another number, other element types."""
    if len(names) != len(inner):
        raise ModelError(f"{what}s of the graph are {len(names)}, those of the inner model {len(inner)}")
    types = {v.name: v.type.tensor_type.elem_type for v in outer}
    for name, value in zip(names, inner, strict=True):
        here, there = types.get(name, 0), value.type.tensor_type.elem_type
        if here and there and here != there:
            one, other = (TensorProto.DataType.Name(t).lower() for t in (here, there))
            raise ModelError(f"{what} '{name}' is {one} in the graph, {other} in the inner model")


def _decoded_bytes(frame: bytes, what: str) -> int:
    """What a frame decodes to, from its header.

    Raises:
        CorruptFrameError: the header is damaged.
    """
    try:
        info = binding.frame_info(frame)
    except CorruptFrameError as e:
        raise CorruptFrameError(f"{what}: {e}") from None
    return info.elements * info.dtype.itemsize


def _open_graph(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], label: str, max_decoded_bytes: int | None
) -> PackedModel:
    initializers = {t.name: t.raw_data for t in model.graph.initializer}
    payloads = []
    for node in nodes:
        if node.op_type != "DecodeWeights" or not node.input or node.input[0] not in initializers:
            raise ModelError(f"{label}: node '{node.name}' is not one that this version of dcc knows")
        frame = initializers[node.input[0]]
        info = binding.frame_info(frame)
        if not ir.element_type(info.elem_type).is_packable:
            raise CorruptFrameError(
                f"{label}: weight '{node.output[0]}' has elements of another type than weights have"
            )
        payloads.append(Payload(frame, (PackedWeight(node.output[0], info.elem_type, info.dims),)))
    budget = Budget(max_decoded_bytes, sum(len(p.frame) for p in payloads))
    for payload in payloads:
        budget.spend(_decoded_bytes(payload.frame, label), f"{label}: weight '{payload.label}'")
    return PackedModel("graph", tuple(payloads), model, 0)


def _decode(payload: Payload, label: str) -> list[onnx.TensorProto]:
    """The payload's weights as plain tensors.

    Raises:
        CorruptFrameError: the frame is damaged, or its type and shape are not those declared.
    """
    info = binding.frame_info(payload.frame)
    weights = payload.weights
    sizes = [math.prod(w.dims) for w in weights]
    dims = weights[0].dims if len(weights) == 1 or payload.is_int8 else (sum(sizes),)
    stored = TensorProto.FLOAT if payload.is_int8 else weights[0].elem_type
    if info.dims != dims or info.elem_type != stored:
        raise CorruptFrameError(f"{label}: weight '{payload.label}' is packed with another type or shape than declared")
    try:
        if payload.is_int8:
            return _decode_int8(payload)
        data = binding.decode(payload.frame).reshape(-1)
    except (CorruptFrameError, InvalidArgumentError) as e:
        raise CorruptFrameError(f"{label}: weight '{payload.label}': {e}") from None
    ends = itertools.accumulate(sizes)
    return [
        TensorProto(name=w.name, data_type=w.elem_type, dims=w.dims, raw_data=data[end - size : end].tobytes())
        for w, size, end in zip(weights, sizes, ends, strict=True)
    ]


def _decode_int8(payload: Payload) -> list[onnx.TensorProto]:
    """The points and the scales.

    Raises:
        CorruptFrameError, InvalidArgumentError: the frame is damaged, or of another kind.
    """
    arrays: tuple[np.ndarray, ...] = binding.decode_points(payload.frame)
    if arrays[1].shape != payload.weights[1].dims:
        raise CorruptFrameError("the frame has another number of scales")
    return [
        TensorProto(name=w.name, data_type=w.elem_type, dims=w.dims, raw_data=a.tobytes())
        for w, a in zip(payload.weights, arrays, strict=True)
    ]


def _unpack_session(model: onnx.ModelProto, inner: onnx.ModelProto) -> onnx.ModelProto:
    """Outer metadata around the inner graph."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    overridable = [t for t in model.graph.initializer if t.name in {i.name for i in model.graph.input}]
    result.graph.CopyFrom(inner.graph)
    result.graph.doc_string = model.graph.doc_string
    result.graph.metadata_props.extend(model.graph.metadata_props)
    result.functions.extend(inner.functions)
    known = {o.domain for o in result.opset_import}
    result.opset_import.extend(o for o in inner.opset_import if o.domain not in known)
    result.graph.initializer.extend(overridable)
    return result


def _without_decoders(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without DecodeWeights nodes, their buffers and their payloads."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    decoders = [n for n in graph.node if n.domain == DOMAIN]
    payloads = {n.input[0] for n in decoders}
    buffers = {n.input[1] for n in decoders if len(n.input) > 1}
    kept_nodes = []
    for node in reversed(graph.node):  # a buffer may take two nodes
        if buffers.intersection(node.output):
            buffers.update(node.input)
        elif node.domain != DOMAIN:
            kept_nodes.append(node)
    kept_nodes.reverse()
    payloads |= buffers
    kept_tensors = [t for t in graph.initializer if t.name not in payloads]
    del graph.node[:]
    graph.node.extend(kept_nodes)
    del graph.initializer[:]
    graph.initializer.extend(kept_tensors)
    return result


def _remove_imports(model: onnx.ModelProto) -> None:
    kept = [o for o in model.opset_import if o.domain not in (DOMAIN, RUN_DOMAIN)]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _varint(len(encoded)) + encoded


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
