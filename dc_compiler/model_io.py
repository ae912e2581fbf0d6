"""Reads and writes .onnx files: the only module that touches model files on disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper, numpy_helper

from dc_compiler.errors import ModelError, OutputError

# protobuf refuses messages of 2 GiB; a little below it leaves room for the message's own fields
MAX_MESSAGE_BYTES = 2**31 - 2**20


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


def read_model(source: str | os.PathLike[str] | onnx.ModelProto) -> SourceModel:
    """Read a model without its external data (:func:`tensor_array` reads that tensor by tensor).

    Raises:
        ModelError: the file is missing, is not a file, cannot be read, or does not hold an ONNX model.
    """
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)  # the caller's message is never changed
        check_is_model(proto, "the given model")
        return SourceModel(proto, None, Path.cwd(), _message_size(source))
    path = Path(source)
    data = read_bytes(path)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{path} is not an ONNX model, or it is truncated") from None
    check_is_model(proto, str(path))
    return SourceModel(proto, path, path.parent, len(data) + _external_bytes(proto, path.parent))


def read_bytes(path: Path) -> bytes:
    """All bytes of a model file.

    Raises:
        ModelError: the path is missing, a folder, empty, or not readable.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist")
    if not path.is_file():
        raise ModelError(f"{path} is not a file; give the path of an .onnx file")
    try:
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


def check_output_path(output: Path, source: SourceModel) -> None:
    """Refuse an output that cannot be written or that would destroy the input.

    Raises:
        OutputError: the output is the input, a folder, or lies in a folder that is missing or not writable.
    """
    if source.path is not None and output.exists() and output.samefile(source.path):
        raise OutputError(f"{output} is the input file; choose another output")
    if output.is_dir():
        raise OutputError(f"{output} is a folder; give the path of the file to write")
    folder = output.resolve().parent
    if not folder.is_dir():
        raise OutputError(f"the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK) or (output.exists() and not os.access(output, os.W_OK)):
        raise OutputError(f"{output} cannot be written: permission denied")


def write_model(proto: onnx.ModelProto, output: Path) -> int:
    """Write a model atomically; initializers go to ``<output>.data`` when the message would pass 2 GiB.

    Returns:
        Bytes on disk, external data included.

    Raises:
        OutputError: writing failed. Nothing is left behind.
    """
    external_size = 0
    if _message_size(proto) > MAX_MESSAGE_BYTES:
        data_file = output.with_name(output.name + ".data")
        external_size = write_atomically(data_file, _split_external(proto, data_file.name))
    return external_size + write_atomically(output, [proto.SerializeToString(deterministic=True)])


def write_atomically(output: Path, chunks: list[bytes]) -> int:
    """Write bytes to a temporary file beside ``output`` and rename it; a killed process leaves no output.

    Raises:
        OutputError: the system refused.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{output.name}.", suffix=".tmp", dir=output.resolve().parent)
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
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
    return sum(map(len, chunks))


def file_size(path: Path) -> int:
    """Bytes on disk of a model, external data included."""
    return read_model(path).size


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _message_size(proto: onnx.ModelProto) -> int:
    try:
        return int(proto.ByteSize())
    except (ValueError, RuntimeError):  # larger than protobuf can count
        return MAX_MESSAGE_BYTES + 1


def _external_bytes(proto: onnx.ModelProto, base_dir: Path) -> int:
    files = {
        entry.value
        for tensor in all_tensors(proto)
        if external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sum((base_dir / f).stat().st_size for f in files if (base_dir / f).is_file())


def _split_external(proto: onnx.ModelProto, location: str) -> list[bytes]:
    """Move large initializers out of the message; offsets are page-aligned so that they can be mapped."""
    chunks: list[bytes] = []
    offset = 0
    for tensor in proto.graph.initializer:
        data = tensor.raw_data
        if len(data) < 1024:
            continue
        padding = -offset % 4096
        chunks += [bytes(padding), data]
        external_data_helper.set_external_data(tensor, location, offset + padding, len(data))
        tensor.ClearField("raw_data")
        offset += padding + len(data)
    return chunks


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
