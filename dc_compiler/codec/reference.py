"""Reference decoder: FORMAT.md section by section, in slow and obvious Python for tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from dc_compiler.errors import CorruptFrameError

Array = npt.NDArray[Any]

RAW, FIXED, HUFFMAN, RANS, LOSSLESS, LZ = range(6)
NO_CODEBOOK, VALUES, GRID = range(3)
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
    _require(coder <= LZ, "unknown coder")
    _require(codebook_kind <= GRID and scale_kind <= SCALE_LOG, "unknown codebook or scale kind")
    has_codebook = coder in (FIXED, HUFFMAN, RANS)
    _require((codebook_kind != NO_CODEBOOK) == has_codebook, "codebook kind does not fit the coder")
    _require(has_codebook or scale_kind == NO_SCALES, "scales without a codebook")
    _require(dtype != UINT8 or not has_codebook, "codebook with dtype uint8")
    _require(dtype == UINT8 or coder != LZ, "lz with a dtype that is not uint8")
    _require(rank <= 32, "rank above 32")
    dims = tuple(r.varint() for _ in range(rank))
    _require(math.prod(max(d, 1) for d in dims) * DTYPES[dtype].itemsize < 1 << 63, "dims too large")
    n = math.prod(dims)
    _require(n > 0 or coder == RAW, "no elements")
    nnz = r.varint()
    _require(nnz <= n, "more non-zeros than elements")

    k = zero = lo = channels = inner = chunk = lanes = position_bits = 0
    if has_codebook:
        k, zero = r.varint(), r.varint()
        _require(1 <= k <= 65536, "codebook size out of range")
        _require(zero <= k, "zero entry out of range")
        _require(zero > 0 or nnz == n, "zeros without a zero entry")
    if codebook_kind == GRID:
        lo = r.svarint()
        _require(abs(lo) <= 1 << 24 and abs(lo + k - 1) <= 1 << 24, "grid out of range")
        _require(zero == 0 or lo + zero - 1 == 0, "the zero entry is not zero")
    if scale_kind != NO_SCALES:
        channels, inner = r.varint(), r.varint()
        _require(channels >= 1 and inner >= 1 and n % (channels * inner) == 0, "channels x inner does not divide n")
    if coder >= HUFFMAN:
        chunk = r.varint()
        if coder == LZ:
            _require(chunk == n < 1 << 31, "lz in more than one chunk")
        else:
            _require(1 <= chunk <= 1 << 24, "chunk size out of range")
    if coder in (HUFFMAN, RANS):
        lanes = r.u8()
        _require(lanes in LANES and (coder == RANS or lanes <= 8), "wrong number of lanes")
    if coder == HUFFMAN:
        position_bits = r.u8()
        _require(position_bits <= 16, "position bits out of range")
        _require(position_bits == 0 or zero > 0, "positions without a zero entry")
    return Header(
        dtype, coder, codebook_kind, scale_kind, dims, nnz, k, zero, lo, channels, inner, chunk, lanes, position_bits
    )


# Section 2.1: values.


def _dequantize(header: Header, codebook: Array, scales: Array | None, indices: Array) -> Array:
    if header.codebook_kind == VALUES and scales is None:
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
            parts.append(_lz(chunk, m) if header.coder == LZ else _lossless(chunk, m, header.element))
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
    _require(len(data) == header.k * dtype.itemsize, "CODEBOOK has the wrong length")
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


# Section 8: lz.


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
