"""Section 2: the header."""

from __future__ import annotations

import math

from dc_compiler.codec.reference.coder import Layout, Stores
from dc_compiler.codec.reference.readers import ByteReader, crc32c, require
from dc_compiler.codec.reference.spec import (
    DTYPES,
    GRID,
    INTEGERS,
    NIBBLES,
    NO_CODEBOOK,
    NO_SCALES,
    PLAIN_FLOATS,
    SCALE_LOG,
    SHORT_VALUES,
    UINT8,
    VALUES,
    Header,
)
from dc_compiler.codec.reference.table import CODERS


def open_frame(frame: bytes) -> tuple[Header, ByteReader]:
    reader = ByteReader(frame)
    header = _read_header(reader)
    crc = crc32c(reader.data[: reader.at])
    require(reader.u32() == crc, "header CRC mismatch")
    return header, reader


def _read_header(r: ByteReader) -> Header:
    require(r.take(4) == b"DCCW", "it does not start with DCCW")
    require(r.u8() == 1, "unknown version")
    dtype, number, codebook_kind, scale_kind, rank = r.u8(), r.u8(), r.u8(), r.u8(), r.u8()
    require(dtype in DTYPES, "unknown dtype")
    require(number in CODERS, "unknown coder")
    require(codebook_kind <= SHORT_VALUES and scale_kind <= SCALE_LOG, "unknown codebook or scale kind")
    coder = CODERS[number]
    has_codebook = coder.stores is Stores.INDICES
    require((codebook_kind != NO_CODEBOOK) == has_codebook, "codebook kind does not fit the coder")
    require(has_codebook or scale_kind == NO_SCALES, "scales without a codebook")
    require(dtype == UINT8 or coder.stores is not Stores.BYTES, "a coder of bytes with a dtype that is not uint8")
    is_planes = coder.stores is Stores.ELEMENTS and coder.layout is not Layout.WHOLE
    require(dtype not in NIBBLES or not is_planes, "byte planes of elements that share bytes")
    scaled = scale_kind != NO_SCALES
    is_f32 = dtype == 1 or (scaled and dtype != 11)
    require(codebook_kind != SHORT_VALUES or is_f32, "short codebook of entries that are not f32")
    if has_codebook and dtype not in PLAIN_FLOATS:
        require(codebook_kind == (GRID if dtype in INTEGERS else VALUES), "codebook kind does not fit the dtype")
        require(not scaled or (dtype in INTEGERS and INTEGERS[dtype][2] <= 16), "scales with a dtype that has none")
    require(rank <= 32, "rank above 32")
    dims = tuple(r.varint() for _ in range(rank))
    require(math.prod(max(d, 1) for d in dims) * DTYPES[dtype].itemsize < 1 << 63, "dims too large")
    n = math.prod(dims)
    require(n > 0 or coder.is_empty, "no elements")
    nnz = r.varint()
    require(nnz <= n, "more non-zeros than elements")

    k = zero = lo = channels = inner = offset = chunk = 0
    if has_codebook:
        k, zero = r.varint(), r.varint()
        require(1 <= k <= 65536, "codebook size out of range")
        require(zero <= k, "zero entry out of range")
        require(zero > 0 or nnz == n, "zeros without a zero entry")
    if codebook_kind == GRID:
        lo = r.svarint()
        require(abs(lo) <= 1 << 24 and abs(lo + k - 1) <= 1 << 24, "grid out of range")
        is_any_zero = dtype in INTEGERS and not scaled
        require(zero == 0 or is_any_zero or lo + zero - 1 == 0, "the zero entry is not zero")
        if is_any_zero:
            least, most, _ = INTEGERS[dtype]
            require(least <= lo and lo + k - 1 <= most, "grid out of the dtype's range")
    if scaled:
        channels, inner = r.varint(), r.varint()
        require(channels >= 1 and inner >= 1 and n % (channels * inner) == 0, "channels x inner does not divide n")
    if scaled and dtype in INTEGERS:
        offset = r.svarint()
        require(INTEGERS[dtype][0] <= offset <= INTEGERS[dtype][1], "offset out of the dtype's range")
    if coder.layout is Layout.ONE_CHUNK:
        chunk = r.varint()
        require(chunk == n < 1 << 31, "more than one chunk, of a coder that has one")
    elif coder.layout is Layout.CHUNKS:
        chunk = r.varint()
        require(1 <= chunk <= 1 << 24, "chunk size out of range")
        require(dtype not in NIBBLES or chunk % 2 == 0 or chunk >= n, "a byte lies in two chunks")
    return coder.fields(
        Header(dtype, number, codebook_kind, scale_kind, dims, nnz, k, zero, lo, channels, inner, offset, chunk), r
    )
