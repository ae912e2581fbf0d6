"""External data of a model: which file it is in, by onnxruntime's rules, and its values, mapped instead of copied."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dc_compiler.errors import ModelError
from dc_compiler.model import formats

# Element types of which two or four share a byte
_PACKED_BITS = {
    getattr(TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(TensorProto, name)
}


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the tensor's values lie in another file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def locate(location: str, base_dir: Path, model_path: Path | None) -> Path:
    """The file that a tensor's ``location`` means.

    Links are followed as onnxruntime does: what is meant must lie, links resolved, below the folder the model was
    opened in, or below the folder of the file that the model's own path links to (hub caches keep both as links to
    one folder of blobs).

    Raises:
        ModelError: the location is empty, absolute, leads elsewhere, or does not name a regular file.
    """
    if not location:
        raise ModelError("it does not name its data file")
    path = base_dir / location
    problem = None
    try:
        roots = [base_dir.resolve(), *([] if model_path is None else [model_path.resolve().parent])]
        if Path(location).is_absolute():
            problem = "is an absolute path; only the model's folder is read"
        elif not any(path.resolve().is_relative_to(root) for root in roots):
            problem = "lies outside the model's folder"
        elif not path.exists():
            problem = "does not exist"
        elif not path.is_file():
            problem = "is not a regular file"
    except OSError as e:
        problem = f"cannot be opened: {e.strerror}"
    except (ValueError, RuntimeError) as e:  # NUL characters; links in a circle
        problem = f"cannot be opened: {e}"
    if problem is not None:
        raise ModelError(f"{_called(location)} {problem}")
    return path


def read(tensor: onnx.TensorProto, base_dir: Path, model_path: Path | None) -> np.ndarray:
    """Values of an external tensor: a read-only view of the mapped file where alignment allows one.

    Without ``offset`` they start the file; without ``length`` they end where the shape says.

    Raises:
        ModelError: as :func:`locate`; or offset and length do not fit the file or the tensor's shape.
    """
    entries = {e.key: e.value for e in tensor.external_data}
    path = locate(entries.get("location", ""), base_dir, model_path)
    if any(d < 0 for d in tensor.dims):
        raise ModelError(f"its shape {list(tensor.dims)} has a negative extent")
    needed = _byte_count(tensor.data_type, math.prod(tensor.dims))
    offset, length = _number(entries, "offset"), _number(entries, "length")
    if length not in (0, needed):  # onnxruntime takes 0 as 'not given'
        raise ModelError(f"its shape needs {needed:,} bytes, but {length:,} are declared")
    try:
        data = _mapped(path, offset, needed)
    except OSError as e:
        raise ModelError(f"{_called(entries['location'])} cannot be read: {e.strerror}") from None
    if tensor.data_type in _PACKED_BITS:
        whole = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=data.tobytes())
        return np.asarray(numpy_helper.to_array(whole))
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if offset % dtype.itemsize:
        data = data.copy()
    return data.view(dtype).reshape(tuple(tensor.dims))


def _mapped(path: Path, offset: int, size: int) -> np.ndarray:
    """Bytes of a file, uint8 [size], as a view of the mapped file."""
    available = path.stat().st_size
    if offset + size > available:
        what = formats.pointer_sentence(path) or "it is truncated or another model's"
        raise ModelError(f"{_called(path.name)} has {available:,} bytes of {offset + size:,} needed: {what}")
    return np.asarray(np.memmap(path, np.uint8, "r", offset, (size,))) if size else np.zeros(0, np.uint8)


def _byte_count(elem_type: int, count: int) -> int:
    """Bytes of ``count`` elements.

    Raises:
        ModelError: the type is unknown, or has no fixed size.
    """
    if elem_type == TensorProto.STRING:
        raise ModelError("texts cannot lie in a data file")
    if elem_type in _PACKED_BITS:
        return (count * _PACKED_BITS[elem_type] + 7) // 8
    try:
        return count * helper.tensor_dtype_to_np_dtype(elem_type).itemsize
    except KeyError:
        raise ModelError(f"its element type {elem_type} is unknown") from None


def _number(entries: dict[str, str], key: str) -> int:
    """A byte count among the entries; 0 when it is not given."""
    text = entries.get(key, "0")
    if not (text.isascii() and text.isdecimal()) or len(text) > 19:
        raise ModelError(f"its {key} '{_short(text)}' is not a number of bytes")
    return int(text)


def _called(location: str) -> str:
    return f"its data file '{_short(location)}'"


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text):,} characters)"
