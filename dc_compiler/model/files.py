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

from dc_compiler.errors import ModelError, OutputError

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
        return ([] if self.path is None else [self.path]) + _external_files(self.proto, self.base_dir)


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
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{path} is not an ONNX model, or it is truncated") from None
    check_is_model(proto, str(path))
    external = sum(f.stat().st_size for f in _external_files(proto, path.parent))
    return SourceModel(proto, path, path.parent, len(data) + external)


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
    for field, value in message.ListFields():
        many = [value] if isinstance(value, str | bytes | Message) else value
        if field.type == FieldDescriptor.TYPE_MESSAGE and any(map(_has_broken_text, many)):
            return True
        if field.type == FieldDescriptor.TYPE_STRING and any(isinstance(text, bytes) for text in many):
            return True
    return False


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every TensorProto of the model: initializers, attributes, bodies and functions."""
    yield from external_data_helper._get_all_tensors(proto)
    for function in proto.functions:
        for node in function.node:
            yield from external_data_helper._get_attribute_tensors_from_graph(onnx.GraphProto(node=[node]))


def tensor_array(tensor: onnx.TensorProto, base_dir: Path, label: str) -> np.ndarray:
    """Values of a tensor, read from its external file when it has one.

    Returns:
        A read-only or fresh array of the tensor's shape and dtype (``ml_dtypes.bfloat16`` for bfloat16).

    Raises:
        ModelError: the external file is missing, too short, or outside the model's folder; or the data does not
            fit the declared shape.
    """
    try:
        return np.asarray(numpy_helper.to_array(tensor, base_dir=str(base_dir)))
    except Exception as e:  # onnx raises several kinds, all meaning the same to the user
        raise ModelError(f"{label}: tensor '{tensor.name}' cannot be read: {_first_line(e)}") from None


def embed_external_data(source: SourceModel) -> None:
    """Move every tensor that is still external into the message.

    Raises:
        ModelError: as :func:`tensor_array`.
    """
    for tensor in external_data_helper._get_all_tensors(source.proto):
        if external_data_helper.uses_external_data(tensor):
            array = tensor_array(tensor, source.base_dir, source.label)
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(array, name))


def check_output_path(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that cannot be written or that would destroy one of the input files.

    Raises:
        OutputError: the output is an input, a folder, a device or pipe, or lies in a folder that is missing or not
            writable.
    """
    if not _is_text(output):
        raise OutputError(f"the name {output} is not UTF-8, which onnxruntime needs; choose another output")
    try:
        exists = output.exists()
        folder = output.resolve().parent
        if exists and any(f.exists() and output.samefile(f) for f in inputs):
            raise OutputError(f"{output} is an input file; choose another output")
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
    data_file = output.with_name(output.name + ".data")
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
        return external_size + write_atomically(output, [skeleton])
    except BaseException:
        data_file.unlink(missing_ok=True)
        raise


def write_atomically(output: Path, chunks: Iterable[bytes]) -> int:
    """Write bytes to a temporary file beside ``output`` and rename it; a killed process leaves no output.

    Returns:
        Bytes written.

    Raises:
        OutputError: the system refused.
    """
    temporary = None
    size = 0
    try:
        handle, temporary = tempfile.mkstemp(prefix=".dcc.", suffix=".tmp", dir=output.resolve().parent)
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                size += file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, output)
    except OSError as e:
        raise OutputError(f"{output} cannot be written: {e.strerror}") from None
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


def _external_files(proto: onnx.ModelProto, base_dir: Path) -> list[Path]:
    """External data files that the model names and that exist."""
    names = {
        entry.value
        for tensor in all_tensors(proto)
        if external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [base_dir / name for name in sorted(names) if (base_dir / name).is_file()]


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
