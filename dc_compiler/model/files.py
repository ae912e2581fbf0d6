"""Reads and writes .onnx files: the only module that touches model files on disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import external_data_helper, numpy_helper

from dc_compiler import ir
from dc_compiler.errors import ModelError, OutputError
from dc_compiler.model import external, formats

# protobuf refuses messages of 2 GiB; a little below it leaves room for the message's own fields
MAX_MESSAGE_BYTES = 2**31 - 2**20
PAGE = 4096  # alignment of tensors in external data files


@dataclass
class SourceModel:
    """A model as read: the message, where its external data lies, and its size on disk.

    ``path`` is None for a model that was handed over as a message; ``size`` is then its serialized size. ``size``
    counts the .onnx file and every external data file it names, in bytes.
    """

    proto: onnx.ModelProto
    path: Path | None
    base_dir: Path
    size: int

    @property
    def label(self) -> str:
        """How messages call this model."""
        return str(self.path) if self.path is not None else "the given model"

    def files(self) -> list[Path]:
        """The files that hold the model: the .onnx file, if it came from one, and the external data files it names."""
        return ([] if self.path is None else [self.path]) + _external_files(self.proto, self.base_dir, self.path)


def read_model(source: str | os.PathLike[str] | onnx.ModelProto) -> SourceModel:
    """Read a model without its external data (:func:`tensor_array` reads that tensor by tensor).

    Raises:
        ModelError: the file is missing, is not a file, cannot be read, or does not hold an ONNX model.
    """
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)  # the caller's message is never changed
        check_is_model(proto, "the given model")
        return SourceModel(proto, None, Path.cwd(), message_size(source))
    path = Path(source)
    data = read_bytes(path)
    try:
        proto = parse_model(data, str(path))
        check_is_model(proto, str(path))
    except ModelError:
        other = formats.what_it_is(data, path)
        if other is None:
            raise
        raise ModelError(f"{path} is not an ONNX model: {other}") from None
    beside = sum(f.stat().st_size for f in _external_files(proto, path.parent, path))
    return SourceModel(proto, path, path.parent, len(data) + beside)


def parse_model(data: bytes, label: str) -> onnx.ModelProto:
    """The message that the bytes hold.

    Raises:
        ModelError: they hold none.
    """
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as e:
        if "depth" in str(e).lower():
            raise ModelError(
                f"{label} nests bodies of If, Loop or Scan deeper than protobuf, and so onnxruntime, can read "
                "(100 messages, about 32 bodies)"
            ) from None
        raise ModelError(f"{label} is not an ONNX model, or it is truncated") from None
    return proto


def read_bytes(path: Path) -> bytes:
    """All bytes of a model file.

    Raises:
        ModelError: the path is missing, a folder, empty, or not readable.
    """
    if not _is_text(path):
        raise ModelError(f"the name {path} is not UTF-8, which onnxruntime needs; rename the file")
    try:
        if not path.exists():
            raise ModelError(f"{path} does not exist")
        if not path.is_file():
            raise ModelError(f"{path} is not a file; give the path of an .onnx file")
        data = path.read_bytes()
    except OSError as e:
        raise ModelError(f"{path} cannot be read: {e.strerror}") from None
    if not data:
        raise ModelError(f"{path} is empty")
    return data


def check_is_model(proto: onnx.ModelProto, label: str) -> None:
    """Refuse messages that parse (protobuf accepts many texts) but hold no graph."""
    if not proto.HasField("graph") or not proto.opset_import or not proto.graph.output:
        raise ModelError(f"{label} is not an ONNX model: it has no graph, no outputs or no operator set")
    if _has_broken_text(proto):
        raise ModelError(f"{label} is damaged: a name in it is not UTF-8")


def _has_broken_text(message: Message) -> bool:
    """Whether a string field holds other bytes than UTF-8, which protobuf hands over as bytes when it reads a file."""
    value: Any
    if isinstance(message, onnx.TensorProto):  # listing its fields would copy the data
        value = message.name
        return isinstance(value, bytes) or any(map(_has_broken_text, message.external_data))
    if isinstance(message, onnx.NodeProto):  # by far the most frequent; listing its fields takes three times as long
        texts = (*message.input, *message.output, message.op_type, message.name, message.domain, message.doc_string)
        if bytes in map(type, texts):
            return True
        if not (message.attribute or message.metadata_props or message.overload):
            return False
    for field, value in message.ListFields():
        many = [value] if isinstance(value, str | bytes | Message) else value
        if field.type == FieldDescriptor.TYPE_MESSAGE and any(map(_has_broken_text, many)):
            return True
        if field.type == FieldDescriptor.TYPE_STRING and bytes in map(type, many):
            return True
    return False


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every TensorProto of the model, itself and no copy: initializers, attributes, bodies and functions."""
    for graph in ir.walk_graphs(proto.graph):
        yield from graph.initializer
        yield from (part for t in graph.sparse_initializer for part in (t.values, t.indices))
        yield from _attribute_tensors(graph.node)
    for function in proto.functions:
        yield from _attribute_tensors(function.node)
        for graph in (g for node in function.node for sub in ir.subgraphs(node) for g in ir.walk_graphs(sub)):
            yield from graph.initializer
            yield from (part for t in graph.sparse_initializer for part in (t.values, t.indices))
            yield from _attribute_tensors(graph.node)


def _attribute_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            yield from attribute.tensors
            yield from (part for t in attribute.sparse_tensors for part in (t.values, t.indices))


def tensor_array(tensor: onnx.TensorProto, source: SourceModel) -> np.ndarray:
    """Values of a tensor of ``source``, read from its external file when it has one.

    Returns:
        A read-only or fresh array of the tensor's shape and dtype (``ml_dtypes.bfloat16`` for bfloat16).

    Raises:
        ModelError: the external file is missing, too short, or outside the model's folder; or the data does not
            fit the declared shape.
    """
    try:
        if external.is_external(tensor):
            return external.read(tensor, source.base_dir, source.path)
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as e:  # onnx raises several kinds, all meaning the same to the user
        raise ModelError(f"{source.label}: tensor '{tensor.name}' cannot be read: {_first_line(e)}") from None


def embed_external_data(source: SourceModel) -> None:
    """Move every tensor that is still external into the message.

    Raises:
        ModelError: as :func:`tensor_array`.
    """
    for tensor in all_tensors(source.proto):
        if external.is_external(tensor):
            embed(tensor, tensor_array(tensor, source))


def embed(tensor: onnx.TensorProto, array: np.ndarray) -> None:
    """Put an external tensor's values into its message."""
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def data_path(output: Path) -> Path:
    """Where the data of a model that is too large for one message lies: beside the file itself, links resolved."""
    target = output.resolve()
    return target.with_name(target.name + ".data")


def check_output_path(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that cannot be written or that would destroy one of the input files.

    A symbolic link stands for the file it leads to, there or not yet.

    Raises:
        OutputError: the output is an input, a folder, a device or pipe, or lies in a folder that is missing or not
            writable.
    """
    if not _is_text(output):
        raise OutputError(f"the name {output} is not UTF-8, which onnxruntime needs; choose another output")
    try:
        exists = output.exists()
        folder = output.resolve().parent
        inputs = [f for f in inputs if f.exists()]
        if exists and any(output.samefile(f) for f in inputs):
            raise OutputError(f"{output} is an input file; choose another output")
        beside = data_path(output)
        if beside.exists() and any(beside.samefile(f) for f in inputs):
            raise OutputError(
                f"{beside}, which {output} may need for its data, is an input file; choose another output"
            )
    except (OSError, RuntimeError) as e:  # names too long, links in a circle
        raise OutputError(f"{output} cannot be written: {e}") from None
    if output.is_dir():
        raise OutputError(f"{output} is a folder; give the path of the file to write")
    if exists and not output.is_file():
        raise OutputError(f"{output} is not a regular file; give the path of the file to write")
    if not folder.is_dir():
        raise OutputError(f"the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK) or (exists and not os.access(output, os.W_OK)):
        raise OutputError(f"{output} cannot be written: permission denied")


def write_model(proto: onnx.ModelProto, output: Path) -> int:
    """Write a model atomically; initializers go to ``<output>.data`` when the message would pass 2 GiB.

    The message is the same afterwards.

    Returns:
        Bytes on disk, external data included.

    Raises:
        OutputError: writing failed. Nothing is left behind.
    """
    if message_size(proto) <= MAX_MESSAGE_BYTES:
        return write_atomically(output, [proto.SerializeToString(deterministic=True)])
    data_file = data_path(output)
    moved = _split_external(proto, data_file.name)
    try:
        skeleton = proto.SerializeToString(deterministic=True)
    finally:
        for tensor, data in moved:
            tensor.raw_data = data
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    # the data first: a model that is there has all its data
    external_size = write_atomically(data_file, _aligned(data for _, data in moved))
    try:
        size = external_size + write_atomically(output, [skeleton])
        _link_beside(output, data_file)
    except BaseException:
        data_file.unlink(missing_ok=True)
        raise
    return size


def _link_beside(output: Path, data_file: Path) -> None:
    """Where the output is a link, onnxruntime looks for the data file beside the link."""
    place = output.absolute().with_name(data_file.name)
    if place.resolve() == data_file:
        return
    try:
        place.unlink(missing_ok=True)
        place.symlink_to(data_file)
    except OSError as e:
        raise OutputError(f"{place} cannot be written: {e.strerror}") from None


def write_atomically(output: Path, chunks: Iterable[bytes]) -> int:
    """Write bytes to a temporary file beside ``output`` and rename it; a killed process leaves no output.

    A link stays, and the file that it leads to is replaced.

    Returns:
        Bytes written.

    Raises:
        OutputError: the system refused.
    """
    temporary = None
    size = 0
    try:
        target = output.resolve()
        handle, temporary = tempfile.mkstemp(prefix=".dcc.", suffix=".tmp", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                size += file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except (OSError, RuntimeError) as e:  # RuntimeError: links in a circle
        raise OutputError(f"{output} cannot be written: {getattr(e, 'strerror', e)}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    return size


def file_size(path: Path) -> int:
    """Bytes on disk of a model, external data included."""
    return read_model(path).size


def _is_text(path: Path) -> bool:
    """Whether the path is UTF-8 (Python keeps other bytes as lone surrogates)."""
    return not any("\ud800" <= character <= "\udfff" for character in str(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def message_size(proto: onnx.ModelProto) -> int:
    """Serialized size in bytes; more than ``MAX_MESSAGE_BYTES`` when protobuf cannot count it."""
    try:
        return int(proto.ByteSize())
    except (ValueError, RuntimeError):  # larger than protobuf can count
        return MAX_MESSAGE_BYTES + 1


def _external_files(proto: onnx.ModelProto, base_dir: Path, model_path: Path | None) -> list[Path]:
    """External data files that the model names and may read."""
    names = {
        entry.value
        for tensor in all_tensors(proto)
        if external.is_external(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    found = []
    for name in sorted(names):
        with contextlib.suppress(ModelError):  # reading the tensor says what is wrong
            found.append(external.locate(name, base_dir, model_path))
    return found


def _split_external(proto: onnx.ModelProto, location: str) -> list[tuple[onnx.TensorProto, bytes]]:
    """Move large initializers out of the message, to where :func:`_aligned` puts them in the file; what was moved."""
    moved: list[tuple[onnx.TensorProto, bytes]] = []
    offset = 0
    for tensor in proto.graph.initializer:
        data = tensor.raw_data
        if len(data) < 1024:
            continue
        offset += -offset % PAGE
        external_data_helper.set_external_data(tensor, location, offset, len(data))
        tensor.ClearField("raw_data")
        moved.append((tensor, data))
        offset += len(data)
    return moved


def _aligned(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts, each starting at a page so that it can be mapped."""
    offset = 0
    for part in parts:
        yield bytes(-offset % PAGE)
        yield part
        offset += -offset % PAGE + len(part)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
