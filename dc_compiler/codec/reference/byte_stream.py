"""Section 6: byte streams."""

from __future__ import annotations

import numpy as np

from dc_compiler.codec.reference.rans import rans_symbols, read_rans_tables
from dc_compiler.codec.reference.readers import ByteReader, require
from dc_compiler.codec.reference.spec import LANES, Array


def read_byte_stream(reader: ByteReader, count: int) -> Array:
    mode = reader.u8()
    require(mode <= 1, "unknown byte stream mode")
    if mode == 0:
        return np.frombuffer(reader.take(count), np.uint8)
    lanes = reader.u8()
    require(lanes in LANES, "wrong number of lanes")
    s, frequencies = read_rans_tables(reader, 256)
    chunk = ByteReader(reader.take(reader.varint()))
    return rans_symbols(chunk, s, frequencies, lanes, count).astype(np.uint8)
