"""Models to bytes and back, also those that are too large for protobuf to write or read in one go."""

from __future__ import annotations

import onnx

from dc_compiler.errors import ModelError
from dc_compiler.model import files

_GRAPH, _INITIALIZER = 7, 5  # fields of ModelProto and GraphProto
_BYTES = 2  # a wire type: a length, then as many bytes


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The serialized model. Of a large one every initializer follows in a graph of its own: protobuf, and
    ``dcc_unpack``, take for one message what several hold together."""
    if files.message_size(model) <= files.MAX_MESSAGE_BYTES:
        return bytes(model.SerializeToString(deterministic=True))
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    del rest.graph.initializer[:]
    tensors = (onnx.ModelProto(graph=onnx.GraphProto(initializer=[t])) for t in model.graph.initializer)
    return b"".join([rest.SerializeToString(deterministic=True), *(t.SerializeToString() for t in tensors)])


def from_bytes(data: bytes, label: str) -> onnx.ModelProto:
    """The opposite; initializers of a large model are read one by one.

    Raises:
        ModelError: the bytes are no model.
    """
    if len(data) <= files.MAX_MESSAGE_BYTES:
        return files.parse_model(data, label)
    rest, graph, tensors = bytearray(), bytearray(), []
    for number, start, content, end in _fields(data, 0, len(data), label):
        if number != _GRAPH:
            rest += data[start:end]
            continue
        for inner, first, begin, last in _fields(data, content, end, label):
            if inner == _INITIALIZER:
                tensors.append(data[begin:last])
            else:
                graph += data[first:last]
    model = files.parse_model(bytes(rest), label)
    model.graph.MergeFromString(bytes(graph))
    for tensor in tensors:
        model.graph.initializer.add().MergeFromString(tensor)
    return model


def _fields(data: bytes, at: int, end: int, label: str) -> list[tuple[int, int, int, int]]:
    """Number, start, start of the content and end of each field between two places."""
    found = []
    while at < end:
        start = at
        tag, at = _number(data, at)
        content, stop = at, {1: at + 8, 5: at + 4}.get(tag & 7, at)
        if tag & 7 == 0:
            stop = _number(data, at)[1]
        elif tag & 7 == _BYTES:
            size, content = _number(data, at)
            stop = content + size
        if stop > end or stop == at:
            raise ModelError(f"{label} is not an ONNX model, or it is truncated")
        found.append((tag >> 3, start, content, stop))
        at = stop
    return found


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if byte < 128:
            return value, at
