"""A small educational writer of frames, independent of the library: every part can be replaced, CRCs stay right.

Nothing here chooses well or runs fast; sections are those of dc_compiler/codec/FORMAT.md.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dc_compiler.codec import reference
from dc_compiler.codec.reference import DTYPES, crc32c
from dc_compiler.codec.reference.spec import INTEGERS, NIBBLES, PLAIN_FLOATS
from dc_compiler.errors import CorruptFrameError

Array = npt.NDArray[Any]
DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}


# Numbers (introduction and section 4).


def varint(value: int) -> bytes:
    """Unsigned LEB128, shortest form."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def zigzag(value: int) -> int:
    return 2 * value if value >= 0 else -2 * value - 1


def svarint(value: int) -> bytes:
    return varint(zigzag(value))


class BitWriter:
    """A bit stream, filled from the least significant bit of each byte."""

    def __init__(self) -> None:
        self.bits: list[int] = []

    def low_first(self, value: int, count: int) -> None:
        self.bits += [value >> i & 1 for i in range(count)]

    def high_first(self, value: int, count: int) -> None:
        self.bits += [value >> i & 1 for i in reversed(range(count))]

    def to_bytes(self) -> bytes:
        return np.packbits(np.array(self.bits, np.uint8), bitorder="little").tobytes()


def number_list(values: Sequence[int], order: int = 0) -> bytes:
    """Section 4."""
    out = BitWriter()
    out.low_first(order, 4)
    for before, value in zip([0, *values], values, strict=False):
        w = zigzag(value - before) + (1 << order)
        b = w.bit_length()
        out.low_first(0, b - 1 - order)
        out.low_first(1, 1)
        out.low_first(w, b - 1)
    return out.to_bytes()


# Section 5.1.


def code_lengths(counts: Sequence[int]) -> list[int]:
    """Huffman's lengths for these counts, not limited. A lone symbol has length 1; without any, symbol 0 stands in."""
    if not any(counts):
        return [1] + [0] * (len(counts) - 1)
    heap = [(count, symbol, [symbol]) for symbol, count in enumerate(counts) if count > 0]
    lengths = [0] * len(counts)
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        a, b = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in a[2] + b[2]:
            lengths[symbol] += 1
        heapq.heappush(heap, (a[0] + b[0], min(a[1], b[1]), a[2] + b[2]))
    return lengths


def canonical_codes(lengths: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Symbol -> (code, length in bits); a lone symbol takes no bits."""
    used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    if len(used) == 1:
        return {used[0][1]: (0, 0)}
    codes = {}
    code = 0
    for (length, symbol), (following, _) in zip(used, [*used[1:], used[-1]], strict=True):
        codes[symbol] = (code, length)
        code = code + 1 << following - length
    return codes


def relative_positions(indices: Sequence[int], zero_index: int, bits: int) -> list[tuple[int, int]]:
    """(position, index) of every entry of a chunk, filler zeros included (figure 2 of the paper)."""
    entries = []
    gap = 0
    for index in indices:
        if index != zero_index:
            entries.append((gap, index))
            gap = 0
        elif gap == (1 << bits) - 1:
            entries.append((gap, zero_index))
            gap = 0
        else:
            gap += 1
    while entries and entries[-1][1] == zero_index:  # nothing follows these fillers
        entries.pop()
    return entries


def huffman_chunk(lists: Sequence[Sequence[int]], lengths: Sequence[Sequence[int]], lanes: int) -> bytes:
    """A CHUNK; `lists` holds positions (if any) and indices, `lengths` their code lengths."""
    counts = b""
    streams = b""
    for symbols, code in zip(lists, map(canonical_codes, lengths), strict=True):
        for lane in range(lanes):
            out = BitWriter()
            for symbol in symbols[lane::lanes]:
                out.high_first(*code[symbol])
            counts += varint(len(out.bits))
            streams += out.to_bytes()
    return varint(len(lists[0])) + counts + streams


# Section 5.2.


def frequencies(counts: Sequence[int], s: int) -> list[int]:
    """Frequencies that sum to 2^s, at least 1 for every symbol that occurs; without any, symbol 0 stands in."""
    total = sum(counts)
    if total == 0:
        return [1 << s] + [0] * (len(counts) - 1)
    scaled = [max(1, (count << s) // total) if count else 0 for count in counts]
    for _ in range(abs((1 << s) - sum(scaled))):
        scaled[scaled.index(max(scaled))] += 1 if sum(scaled) < 1 << s else -1
    return scaled


def rans_tables(freqs: Sequence[int], s: int, order: int = 0) -> bytes:
    return bytes([s]) + number_list(freqs, order)


def rans_chunk(symbols: Sequence[int], freqs: Sequence[int], s: int, lanes: int, final: int = 1 << 16) -> bytes:
    """A CHUNK: the decoder's steps undone from the last symbol to the first, so that it ends in state `final`."""
    starts = np.cumsum([0, *freqs]).tolist()
    states = [final] * lanes
    words = []
    for t in reversed(range(len(symbols))):
        x, f = states[t % lanes], freqs[symbols[t]]
        if x >= f << 32 - s:
            words.append(x & 0xFFFF)
            x >>= 16
        states[t % lanes] = (x // f << s) + x % f + starts[symbols[t]]
    return np.array(states, "<u4").tobytes() + np.array(words[::-1], "<u2").tobytes()


# Section 5.3.


class RangeEncoder:
    """Codes bits that are known; to the models of the reference decoder it looks like a decoder."""

    def __init__(self, bits: Iterable[int]) -> None:
        self.bits = iter(bits)
        self.low, self.high = 0, (1 << 32) - 1
        self.out = bytearray()

    def bit(self, p: int) -> int:
        bit = next(self.bits)
        middle = self.low + ((self.high - self.low) * p >> 16)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 24 == self.high >> 24:
            self.out.append(self.low >> 24)
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, self.high << 8 & 0xFFFFFFFF | 255
        return bit

    def to_bytes(self) -> bytes:
        assert next(self.bits, None) is None
        last = [] if self.low == 0 else [(self.low >> 24) + 1]
        return bytes([*self.out, *last])


class DrawnBits(RangeEncoder):
    """Codes bits that are drawn, unless some are wanted."""

    def __init__(self, seed: int) -> None:
        super().__init__(())
        self.random = random.Random(seed)
        self.wanted: list[int] = []

    def bit(self, p: int) -> int:
        self.bits = iter([self.wanted.pop(0) if self.wanted else self.random.getrandbits(1)])
        return super().bit(p)


def context_bits(d: Sequence[int], below: int, above: int) -> list[int]:
    """What section 5.4 codes for indices at these distances from z, of which `below` are possible below and `above`
    above z."""
    bits = []
    for distance in d:
        bits.append(int(distance != 0))
        if distance == 0:
            continue
        if below > 0 and above > 0:
            bits.append(int(distance > 0))
        magnitude, most = abs(distance), above if distance > 0 else below
        exponent = magnitude.bit_length() - 1
        bits += [1] * exponent + ([0] if most >> exponent + 1 else [])
        bits += [magnitude >> i & 1 for i in reversed(range(exponent))]
    return bits


# Section 5.5.


class RowsEncoder:
    """Codes flags, signs, symbols and low bits that are known; to the model of the reference decoder it looks like a
    decoder."""

    def __init__(self, known: Iterable[int], tables: reference.RowsTables, lanes: int) -> None:
        self.known, self.tables, self.lanes = iter(known), tables, lanes
        self.steps: list[tuple[int, int, int, int]] = []  # lane, bits, frequency, start

    def bit(self, lane: int, chance: int) -> int:
        bit = next(self.known)
        self.steps.append((lane, 14, chance, 0) if bit else (lane, 14, (1 << 14) - chance, chance))
        return bit

    def symbol(self, lane: int, table: int) -> int:
        symbol, freqs = next(self.known), self.tables.frequencies[table]
        self.steps.append((lane, 8 + self.tables.settings[24], freqs[symbol], sum(freqs[:symbol])))
        return symbol

    def low(self, lane: int) -> int:
        low = next(self.known)
        self.steps.append((lane, self.tables.settings[25], 1, low))
        return low

    def to_bytes(self, final: int = 1 << 16) -> bytes:
        assert next(self.known, None) is None
        states = [final] * self.lanes
        words = []
        for lane, bits, frequency, start in reversed(self.steps):
            x = states[lane]
            if x >= frequency << 32 - bits:
                words.append(x & 0xFFFF)
                x >>= 16
            states[lane] = (x // frequency << bits) + x % frequency + start
        return np.array(states, "<u4").tobytes() + np.array(words[::-1], "<u2").tobytes()


def rows_known(d: Array, lanes: int, is_flipped: bool, has_signs: bool, low_bits: int) -> list[int]:
    """What section 5.5 codes for rows of indices at these distances from z."""
    known: list[int] = []
    for first in range(0, len(d), lanes):
        block = d[first : first + lanes]
        known += [int((distance != 0) != is_flipped) for column in block.T for distance in column]
        for column in block.T:
            kept = [int(distance) for distance in column if distance]
            known += [int(distance > 0) for distance in kept if has_signs]
            known += [abs(distance) - 1 >> low_bits for distance in kept]
            known += [abs(distance) - 1 & (1 << low_bits) - 1 for distance in kept if low_bits]
    return known


def rows_tables(tables: reference.RowsTables, order: int = 0) -> bytes:
    settings = BitWriter()
    for setting in tables.settings:
        settings.low_first(setting, 4)
    return settings.to_bytes() + b"".join(number_list(table, order) for table in tables.frequencies)


# Section 6.


def byte_stream(data: bytes, lanes: int = 0, s: int = 8) -> bytes:
    """Raw for lanes = 0, else rANS."""
    if lanes == 0:
        return b"\0" + data
    freqs = frequencies([data.count(byte) for byte in range(256)], s)
    chunk = rans_chunk(data, freqs, s, lanes)
    return bytes([1, lanes]) + rans_tables(freqs, s) + varint(len(chunk)) + chunk


# Sections 1 to 3.


CHUNKED = range(2, 10)  # coders whose header says how large chunks are


@dataclass(frozen=True)
class Fields:
    """Header fields as they will be written; which ones are follows from coder and kinds, as in section 2."""

    coder: int
    dtype: int
    dims: tuple[int, ...]
    nnz: int
    codebook_kind: int = 0
    scale_kind: int = 0
    k: int = 0
    zero: int = 0
    lo: int = 0
    channels: int = 0
    inner: int = 0
    offset: int = 0
    chunk: int = 0
    lanes: int = 0
    position_bits: int = 0
    columns: int = 0
    group: int = 0
    stride: int = 0
    magic: bytes = b"DCCW"
    version: int = 1

    def to_bytes(self) -> bytes:
        out = self.magic + bytes([self.version, self.dtype, self.coder, self.codebook_kind, self.scale_kind])
        out += bytes([len(self.dims)]) + b"".join(map(varint, self.dims)) + varint(self.nnz)
        if self.codebook_kind != 0:
            out += varint(self.k) + varint(self.zero)
        if self.codebook_kind == 2:
            out += svarint(self.lo)
        if self.scale_kind != 0:
            out += varint(self.channels) + varint(self.inner)
            out += svarint(self.offset) if self.dtype in INTEGERS else b""
        if self.coder in CHUNKED:
            out += varint(self.chunk)
        if self.coder in (2, 3, 8):
            out += bytes([self.lanes])
        if self.coder == 2:
            out += bytes([self.position_bits])
        if self.coder in (6, 8):
            out += varint(self.columns) + varint(self.group) + varint(self.stride)
        return out


def join(header: bytes, sections: Iterable[bytes]) -> bytes:
    """A frame from its header and section bodies, with right lengths and CRCs."""
    frame = header + crc32c(header).to_bytes(4, "little")
    for body in sections:
        frame += varint(len(body)) + body + crc32c(body).to_bytes(4, "little")
    return frame


@dataclass(frozen=True)
class Frame:
    """A frame in parts."""

    fields: Fields
    sections: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        return join(self.fields.to_bytes(), self.sections)

    def but(self, **changes: Any) -> Frame:
        """The same with other header fields."""
        return replace(self, fields=replace(self.fields, **changes))

    def section(self, at: int, body: bytes) -> Frame:
        """The same with another section `at` (negative: from the end)."""
        sections = list(self.sections)
        sections[at] = body
        return replace(self, sections=tuple(sections))


@dataclass(frozen=True)
class Quantized:
    """What the codebook coders store: indices in the tensor's shape, a codebook (or the first grid point), scales."""

    indices: Array
    dtype: int = 1
    codebook: Array | None = None
    lo: int = 0
    k: int = 0
    zero: int = 0
    scales: Array | None = None
    log_scales: tuple[int, tuple[int, ...]] | None = None
    inner: int = 0
    offset: int = 0

    def fields(self, coder: int, **more: Any) -> Fields:
        channels = len(self.scales) if self.scales is not None else len(self.log_scales[1]) if self.log_scales else 0
        return Fields(
            coder,
            self.dtype,
            self.indices.shape,
            int(np.count_nonzero(self.indices != self.zero - 1)),
            codebook_kind=2 if self.codebook is None else 1,
            scale_kind=1 if self.scales is not None else 2 if self.log_scales else 0,
            k=self.k if self.codebook is None else len(self.codebook),
            zero=self.zero,
            lo=self.lo,
            channels=channels,
            inner=self.inner,
            offset=self.offset,
            **more,
        )

    def sections(self) -> tuple[bytes, ...]:
        """CODEBOOK and SCALES, where present."""
        out = [] if self.codebook is None else [self.codebook.tobytes()]
        if self.scales is not None:
            out.append(self.scales.tobytes())
        if self.log_scales:
            out.append(svarint(self.log_scales[0]) + byte_stream(bytes(self.log_scales[1])))
        return tuple(out)

    def chunks(self, chunk: int) -> list[list[int]]:
        flat = self.indices.reshape(-1).tolist()
        return [flat[at : at + chunk] for at in range(0, len(flat), chunk)]


def _counts(lists: Iterable[Sequence[int]], length: int) -> list[int]:
    counts = Counter(symbol for symbols in lists for symbol in symbols)
    return [counts[symbol] for symbol in range(length)]


def fixed(q: Quantized) -> Frame:
    fields = q.fields(1)
    bits = BitWriter()
    for index in q.indices.reshape(-1).tolist():
        bits.low_first(index, (fields.k - 1).bit_length())
    return Frame(fields, (*q.sections(), bits.to_bytes()))


def huffman(q: Quantized, position_bits: int = 0, lanes: int = 1, chunk: int = 1 << 20) -> Frame:
    fields = q.fields(2, chunk=chunk, lanes=lanes, position_bits=position_bits)
    lists = []
    for indices in q.chunks(chunk):
        if position_bits == 0:
            lists.append([indices])
        else:
            entries = relative_positions(indices, q.zero - 1, position_bits)
            lists.append([[p for p, _ in entries], [index for _, index in entries]])
    sizes = [1 << position_bits, fields.k] if position_bits else [fields.k]
    lengths = [code_lengths(_counts(parts, size)) for parts, size in zip(zip(*lists, strict=True), sizes, strict=True)]
    tables = b"".join(map(number_list, lengths))
    return Frame(fields, (*q.sections(), tables, *(huffman_chunk(parts, lengths, lanes) for parts in lists)))


def rans(q: Quantized, s: int = 12, lanes: int = 1, chunk: int = 1 << 20) -> Frame:
    fields = q.fields(3, chunk=chunk, lanes=lanes)
    freqs = frequencies(_counts(q.chunks(chunk), fields.k), s)
    chunks = [rans_chunk(indices, freqs, s, lanes) for indices in q.chunks(chunk)]
    return Frame(fields, (*q.sections(), rans_tables(freqs, s), *chunks))


def context(q: Quantized, columns: int, group: int = 1, stride: int = 0, chunk: int = 1 << 20) -> Frame:
    fields = q.fields(6, chunk=chunk, columns=columns, group=group, stride=stride)
    z = fields.zero - 1 if fields.zero else fields.k // 2
    chunks = []
    for indices in q.chunks(chunk):
        bits = context_bits([index - z for index in indices], z, fields.k - 1 - z) if fields.k > 1 else []
        coder = RangeEncoder(bits)
        reference.ContextModel(_header(fields), coder, len(indices)).decode()
        chunks.append(coder.to_bytes())
    return Frame(fields, (*q.sections(), *chunks))


# Settings of section 5.5 that count: one table of magnitudes, trust of a few rows.
SETTINGS = (3, 4, 4, 8, 6, 3, 5, 4, 5, 4, 2, 7, 4, 2, 4, 5, 1, 0, 2, 2, 1, 6, 6, 0, 2, 0)


def rows(
    q: Quantized, columns: int, group: int | None = None, stride: int = 0, lanes: int = 4, chunk: int = 1 << 20,
    final: int = 1 << 16, **settings: int,
) -> Frame:  # fmt: skip
    """`settings` are those that differ from SETTINGS, by name, s0 to s25."""
    fields = q.fields(8, chunk=chunk, lanes=lanes, columns=columns, group=group or columns, stride=stride)
    s = tuple(settings.get(f"s{i}", setting) for i, setting in enumerate(SETTINGS))
    header = _header(fields)
    z = fields.zero - 1 if fields.zero else fields.k // 2
    is_flipped = fields.zero != 0 and 2 * fields.nnz > q.indices.size
    symbols = reference.rows_symbols(header, s[25]) if fields.k > 1 else 0
    count = (s[17] % 8 + 1) * (2 if s[17] >= 8 else 1) if fields.k > 1 else 0
    freqs = frequencies([symbols - symbol for symbol in range(symbols)], 8 + s[24])
    tables = reference.RowsTables(s, tuple(tuple(freqs[t:] + freqs[:t]) for t in range(count)))
    chunks = []
    for indices in q.chunks(chunk):
        d = np.array(indices).reshape(-1, columns) - z
        has_signs = 0 < z < fields.k - 1
        known = rows_known(d, lanes, is_flipped, has_signs, s[25]) if fields.k > 1 else []
        coder = RowsEncoder(known, tables, lanes)
        reference.RowsModel(header, tables, coder, len(d)).decode()
        chunks.append(coder.to_bytes(final))
    return Frame(fields, (*q.sections(), rows_tables(tables), *chunks))


def _header(fields: Fields) -> reference.Header:
    return reference.parse_header(join(fields.to_bytes(), ()))


def short(frame: Frame) -> Frame:
    """The same with the upper halves of its f32 codebook, whose lower ones are zero."""
    codebook = np.frombuffer(frame.sections[0], "<u4")
    assert not (codebook & 0xFFFF).any()
    return frame.but(codebook_kind=3).section(0, (codebook >> 16).astype("<u2").tobytes())


def _plain_fields(values: Array, coder: int, chunk: int = 0) -> Fields:
    bits = values.view(f"u{values.dtype.itemsize}")
    return Fields(coder, DTYPE_CODES[values.dtype], values.shape, int(np.count_nonzero(bits)), chunk=chunk)


def raw(values: Array) -> Frame:
    fields = _plain_fields(values, 0)
    if fields.dtype not in NIBBLES:
        return Frame(fields, (values.tobytes(),))
    halves = [bits & 15 for bits in values.reshape(-1).view(np.uint8).tolist()] + [0]
    return Frame(fields, (bytes(a | b << 4 for a, b in zip(halves[::2], halves[1::2], strict=False)),))


def lossless(values: Array, chunk: int = 1 << 20, lanes: int = 0) -> Frame:
    width = values.dtype.itemsize
    words = values.reshape(-1).view(f"<u{width}")
    if DTYPE_CODES[values.dtype] in PLAIN_FLOATS:
        words = words << 1 | words >> (8 * width - 1)
    sections = []
    for at in range(0, words.size, chunk):
        planes = words[at : at + chunk].view(np.uint8).reshape(-1, width).T
        sections.append(b"".join(byte_stream(plane.tobytes(), lanes) for plane in planes))
    return Frame(_plain_fields(values, 4, chunk), tuple(sections))


@dataclass(frozen=True)
class Sequences:
    """The parts of an lz CHUNK (section 8)."""

    tokens: bytes
    offsets: tuple[int, ...]
    extras: bytes
    literals: bytes
    sequences: int | None = None
    literal_count: int | None = None
    extra_count: int | None = None

    def to_bytes(self, lanes: int = 0) -> bytes:
        counts = (
            len(self.tokens) if self.sequences is None else self.sequences,
            len(self.literals) if self.literal_count is None else self.literal_count,
            len(self.extras) if self.extra_count is None else self.extra_count,
        )
        planes = [bytes(offset >> shift & 255 for offset in self.offsets) for shift in (0, 8, 16)]
        streams = [self.tokens, *planes, self.extras, self.literals]
        return b"".join(map(varint, counts)) + b"".join(byte_stream(stream, lanes) for stream in streams)


def lz(n: int, parts: Sequences, lanes: int = 0) -> Frame:
    """A frame of `n` non-zero bytes."""
    return Frame(Fields(5, 2, (n,), n, chunk=n), (parts.to_bytes(lanes),))


def text(data: bytes) -> Frame:
    """A frame of non-zero bytes."""
    coder = RangeEncoder(np.unpackbits(np.frombuffer(data, np.uint8)).tolist())
    reference.TextModel.after_primer().decode(coder, len(data))
    return Frame(Fields(7, 2, (len(data),), len(data), chunk=len(data)), (coder.to_bytes(),))


# Section 8.3.


def _list_of_attributes(columns: dict[str, int]) -> bytes:
    """The list of columns by name, with their kinds."""
    out = b""
    for name, kind in columns.items():
        before = bytes([0x0A, len(name)]) + name.encode()
        out += bytes([kind]) + varint(len(before)) + before
        out += b"\0\0" if kind > 3 else b""  # nothing else in the tensor
        out += b"\0" if kind else b""
    return out


NODES_COLUMNS = {
    "nodes_treeids": 1, "nodes_nodeids": 1, "nodes_featureids": 1, "nodes_modes": 3, "nodes_values": 2, "post": 0,
    "nodes_truenodeids": 1, "nodes_falsenodeids": 1, "nodes_hitrates_as_tensor": 7, "class_treeids": 1,
    "class_nodeids": 1, "class_ids": 1, "class_weights": 2,
}  # fmt: skip
APART_COLUMNS = {
    "nodes_featureids": 1, "nodes_modes": 4, "nodes_splits": 6, "nodes_truenodeids": 1, "nodes_falsenodeids": 1,
    "nodes_trueleafs": 1, "nodes_falseleafs": 1, "nodes_hitrates": 8, "leaf_targetids": 1, "leaf_weights": 10,
    "tree_roots": 1, "nodes_missing_value_tracks_true": 9,
}  # fmt: skip


@cache
def _packed(listing: bytes) -> bytes:
    coder = RangeEncoder(np.unpackbits(np.frombuffer(listing, np.uint8)).tolist())
    reference.TextModel.after_primer().decode(coder, len(listing))
    packed = coder.to_bytes()
    return varint(len(listing)) + varint(len(packed)) + packed


def trees_chunk(listing: bytes, code: bytes) -> bytes:
    return _packed(listing) + code


class DrawnTrees(reference.TreesModel):
    """A drawn forest: lists are rarely empty, numbers are mostly small, trees end."""

    coder: DrawnBits

    def _number(self, n: int, c: int = 0) -> int:
        draw = self.coder.random
        value = 1 + draw.choice((0, 0, 0, 1, 1, 2, 3, 5)) if n in LENGTHS and draw.random() < 0.99 else 0
        if n not in LENGTHS:
            value = draw.choice((0, 0, 0, 1, 1, 2, 3, 7, draw.getrandbits(draw.choice((5, 63)))))
        length = (value + 1).bit_length() - 1
        self.coder.wanted = [1] * length + ([0] if length < 63 else [])
        self.coder.wanted += [value + 1 >> i & 1 for i in reversed(range(length))]
        return super()._number(n, c)

    def _leaf_flag(self, place: Any) -> bool:
        is_root = place.side == 0 and self.coder.random.random() < 0.95
        self.coder.wanted = [int(self.coder.random.random() < 0.6 and not is_root)]
        is_leaf = super()._leaf_flag(place)
        self.coder.wanted = []
        return is_leaf


LENGTHS = (0, 1, 2, 8, 9, 10, 11, 36, 37)  # numbers that say how much follows


def trees_of_bits(
    seed: int, *, is_apart: bool = False, columns: dict[str, int] | None = None, most: int = 1 << 10
) -> Frame:
    """A frame whose forest is drawn; where that breaks a rule, the code ends there."""
    columns = columns or (APART_COLUMNS if is_apart else NODES_COLUMNS)
    listing, coder = _list_of_attributes(columns), DrawnBits(seed)
    try:
        data = reference.trees_bytes(listing, coder, most, DrawnTrees)
    except CorruptFrameError:
        data = b"\1" * most
    coder.bits = iter(())
    n = len(data)
    fields = Fields(9, 2, (n,), n - data.count(0), chunk=n)
    return Frame(fields, (trees_chunk(listing, coder.to_bytes()),))
