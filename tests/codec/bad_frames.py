"""Frames that break one rule of FORMAT.md each, by name; all their CRCs are right unless the name says otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from frame_builder import (
    BitWriter,
    Fields,
    Frame,
    Quantized,
    Sequences,
    byte_stream,
    context,
    fixed,
    huffman,
    huffman_chunk,
    join,
    lossless,
    lz,
    number_list,
    rans,
    rans_chunk,
    rans_tables,
    raw,
    rows,
    short,
    svarint,
    text,
    trees_chunk,
    trees_of_bits,
    varint,
)

from dc_compiler.codec.reference import DTYPES

INDICES = np.array([[1, 1, 0, 1], [1, 1, 1, 2], [3, 1, 1, 2]])
VALUES = np.array([-1.5, 0.0, 0.5, 2.0], "<f4")
SCALES = np.array([1.0, 0.5, 3.0], "<f4")

PLAIN = Quantized(INDICES, codebook=VALUES, zero=2)
SCALED = Quantized(INDICES, codebook=VALUES, zero=2, scales=SCALES, inner=4)
GRID = Quantized(INDICES, lo=-1, k=4, zero=2)
LOG = Quantized(INDICES, lo=-1, k=4, zero=2, log_scales=(-60, (0, 7, 9)), inner=4)
NO_ZERO = Quantized(INDICES, codebook=VALUES)
BYTE = Quantized(INDICES, 3, lo=-1, k=4, zero=2)
STEPS = Quantized(INDICES, 2, lo=-1, k=4, zero=2, log_scales=(8, (0, 7, 9)), inner=4, offset=100)
NIBBLE = Quantized(INDICES, 21, lo=5, k=4, zero=1)
SHORT_FLOATS = Quantized(INDICES, 23, codebook=np.array([9, 0, 1, 4], "u1").view(DTYPES[23]), zero=2)

RAW_NIBBLES = raw(np.array([1, 7, 5], DTYPES[22]))
RAW = raw(np.arange(6, dtype="<f4"))
FIXED = fixed(PLAIN)
DENSE = huffman(PLAIN, lanes=2)
POSITIONS = huffman(PLAIN, position_bits=2)
RANS = rans(PLAIN, s=8, lanes=2)
WORDS = rans(replace(PLAIN, indices=np.tile(INDICES, (2, 1))), s=8, chunk=12)  # each chunk holds a word
LOSSLESS = lossless(np.arange(1, 7, dtype="<f4"))
LOSSLESS_RANS = lossless(np.arange(1, 7, dtype="<f4"), lanes=1)
LZ_PARTS = Sequences(tokens=bytes([0x31, 0x20]), offsets=(3,), extras=b"", literals=b"abcde")
LZ = lz(10, LZ_PARTS)  # abc, 5 bytes from 3 back, de
LONG_PARTS = Sequences(tokens=bytes([0xFF, 0x00]), offsets=(1,), extras=bytes([0, 2]), literals=b"x" * 15)
LONG = lz(36, LONG_PARTS)  # 15 literals, a match of 21
CONTEXT = context(PLAIN, columns=4, group=2, stride=2)
CONTEXT_CHUNKS = context(GRID, columns=4, chunk=5)
ROWS = rows(PLAIN, columns=4, group=2, stride=2, lanes=2)
ROWS_LONG = rows(replace(GRID, indices=np.tile(INDICES, (20, 1))), columns=4, lanes=2)  # holds words
ROWS_CHUNKS = rows(GRID, columns=4, chunk=8)
SHORT = short(FIXED)
TEXT = text(b"\x01\x03Conv, Convolve")
TREES = trees_of_bits(20, columns={"class_ids": 1, "nodes_modes": 3})
ALL_GOOD = {
    "raw": RAW,
    "fixed": FIXED,
    "fixed scaled": fixed(SCALED),
    "raw nibbles": RAW_NIBBLES,
    "fixed int8": fixed(BYTE),
    "fixed steps of uint8": fixed(STEPS),
    "rows steps of int4": rows(replace(STEPS, dtype=22, offset=3), columns=4),
    "rans uint4 in chunks": rans(NIBBLE, chunk=6),
    "fixed float4": fixed(SHORT_FLOATS),
    "fixed grid": fixed(GRID),
    "fixed log": fixed(LOG),
    "fixed no zero": fixed(NO_ZERO),
    "dense": DENSE,
    "positions": POSITIONS,
    "positions chunks": huffman(LOG, position_bits=1, lanes=2, chunk=5),
    "rans": RANS,
    "rans chunks": rans(SCALED, s=16, lanes=4, chunk=5),
    "context": CONTEXT,
    "context chunks": CONTEXT_CHUNKS,
    "rows": ROWS,
    "rows with words": ROWS_LONG,
    "rows chunks": ROWS_CHUNKS,
    "rows of 7 entries": rows(replace(GRID, indices=2 * INDICES, k=7), columns=4, s25=3),
    "context log": context(LOG, columns=12, group=12, stride=4),
    "short codebook": SHORT,
    "short scaled codebook": short(context(SCALED, columns=3)),
    "text": TEXT,
    "trees": TREES,
    "lossless": LOSSLESS,
    "lossless rans": LOSSLESS_RANS,
    "lz": LZ,
    "lz rans": lz(10, LZ_PARTS, lanes=1),
    "lz long": LONG,
}

# Tables of PLAIN: code lengths for position and index, and a rANS table to go with it.
POSITION_LENGTHS = [1, 3, 3, 2]
INDEX_LENGTHS = [3, 1, 2, 3]
FREQUENCIES = [21, 172, 42, 21]


def _tables(positions: list[int], indices: list[int]) -> Frame:
    return POSITIONS.section(1, number_list(positions) + number_list(indices))


def _entries(entries: list[tuple[int, int]], lanes: int = 1, tail: bytes = b"") -> Frame:
    """POSITIONS with these entries (and tables to code them)."""
    lists = [[p for p, _ in entries], [index for _, index in entries]]
    chunk = huffman_chunk(lists, [POSITION_LENGTHS, INDEX_LENGTHS], lanes)
    return _tables(POSITION_LENGTHS, INDEX_LENGTHS).section(-1, chunk + tail)


def _rans(chunk: bytes) -> Frame:
    return RANS.section(1, rans_tables(FREQUENCIES, 8)).section(-1, chunk)


def _with_setting(frame: Frame, at: int, value: int) -> Frame:
    """A rows frame of one chunk with another setting."""
    tables = bytearray(frame.sections[-2])
    shift = 4 * (at % 2)
    tables[at // 2] = tables[at // 2] & ~(15 << shift) | value << shift
    return frame.section(-2, bytes(tables))


def _lone(dims: tuple[int, ...], chunk: int) -> Frame:
    """A rans frame of the lone symbol 0, which takes no bits: one chunk."""
    fields = Fields(3, 1, dims, 0, codebook_kind=2, k=1, zero=1, chunk=chunk, lanes=1)
    return Frame(fields, (rans_tables([256], 8), rans_chunk([], [256], 8, 1)))


def _codebook(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def _scales(*values: float) -> Frame:
    return fixed(SCALED).section(1, _codebook(*values))


def _log_scales(e: bytes, d: tuple[int, int, int]) -> Frame:
    return fixed(LOG).section(0, e + byte_stream(bytes(d)))


def _bits(*pairs: tuple[int, int]) -> bytes:
    out = BitWriter()
    for value, count in pairs:
        out.low_first(value, count)
    return out.to_bytes()


def _header(frame: Frame, at: int, remove: int, insert: bytes) -> bytes:
    """The frame with some header bytes replaced."""
    header = frame.fields.to_bytes()
    return join(header[:at] + insert + header[at + remove :], frame.sections)


def _lone_stream(byte: int) -> bytes:
    """A byte stream of any number of this byte: it takes no bits."""
    freqs = [0] * 256
    freqs[byte] = 256
    chunk = rans_chunk([], freqs, 8, 1)
    return b"\1\1" + rans_tables(freqs, 8) + varint(len(chunk)) + chunk


def _lone_lz(sequences: int, literals: int, extras: int, token: int) -> bytes:
    """An lz chunk whose streams, of any length, take no bits."""
    streams = [_lone_stream(byte) for byte in (token, 1, 0, 0, 0, 7)]
    return b"".join(map(varint, (sequences, literals, extras))) + b"".join(streams)


def _flip_last_byte(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


def _with_or(body: bytes, at: int, bits: int) -> bytes:
    changed = bytearray(body)
    changed[at] |= bits
    return bytes(changed)


HEADER: dict[str, Frame] = {
    "magic": RAW.but(magic=b"DCCX"),
    "version 0": RAW.but(version=0),
    "version 2": RAW.but(version=2),
    "dtype 0": RAW.but(dtype=0),
    "dtype int8": RAW.but(dtype=3),
    "dtype 24": RAW.but(dtype=24),
    "byte planes of 4 bits": LOSSLESS.but(dtype=21),
    "values of integers": FIXED.but(dtype=6),
    "grid of short floats": fixed(BYTE).but(dtype=17),
    "scales of int32": fixed(STEPS).but(dtype=6),
    "scales of short floats": fixed(replace(SCALED, codebook=VALUES.astype(DTYPES[17]))).but(dtype=17),
    "grid above int8": fixed(BYTE).but(lo=125, zero=0, nnz=12),
    "grid below uint8": fixed(BYTE).but(dtype=2),
    "grid above uint4": rans(NIBBLE).but(lo=13),
    "offset above uint8": fixed(STEPS).but(offset=256),
    "offset below uint8": fixed(STEPS).but(offset=-1),
    "steps with zero elsewhere": fixed(STEPS).but(lo=0),
    "a byte in two chunks": rans(NIBBLE, chunk=5),
    "dtype 255": RAW.but(dtype=255),
    "coder 11": RAW.but(coder=11, chunk=6),
    "codebook kind 4": FIXED.but(codebook_kind=4),
    "short codebook of a grid's coder": RAW.but(codebook_kind=3, k=1),
    "short codebook of f16": SHORT.but(dtype=10),
    "short codebook of f64": SHORT.but(dtype=11),
    "short scaled codebook of f64": short(fixed(SCALED)).but(dtype=11),
    "context without codebook": Frame(replace(CONTEXT.fields, codebook_kind=0), CONTEXT.sections[1:]),
    "text with codebook": TEXT.but(codebook_kind=2, k=1),
    "text of floats": TEXT.but(dtype=1),
    "text chunk below n": TEXT.but(chunk=15),
    "text chunk above n": TEXT.but(chunk=17),
    "columns 0": CONTEXT.but(columns=0),
    "columns above n": CONTEXT.but(columns=13),
    "columns above chunk": CONTEXT_CHUNKS.but(columns=6),
    "columns 2^64 - 1": CONTEXT.but(columns=(1 << 64) - 1),
    "rows without codebook": Frame(replace(ROWS.fields, codebook_kind=0), ROWS.sections[1:]),
    "rows lanes 0": ROWS.but(lanes=0),
    "rows lanes 3": ROWS.but(lanes=3),
    "rows lanes 32": ROWS.but(lanes=32),
    "rows columns 0": ROWS.but(columns=0),
    "rows columns above n": ROWS.but(columns=24),
    "rows columns 2^16 + 1": ROWS.but(dims=((1 << 16) + 1,), columns=(1 << 16) + 1),
    "rows columns that do not divide n": ROWS.but(columns=5),
    "rows columns that do not divide the chunk": ROWS_CHUNKS.but(columns=3, group=3),
    "rows group 0": ROWS.but(group=0),
    "rows group above columns": ROWS.but(group=5),
    "rows stride 1": ROWS.but(stride=1),
    "rows stride above columns": ROWS.but(stride=5),
    "group 0": CONTEXT.but(group=0),
    "group above columns": CONTEXT.but(group=5),
    "stride 1": CONTEXT.but(stride=1),
    "stride above columns": CONTEXT.but(stride=5),
    "scale kind 3": fixed(SCALED).but(scale_kind=3),
    "raw with codebook": RAW.but(codebook_kind=2, k=1),
    "raw with scales": RAW.but(scale_kind=1, channels=1, inner=1),
    "lossless with codebook": LOSSLESS.but(codebook_kind=2, k=1),
    "fixed without codebook": Frame(replace(FIXED.fields, codebook_kind=0), FIXED.sections[1:]),
    "uint8 with codebook": fixed(GRID).but(dtype=2),
    "lz of floats": LZ.but(dtype=1),
    "rank 33": RAW.but(dims=(6, *[1] * 32)),
    "rank 255": RAW.but(dims=(6, *[1] * 254)),
    "dims 2^63": RAW.but(dims=(1 << 63,)),
    "dims product overflow": RAW.but(dims=(1 << 32, 1 << 32), nnz=0).section(0, b""),
    "dims product overflow to small": RAW.but(dims=(1 << 32, 1 << 32, 1 << 32), nnz=0).section(0, b""),
    "dims bytes overflow": RAW.but(dims=(1 << 62,), nnz=0).section(0, b""),
    "dims overflow times zero": RAW.but(dims=(1 << 63, 1 << 63, 0), nnz=0).section(0, b""),
    "dims one more": RAW.but(dims=(7,)),
    "dims one less": RAW.but(dims=(5,)),
    "no elements, fixed": Frame(replace(FIXED.fields, dims=(0,), nnz=0), (VALUES.tobytes(), b"")),
    "no elements, huffman": Frame(replace(DENSE.fields, dims=(0,), nnz=0), DENSE.sections[:2]),
    "no elements, rans": Frame(replace(RANS.fields, dims=(0,), nnz=0), RANS.sections[:2]),
    "no elements, lossless": Frame(replace(LOSSLESS.fields, dims=(0,), nnz=0), ()),
    "no elements, rows": Frame(replace(ROWS.fields, dims=(0,), nnz=0), ROWS.sections[:2]),
    "no elements, context": Frame(replace(CONTEXT.fields, dims=(0,), nnz=0), CONTEXT.sections[:1]),
    "no elements, text": Frame(replace(TEXT.fields, dims=(0,), nnz=0, chunk=0), ()),
    "no elements, lz": Frame(replace(LZ.fields, dims=(0,), nnz=0, chunk=0), ()),
    "nnz above n": RAW.but(nnz=7),
    "nnz 2^64 - 1": RAW.but(nnz=(1 << 64) - 1),
    "nnz without zero entry": fixed(NO_ZERO).but(nnz=11),
    "k 0": fixed(GRID).but(k=0, zero=0),
    "k 65537": fixed(GRID).but(k=65537, zero=0, nnz=12).section(0, bytes(12 * 17 // 8 + 1)),
    "k 2^32 + 4": FIXED.but(k=(1 << 32) + 4),
    "zero above k": FIXED.but(zero=5),
    "zero 2^32 + 2": FIXED.but(zero=(1 << 32) + 2),
    "grid zero elsewhere": fixed(GRID).but(lo=0),
    "grid below range": fixed(GRID).but(lo=-(1 << 24) - 1, zero=0, nnz=12),
    "grid above range": fixed(GRID).but(lo=(1 << 24) - 2, zero=0, nnz=12),
    "grid at -2^63": fixed(GRID).but(lo=-(1 << 63), zero=0, nnz=12),
    "grid at 2^63 - 1": fixed(GRID).but(lo=(1 << 63) - 1, zero=0, nnz=12),
    "channels 0": fixed(SCALED).but(channels=0),
    "inner 0": fixed(SCALED).but(inner=0),
    "channels x inner does not divide": fixed(SCALED).but(inner=3),
    "channels x inner above n": fixed(SCALED).but(inner=8),
    "channels x inner overflows": fixed(SCALED).but(channels=3 << 62, inner=4),
    "channels x inner overflows to n": fixed(SCALED).but(channels=3, inner=(1 << 64) // 3 + 5),
    "chunk 0": RANS.but(chunk=0),
    "chunk 0, huffman": DENSE.but(chunk=0),
    "chunk 0, lossless": LOSSLESS.but(chunk=0),
    "chunk 2^24 + 1": RANS.but(chunk=(1 << 24) + 1),
    "chunk 2^32 + 12": RANS.but(chunk=(1 << 32) + 12),
    "lz chunk below n": LZ.but(chunk=9),
    "lz chunk above n": LZ.but(chunk=11),
    "lanes 0": DENSE.but(lanes=0),
    "lanes 3": DENSE.but(lanes=3),
    "huffman lanes 16": huffman(PLAIN, lanes=16),
    "rans lanes 0": RANS.but(lanes=0),
    "rans lanes 64": rans(PLAIN, lanes=64),
    "position bits 17": POSITIONS.but(position_bits=17),
    "position bits 255": POSITIONS.but(position_bits=255),
    "positions without zero entry": POSITIONS.but(zero=0, nnz=12),
}

SECTIONS: dict[str, Frame] = {
    "section missing": Frame(FIXED.fields, FIXED.sections[:-1]),
    "section too many": Frame(FIXED.fields, (*FIXED.sections, b"")),
    "chunk missing": Frame(WORDS.fields, WORDS.sections[:-1]),
    "raw DATA short": RAW.section(0, RAW.sections[0][:-1]),
    "raw DATA long": RAW.section(0, RAW.sections[0] + b"\0"),
    "raw wrong nnz": RAW.but(nnz=6),
    "raw nibbles wrong nnz": RAW_NIBBLES.but(nnz=2),
    "raw nibbles with bits left": RAW_NIBBLES.section(0, RAW_NIBBLES.sections[0][:-1] + b"\x15"),
    "raw nibbles long": RAW_NIBBLES.section(0, RAW_NIBBLES.sections[0] + b"\0"),
    "int8 wrong nnz": fixed(BYTE).but(nnz=5),
    "CODEBOOK of 5 bits": fixed(SHORT_FLOATS).section(0, b"\x19\0\1\4"),
    "float4 zero entry -0.0": fixed(SHORT_FLOATS).section(0, b"\1\x08\2\4"),
    "raw wrong nnz of -0.0": raw(np.array([0.0, -0.0], "<f4")).but(nnz=0),
    "fixed DATA short": FIXED.section(-1, FIXED.sections[-1][:-1]),
    "fixed DATA long": FIXED.section(-1, FIXED.sections[-1] + b"\0"),
    "fixed DATA of k = 1 not empty": Frame(Fields(1, 1, (3,), 0, codebook_kind=2, k=1, zero=1), (b"\0",)),
    "fixed padding": fixed(replace(PLAIN, indices=INDICES[:1, :3])).section(-1, b"\x45"),
    "fixed index = k": fixed(replace(PLAIN, codebook=VALUES[:3])),
    "fixed wrong nnz": FIXED.but(nnz=3),
    "CODEBOOK short": FIXED.section(0, VALUES.tobytes()[:-1]),
    "CODEBOOK long": FIXED.section(0, VALUES.tobytes() + b"\0"),
    "CODEBOOK in f64": FIXED.section(0, VALUES.astype("<f8").tobytes()),
    "zero entry not zero": FIXED.section(0, _codebook(-1.5, 1e-45, 0.5, 2)),
    "zero entry -0.0": FIXED.section(0, _codebook(-1.5, -0.0, 0.5, 2)),
    "scaled entry NaN": fixed(SCALED).section(0, _codebook(-1.5, 0, np.nan, 2)),
    "scaled entry infinite": fixed(SCALED).section(0, _codebook(-np.inf, 0, 0.5, 2)),
    "SCALES short": _scales(1, 2),
    "SCALES long": _scales(1, 2, 3, 4),
    "scale NaN": _scales(1, np.nan, 1),
    "scale infinite": _scales(1, np.inf, 1),
    "scale negative": _scales(1, 1, -1),
    "scale zero": _scales(0, 1, 1),
    "scale -0.0": _scales(1, 1, -0.0),
    "log scale below": _log_scales(svarint(-1009), (0, 1, 1)),
    "log scale above": _log_scales(svarint(1000), (0, 16, 1)),
    "log scale far below": _log_scales(svarint(-(1 << 63)), (0, 0, 0)),
    "log scale overflow": _log_scales(svarint((1 << 63) - 1), (255, 255, 255)),
    "log SCALES short": fixed(LOG).section(0, svarint(0) + byte_stream(b"\0\0")),
    "log SCALES long": fixed(LOG).section(0, svarint(0) + byte_stream(b"\0\0\0") + b"\0"),
    "log SCALES mode 2": fixed(LOG).section(0, svarint(0) + b"\2\0\0\0"),
    "log SCALES empty": fixed(LOG).section(0, b""),
}

LISTS: dict[str, Frame] = {
    "list above 2^17": RANS.section(1, b"\x10" + number_list([(1 << 17) + 1, 0, 0, 0])),
    "list negative": DENSE.section(1, number_list([1, 2, 3, -3])),
    "list cancels": RANS.section(1, b"\x08" + number_list([-1, 86, 86, 85])),
    "list prefix of 21 zeros": RANS.section(1, b"\x10" + _bits((0, 4), (0, 21), (1, 1), (0, 21))),
    "list all zero bits": RANS.section(1, b"\x10" + bytes(1000)),
    "list padding": POSITIONS.section(1, _with_or(number_list([2, 2, 2, 2]), -1, 0x80) + number_list([2, 2, 2, 2])),
    "list truncated": DENSE.section(1, number_list([3, 1, 2, 3])[:-1]),
    "list of an empty TABLES": DENSE.section(1, b""),
    "TABLES long": DENSE.section(1, DENSE.sections[1] + b"\0"),
    "rans TABLES long": RANS.section(1, RANS.sections[1] + b"\0"),
}

HUFFMAN: dict[str, Frame] = {
    "lengths incomplete": _tables(POSITION_LENGTHS, [3, 2, 2, 3]),
    "lengths oversubscribed": _tables(POSITION_LENGTHS, [1, 1, 2, 3]),
    "lengths slightly oversubscribed": _tables(POSITION_LENGTHS, [2, 1, 2, 16]),
    "position lengths incomplete": _tables([2, 2, 2, 3], INDEX_LENGTHS),
    "no symbols": _tables(POSITION_LENGTHS, [0, 0, 0, 0]),
    "no positions": _tables([0, 0, 0, 0], INDEX_LENGTHS),
    "lone symbol of length 2": _tables(POSITION_LENGTHS, [0, 2, 0, 0]),
    "length 17": DENSE.section(1, number_list([1, 2, 17, 17])),
    "length 2^17": DENSE.section(1, number_list([1, 1, 1 << 17, 0])),
    "entries above m": _entries([(0, 1)] * 13),
    "dense entries below m": DENSE.section(-1, varint(11) + DENSE.sections[-1][1:]),
    "dense entries above m": DENSE.section(-1, varint(13) + DENSE.sections[-1][1:]),
    "huge number of entries of no bits": _tables([1, 0, 0, 0], [0, 1, 0, 0]).section(-1, varint(1 << 60) + b"\0\0"),
    "huge number of dense entries of no bits": DENSE.section(1, number_list([0, 1, 0, 0])).section(
        -1, varint((1 << 64) - 1) + b"\0\0\0\0"
    ),
    "position past the end": _entries([(3, 0), (3, 2), (3, 3), (0, 2)]),
    "filler past the end": _entries([(2, 0), (3, 1), (3, 1), (3, 1)]),
    "huffman wrong nnz": DENSE.but(nnz=5),
    "positions wrong nnz": POSITIONS.but(nnz=5),
    "chunk empty": DENSE.section(-1, b""),
    "chunk long": _entries([(2, 0)], tail=b"\0"),
    "stream bits left": DENSE.section(1, number_list([0, 1, 0, 0])).section(-1, b"\x0c\x01\x00\x00"),
    "stream byte left": DENSE.section(1, number_list([0, 1, 0, 0])).section(-1, b"\x0c\x08\x00\x00"),
    "stream too short": huffman(PLAIN).section(-1, b"\x0c\x08\xff"),
    "stream of 2^64 - 1 bits": huffman(PLAIN).section(-1, b"\x0c" + varint((1 << 64) - 1) + b"\xff\xff"),
    "stream sizes overflow": DENSE.section(-1, b"\x0c" + varint((1 << 64) - 8) + varint(8) + b"\xff\xff"),
    "stream padding": huffman(replace(PLAIN, indices=INDICES[:1])).section(-1, b"\x04\x04\x1b"),
    "stream one bit short": DENSE.section(-1, b"\x0c\x09" + DENSE.sections[-1][2:]),
}

RANGE: dict[str, Frame] = {
    "s = 7": RANS.section(1, rans_tables([32, 32, 32, 32], 7)),
    "s = 17": RANS.section(1, rans_tables([1 << 15] * 4, 17)),
    "s = 255": RANS.section(1, rans_tables([1 << 15] * 4, 255)),
    "frequencies below sum": RANS.section(1, rans_tables([21, 172, 42, 20], 8)),
    "frequencies above sum": RANS.section(1, rans_tables([21, 172, 42, 22], 8)),
    "frequencies all zero": RANS.section(1, rans_tables([0, 0, 0, 0], 8)),
    "frequencies of twice the sum": RANS.section(1, rans_tables([1 << 16, 0, 1 << 16, 0], 16)),
    "state below 2^16": _rans(np.array([65535, 65536], "<u4").tobytes()),
    "state 0": _rans(bytes(8)),
    "final state": _rans(rans_chunk(INDICES.reshape(-1).tolist(), FREQUENCIES, 8, 2, final=65537)),
    "final state of the lone symbol": _lone((12,), 12).section(-1, (65537).to_bytes(4, "little")),
    "word left": RANS.section(-1, RANS.sections[-1] + b"\0\0"),
    "half a word": RANS.section(-1, RANS.sections[-1] + b"\0"),
    "words run out": WORDS.section(-2, WORDS.sections[-2][:-2]),
    "states cut": RANS.section(-1, RANS.sections[-1][:7]),
    "rans chunk empty": RANS.section(-1, b""),
    "rans wrong nnz": RANS.but(nnz=5),
    "unused lane in another state": rans(replace(PLAIN, indices=INDICES[:1, :1]), lanes=2).section(
        -1, rans_chunk([1], [0, 4096, 0, 0], 12, 1) + (1 << 20).to_bytes(4, "little")
    ),
}

ADAPTIVE: dict[str, Frame] = {
    **{
        f"rows setting {i} of {most + 1}": _with_setting(ROWS, i, most + 1)
        for i, most in ((18, 4), (19, 7), (23, 11), (24, 4), (25, 8))
    },
    "rows settings short": ROWS.section(1, ROWS.sections[1][:12]),
    "rows TABLES long": ROWS.section(1, ROWS.sections[1] + b"\0"),
    "rows TABLES short": ROWS.section(1, ROWS.sections[1][:-1]),
    "rows TABLES of one table for two": _with_setting(ROWS, 17, 1),
    "rows frequencies of a wrong sum": ROWS.section(1, ROWS.sections[1][:13] + number_list([1023, 0])),
    "rows of more than 256 symbols": _with_setting(ROWS_LONG, 25, 0).but(k=600),
    "rows wrong nnz": rows(PLAIN, columns=4).but(nnz=5),
    "rows state below 2^16": ROWS.section(-1, b"\0\0\0\0" + ROWS.sections[-1][4:]),
    "rows final state": rows(PLAIN, columns=4, final=(1 << 16) + 1),
    "rows chunk of half a word": ROWS_LONG.section(-1, ROWS_LONG.sections[-1] + b"\0"),
    "rows chunk of a word too many": ROWS_LONG.section(-1, ROWS_LONG.sections[-1] + b"\0\0"),
    "rows chunk of many words too many": ROWS_LONG.section(-1, ROWS_LONG.sections[-1] + bytes(300)),
    "rows chunk short of a word": ROWS_LONG.section(-1, ROWS_LONG.sections[-1][:-2]),
    "rows chunk of states alone": ROWS_LONG.section(-1, ROWS_LONG.sections[-1][:8]),
    "rows chunk short of states": ROWS.section(-1, ROWS.sections[-1][:4]),
    "rows chunk empty": ROWS.section(-1, b""),
    "rows of one entry with a word": rows(Quantized(INDICES * 0, lo=0, k=1, zero=1), columns=4).section(
        -1, np.array([1 << 16] * 4, "<u4").tobytes() + b"\0\0"
    ),
    "rows index = k": rows(replace(GRID, indices=2 * INDICES, k=7), columns=4, s25=3).but(k=6),
    "context wrong nnz": CONTEXT.but(nnz=5),
    "context chunk ends in zero": CONTEXT.section(-1, CONTEXT.sections[-1] + b"\0"),
    "context chunk long": CONTEXT.section(-1, CONTEXT.sections[-1] + b"\1"),
    "context chunk very long": CONTEXT.section(-1, CONTEXT.sections[-1] + b"\1" * 9),
    "context chunk short": CONTEXT.section(-1, CONTEXT.sections[-1][:-1]),
    "context chunk empty": CONTEXT.section(-1, b""),
    "context of one entry not empty": context(Quantized(INDICES * 0, lo=0, k=1, zero=1), columns=4).section(-1, b"\1"),
    "context index = k": context(replace(GRID, indices=2 * INDICES, k=7), columns=4).but(k=6),
    "short CODEBOOK long": SHORT.section(0, SHORT.sections[0] + b"\0\0"),
    "short CODEBOOK at full length": FIXED.but(codebook_kind=3),
    "short zero entry not zero": SHORT.section(0, b"\1\0" * 4),
    "text wrong nnz": TEXT.but(nnz=15),
    "text chunk ends in zero": TEXT.section(-1, TEXT.sections[-1] + b"\0"),
    "text chunk long": TEXT.section(-1, TEXT.sections[-1] + b"\1"),
    "text chunk short": TEXT.section(-1, TEXT.sections[-1][:-3]),
}

BYTES: dict[str, Frame] = {
    "byte stream mode 2": LOSSLESS.section(0, b"\2" + LOSSLESS.sections[0][1:]),
    "byte stream lanes 3": LOSSLESS_RANS.section(0, b"\1\3" + LOSSLESS_RANS.sections[0][2:]),
    "byte stream lanes 0": LOSSLESS_RANS.section(0, b"\1\0" + LOSSLESS_RANS.sections[0][2:]),
    "byte stream s = 17": LOSSLESS_RANS.section(0, b"\1\1\x11" + LOSSLESS_RANS.sections[0][3:]),
    "byte stream size beyond": LOSSLESS.section(0, b"\1\1" + rans_tables([1] * 256, 8) + varint(1 << 62)),
    "byte stream size short": LOSSLESS.section(0, b"\1\1" + rans_tables([1] * 256, 8) + b"\2\0\0"),
    "lossless plane missing": LOSSLESS.section(0, LOSSLESS.sections[0][:-7]),
    "lossless plane short": LOSSLESS.section(0, LOSSLESS.sections[0][:-1]),
    "lossless plane long": LOSSLESS.section(0, LOSSLESS.sections[0] + b"\0"),
    "lossless wrong nnz": LOSSLESS.but(nnz=5),
    "lz wrong nnz": LZ.but(nnz=9),
    "lz offset 0": lz(10, replace(LZ_PARTS, offsets=(0,))),
    "lz offset before the start": lz(10, replace(LZ_PARTS, offsets=(4,))),
    "lz offset 2^24 - 1": lz(10, replace(LZ_PARTS, offsets=((1 << 24) - 1,))),
    "lz literals run out": lz(10, replace(LZ_PARTS, literals=b"abcd")),
    "lz literals left": lz(10, replace(LZ_PARTS, literals=b"abcdef")),
    "lz extras left": lz(10, replace(LZ_PARTS, extras=b"\0")),
    "lz extras run out": lz(36, replace(LONG_PARTS, extras=b"\0")),
    "lz extras end in 255": lz(36, replace(LONG_PARTS, extras=b"\0\xff")),
    "lz too long": lz(9, LZ_PARTS),
    "lz too short": lz(11, LZ_PARTS),
    "lz match past the end": lz(35, LONG_PARTS),
    "lz long match past the end": lz(36, replace(LONG_PARTS, extras=b"\0" + b"\xff" * 10 + b"\0")),
    "lz last token with a match": lz(10, replace(LZ_PARTS, tokens=bytes([0x31, 0x21]))),
    "lz no sequence": LZ.section(0, bytes([0, 0, 0, 0, 0, 0, 0, 0, 0])),
    "lz chunk empty": LZ.section(0, b""),
    "lz chunk long": LZ.section(0, LZ.sections[0] + b"\0"),
    "lz stream missing": LZ.section(0, LZ.sections[0][:-6]),
    "lz sequences above their streams": lz(10, replace(LZ_PARTS, sequences=3)),
    "lz 2^60 sequences": LZ.section(0, _lone_lz(1 << 60, 5, 0, 0x10)),
    "lz 2^64 - 1 sequences": LZ.section(0, _lone_lz((1 << 64) - 1, 5, 0, 0x10)),
    "lz 2^40 literals": LZ.section(0, _lone_lz(1, 1 << 40, 0, 0xA0)),
    "lz 2^40 extras": LZ.section(0, _lone_lz(1, 10, 1 << 40, 0xA0)),
}


def _drawn(seed: int, **columns: int) -> Frame:
    return trees_of_bits(seed, columns=columns or None)


def _listed(listing: bytes) -> Frame:
    return TREES.section(0, trees_chunk(listing, b""))


TREE_RULES: dict[str, Frame] = {
    "trees two nodes of one place": _drawn(19),
    "trees two leaves of one place": trees_of_bits(48, is_apart=True),
    "trees one number twice": _drawn(367),
    "trees column without values": _drawn(395),
    "trees branch without mode": _drawn(41),
    "trees longer than the tensor": _drawn(71),
    "trees root that is a leaf": trees_of_bits(156, is_apart=True),
    "trees of many parts": trees_of_bits(153, is_apart=True),
    "trees numbers as strings": _listed(b"\3\x0e\x0a\x0cnodes_values\0"),
    "trees one column twice": _listed(b"\1\x0b\x0a\x09class_ids\0" * 2),
    "trees unknown column": _listed(b"\1\x06\x0a\x04none\0"),
    "trees column without name": _listed(b"\1\0\0"),
    "trees kind 11": _listed(b"\x0b\0\0"),
    "trees list cut short": _listed(b"\1\x0b\x0a"),
    "trees chunk empty": TREES.section(0, b""),
    "trees chunk long": TREES.section(0, TREES.sections[0] + b"\0"),
    "trees list longer than the tensor": TREES.section(0, varint(1 << 40) + TREES.sections[0][1:]),
    "trees shorter than the tensor": TREES.but(dims=(104,), chunk=104),
    "trees modes without names": trees_of_bits(55, columns={"tree_roots": 1, "nodes_modes": 3}),
}

# Frames of a few bytes that claim a tensor of petabytes, or would make a careless decoder allocate or loop for ever.
HUGE: dict[str, Frame] = {
    "huge raw": RAW.but(dims=(1 << 40, 1 << 10)),
    "huge fixed": FIXED.but(dims=(1 << 40, 1 << 10)),
    "huge fixed bits overflow": fixed(replace(GRID, k=65536)).but(dims=(1 << 60,)).section(0, b""),
    "huge fixed of one entry": Frame(Fields(1, 1, (1 << 60,), 0, codebook_kind=2, k=1, zero=1), (b"",)),
    "huge huffman": DENSE.but(dims=(1 << 60,)),
    "huge huffman in chunks of 1": DENSE.but(dims=(1 << 60,), chunk=1),
    "huge positions": POSITIONS.but(dims=(1 << 60,)),
    "huge rans": RANS.but(dims=(1 << 60,), chunk=1 << 24),
    "huge rans of one entry": _lone((1 << 60,), 1 << 24),
    "huge lossless": LOSSLESS.but(dims=(1 << 60,), chunk=1 << 24),
    "huge rows": ROWS.but(dims=(1 << 60,), chunk=1 << 24),
    "huge rows, one chunk": ROWS.but(dims=(1 << 22,), chunk=1 << 24),
    "huge rows, one row each": ROWS.but(dims=(1 << 22,), chunk=1 << 24, columns=1 << 16),
    "huge context": CONTEXT.but(dims=(1 << 60,), chunk=1 << 24),
    "huge context, one chunk": CONTEXT.but(dims=(1 << 22,), chunk=1 << 24),
    "huge text": TEXT.but(dims=((1 << 31) - 1,), chunk=(1 << 31) - 1),
    "huge trees": TREES.but(dims=((1 << 31) - 1,), chunk=(1 << 31) - 1),
    "huge lz": lz((1 << 31) - 1, LZ_PARTS),
    "huge channels": fixed(SCALED).but(dims=(1 << 60,), channels=1 << 60, inner=1),
    "huge log channels": fixed(LOG).but(dims=(1 << 60,), channels=1 << 60, inner=1),
}

BYTES_LEVEL: dict[str, bytes] = {
    "empty": b"",
    "magic only": b"DCCW",
    "header CRC": RAW.fields.to_bytes() + bytes(4) + RAW.to_bytes()[len(RAW.fields.to_bytes()) + 4 :],
    "section CRC": _flip_last_byte(RAW.to_bytes()),
    "CODEBOOK CRC": FIXED.to_bytes().replace(VALUES.tobytes(), _codebook(-1.5, 0, 0.5, 3)),
    "byte after the frame": RAW.to_bytes() + b"\0",
    "dims varint of two bytes": _header(RAW, 10, 1, b"\x86\0"),
    "nnz varint of two bytes": _header(RAW, 11, 1, b"\x85\0"),
    "dims varint of 65 bits": _header(RAW, 10, 1, b"\x86" + b"\x80" * 8 + b"\x02"),
    "dims varint of 11 bytes": _header(RAW, 10, 1, b"\x86" + b"\x80" * 9 + b"\x01"),
    "dims varint without end": join(RAW.fields.to_bytes()[:10] + b"\xff" * 5, ()),
    "section length of two bytes": RAW.to_bytes().replace(b"\x18\0\0\0\0\0\0", b"\x98\0\0\0\0\0\0\0"),
    "section length beyond the end": RAW.to_bytes().replace(b"\x18\0\0\0\0\0\0", b"\x19\0\0\0\0\0\0"),
    "section length 2^64 - 1": RAW.to_bytes().replace(b"\x18\0\0\0\0\0\0", varint((1 << 64) - 1) + bytes(6)),
}

FRAMES: dict[str, Frame] = HEADER | SECTIONS | LISTS | HUFFMAN | RANGE | ADAPTIVE | BYTES | TREE_RULES | HUGE
BAD: dict[str, bytes] = {name: frame.to_bytes() for name, frame in FRAMES.items()} | BYTES_LEVEL
