"""Section 2: the header."""

from __future__ import annotations

import math

from dc_compiler.codec.reference.readers import ByteReader, crc32c, require
from dc_compiler.codec.reference.spec import (
    CONTEXT,
    DTYPES,
    FIXED,
    GRID,
    HUFFMAN,
    LANES,
    LZ,
    NO_CODEBOOK,
    NO_SCALES,
    RANS,
    RAW,
    SCALE_LOG,
    SHORT_VALUES,
    TEXT,
    UINT8,
    Header,
)


def open_frame(frame: bytes) -> tuple[Header, ByteReader]:
    reader = ByteReader(frame)
    header = _read_header(reader)
    crc = crc32c(reader.data[: reader.at])
    require(reader.u32() == crc, "header CRC mismatch")
    return header, reader


def _read_header(r: ByteReader) -> Header:
    require(r.take(4) == b"DCCW", "it does not start with DCCW")
    require(r.u8() == 1, "unknown version")
    dtype, coder, codebook_kind, scale_kind, rank = r.u8(), r.u8(), r.u8(), r.u8(), r.u8()
    require(dtype in DTYPES, "unknown dtype")
    require(coder <= TEXT, "unknown coder")
    require(codebook_kind <= SHORT_VALUES and scale_kind <= SCALE_LOG, "unknown codebook or scale kind")
    has_codebook = coder in (FIXED, HUFFMAN, RANS, CONTEXT)
    one_chunk = coder in (LZ, TEXT)
    require((codebook_kind != NO_CODEBOOK) == has_codebook, "codebook kind does not fit the coder")
    require(has_codebook or scale_kind == NO_SCALES, "scales without a codebook")
    require(dtype != UINT8 or not has_codebook, "codebook with dtype uint8")
    require(dtype == UINT8 or not one_chunk, "lz or text with a dtype that is not uint8")
    scaled = scale_kind != NO_SCALES
    is_f32 = dtype == 1 or (scaled and dtype != 11)
    require(codebook_kind != SHORT_VALUES or is_f32, "short codebook of entries that are not f32")
    require(rank <= 32, "rank above 32")
    dims = tuple(r.varint() for _ in range(rank))
    require(math.prod(max(d, 1) for d in dims) * DTYPES[dtype].itemsize < 1 << 63, "dims too large")
    n = math.prod(dims)
    require(n > 0 or coder == RAW, "no elements")
    nnz = r.varint()
    require(nnz <= n, "more non-zeros than elements")

    k = zero = lo = channels = inner = chunk = lanes = position_bits = columns = group = stride = 0
    if has_codebook:
        k, zero = r.varint(), r.varint()
        require(1 <= k <= 65536, "codebook size out of range")
        require(zero <= k, "zero entry out of range")
        require(zero > 0 or nnz == n, "zeros without a zero entry")
    if codebook_kind == GRID:
        lo = r.svarint()
        require(abs(lo) <= 1 << 24 and abs(lo + k - 1) <= 1 << 24, "grid out of range")
        require(zero == 0 or lo + zero - 1 == 0, "the zero entry is not zero")
    if scaled:
        channels, inner = r.varint(), r.varint()
        require(channels >= 1 and inner >= 1 and n % (channels * inner) == 0, "channels x inner does not divide n")
    if coder >= HUFFMAN:
        chunk = r.varint()
        if one_chunk:
            require(chunk == n < 1 << 31, "lz or text in more than one chunk")
        else:
            require(1 <= chunk <= 1 << 24, "chunk size out of range")
    if coder in (HUFFMAN, RANS):
        lanes = r.u8()
        require(lanes in LANES and (coder == RANS or lanes <= 8), "wrong number of lanes")
    if coder == HUFFMAN:
        position_bits = r.u8()
        require(position_bits <= 16, "position bits out of range")
        require(position_bits == 0 or zero > 0, "positions without a zero entry")
    if coder == CONTEXT:
        columns, group, stride = r.varint(), r.varint(), r.varint()
        require(1 <= columns <= min(chunk, n), "columns out of range")
        require(1 <= group <= columns, "group of columns out of range")
        require(stride != 1 and stride <= columns, "stride out of range")
    return Header(
        dtype, coder, codebook_kind, scale_kind, dims, nnz, k, zero, lo, channels, inner, chunk, lanes, position_bits,
        columns, group, stride,
    )  # fmt: skip
