"""Section 3: codebooks and scales, and the values that indices stand for (section 2.1)."""

from __future__ import annotations

import numpy as np

from dc_compiler.codec.reference.byte_stream import read_byte_stream
from dc_compiler.codec.reference.readers import ByteReader, read_section, require
from dc_compiler.codec.reference.spec import (
    GRID,
    INTEGERS,
    LOG_SCALE_STEPS,
    NO_SCALES,
    SCALE_VALUES,
    SHORT_VALUES,
    VALUES,
    Array,
    Header,
)


def dequantize(header: Header, codebook: Array, scales: Array | None, indices: Array) -> Array:
    if header.codebook_kind in (VALUES, SHORT_VALUES) and scales is None:
        values: Array = codebook[indices]
        return values
    if scales is None:
        products: Array = codebook[indices]
    else:
        channel = np.arange(header.n) // header.inner % header.channels
        with np.errstate(all="ignore"):
            products = codebook[indices] * scales[channel]
        if header.dtype in INTEGERS:
            least, most, _ = INTEGERS[header.dtype]
            bounded = np.clip(products.astype(np.float64), -(2.0**20), 2.0**20)
            integers: Array = np.clip(np.rint(bounded) + header.offset, least, most).astype(np.int64)
            return integers.astype(header.element)
    with np.errstate(all="ignore"):
        return products.astype(header.element)


def nonzero_bits(values: Array) -> int:
    """Elements with any bit set: -0.0 is one."""
    return int(np.count_nonzero(values.view(f"u{values.dtype.itemsize}")))


def read_codebook(header: Header, reader: ByteReader) -> Array:
    if header.codebook_kind == GRID and header.dtype in INTEGERS and header.scale_kind == NO_SCALES:
        return header.lo + np.arange(header.k)
    if header.codebook_kind == GRID:
        return (header.lo + np.arange(header.k)).astype(header.compute)
    dtype = header.compute if header.scale_kind != NO_SCALES else header.element
    data = read_section(reader).data
    is_short = header.codebook_kind == SHORT_VALUES
    require(len(data) == header.k * (2 if is_short else dtype.itemsize), "CODEBOOK has the wrong length")
    if is_short:
        data = (np.frombuffer(data, "<u2").astype("<u4") << 16).tobytes()
    codebook = np.frombuffer(data, dtype)
    require(header.scale_kind == NO_SCALES or bool(np.isfinite(codebook).all()), "scaled entry not finite")
    require(not header.is_nibbles or bool((codebook.view("u1") < 16).all()), "an entry has more than 4 bits")
    require(header.zero == 0 or nonzero_bits(codebook[header.zero - 1 :][:1]) == 0, "the zero entry is not zero")
    return codebook


def read_scales(header: Header, reader: ByteReader) -> Array:
    section = read_section(reader)
    if header.scale_kind == SCALE_VALUES:
        require(len(section.data) == header.channels * header.compute.itemsize, "SCALES has the wrong length")
        scales: Array = np.frombuffer(section.data, header.compute)
        require(bool((np.isfinite(scales) & (scales > 0)).all()), "scale not finite and positive")
        return scales
    e = section.svarint()
    d = read_byte_stream(section, header.channels)
    section.finish("SCALES")
    require(e + int(d.min()) >= -1008 and e + int(d.max()) <= 1015, "logarithmic scale out of range")
    q = e + d.astype(np.int64)
    log_scales: Array = np.ldexp(LOG_SCALE_STEPS[q % 8].astype(header.compute), q // 8)
    return log_scales
