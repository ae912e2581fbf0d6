"""The native codec bound to NumPy: frames to arrays and back."""

from __future__ import annotations

import ctypes
import enum
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dc_compiler.codec.cancellation import interruptible
from dc_compiler.codec.library import (
    MAX_RANK,
    CoderInfoStruct,
    EncodeRequest,
    FrameInfoStruct,
    get_library_path,
    library,
)
from dc_compiler.errors import CancelledError, CorruptFrameError, DccError, InvalidArgumentError, OverLimitError
from dc_compiler.nibbles import pack_nibbles, shares_bytes, unpack_nibbles

if TYPE_CHECKING:
    from dc_compiler import ir

__all__ = ["get_library_path"]  # beside what is defined here

Array = npt.NDArray[Any]
Buffer = bytes | bytearray | memoryview | Array

_ERROR_BYTES = 1024
_SOON = 0.1  # seconds that Ctrl-C may wait
_MOST_ENCODE_SECONDS = 2e-6  # for an element


class Stores(enum.Enum):
    """What a coder stores: codebook indices, elements of any type as they are, or elements of uint8 as they are."""

    INDICES = 0
    ELEMENTS = 1
    BYTES = 2


@dataclass(frozen=True)
class CoderInfo:
    """A coder of the library. ``auto`` leaves slow ones out."""

    name: str
    stores: Stores
    is_slow: bool
    is_quick: bool
    decode_picoseconds: int
    nonzero_picoseconds: int
    frame_nanoseconds: int

    def decode_seconds(self, elements: int, nonzero: int) -> float:
        """Time to decode a tensor on one core, roughly and the same on every machine."""
        of_elements = self.decode_picoseconds * elements + self.nonzero_picoseconds * nonzero
        return 1e-12 * of_elements + 1e-9 * self.frame_nanoseconds


@functools.cache
def coders() -> dict[str, CoderInfo]:
    """The library's coders by name, in the order in which they are tried."""
    found: dict[str, CoderInfo] = {}
    raw = CoderInfoStruct()
    while library().dcc_coder(len(found), ctypes.byref(raw)) == 0:
        name = raw.name.decode()
        costs = (raw.decode_picoseconds, raw.nonzero_picoseconds, raw.frame_nanoseconds)
        found[name] = CoderInfo(name, Stores(raw.stores), bool(raw.is_slow), bool(raw.is_quick), *costs)
    return found


@dataclass(frozen=True)
class FrameInfo:
    """What a frame says about itself. Sizes are bytes with lengths and CRCs; ``*_bits_total`` are exact bits.

    `elem_type` is the ONNX TensorProto.DataType of `dtype`. `zero` is the index of the entry that is +0.0, or None.
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
    zero: int | None
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


def frame_info(frame: Buffer) -> FrameInfo:
    """Parse a frame, checking everything but its streams. Raises CorruptFrameError."""
    view = _bytes_view(frame)
    raw = FrameInfoStruct()
    _call("dcc_frame_parse", _pointer(view), view.size, ctypes.byref(raw))
    values = {name: getattr(raw, name) for name, *_ in FrameInfoStruct._fields_ if name not in ("rank", "reserved")}
    values["elem_type"] = raw.dtype
    values["dtype"] = _frame_dtypes()[raw.dtype]
    values["zero"] = raw.zero - 1 if raw.zero else None
    values["coder"] = library().dcc_coder_name(raw.coder).decode()
    values["dims"] = tuple(raw.dims[: raw.rank])
    return FrameInfo(**values)


def decode(frame: Buffer, threads: int = 0) -> Array:
    """Decode a frame to an array of its dims and dtype (ml_dtypes.bfloat16 for bf16). Raises CorruptFrameError.

    `threads` <= 0 means one per processor this process may use.
    """
    info = frame_info(frame)
    if shares_bytes(info.dtype):
        pairs = _allocate([-(-info.elements // 2)], np.dtype(np.uint8))
        decode_into(frame, pairs, threads)
        return unpack_nibbles(pairs, info.elements, info.dtype).reshape(info.dims)
    out = _allocate(info.dims, info.dtype)
    decode_into(frame, out, threads)
    return out


def decode_into(frame: Buffer, out: Array, threads: int = 0) -> None:
    """Decode a frame into the memory of `out`, a C-contiguous array of exactly the tensor's bytes. Elements of 4 bits
    share bytes, the first in the lower half.

    Raises CorruptFrameError, after which the contents of `out` are unspecified, and InvalidArgumentError.
    """
    _require(out.flags.c_contiguous and out.flags.writeable, "the output array is not contiguous and writeable")
    view = _bytes_view(frame)
    arguments = (_pointer(view), view.size, _pointer(out), out.nbytes, threads)
    _call_for(_decode_seconds(view, out.size), "dcc_frame_decode", *arguments)


def decode_indices(frame: Buffer, threads: int = 0) -> npt.NDArray[np.uint16]:
    """Decode only the codebook indices, in the shape of the tensor.

    Raises CorruptFrameError, and InvalidArgumentError for a frame without a codebook.
    """
    view = _bytes_view(frame)
    out: npt.NDArray[np.uint16] = _allocate(frame_info(view).dims, np.dtype(np.uint16))
    arguments = (_pointer(view), view.size, _pointer(out), out.size, threads)
    _call_for(_decode_seconds(view, out.size), "dcc_frame_decode_indices", *arguments)
    return out


def decode_points(frame: Buffer, threads: int = 0) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """The points of a scaled grid of float32 that fit int8, in the shape of the tensor, and its (channels,) scales.

    An element is its point times the scale of its channel, rounded to float32. Raises CorruptFrameError, and
    InvalidArgumentError for a frame of another kind.
    """
    view = _bytes_view(frame)
    info = frame_info(view)
    points: npt.NDArray[np.int8] = _allocate(info.dims, np.dtype(np.int8))
    scales: npt.NDArray[np.float32] = np.empty(info.channels, np.float32)
    _require(scales.size > 0, "the frame has no scales")
    arguments = (_pointer(view), view.size, _pointer(points), points.size, _pointer(scales), scales.size, threads)
    _call_for(_decode_seconds(view, points.size), "dcc_frame_decode_points", *arguments)
    return points, scales


def check_topology(topology: Buffer, payloads: int, stored_bytes: int, most_bytes: int) -> None:
    """Check a decoded topology as the operator does when it loads (FORMAT.md 9.2): manifest and inner model.

    payloads      number of payloads that the manifest must list
    stored_bytes  bytes of topology and payloads in the file
    most_bytes    about what holding the parsed model may take

    Raises CorruptFrameError, and OverLimitError when it would take more.
    """
    view = _bytes_view(topology)
    _call("dcc_check_topology", _pointer(view), view.size, payloads, stored_bytes, max(most_bytes, 0))


def unpack(model: Buffer, max_decoded_bytes: int | None = None, threads: int = 0) -> bytes:
    """The bytes of the standard ONNX model that a compiled model stands for, from its bytes.

    max_decoded_bytes: what the file may decode to; None for the default of SECURITY.md.

    Raises CorruptFrameError, InvalidArgumentError for a model that dcc did not write, and OverLimitError.
    """
    view = _bytes_view(model)
    limit = 0 if max_decoded_bytes is None else min(max(max_decoded_bytes, 1), 2**64 - 1)
    dense, size = ctypes.c_void_p(), ctypes.c_size_t()
    arguments = (_pointer(view), view.size, limit, threads, ctypes.byref(dense), ctypes.byref(size))
    try:
        _call_for(_SOON, "dcc_unpack", *arguments)
        return ctypes.string_at(dense.value or 0, size.value)
    finally:
        library().dcc_free(dense)


def encode_codebook(
    indices: Array,
    dims: Sequence[int],
    dtype: npt.DTypeLike,
    *,
    codebook: Array | None = None,
    grid_lo: int = 0,
    k: int | None = None,
    zero: int | None = None,
    scales: Array | None = None,
    log_scales: Array | None = None,
    channels: int = 0,
    inner: int = 0,
    offset: int = 0,
    coder: str = "auto",
    position_bits: int = 0,
    chunk_elements: int = 0,
    only_quick: bool = False,
    threads: int = 0,
) -> bytes:
    """Encode codebook indices of a tensor with these dims and dtype; the bytes do not depend on `threads`.

    indices         (n,) or any shape of n elements, uint16
    codebook, zero  (k,) values in `dtype`, or in the compute type (f64 for f64, else f32) with scales; `zero` is the
                    index of the entry that is +0.0, or None. Without a codebook, entry j < `k` is `grid_lo` + j
    scales          (channels,) positive values in the compute type; or `log_scales`, (channels,) integers: FORMAT.md 3
    channels, inner element i uses scale (i // inner) % channels
    offset          integers with scales: what is added to all
    coder           'fixed', 'huffman', 'rans', 'rows', 'context'; 'auto' for the smallest of the first four; 'smallest'
    position_bits   huffman: 1 to 16, or 0 for the best, no positions included
    only_quick      'auto' and 'smallest' choose among coders whose ``CoderInfo.is_quick``

    Raises InvalidArgumentError.
    """
    _require(codebook is not None or k is not None, "give a codebook, or a grid with k")
    _require(scales is None or log_scales is None, "give scales or log_scales, not both")
    element = np.dtype(dtype)
    compute = np.dtype(np.float64 if element == np.float64 else np.float32)
    scaled = scales is not None or log_scales is not None
    request = _request(element, dims, coder, threads)
    request.chunk_elements = chunk_elements
    request.only_quick = only_quick
    request.position_bits = _in_range("position_bits", position_bits, 255)
    request.zero = 0 if zero is None else 1 + _in_range("zero", zero, (1 << 16) - 1)
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
        request.offset = offset
    return _encode(request)


def encode_clustered(
    clustered: ir.Clustered,
    dims: Sequence[int],
    dtype: npt.DTypeLike,
    *,
    coder: str = "auto",
    position_bits: int = 0,
    only_quick: bool = False,
    threads: int = 0,
) -> bytes:
    """Encode what a pass has made of a tensor with these dims and float dtype; the rest as :func:`encode_codebook`.

    Positions are only coded where an entry is zero. Raises InvalidArgumentError.
    """
    scales = clustered.scales
    return encode_codebook(
        clustered.indices,
        dims,
        dtype,
        codebook=clustered.codebook,
        grid_lo=clustered.grid_lo,
        k=clustered.size,
        zero=clustered.zero,
        log_scales=None if scales is None else scales.log_steps,
        channels=0 if scales is None else scales.channels,
        inner=0 if scales is None else scales.inner,
        offset=clustered.offset,
        coder=coder,
        position_bits=0 if clustered.zero is None else position_bits,
        only_quick=only_quick,
        threads=threads,
    )


def encode_data(array: Array, coder: str = "auto", threads: int = 0) -> bytes:
    """Encode an array of any type that frames hold as it is, bit for bit.

    coder: 'raw', 'lossless' (not for elements of 4 bits), 'lz' or 'text' (these two for uint8 only); 'auto' for the
    smallest of the first three, 'smallest' for the smallest of all.

    Raises InvalidArgumentError.
    """
    data = np.asarray(array, order="C")
    request = _request(data.dtype, data.shape, coder, threads)
    if shares_bytes(data.dtype):
        data = pack_nibbles(data)
    request.data = _pointer(data)
    return _encode(request)


def isa() -> str:
    """Name of the kernel set in use, such as 'avx2' or 'portable'."""
    name: bytes = library().dcc_isa()
    return name.decode()


def isas() -> list[str]:
    """Names of the kernel sets that this processor can run, best first."""
    names: list[str] = []
    while (name := library().dcc_runnable_isa(len(names))) is not None:
        names.append(name.decode())
    return names


def select_isa(name: str) -> None:
    """Force a kernel set; 'auto' undoes that. Raises InvalidArgumentError when this processor cannot run it."""
    if library().dcc_select_isa(name.encode()) != 0:
        raise InvalidArgumentError(f"this processor cannot run the kernel set '{name}'")


def flush_denormals(on: bool = True) -> bool:
    """Let this thread's float arithmetic treat denormal numbers (below 1.2e-38 for float32) as zero; returns what held
    before. They make processors slow, and vanishing gradients are full of them."""
    return bool(library().dcc_flush_denormals(on))


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
    version: bytes = library().dcc_version()
    return version.decode()


def _call(name: str, *arguments: Any) -> None:
    """Call a function that reports errors, and raise what it reports."""
    message = ctypes.create_string_buffer(_ERROR_BYTES)
    code: int = getattr(library(), name)(*arguments, message, _ERROR_BYTES)
    if code == 0:
        return
    text = message.value.decode(errors="replace")
    if code == 3:
        raise MemoryError(text)
    kinds: dict[int, type[DccError]] = {
        1: CorruptFrameError,
        2: InvalidArgumentError,
        4: CancelledError,
        5: OverLimitError,
    }
    raise kinds[code](text)


def _call_for(seconds: float, name: str, *arguments: Any) -> None:
    """The same, when it may take so long: long calls can be interrupted."""
    if seconds < _SOON:
        _call(name, *arguments)
    else:
        interruptible(lambda: _call(name, *arguments))


def _decode_seconds(frame: npt.NDArray[np.uint8], elements: int) -> float:
    """How long decoding may take on one thread. The coder is byte 6 of a frame (FORMAT.md 2)."""
    name = library().dcc_coder_name(int(frame[6])) if frame.size > 6 else None
    coder = None if name is None else coders().get(name.decode())
    return 0.0 if coder is None else coder.decode_seconds(elements, elements)


def _encode(request: EncodeRequest) -> bytes:
    frame = ctypes.c_void_p()
    size = ctypes.c_size_t()
    seconds = _product(request.dims[: request.rank]) * _MOST_ENCODE_SECONDS
    try:
        _call_for(seconds, "dcc_frame_encode", ctypes.byref(request), ctypes.byref(frame), ctypes.byref(size))
        return ctypes.string_at(frame.value or 0, size.value)
    finally:
        library().dcc_free(frame)


def _request(dtype: np.dtype[Any], dims: Sequence[int], coder: str, threads: int) -> EncodeRequest:
    number = next((n for n, d in _frame_dtypes().items() if d == dtype), None)
    _require(number is not None, f"tensors of type {dtype} cannot be encoded")
    numbers = _coder_numbers()
    _require(coder in numbers, f"unknown coder '{coder}': choose from {', '.join(numbers)}")
    _require(len(dims) <= MAX_RANK, f"rank {len(dims)} is above {MAX_RANK}")
    request = EncodeRequest()
    request.dtype = number
    request.coder = numbers[coder]
    request.rank = len(dims)
    request.dims[: len(dims)] = [int(extent) for extent in dims]
    request.threads = threads
    return request


@functools.cache
def _coder_numbers() -> dict[str, int]:
    """Numbers of the coders, and of ``smallest`` and ``auto``, by name."""
    names = ((library().dcc_coder_name(number), number) for number in range(256))
    return {name.decode(): number for name, number in names if name is not None}


@functools.cache
def _frame_dtypes() -> dict[int, np.dtype[Any]]:
    """What frames may hold, by TensorProto.DataType. Looked up late: who only serves models needs no onnx."""
    from dc_compiler.ir import ELEMENT_TYPES

    return {t.number: t.dtype for t in ELEMENT_TYPES if t.framed}


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
