"""Reference decoder: FORMAT.md section by section, in slow and obvious Python for tests."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from dc_compiler.errors import CorruptFrameError

Array = npt.NDArray[Any]

RAW, FIXED, HUFFMAN, RANS, LOSSLESS, LZ, CONTEXT, TEXT = range(8)
NO_CODEBOOK, VALUES, GRID, SHORT_VALUES = range(4)
NO_SCALES, SCALE_VALUES, SCALE_LOG = range(3)
UINT8 = 2
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    UINT8: np.dtype("u1"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    16: np.dtype(ml_dtypes.bfloat16),
}
LANES = (1, 2, 4, 8, 16, 32)
LOG_SCALE_STEPS = np.array(
    [0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7], np.uint32
).view(np.float32)


@dataclass(frozen=True)
class Header:
    """The header of a frame (section 2). Fields that the frame does not have are zero."""

    dtype: int
    coder: int
    codebook_kind: int
    scale_kind: int
    dims: tuple[int, ...]
    nnz: int
    k: int = 0
    zero: int = 0
    lo: int = 0
    channels: int = 0
    inner: int = 0
    chunk: int = 0
    lanes: int = 0
    position_bits: int = 0
    columns: int = 0
    group: int = 0
    stride: int = 0

    @property
    def n(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.dims)

    @property
    def element(self) -> np.dtype[Any]:
        """Element type of the tensor."""
        return DTYPES[self.dtype]

    @property
    def compute(self) -> np.dtype[Any]:
        """The compute type of section 2.1."""
        return np.dtype("<f8" if self.dtype == 11 else "<f4")

    def chunk_sizes(self) -> Iterator[int]:
        """Elements of each chunk, in order."""
        for first in range(0, self.n, self.chunk):
            yield min(self.chunk, self.n - first)


def parse_header(frame: bytes) -> Header:
    """Read and check the header and its CRC; the sections are not looked at. Raises CorruptFrameError."""
    return _open(frame)[0]


def decode(frame: bytes, max_bytes: int = 1 << 31) -> Array:
    """Decode a frame to an array of its dims and dtype (ml_dtypes.bfloat16 for bf16).

    Raises CorruptFrameError when the frame breaks a rule of FORMAT.md or decodes to more than `max_bytes`.
    """
    header, reader = _open(frame)
    _check_size(header, max_bytes)
    if header.codebook_kind == NO_CODEBOOK:
        values = _read_elements(header, reader)
    else:
        codebook, scales, indices = _read_indexed(header, reader)
        values = _dequantize(header, codebook, scales, indices)
    reader.finish("the frame")
    return values.reshape(header.dims)


def decode_indices(frame: bytes, max_bytes: int = 1 << 31) -> Array:
    """Decode only the codebook indices: uint16, in the shape of the tensor. Raises as `decode` does."""
    header, reader = _open(frame)
    _check_size(header, max_bytes)
    _require(header.codebook_kind != NO_CODEBOOK, "the frame has no codebook")
    indices = _read_indexed(header, reader)[2]
    reader.finish("the frame")
    return indices.astype(np.uint16).reshape(header.dims)


def crc32c(data: bytes) -> int:
    """CRC-32C of `data`."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _crc_entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC_TABLE = [_crc_entry(byte) for byte in range(256)]


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise CorruptFrameError(f"the frame is corrupt: {rule}")


def _check_size(header: Header, max_bytes: int) -> None:
    _require(header.n * header.element.itemsize <= max_bytes, f"it decodes to more than {max_bytes} bytes")


class _Bytes:
    """Bounds-checked reader of bytes and varints."""

    def __init__(self, data: bytes) -> None:
        self.data = bytes(data)
        self.at = 0

    def take(self, count: int) -> bytes:
        _require(count <= len(self.data) - self.at, f"{count} bytes needed, {len(self.data) - self.at} left")
        self.at += count
        return self.data[self.at - count : self.at]

    def u8(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                _require(byte != 0 or shift == 0, "varint not in its shortest form")
                _require(value < 1 << 64, "varint of more than 64 bits")
                return value
        raise CorruptFrameError("the frame is corrupt: varint of more than 64 bits")

    def svarint(self) -> int:
        return _unzigzag(self.varint())

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def finish(self, what: str) -> None:
        _require(self.at == len(self.data), f"{len(self.data) - self.at} bytes left at the end of {what}")


class _Bits:
    """Reader of a bit stream: least significant bit of each byte first."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> int:
        _require(self.at + count <= 8 * len(self.data), "bit stream too short")
        value = 0
        for i in range(count):
            value |= (self.data[self.at >> 3] >> (self.at & 7) & 1) << i
            self.at += 1
        return value

    def pad(self) -> int:
        """Skip to the byte boundary over bits that must be zero; returns the bytes read so far."""
        _require(self.take(-self.at % 8) == 0, "padding bits not zero")
        return self.at // 8


def _unzigzag(v: int) -> int:
    return v >> 1 if v % 2 == 0 else -(v + 1 >> 1)


# Section 1: the frame.


def _open(frame: bytes) -> tuple[Header, _Bytes]:
    reader = _Bytes(frame)
    header = _read_header(reader)
    crc = crc32c(reader.data[: reader.at])
    _require(reader.u32() == crc, "header CRC mismatch")
    return header, reader


def _section(reader: _Bytes) -> _Bytes:
    body = reader.take(reader.varint())
    _require(reader.u32() == crc32c(body), "section CRC mismatch")
    return _Bytes(body)


# Section 2: the header.


def _read_header(r: _Bytes) -> Header:
    _require(r.take(4) == b"DCCW", "it does not start with DCCW")
    _require(r.u8() == 1, "unknown version")
    dtype, coder, codebook_kind, scale_kind, rank = r.u8(), r.u8(), r.u8(), r.u8(), r.u8()
    _require(dtype in DTYPES, "unknown dtype")
    _require(coder <= TEXT, "unknown coder")
    _require(codebook_kind <= SHORT_VALUES and scale_kind <= SCALE_LOG, "unknown codebook or scale kind")
    has_codebook = coder in (FIXED, HUFFMAN, RANS, CONTEXT)
    one_chunk = coder in (LZ, TEXT)
    _require((codebook_kind != NO_CODEBOOK) == has_codebook, "codebook kind does not fit the coder")
    _require(has_codebook or scale_kind == NO_SCALES, "scales without a codebook")
    _require(dtype != UINT8 or not has_codebook, "codebook with dtype uint8")
    _require(dtype == UINT8 or not one_chunk, "lz or text with a dtype that is not uint8")
    scaled = scale_kind != NO_SCALES
    is_f32 = dtype == 1 or (scaled and dtype != 11)
    _require(codebook_kind != SHORT_VALUES or is_f32, "short codebook of entries that are not f32")
    _require(rank <= 32, "rank above 32")
    dims = tuple(r.varint() for _ in range(rank))
    _require(math.prod(max(d, 1) for d in dims) * DTYPES[dtype].itemsize < 1 << 63, "dims too large")
    n = math.prod(dims)
    _require(n > 0 or coder == RAW, "no elements")
    nnz = r.varint()
    _require(nnz <= n, "more non-zeros than elements")

    k = zero = lo = channels = inner = chunk = lanes = position_bits = columns = group = stride = 0
    if has_codebook:
        k, zero = r.varint(), r.varint()
        _require(1 <= k <= 65536, "codebook size out of range")
        _require(zero <= k, "zero entry out of range")
        _require(zero > 0 or nnz == n, "zeros without a zero entry")
    if codebook_kind == GRID:
        lo = r.svarint()
        _require(abs(lo) <= 1 << 24 and abs(lo + k - 1) <= 1 << 24, "grid out of range")
        _require(zero == 0 or lo + zero - 1 == 0, "the zero entry is not zero")
    if scaled:
        channels, inner = r.varint(), r.varint()
        _require(channels >= 1 and inner >= 1 and n % (channels * inner) == 0, "channels x inner does not divide n")
    if coder >= HUFFMAN:
        chunk = r.varint()
        if one_chunk:
            _require(chunk == n < 1 << 31, "lz or text in more than one chunk")
        else:
            _require(1 <= chunk <= 1 << 24, "chunk size out of range")
    if coder in (HUFFMAN, RANS):
        lanes = r.u8()
        _require(lanes in LANES and (coder == RANS or lanes <= 8), "wrong number of lanes")
    if coder == HUFFMAN:
        position_bits = r.u8()
        _require(position_bits <= 16, "position bits out of range")
        _require(position_bits == 0 or zero > 0, "positions without a zero entry")
    if coder == CONTEXT:
        columns, group, stride = r.varint(), r.varint(), r.varint()
        _require(1 <= columns <= min(chunk, n), "columns out of range")
        _require(1 <= group <= columns, "group of columns out of range")
        _require(stride != 1 and stride <= columns, "stride out of range")
    return Header(
        dtype, coder, codebook_kind, scale_kind, dims, nnz, k, zero, lo, channels, inner, chunk, lanes, position_bits,
        columns, group, stride,
    )  # fmt: skip


# Section 2.1: values.


def _dequantize(header: Header, codebook: Array, scales: Array | None, indices: Array) -> Array:
    if header.codebook_kind in (VALUES, SHORT_VALUES) and scales is None:
        values: Array = codebook[indices]
        return values
    if scales is None:
        products: Array = codebook[indices]
    else:
        channel = np.arange(header.n) // header.inner % header.channels
        with np.errstate(all="ignore"):
            products = codebook[indices] * scales[channel]
    with np.errstate(all="ignore"):
        return products.astype(header.element)


def _nonzero_bits(values: Array) -> int:
    """Elements with any bit set: -0.0 is one."""
    return int(np.count_nonzero(values.view(f"u{values.dtype.itemsize}")))


# Section 3: the sections.


def _read_elements(header: Header, reader: _Bytes) -> Array:
    """The elements of a frame without a codebook: 1-D, in the tensor's dtype."""
    if header.coder == RAW:
        data = _section(reader).data
        _require(len(data) == header.n * header.element.itemsize, "DATA has the wrong length")
    else:
        parts = []
        for m in header.chunk_sizes():
            chunk = _section(reader)
            if header.coder == LZ:
                parts.append(_lz(chunk, m))
            elif header.coder == TEXT:
                parts.append(_text(chunk, m))
            else:
                parts.append(_lossless(chunk, m, header.element))
            chunk.finish("a chunk")
        data = b"".join(parts)
    values = np.frombuffer(data, header.element)
    _require(_nonzero_bits(values) == header.nnz, "wrong number of non-zeros")
    return values


def _read_indexed(header: Header, reader: _Bytes) -> tuple[Array, Array | None, Array]:
    """Codebook (k,), scales (channels,) or None, and indices (n,) of a frame with a codebook."""
    codebook = _read_codebook(header, reader)
    scales = _read_scales(header, reader) if header.scale_kind != NO_SCALES else None
    if header.coder == FIXED:
        indices = _fixed(header, _section(reader))
    elif header.coder == CONTEXT:
        indices = np.concatenate([_context_chunk(header, _section(reader), m) for m in header.chunk_sizes()])
    else:
        read_chunks = _huffman_chunks if header.coder == HUFFMAN else _rans_chunks
        indices = np.concatenate(read_chunks(header, reader))
    nnz = header.n if header.zero == 0 else int(np.count_nonzero(indices != header.zero - 1))
    _require(nnz == header.nnz, "wrong number of non-zeros")
    return codebook, scales, indices


def _read_codebook(header: Header, reader: _Bytes) -> Array:
    if header.codebook_kind == GRID:
        return (header.lo + np.arange(header.k)).astype(header.compute)
    dtype = header.compute if header.scale_kind != NO_SCALES else header.element
    data = _section(reader).data
    is_short = header.codebook_kind == SHORT_VALUES
    _require(len(data) == header.k * (2 if is_short else dtype.itemsize), "CODEBOOK has the wrong length")
    if is_short:
        data = (np.frombuffer(data, "<u2").astype("<u4") << 16).tobytes()
    codebook = np.frombuffer(data, dtype)
    _require(header.scale_kind == NO_SCALES or bool(np.isfinite(codebook).all()), "scaled entry not finite")
    _require(header.zero == 0 or _nonzero_bits(codebook[header.zero - 1 :][:1]) == 0, "the zero entry is not zero")
    return codebook


def _read_scales(header: Header, reader: _Bytes) -> Array:
    section = _section(reader)
    if header.scale_kind == SCALE_VALUES:
        _require(len(section.data) == header.channels * header.compute.itemsize, "SCALES has the wrong length")
        scales: Array = np.frombuffer(section.data, header.compute)
        _require(bool((np.isfinite(scales) & (scales > 0)).all()), "scale not finite and positive")
        return scales
    e = section.svarint()
    d = _byte_stream(section, header.channels)
    section.finish("SCALES")
    _require(e + int(d.min()) >= -1008 and e + int(d.max()) <= 1015, "logarithmic scale out of range")
    q = e + d.astype(np.int64)
    log_scales: Array = np.ldexp(LOG_SCALE_STEPS[q % 8].astype(header.compute), q // 8)
    return log_scales


def _fixed(header: Header, section: _Bytes) -> Array:
    width = (header.k - 1).bit_length()
    _require(len(section.data) == -(-header.n * width // 8), "DATA has the wrong length")
    bits = _Bits(section.data)
    indices = np.zeros(header.n, np.int64) if width == 0 else np.array([bits.take(width) for _ in range(header.n)])
    bits.pad()
    _require(int(indices.max()) < header.k, "index not in the codebook")
    return indices


# Section 4: number lists.


def _number_list(reader: _Bytes, length: int) -> list[int]:
    bits = _Bits(reader.data[reader.at :])
    order = bits.take(4)
    values = []
    value = 0
    for _ in range(length):
        value += _unzigzag(_exp_golomb(bits, order))
        _require(0 <= value <= 1 << 17, "number list out of range")
        values.append(value)
    reader.take(bits.pad())
    return values


def _exp_golomb(bits: _Bits, order: int) -> int:
    leading = 0
    while bits.take(1) == 0:
        leading += 1
        _require(leading <= 20, "Exp-Golomb prefix too long")
    width = leading + order
    return (1 << width) + bits.take(width) - (1 << order)


# Section 5.1: huffman.


class _HuffmanCode:
    """A canonical code: maps (length, code) to its symbol."""

    def __init__(self, lengths: list[int]) -> None:
        self.symbols: dict[tuple[int, int], int] = {}
        _require(max(lengths) <= 16, "code length above 16")
        used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length > 0)
        self.single = used[0][1] if len(used) == 1 else None
        if self.single is not None:
            _require(used[0][0] == 1, "the only code has a length other than 1")
        else:
            _require(sum(1 << 16 - length for length, _ in used) == 1 << 16, "code lengths break Kraft's equality")
        code = previous = 0
        for length, symbol in used:
            code <<= length - previous
            previous = length
            self.symbols[length, code] = symbol
            code += 1

    def read(self, bits: _Bits) -> int:
        if self.single is not None:
            return self.single
        length = code = 0
        while (length, code) not in self.symbols:
            code = code << 1 | bits.take(1)
            length += 1
        return self.symbols[length, code]


def _huffman_chunks(header: Header, reader: _Bytes) -> list[Array]:
    tables = _section(reader)
    positions = None
    if header.position_bits > 0:
        positions = _HuffmanCode(_number_list(tables, 1 << header.position_bits))
    codes = _HuffmanCode(_number_list(tables, header.k))
    tables.finish("TABLES")
    return [_huffman_chunk(header, _section(reader), positions, codes, m) for m in header.chunk_sizes()]


def _huffman_chunk(header: Header, chunk: _Bytes, positions: _HuffmanCode | None, codes: _HuffmanCode, m: int) -> Array:
    entries = chunk.varint()
    _require(entries <= m if positions else entries == m, "wrong number of entries")
    tables = [codes] if positions is None else [positions, codes]
    bit_counts = [[chunk.varint() for _ in range(header.lanes)] for _ in tables]
    lists = [_huffman_list(chunk, table, counts, entries) for table, counts in zip(tables, bit_counts, strict=True)]
    chunk.finish("a chunk")
    if positions is None:
        return np.array(lists[0], np.int64)
    indices = np.full(m, header.zero - 1, np.int64)
    p = -1
    for position, index in zip(*lists, strict=True):
        p += position + 1
        _require(p < m, "position past the end of the chunk")
        indices[p] = index
    return indices


def _huffman_list(chunk: _Bytes, code: _HuffmanCode, bit_counts: list[int], entries: int) -> list[int]:
    """`entries` symbols from one stream per lane; the streams follow each other in `chunk`."""
    streams = [_Bits(chunk.take(-(-count // 8))) for count in bit_counts]
    symbols = [code.read(streams[t % len(streams)]) for t in range(entries)]
    for stream, count in zip(streams, bit_counts, strict=True):
        _require(stream.at == count, "a stream does not end where declared")
        stream.pad()
    return symbols


# Section 5.2: rans.


def _rans_tables(reader: _Bytes, k: int) -> tuple[int, list[int]]:
    s = reader.u8()
    _require(8 <= s <= 16, "frequency bits out of range")
    frequencies = _number_list(reader, k)
    _require(sum(frequencies) == 1 << s, "frequencies have the wrong sum")
    return s, frequencies


def _rans_chunks(header: Header, reader: _Bytes) -> list[Array]:
    tables = _section(reader)
    s, frequencies = _rans_tables(tables, header.k)
    tables.finish("TABLES")
    return [_rans_chunk(_section(reader), s, frequencies, header.lanes, m) for m in header.chunk_sizes()]


def _rans_chunk(chunk: _Bytes, s: int, frequencies: list[int], lanes: int, m: int) -> Array:
    states = [chunk.u32() for _ in range(lanes)]
    _require(min(states) >= 1 << 16, "initial state below 2^16")
    data = chunk.rest()
    _require(len(data) % 2 == 0, "half a word")
    words = iter(np.frombuffer(data, "<u2").tolist())
    start = np.cumsum([0, *frequencies]).tolist()
    symbol_at = np.repeat(np.arange(len(frequencies)), frequencies).tolist()
    symbols = np.empty(m, np.int64)
    for t in range(m):
        x = states[t % lanes]
        slot = x % (1 << s)
        j = symbol_at[slot]
        x = frequencies[j] * (x >> s) + slot - start[j]
        if x < 1 << 16:
            word = next(words, None)
            if word is None:
                raise CorruptFrameError("the frame is corrupt: words run out")
            x = (x << 16) + word
        states[t % lanes] = x
        symbols[t] = j
    _require(all(x == 1 << 16 for x in states), "final state is not 2^16")
    _require(next(words, None) is None, "words left over")
    return symbols


# Section 5.3: adaptive binary coding.

_LOGIT_LIMIT = 2816
_LOW_LOGISTIC = [
    1, 2, 3, 5, 8, 13, 22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768,
]  # fmt: skip
_LOGISTIC = _LOW_LOGISTIC + [(1 << 16) - v for v in reversed(_LOW_LOGISTIC[:-1])]


def _squash(logit: int) -> int:
    y = _limited(logit, -_LOGIT_LIMIT, _LOGIT_LIMIT - 1) + _LOGIT_LIMIT
    j, f = y >> 7, y % 128
    return _LOGISTIC[j] * (128 - f) + _LOGISTIC[j + 1] * f >> 7


@cache
def _stretch_table() -> list[int]:
    squashed = np.array([_squash(x) for x in range(-_LOGIT_LIMIT, _LOGIT_LIMIT)])
    found: list[int] = (np.searchsorted(squashed, 16 * np.arange(4096) + 8) - _LOGIT_LIMIT).tolist()
    return found


def _limited(value: int, least: int, most: int) -> int:
    return min(max(value, least), most)


class BitCoder(Protocol):
    """Where bits come from: a chunk, or somebody who knows them."""

    def bit(self, p: int) -> int:
        """The next bit; that it is 1 has probability p / 2^16."""


@dataclass
class Slot:
    """An adaptive bit."""

    p: int = 1 << 15
    n: int = 0

    def learn(self, bit: int) -> None:
        self.p += ((bit << 16) - self.p) * ((1 << 17) // (2 * self.n + 3)) >> 16
        self.n = min(self.n + 1, 255)


class Mixer:
    """Predicts bits from slots."""

    def __init__(self, weight: int, slots: int) -> None:
        self.weights = [weight] * slots

    def bit(self, coder: BitCoder, slots: Sequence[Slot], rate: int) -> int:
        logits = [_stretch_table()[slot.p >> 4] for slot in slots]
        total = sum(w * x for w, x in zip(self.weights, logits, strict=True))
        p = _limited(_squash(total >> 16), 16, (1 << 16) - 16)
        bit = coder.bit(p)
        for i, (x, slot) in enumerate(zip(logits, slots, strict=True)):
            change = x * ((bit << 16) - p) * rate + (1 << 21) >> 22
            self.weights[i] = _limited(self.weights[i] + change, -(1 << 20), 1 << 20)
            slot.learn(bit)
        return bit


class RangeDecoder:
    """The bits of a chunk."""

    def __init__(self, chunk: bytes) -> None:
        self.data = chunk
        self.low, self.high = 0, (1 << 32) - 1
        self.shifted = 0
        self.value = int.from_bytes(self.data[:4].ljust(4, b"\0"), "big")

    def bit(self, p: int) -> int:
        middle = self.low + ((self.high - self.low) * p >> 16)
        bit = int(self.value <= middle)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 24 == self.high >> 24:
            at = self.shifted + 4
            following = self.data[at] if at < len(self.data) else 0
            self.low = self.low << 8 & 0xFFFFFFFF
            self.high = self.high << 8 & 0xFFFFFFFF | 255
            self.value = self.value << 8 & 0xFFFFFFFF | following
            self.shifted += 1
            _require(self.shifted <= len(self.data), "an arithmetic code is cut short")
        return bit

    def finish(self) -> None:
        if self.low == 0:
            complete = len(self.data) == self.shifted
        else:
            complete = self.data[self.shifted :] == bytes([(self.low >> 24) + 1])
        _require(complete, "an arithmetic code does not end where its symbols end")


# Section 5.4: context.

_LEVELS = [38, 54, 76, 108, 152, 215, 304, 431, 609, 861, 1218, 1722, 2435]


def _context_chunk(header: Header, chunk: _Bytes, m: int) -> Array:
    coder = RangeDecoder(chunk.rest())
    indices = ContextModel(header, coder, m).decode()
    coder.finish()
    return indices


class ContextModel:
    """What is known of a chunk of ``m`` elements while it is decoded; ``d`` is its elements in rows of columns."""

    def __init__(self, header: Header, coder: BitCoder, m: int) -> None:
        self.header, self.coder, self.m = header, coder, m
        self.z = header.zero - 1 if header.zero else header.k // 2
        self.d = np.zeros((-(-m // header.columns), header.columns), np.int64)
        self.slots: dict[tuple[Any, ...], Slot] = {}
        self.kept_mixer, self.sign_mixer = Mixer(18350, 5), Mixer(1 << 15, 2)
        self.node_mixers = [Mixer(26214, 3) for _ in range(64)]
        self.elements = self.kept = 0
        self.kept_of_column = np.zeros(header.columns, np.int64)
        self.last_of_column = np.zeros(header.columns, np.int64)
        self.last_of_row = 0

    def decode(self) -> Array:
        """The indices of the chunk."""
        for i in range(self.m if self.header.k > 1 else 0):
            self._element(*divmod(i, self.header.columns))
        return self.d.reshape(-1)[: self.m] + self.z

    def _element(self, row: int, column: int) -> None:
        if column == 0:
            self.last_of_row = 0
        d = 0
        if self._is_kept(row, column):
            sign = self._sign(row, column)
            d = sign * self._magnitude(column, sign)
            self.last_of_column[column] = self.last_of_row = d
            self.kept_of_column[column] += 1
        self.d[row, column] = d
        self.elements += 1
        self.kept += d != 0

    def _slot(self, *key: Any) -> Slot:
        return self.slots.setdefault(key, Slot())

    def _level(self, count: int, seen: int) -> int:
        kept = 2 * self.kept + 1
        ratio = (count * (2 * self.elements + 2) + 2 * kept << 8) // ((seen + 2) * kept)
        return sum(limit <= ratio for limit in _LEVELS)

    def _at(self, row: int, column: int, distance: int) -> int:
        return int(np.sign(self.d[row, column - distance])) if distance <= column else 0

    def _is_kept(self, row: int, column: int) -> int:
        columns, group, stride = self.header.columns, self.header.group, self.header.stride
        kept = self.kept_of_column
        first = column // group * group
        members = kept[first : first + group]
        near = [column, column - 1, column + 1] + ([column - stride, column + stride] if stride else [])
        near = [c for c in near if 0 <= c < columns]
        neighbours = [self._at(row, column, 1), self.d[row - 1, column] if row else 0]
        if stride:
            neighbours += [self._at(row, column, stride + more) for more in (0, -1, 1)]
        of_column = self._level(int(kept[column]), row)
        of_row = self._level(int(np.count_nonzero(self.d[row, :column])), column)
        in_group = self._level(int(np.count_nonzero(self.d[row, first:column])), column - first)
        slots = [
            self._slot("near", self._level(int(kept[near].sum()), row * len(near)), of_row),
            self._slot("group", in_group, self._level(int(members.sum()), row * len(members))),
            self._slot("neighbours", tuple(bool(d) for d in neighbours), of_column),
            self._slot("densities", of_column, of_row),
            self._slot("column", column),
        ]
        guess = _limited(((2 * self.kept + 1) << 16) // (2 * self.elements + 2), 32, (1 << 16) - 32)
        for slot in slots:
            if slot.n == 0:
                slot.p, slot.n = guess, 4
        return self.kept_mixer.bit(self.coder, slots, 33 + 83968 // (256 + self.elements))

    def _sign(self, row: int, column: int) -> int:
        if self.z in (0, self.header.k - 1):
            return 1 if self.z == 0 else -1
        stride = self.header.stride
        distances = [1, 2] + ([stride - 1, stride, stride + 1, 2 * stride] if stride else [])
        around = _limited(sum(self._at(row, column, distance) for distance in distances), -2, 2)
        lasts = int(np.sign(self.last_of_column[column])), int(np.sign(self.last_of_row))
        slots = [self._slot("signs", around, *lasts), self._slot("sign of column", column)]
        return 1 if self.sign_mixer.bit(self.coder, slots, 328) else -1

    def _magnitude(self, column: int, sign: int) -> int:
        most = self.header.k - 1 - self.z if sign > 0 else self.z
        exponent = 0
        while most >> exponent + 1 and self._node(column, sign, min(exponent, 7)):
            exponent += 1
        magnitude = 1
        for _ in range(exponent):
            magnitude = 2 * magnitude + self._node(column, sign, min(8 + 8 * exponent + min(magnitude, 7), 63))
        _require(magnitude <= most, "index not in the codebook")
        return magnitude

    def _node(self, column: int, sign: int, node: int) -> int:
        of_row, of_column = (min(abs(int(d)), 15) for d in (self.last_of_row, self.last_of_column[column]))
        slots = [
            self._slot("node", sign, node),
            self._slot("row's node", of_row, sign, node),
            self._slot("column's node", of_column, sign, node),
        ]
        return self.node_mixers[node].bit(self.coder, slots, 164)


# Section 6: byte streams.


def _byte_stream(reader: _Bytes, count: int) -> Array:
    mode = reader.u8()
    _require(mode <= 1, "unknown byte stream mode")
    if mode == 0:
        return np.frombuffer(reader.take(count), np.uint8)
    lanes = reader.u8()
    _require(lanes in LANES, "wrong number of lanes")
    s, frequencies = _rans_tables(reader, 256)
    chunk = _Bytes(reader.take(reader.varint()))
    return _rans_chunk(chunk, s, frequencies, lanes, count).astype(np.uint8)


# Section 7: lossless.


def _lossless(chunk: _Bytes, m: int, dtype: np.dtype[Any]) -> bytes:
    planes = [_byte_stream(chunk, m) for _ in range(dtype.itemsize)]
    words: Array = np.stack(planes, axis=1).reshape(-1).view(f"<u{dtype.itemsize}")
    if dtype.kind != "u":
        words = words >> 1 | words << (8 * dtype.itemsize - 1)
    return words.tobytes()


# Section 8.1: lz.


def _lz(chunk: _Bytes, n: int) -> bytes:
    sequences, literal_count, extra_count = chunk.varint(), chunk.varint(), chunk.varint()
    _require(1 <= sequences <= n // 4 + 1 and literal_count <= n and extra_count <= n, "more lz parts than bytes")
    tokens = _byte_stream(chunk, sequences).tolist()
    low, middle, high = (_byte_stream(chunk, sequences - 1).tolist() for _ in range(3))
    extras = _Bytes(_byte_stream(chunk, extra_count).tobytes())
    literals = _Bytes(_byte_stream(chunk, literal_count).tobytes())
    out = bytearray()
    for i, token in enumerate(tokens):
        out += literals.take(_lz_length(token >> 4, extras))
        if i == sequences - 1:
            _require(token & 15 == 0, "match after the last sequence")
            break
        length = _lz_length(token & 15, extras) + 4
        offset = low[i] | middle[i] << 8 | high[i] << 16
        _require(1 <= offset <= len(out), "lz offset before the first byte")
        _require(len(out) + length <= n, "more bytes than elements")
        for _ in range(length):
            out.append(out[-offset])
    extras.finish("the extras")
    literals.finish("the literals")
    _require(len(out) == n, "lz bytes and elements differ in number")
    return bytes(out)


def _lz_length(nibble: int, extras: _Bytes) -> int:
    length = nibble
    more = nibble == 15
    while more:
        extra = extras.u8()
        length += extra
        more = extra == 255
    return length


# Section 8.2: text.

_ORDERS = (0, 1, 2, 3, 4, 6)
_PRIMER = Path(__file__).with_name("primer.hex")


@cache
def _primer() -> bytes:
    lines = _PRIMER.read_text().splitlines()
    return b"".join(bytes.fromhex(line.partition("#")[0]) for line in lines)


def _text(chunk: _Bytes, n: int) -> bytes:
    coder = RangeDecoder(chunk.rest())
    data = TextModel.after_primer().decode(coder, n)
    coder.finish()
    return data


class _Told:
    """The bits of bytes that are known."""

    def __init__(self, data: bytes) -> None:
        self.bits = iter(np.unpackbits(np.frombuffer(data, np.uint8)).tolist())

    def bit(self, p: int) -> int:
        return next(self.bits)


class TextModel:
    """The history of a chunk, and what followed what in it."""

    def __init__(self) -> None:
        self.history = bytearray()
        self.slots: dict[tuple[int, ...], Slot] = {}
        self.mixers: dict[tuple[int, int, bool], Mixer] = {}
        self.places: dict[int, int] = {}
        self.place: int | None = None
        self.length = 0
        self.primed: TextModel | None = None

    @classmethod
    def after_primer(cls) -> TextModel:
        """A model that has learned the primer, whose slots are copied when they are used."""
        primed, model = _primed(), cls()
        model.history += primed.history
        model.places |= primed.places
        model.place, model.length = primed.place, primed.length
        for key, mixer in primed.mixers.items():
            model.mixers[key] = copy.deepcopy(mixer)
        model.primed = primed
        return model

    def decode(self, coder: BitCoder, n: int) -> bytes:
        """The next ``n`` bytes."""
        for _ in range(n):
            self._byte(coder)
        return bytes(self.history[len(self.history) - n :])

    def _byte(self, coder: BitCoder) -> None:
        contexts = [self._hash(j, order) for j, order in enumerate(_ORDERS)]
        node, is_match = 1, self.place is not None
        for i in reversed(range(8)):
            expected = self.history[self.place] >> i & 1 if is_match and self.place is not None else None
            bit = self._bit(coder, contexts, node, expected)
            is_match = is_match and bit == expected
            node = 2 * node + bit
        self._append(node & 255)

    def _h(self, distance: int) -> int:
        return self.history[-distance] if distance <= len(self.history) else 0

    def _hash(self, table: int, order: int) -> int:
        x = table
        for distance in range(1, order + 1):
            x = (x + self._h(distance) + 1) * 0x9E3779B1 % (1 << 32)
        return x

    def _bit(self, coder: BitCoder, contexts: list[int], node: int, expected: int | None) -> int:
        slots = []
        for table, context in enumerate(contexts):
            y = context ^ node * 0x7FEB352D % (1 << 32)
            y = (y ^ y >> 15) * 0x2C1B3C6D % (1 << 32)
            y ^= y >> 12
            slots.append(self._slot(table, y % (1 << 18)))
        longest = max((table for table, slot in enumerate(slots) if slot.n > 0), default=0)
        is_settled = slots[longest].n > 2
        trust = 0 if expected is None else 1 if self.length <= 4 else 2 if self.length <= 8 else 3
        match = Slot()
        if expected is not None:
            match = self._slot(-1, min(self.length, 15), expected)
        mixer = self.mixers.setdefault((longest, trust, is_settled), Mixer(19660, 7))
        return mixer.bit(coder, [*slots, match], 200)

    def _slot(self, *key: int) -> Slot:
        if key not in self.slots:
            before = None if self.primed is None else self.primed.slots.get(key)
            self.slots[key] = Slot() if before is None else copy.copy(before)
        return self.slots[key]

    def _append(self, byte: int) -> None:
        if self.place is not None and self.history[self.place] == byte:
            self.place, self.length = self.place + 1, min(self.length + 1, 32)
        else:
            self.place, self.length = None, 0
        self.history.append(byte)
        n = len(self.history)
        if n < 3:
            return
        q = (self._h(1) + (self._h(2) << 8) + (self._h(3) << 16)) * 0x9E3779B1 % (1 << 32) >> 16
        place = self.places.get(q)
        if self.place is None and place is not None:
            length = 0
            while length < min(32, place) and self.history[place - 1 - length] == self.history[n - 1 - length]:
                length += 1
            if length >= 3:
                self.place, self.length = place, length
        self.places[q] = n


@cache
def _primed() -> TextModel:
    model, primer = TextModel(), _primer()
    model.decode(_Told(primer), len(primer))
    return model
