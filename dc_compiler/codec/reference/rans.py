"""Section 5.2: coder `rans`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dc_compiler.codec.reference.coder import Coder, Layout, Stores, read_chunks
from dc_compiler.codec.reference.number_list import read_numbers
from dc_compiler.codec.reference.readers import ByteReader, read_section, require
from dc_compiler.codec.reference.spec import LANES, Array, Header
from dc_compiler.errors import CorruptFrameError


def read_rans_tables(reader: ByteReader, k: int) -> tuple[int, list[int]]:
    s = reader.u8()
    require(8 <= s <= 16, "frequency bits out of range")
    frequencies = read_numbers(reader, k)
    require(sum(frequencies) == 1 << s, "frequencies have the wrong sum")
    return s, frequencies


def rans_symbols(chunk: ByteReader, s: int, frequencies: list[int], lanes: int, m: int) -> Array:
    states = [chunk.u32() for _ in range(lanes)]
    require(min(states) >= 1 << 16, "initial state below 2^16")
    data = chunk.rest()
    require(len(data) % 2 == 0, "half a word")
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
    require(all(x == 1 << 16 for x in states), "final state is not 2^16")
    require(next(words, None) is None, "words left over")
    return symbols


def _fields(header: Header, reader: ByteReader) -> Header:
    lanes = reader.u8()
    require(lanes in LANES, "wrong number of lanes")
    return replace(header, lanes=lanes)


def _read(header: Header, reader: ByteReader) -> Array:
    tables = read_section(reader)
    s, frequencies = read_rans_tables(tables, header.k)
    tables.finish("TABLES")
    chunks = read_chunks(header, reader, lambda chunk, m: rans_symbols(chunk, s, frequencies, header.lanes, m))
    return np.concatenate(chunks)


CODER = Coder(3, Stores.INDICES, Layout.CHUNKS, _read, _fields)
