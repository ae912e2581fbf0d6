"""Reads compiled models of either form: which weights they hold, and the standard model they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from dc_compiler import ir, runtime
from dc_compiler.errors import CorruptFrameError, ModelError
from dc_compiler.importer import DOMAIN

MANIFEST_VERSION = 1


@dataclass(frozen=True)
class PackedWeight:
    """One packed weight of a compiled model: its name, frame, element type and shape as the model declares them."""

    name: str
    frame: bytes
    elem_type: int
    dims: tuple[int, ...]


@dataclass(frozen=True)
class PackedModel:
    """A compiled model taken apart. ``inner`` is the graph that runs: the model itself in graph form."""

    form: str
    weights: tuple[PackedWeight, ...]
    inner: onnx.ModelProto
    topology_bytes: int


def is_compiled(model: onnx.ModelProto) -> bool:
    """Whether dcc wrote this model."""
    return any(o.domain == DOMAIN for o in model.opset_import)


def open_packed(model: onnx.ModelProto, label: str) -> PackedModel:
    """Find the packed weights of a compiled model, without decoding them.

    Raises:
        ModelError: the model was not written by dcc, or is damaged.
        CorruptFrameError: the topology frame is damaged.
    """
    if not is_compiled(model):
        raise ModelError(f"{label} was not compiled by dcc")
    nodes = [n for n in model.graph.node if n.domain == DOMAIN]
    if len(nodes) == 1 and nodes[0].op_type == "CompiledModel":
        return _open_session(model, nodes[0], label)
    return _open_graph(model, nodes, label)


def unpack(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """The plain standard ONNX model that a compiled model stands for; weights as the library decodes them.

    Raises:
        ModelError, CorruptFrameError: as :func:`open_packed`, or a weight does not decode.
    """
    opened = open_packed(model, label)
    tensors = [_decode(w, label) for w in opened.weights]
    if opened.form == "session":
        result = _unpack_session(model, opened.inner)
    else:
        result = _without_decoders(opened.inner)
    result.graph.initializer.extend(tensors)
    _remove_imports(result)
    kept = [p for p in result.metadata_props if not p.key.startswith(f"{DOMAIN}.")]
    del result.metadata_props[:]
    result.metadata_props.extend(kept)
    return result


def declare_external(name: str, record: ir.WeightRecord) -> onnx.TensorProto:
    """The inner model's declaration of a packed weight (FORMAT.md 9.2)."""
    tensor = TensorProto(name=name, data_type=record.elem_type, dims=record.shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=DOMAIN)
    return tensor


def write_manifest(weights: Sequence[tuple[str, ir.WeightRecord]]) -> bytes:
    """The list of weights in front of the inner model (FORMAT.md 9.2)."""
    out = bytearray(_varint(MANIFEST_VERSION) + _varint(len(weights)))
    for name, record in weights:
        encoded = name.encode()
        out += _varint(len(encoded)) + encoded
        out += bytes([record.elem_type, len(record.shape)])
        for extent in record.shape:
            out += _varint(extent)
    return bytes(out)


class _Reader:
    """Bounds-checked reader of the manifest."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

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


def _open_session(model: onnx.ModelProto, node: onnx.NodeProto, label: str) -> PackedModel:
    initializers = {t.name: t.raw_data for t in model.graph.initializer}
    count = next((a.i for a in node.attribute if a.name == "model_inputs"), -1)
    names = list(node.input[count:]) if 0 <= count < len(node.input) else []
    if not names or any(n not in initializers for n in names):
        raise ModelError(f"{label}: node '{node.name}' lacks its topology or a packed weight")
    content = runtime.decode(initializers[names[0]]).tobytes()
    reader = _Reader(content)
    if reader.varint() != MANIFEST_VERSION:
        raise ModelError(f"{label} was compiled by a newer dcc; update dc-compiler")
    weights = []
    if reader.varint() != len(names) - 1:
        raise ModelError(f"{label}: the number of packed weights is not the number of payloads")
    for payload in names[1:]:
        name = reader.take(reader.varint()).decode()
        elem_type, rank = reader.take(2)
        dims = tuple(reader.varint() for _ in range(rank))
        weights.append(PackedWeight(name, initializers[payload], elem_type, dims))
    inner = onnx.ModelProto()
    inner.ParseFromString(content[reader.position :])
    return PackedModel("session", tuple(weights), inner, len(initializers[names[0]]))


def _open_graph(model: onnx.ModelProto, nodes: list[onnx.NodeProto], label: str) -> PackedModel:
    initializers = {t.name: t.raw_data for t in model.graph.initializer}
    weights = []
    for node in nodes:
        if node.op_type != "DecodeWeights" or not node.input or node.input[0] not in initializers:
            raise ModelError(f"{label}: node '{node.name}' is not one that this version of dcc knows")
        frame = initializers[node.input[0]]
        info = runtime.frame_info(frame)
        weights.append(PackedWeight(node.output[0], frame, info.elem_type, tuple(info.dims)))
    return PackedModel("graph", tuple(weights), model, 0)


def _decode(weight: PackedWeight, label: str) -> onnx.TensorProto:
    info = runtime.frame_info(weight.frame)
    if info.elem_type != weight.elem_type or tuple(info.dims) != weight.dims:
        raise CorruptFrameError(f"{label}: weight '{weight.name}' is packed with another type or shape than declared")
    try:
        array = runtime.decode(weight.frame)
    except CorruptFrameError as e:
        raise CorruptFrameError(f"{label}: weight '{weight.name}': {e}") from None
    return TensorProto(
        name=weight.name, data_type=weight.elem_type, dims=weight.dims, raw_data=np.ascontiguousarray(array).tobytes()
    )


def _unpack_session(model: onnx.ModelProto, inner: onnx.ModelProto) -> onnx.ModelProto:
    """Outer metadata around the inner graph, whose external declarations are dropped."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    overridable = [t for t in model.graph.initializer if t.name in {i.name for i in model.graph.input}]
    result.graph.CopyFrom(inner.graph)
    result.graph.doc_string = model.graph.doc_string
    result.graph.metadata_props.extend(model.graph.metadata_props)
    result.functions.extend(inner.functions)
    plain = [t for t in inner.graph.initializer if t.data_location != TensorProto.EXTERNAL]
    del result.graph.initializer[:]
    result.graph.initializer.extend([*overridable, *plain])
    return result


def _without_decoders(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without DecodeWeights nodes, their buffers and their payloads."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    decoders = [n for n in graph.node if n.domain == DOMAIN]
    payloads = {n.input[0] for n in decoders}
    buffers = {n.input[1] for n in decoders if len(n.input) > 1}
    fillers = [n for n in graph.node if any(o in buffers for o in n.output)]
    payloads |= {i for n in fillers for i in n.input}
    kept_nodes = [n for n in graph.node if n.domain != DOMAIN and not any(o in buffers for o in n.output)]
    kept_tensors = [t for t in graph.initializer if t.name not in payloads]
    del graph.node[:]
    graph.node.extend(kept_nodes)
    del graph.initializer[:]
    graph.initializer.extend(kept_tensors)
    return result


def _remove_imports(model: onnx.ModelProto) -> None:
    kept = [o for o in model.opset_import if o.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
