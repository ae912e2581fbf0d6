"""Section 5.1: coder `huffman`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dc_compiler.codec.reference.coder import Coder, Layout, Stores, read_chunks
from dc_compiler.codec.reference.number_list import read_numbers
from dc_compiler.codec.reference.readers import BitReader, ByteReader, read_section, require
from dc_compiler.codec.reference.spec import LANES, Array, Header


class _HuffmanCode:
    """A canonical code: maps (length, code) to its symbol."""

    def __init__(self, lengths: list[int]) -> None:
        self.symbols: dict[tuple[int, int], int] = {}
        require(max(lengths) <= 16, "code length above 16")
        used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length > 0)
        self.single = used[0][1] if len(used) == 1 else None
        if self.single is not None:
            require(used[0][0] == 1, "the only code has a length other than 1")
        else:
            require(sum(1 << 16 - length for length, _ in used) == 1 << 16, "code lengths break Kraft's equality")
        code = previous = 0
        for length, symbol in used:
            code <<= length - previous
            previous = length
            self.symbols[length, code] = symbol
            code += 1

    def read(self, bits: BitReader) -> int:
        if self.single is not None:
            return self.single
        length = code = 0
        while (length, code) not in self.symbols:
            code = code << 1 | bits.take(1)
            length += 1
        return self.symbols[length, code]


def _fields(header: Header, reader: ByteReader) -> Header:
    lanes, position_bits = reader.u8(), reader.u8()
    require(lanes in LANES and lanes <= 8, "wrong number of lanes")
    require(position_bits <= 16, "position bits out of range")
    require(position_bits == 0 or header.zero > 0, "positions without a zero entry")
    return replace(header, lanes=lanes, position_bits=position_bits)


def _read(header: Header, reader: ByteReader) -> Array:
    tables = read_section(reader)
    positions = None
    if header.position_bits > 0:
        positions = _HuffmanCode(read_numbers(tables, 1 << header.position_bits))
    codes = _HuffmanCode(read_numbers(tables, header.k))
    tables.finish("TABLES")
    chunks = read_chunks(header, reader, lambda chunk, m: _chunk(header, chunk, positions, codes, m))
    return np.concatenate(chunks)


def _chunk(header: Header, chunk: ByteReader, positions: _HuffmanCode | None, codes: _HuffmanCode, m: int) -> Array:
    entries = chunk.varint()
    require(entries <= m if positions else entries == m, "wrong number of entries")
    tables = [codes] if positions is None else [positions, codes]
    bit_counts = [[chunk.varint() for _ in range(header.lanes)] for _ in tables]
    lists = [_list(chunk, table, counts, entries) for table, counts in zip(tables, bit_counts, strict=True)]
    if positions is None:
        return np.array(lists[0], np.int64)
    indices = np.full(m, header.zero - 1, np.int64)
    p = -1
    for position, index in zip(*lists, strict=True):
        p += position + 1
        require(p < m, "position past the end of the chunk")
        indices[p] = index
    return indices


def _list(chunk: ByteReader, code: _HuffmanCode, bit_counts: list[int], entries: int) -> list[int]:
    """`entries` symbols from one stream per lane; the streams follow each other in `chunk`."""
    streams = [BitReader(chunk.take(-(-count // 8))) for count in bit_counts]
    symbols = [code.read(streams[t % len(streams)]) for t in range(entries)]
    for stream, count in zip(streams, bit_counts, strict=True):
        require(stream.at == count, "a stream does not end where declared")
        stream.pad()
    return symbols


CODER = Coder(2, Stores.INDICES, Layout.CHUNKS, _read, _fields)
