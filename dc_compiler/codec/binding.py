"""The native library: where it is, and its codec bound to NumPy through ctypes."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from dc_compiler.errors import CorruptFrameError, DccError, InvalidArgumentError, LibraryError

Array = npt.NDArray[Any]
Buffer = bytes | bytearray | memoryview | Array

LIBRARY_NAME = "libdcc.so"
DISTRIBUTION = "dc-compiler"
CODERS = {
    "raw": 0, "fixed": 1, "huffman": 2, "rans": 3, "lossless": 4, "lz": 5, "context": 6, "text": 7,
    "smallest": 254, "auto": 255,
}  # fmt: skip
CODER_NAMES = {number: name for name, number in CODERS.items()}
# Element types by ONNX TensorProto.DataType.
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    10: np.dtype(np.float16),
    11: np.dtype(np.float64),
    16: np.dtype(ml_dtypes.bfloat16),
}
_DTYPE_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
_MAX_RANK = 32
_ERROR_BYTES = 256


class _FrameInfo(ctypes.Structure):
    """dcc_frame_info of native/dcc.h."""

    _fields_ = (
        ("dtype", ctypes.c_uint8),
        ("coder", ctypes.c_uint8),
        ("codebook_kind", ctypes.c_uint8),
        ("scale_kind", ctypes.c_uint8),
        ("rank", ctypes.c_uint8),
        ("lanes", ctypes.c_uint8),
        ("position_bits", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
        ("codebook_entries", ctypes.c_uint32),
        ("zero", ctypes.c_uint32),
        ("grid_lo", ctypes.c_int64),
        ("dims", ctypes.c_uint64 * _MAX_RANK),
        ("elements", ctypes.c_uint64),
        ("nonzero", ctypes.c_uint64),
        ("channels", ctypes.c_uint64),
        ("inner", ctypes.c_uint64),
        ("chunk_elements", ctypes.c_uint64),
        ("chunks", ctypes.c_uint64),
        ("entries", ctypes.c_uint64),
        ("header_bytes", ctypes.c_uint64),
        ("codebook_bytes", ctypes.c_uint64),
        ("scales_bytes", ctypes.c_uint64),
        ("tables_bytes", ctypes.c_uint64),
        ("data_bytes", ctypes.c_uint64),
        ("position_bits_total", ctypes.c_uint64),
        ("index_bits_total", ctypes.c_uint64),
    )


class _EncodeRequest(ctypes.Structure):
    """dcc_encode_request of native/dcc.h."""

    _fields_ = (
        ("dtype", ctypes.c_uint8),
        ("coder", ctypes.c_uint8),
        ("codebook_kind", ctypes.c_uint8),
        ("scale_kind", ctypes.c_uint8),
        ("rank", ctypes.c_uint8),
        ("position_bits", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8 * 2),
        ("codebook_entries", ctypes.c_uint32),
        ("zero", ctypes.c_uint32),
        ("grid_lo", ctypes.c_int64),
        ("dims", ctypes.c_uint64 * _MAX_RANK),
        ("data", ctypes.c_void_p),
        ("indices", ctypes.c_void_p),
        ("codebook", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("channels", ctypes.c_uint64),
        ("inner", ctypes.c_uint64),
        ("chunk_elements", ctypes.c_uint64),
        ("threads", ctypes.c_int32),
    )


@dataclass(frozen=True)
class FrameInfo:
    """What a frame says about itself. Sizes are bytes with lengths and CRCs; ``*_bits_total`` are exact bits.

    `elem_type` is the ONNX TensorProto.DataType of `dtype`. `zero` is 0 or 1 + the index of the entry that is +0.0.
    `entries` counts coded entries, filler zeros included.
    """

    elem_type: int
    dtype: np.dtype[Any]
    coder: str
    codebook_kind: int
    scale_kind: int
    dims: tuple[int, ...]
    lanes: int
    position_bits: int
    codebook_entries: int
    zero: int
    grid_lo: int
    elements: int
    nonzero: int
    channels: int
    inner: int
    chunk_elements: int
    chunks: int
    entries: int
    header_bytes: int
    codebook_bytes: int
    scales_bytes: int
    tables_bytes: int
    data_bytes: int
    position_bits_total: int
    index_bits_total: int


def get_library_path() -> str:
    """Return the absolute path of the native library, for ``SessionOptions.register_custom_ops_library``.

    It is looked for in the package's folders, then among the files of the installed distribution: a checkout has no
    library beside its sources. Raises LibraryError when there is none.
    """
    for candidate in _library_candidates():
        if candidate.is_file():
            return str(candidate.resolve())
    raise LibraryError(f"{LIBRARY_NAME} was not found: install the package with 'pip install .'")


def frame_info(frame: Buffer) -> FrameInfo:
    """Parse a frame, checking everything but its streams. Raises CorruptFrameError."""
    view = _bytes_view(frame)
    raw = _FrameInfo()
    _call("dcc_frame_parse", _pointer(view), view.size, ctypes.byref(raw))
    values = {name: getattr(raw, name) for name, *_ in _FrameInfo._fields_ if name not in ("rank", "reserved")}
    values["elem_type"] = raw.dtype
    values["dtype"] = DTYPES[raw.dtype]
    values["coder"] = CODER_NAMES[raw.coder]
    values["dims"] = tuple(raw.dims[: raw.rank])
    return FrameInfo(**values)


def decode(frame: Buffer, threads: int = 0) -> Array:
    """Decode a frame to an array of its dims and dtype (ml_dtypes.bfloat16 for bf16). Raises CorruptFrameError.

    `threads` <= 0 means one per processor this process may use.
    """
    info = frame_info(frame)
    out = _allocate(info.dims, info.dtype)
    decode_into(frame, out, threads)
    return out


def decode_into(frame: Buffer, out: Array, threads: int = 0) -> None:
    """Decode a frame into the memory of `out`, a C-contiguous array of exactly the tensor's bytes.

    Raises CorruptFrameError, after which the contents of `out` are unspecified, and InvalidArgumentError.
    """
    _require(out.flags.c_contiguous and out.flags.writeable, "the output array is not contiguous and writeable")
    view = _bytes_view(frame)
    _call("dcc_frame_decode", _pointer(view), view.size, _pointer(out), out.nbytes, threads)


def decode_indices(frame: Buffer, threads: int = 0) -> npt.NDArray[np.uint16]:
    """Decode only the codebook indices, in the shape of the tensor.

    Raises CorruptFrameError, and InvalidArgumentError for a frame without a codebook.
    """
    view = _bytes_view(frame)
    out: npt.NDArray[np.uint16] = _allocate(frame_info(view).dims, np.dtype(np.uint16))
    _call("dcc_frame_decode_indices", _pointer(view), view.size, _pointer(out), out.size, threads)
    return out


def encode_codebook(
    indices: Array,
    dims: Sequence[int],
    dtype: npt.DTypeLike,
    *,
    codebook: Array | None = None,
    grid_lo: int = 0,
    k: int | None = None,
    zero: int = 0,
    scales: Array | None = None,
    log_scales: Array | None = None,
    channels: int = 0,
    inner: int = 0,
    coder: str = "auto",
    position_bits: int = 0,
    chunk_elements: int = 0,
    threads: int = 0,
) -> bytes:
    """Encode codebook indices of a tensor with these dims and float dtype; the bytes do not depend on `threads`.

    indices         (n,) or any shape of n elements, uint16
    codebook, zero  (k,) values in `dtype`, or in the compute type (f64 for f64, else f32) with scales; `zero` is 0 or
                    1 + the index of the entry that is +0.0. Without a codebook, entry j < `k` is `grid_lo` + j
    scales          (channels,) positive values in the compute type; or `log_scales`, (channels,) integers: FORMAT.md 3
    channels, inner element i uses scale (i // inner) % channels
    coder           'fixed', 'huffman', 'rans', 'context', 'auto' for the smallest of the first three, or 'smallest'
    position_bits   huffman: 1 to 16, or 0 for the best, no positions included

    Raises InvalidArgumentError.
    """
    _require(codebook is not None or k is not None, "give a codebook, or a grid with k")
    _require(scales is None or log_scales is None, "give scales or log_scales, not both")
    element = np.dtype(dtype)
    compute = np.dtype(np.float64 if element == np.float64 else np.float32)
    scaled = scales is not None or log_scales is not None
    request = _request(element, dims, coder, threads)
    request.chunk_elements = chunk_elements
    request.position_bits = _in_range("position_bits", position_bits, 255)
    request.zero = _in_range("zero", zero, 1 << 16)
    flat = _contiguous(indices, np.dtype(np.uint16), "indices")
    _require(flat.size == _product(dims), f"{flat.size} indices for dims {tuple(dims)}")
    request.indices = _pointer(flat)
    if codebook is not None:
        values = _contiguous(codebook, compute if scaled else element, "codebook")
        request.codebook_kind = 1
        request.codebook_entries = values.size
        request.codebook = _pointer(values)
    else:
        request.codebook_kind = 2
        request.codebook_entries = _in_range("k", k or 0, 1 << 16)
        request.grid_lo = grid_lo
    if scaled:
        given = scales if scales is not None else log_scales
        scale_values = _contiguous(np.asarray(given), compute if scales is not None else np.dtype(np.int32), "scales")
        _require(scale_values.size == channels, f"{scale_values.size} scales for {channels} channels")
        request.scale_kind = 1 if scales is not None else 2
        request.scales = _pointer(scale_values)
        request.channels = channels
        request.inner = inner
    return _encode(request)


def encode_data(array: Array, coder: str = "auto", threads: int = 0) -> bytes:
    """Encode an array (float32, float16, bfloat16, float64 or uint8) as it is, bit for bit.

    coder: 'raw', 'lossless', 'lz' or 'text' (these two for uint8 only); 'auto' for the smallest of the first three,
    'smallest' for the smallest of all.

    Raises InvalidArgumentError.
    """
    data = np.asarray(array, order="C")
    request = _request(data.dtype, data.shape, coder, threads)
    request.data = _pointer(data)
    return _encode(request)


def isa() -> str:
    """Name of the kernel set in use: 'avx512', 'avx2' or 'portable'."""
    name: bytes = _library().dcc_isa()
    return name.decode()


def select_isa(name: str) -> None:
    """Force a kernel set; 'auto' undoes that. Raises InvalidArgumentError when this processor cannot run it."""
    if _library().dcc_select_isa(name.encode()) != 0:
        raise InvalidArgumentError(f"this processor cannot run the kernel set '{name}'")


def flush_denormals(on: bool = True) -> bool:
    """Let this thread's float arithmetic treat denormal numbers (below 1.2e-38 for float32) as zero; returns what held
    before. They make processors slow, and vanishing gradients are full of them."""
    return bool(_library().dcc_flush_denormals(on))


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """:func:`flush_denormals` for a while."""
    before = flush_denormals()
    try:
        yield
    finally:
        flush_denormals(before)


def library_version() -> str:
    """Version of the native library."""
    version: bytes = _library().dcc_version()
    return version.decode()


def _library_candidates() -> list[Path]:
    package = sys.modules[__package__.partition(".")[0]]
    candidates = [Path(folder, LIBRARY_NAME) for folder in package.__path__]  # an editable install has two folders
    try:
        files = importlib.metadata.distribution(DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    candidates += [Path(str(file.locate())) for file in files if file.name == LIBRARY_NAME]
    candidates += [Path(sysconfig.get_path(name), "dc_compiler", LIBRARY_NAME) for name in ("platlib", "purelib")]
    return candidates


@functools.cache
def _library() -> ctypes.CDLL:
    path = get_library_path()
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise LibraryError(f"{path} cannot be loaded: {error}") from error
    pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    signatures: dict[str, list[Any]] = {
        "dcc_frame_parse": [pointer, size, ctypes.POINTER(_FrameInfo), text, size],
        "dcc_frame_decode": [pointer, size, pointer, size, ctypes.c_int, text, size],
        "dcc_frame_decode_indices": [pointer, size, pointer, size, ctypes.c_int, text, size],
        "dcc_frame_encode": [
            ctypes.POINTER(_EncodeRequest),
            ctypes.POINTER(pointer),
            ctypes.POINTER(size),
            text,
            size,
        ],
        "dcc_select_isa": [text],
        "dcc_flush_denormals": [ctypes.c_int],
    }
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = ctypes.c_int
    library.dcc_free.argtypes = [pointer]
    library.dcc_free.restype = None
    library.dcc_isa.restype = text
    library.dcc_version.restype = text
    return library


def _call(name: str, *arguments: Any) -> None:
    """Call a function that reports errors, and raise what it reports."""
    message = ctypes.create_string_buffer(_ERROR_BYTES)
    code: int = getattr(_library(), name)(*arguments, message, _ERROR_BYTES)
    if code == 0:
        return
    text = message.value.decode(errors="replace")
    if code == 3:
        raise MemoryError(text)
    kinds: dict[int, type[DccError]] = {1: CorruptFrameError, 2: InvalidArgumentError}
    raise kinds[code](text)


def _encode(request: _EncodeRequest) -> bytes:
    frame = ctypes.c_void_p()
    size = ctypes.c_size_t()
    _call("dcc_frame_encode", ctypes.byref(request), ctypes.byref(frame), ctypes.byref(size))
    try:
        return ctypes.string_at(frame.value or 0, size.value)
    finally:
        _library().dcc_free(frame)


def _request(dtype: np.dtype[Any], dims: Sequence[int], coder: str, threads: int) -> _EncodeRequest:
    _require(dtype in _DTYPE_NUMBERS, f"tensors of type {dtype} cannot be encoded")
    _require(coder in CODERS, f"unknown coder '{coder}': choose from {', '.join(CODERS)}")
    _require(len(dims) <= _MAX_RANK, f"rank {len(dims)} is above {_MAX_RANK}")
    request = _EncodeRequest()
    request.dtype = _DTYPE_NUMBERS[dtype]
    request.coder = CODERS[coder]
    request.rank = len(dims)
    request.dims[: len(dims)] = [int(extent) for extent in dims]
    request.threads = threads
    return request


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise InvalidArgumentError(sentence)


def _in_range(name: str, value: int, most: int) -> int:
    _require(0 <= value <= most, f"{name} is {value}, but must be 0 to {most}")
    return value


def _product(dims: Sequence[int]) -> int:
    product = 1
    for extent in dims:
        product *= int(extent)
    return product


def _contiguous(values: Array, dtype: np.dtype[Any], name: str) -> Array:
    """The values as a C-contiguous array of exactly `dtype`: floats are never converted, integers only without loss."""
    array = np.asarray(values)
    if array.dtype != dtype and np.issubdtype(dtype, np.integer):
        _require(np.issubdtype(array.dtype, np.integer), f"{name} are {array.dtype}, not integers")
        limits = np.iinfo(dtype)
        inside = array.size == 0 or (array.min() >= limits.min and array.max() <= limits.max)
        _require(bool(inside), f"{name} do not fit in {dtype}")
        array = array.astype(dtype)
    _require(array.dtype == dtype, f"{name} must be {dtype}, not {array.dtype}")
    return np.ascontiguousarray(array)


def _allocate(dims: Sequence[int], dtype: np.dtype[Any]) -> Array:
    try:
        return np.empty(dims, dtype)
    except (ValueError, MemoryError) as error:
        raise CorruptFrameError(f"the frame claims the shape {tuple(dims)}, which does not fit in memory") from error


def _bytes_view(frame: Buffer) -> npt.NDArray[np.uint8]:
    """The bytes of a frame without a copy (unless they are scattered)."""
    if isinstance(frame, np.ndarray):
        return np.ascontiguousarray(frame).reshape(-1).view(np.uint8)
    return np.frombuffer(frame, np.uint8)


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
