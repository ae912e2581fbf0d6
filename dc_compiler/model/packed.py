"""Reads compiled models of either form: which weights they hold, and the standard model that they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from dc_compiler import ir
from dc_compiler.codec import binding
from dc_compiler.errors import CorruptFrameError, ModelError, OverLimitError
from dc_compiler.model import files, messages
from dc_compiler.model.importer import DOMAIN
from dc_compiler.nibbles import shares_bytes

# Version 2 tells how each weight is executed; it is written where that is not plainly decoding it
MANIFEST_VERSIONS = (1, 2)
DECODERS = {"DecodeWeights": 1, "DecodeInt8": 2}  # operators of the graph form, and how many outputs they have
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
        return self.weights[0].execution in (ir.INT8, ir.SPARSE_INT8)


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
            OverLimitError: the file would take more than it may.
        """
        self.left -= size
        if self.left < 0:
            raise OverLimitError(
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

    The library does it (``dcc_unpack`` in native/dcc.h).

    Raises:
        ModelError: the model was not written by dcc, is no model, or would take more than it may.
        CorruptFrameError: it is damaged, or holds what a packed model must not hold.
    """
    if not is_written(model):
        raise ModelError(f"{label} was not compiled by dcc")
    with _labelled(label):
        dense = binding.unpack(messages.to_bytes(model), max_decoded_bytes)
    result = messages.from_bytes(dense, f"what {label} holds")
    files.check_is_model(result, f"what {label} holds")
    return result


@contextmanager
def _labelled(label: str) -> Iterator[None]:
    """Errors of the library name the file, and the option that allows more."""
    try:
        yield
    except OverLimitError as e:
        raise OverLimitError(f"{label}: {e} (--max-decoded-bytes)") from None
    except CorruptFrameError as e:
        raise CorruptFrameError(f"{label}: {e}") from None


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
    with _labelled(label):
        binding.check_topology(content, len(names) - 1, stored, budget.left)
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
    return ir.element_type(info.elem_type).nbytes(info.elements)


def _open_graph(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], label: str, max_decoded_bytes: int | None
) -> PackedModel:
    initializers = {t.name: t.raw_data for t in model.graph.initializer}
    payloads = []
    for node in nodes:
        is_int8 = node.op_type == "DecodeInt8"
        is_known = node.op_type in DECODERS and len(node.output) == DECODERS[node.op_type]
        if not is_known or not node.input or node.input[0] not in initializers:
            raise ModelError(f"{label}: node '{node.name}' is not one that this version of dcc knows")
        frame = initializers[node.input[0]]
        info = binding.frame_info(frame)
        if is_int8:
            points = PackedWeight(node.output[0], TensorProto.INT8, info.dims, ir.INT8)
            scales = PackedWeight(node.output[1], TensorProto.FLOAT, (info.channels,), ir.INT8_SCALE)
            payloads.append(Payload(frame, (points, scales)))
            continue
        if shares_bytes(info.dtype):
            raise CorruptFrameError(f"{label}: weight '{node.output[0]}' has elements that share bytes")
        payloads.append(Payload(frame, (PackedWeight(node.output[0], info.elem_type, info.dims),)))
    budget = Budget(max_decoded_bytes, sum(len(p.frame) for p in payloads))
    for payload in payloads:
        budget.spend(_decoded_bytes(payload.frame, label), f"{label}: weight '{payload.label}'")
    return PackedModel("graph", tuple(payloads), model, 0)


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
