"""Section 8.1: coder `lz`."""

from __future__ import annotations

import numpy as np

from dc_compiler.codec.reference.byte_stream import read_byte_stream
from dc_compiler.codec.reference.coder import Coder, Layout, Stores, read_chunks
from dc_compiler.codec.reference.readers import ByteReader, require
from dc_compiler.codec.reference.spec import Array, Header


def _chunk(chunk: ByteReader, n: int) -> bytes:
    sequences, literal_count, extra_count = chunk.varint(), chunk.varint(), chunk.varint()
    require(1 <= sequences <= n // 4 + 1 and literal_count <= n and extra_count <= n, "more lz parts than bytes")
    tokens = read_byte_stream(chunk, sequences).tolist()
    low, middle, high = (read_byte_stream(chunk, sequences - 1).tolist() for _ in range(3))
    extras = ByteReader(read_byte_stream(chunk, extra_count).tobytes())
    literals = ByteReader(read_byte_stream(chunk, literal_count).tobytes())
    out = bytearray()
    for i, token in enumerate(tokens):
        out += literals.take(_lz_length(token >> 4, extras))
        if i == sequences - 1:
            require(token & 15 == 0, "match after the last sequence")
            break
        length = _lz_length(token & 15, extras) + 4
        offset = low[i] | middle[i] << 8 | high[i] << 16
        require(1 <= offset <= len(out), "lz offset before the first byte")
        require(len(out) + length <= n, "more bytes than elements")
        for _ in range(length):
            out.append(out[-offset])
    extras.finish("the extras")
    literals.finish("the literals")
    require(len(out) == n, "lz bytes and elements differ in number")
    return bytes(out)


def _lz_length(nibble: int, extras: ByteReader) -> int:
    length = nibble
    more = nibble == 15
    while more:
        extra = extras.u8()
        length += extra
        more = extra == 255
    return length


def _read(header: Header, reader: ByteReader) -> Array:
    return np.frombuffer(b"".join(read_chunks(header, reader, _chunk)), np.uint8)


CODER = Coder(5, Stores.BYTES, Layout.ONE_CHUNK, _read)
