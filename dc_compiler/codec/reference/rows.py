"""Section 5.5: coder `rows`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dc_compiler.codec.reference.coder import Coder, Layout, Stores, read_chunks
from dc_compiler.codec.reference.number_list import read_numbers
from dc_compiler.codec.reference.readers import BitReader, ByteReader, read_section, require
from dc_compiler.codec.reference.spec import LANES, Array, Header
from dc_compiler.errors import CorruptFrameError

SETTINGS = 26
MOST = {18: 4, 19: 7, 23: 11, 24: 4, 25: 8}  # of settings that are not allowed to be 15
CHANCES = (
    16, 23, 32, 45, 64, 90, 127, 179, 252, 354, 496, 693, 964, 1331, 1820, 2461,
    3277, 4280, 5461, 6786, 8192, 9598, 10923, 12104, 13107, 13923, 14564, 15053, 15420, 15691, 15888, 16030,
)  # fmt: skip
FLAG_BITS = 14


@dataclass(frozen=True)
class RowsTables:
    """TABLES: the settings, and the frequencies of magnitudes."""

    settings: tuple[int, ...]
    frequencies: tuple[tuple[int, ...], ...]


class RowsSteps(Protocol):
    """What the steps of a chunk give."""

    def bit(self, lane: int, chance: int) -> int: ...
    def symbol(self, lane: int, table: int) -> int: ...
    def low(self, lane: int) -> int: ...


def zero_of(header: Header) -> int:
    """The index of elements that are not kept."""
    return header.zero - 1 if header.zero else header.k // 2


def symbols_of(header: Header, low_bits: int) -> int:
    """The length of the lists of frequencies."""
    z = zero_of(header)
    return (max(z, header.k - 1 - z) - 1 >> low_bits) + 1


def read_rows_tables(reader: ByteReader, header: Header) -> RowsTables:
    bits = BitReader(reader.take(SETTINGS // 2))
    s = tuple(bits.take(4) for _ in range(SETTINGS))
    require(all(s[i] <= most for i, most in MOST.items()), "setting out of range")
    if header.k == 1:
        return RowsTables(s, ())
    symbols = symbols_of(header, s[25])
    require(symbols <= 256, "too few low bits")
    count = (s[17] % 8 + 1) * (2 if s[17] >= 8 else 1)
    frequencies = tuple(tuple(read_numbers(reader, symbols)) for _ in range(count))
    require(all(sum(table) == 1 << 8 + s[24] for table in frequencies), "frequencies have the wrong sum")
    return RowsTables(s, frequencies)


class _Decoder:
    """The streams of a CHUNK."""

    def __init__(self, chunk: ByteReader, tables: RowsTables, lanes: int) -> None:
        self.states = [chunk.u32() for _ in range(lanes)]
        require(min(self.states) >= 1 << 16, "initial state below 2^16")
        data = chunk.rest()
        require(len(data) % 2 == 0, "half a word")
        self.words: Iterator[int] = iter(np.frombuffer(data, "<u2").tolist())
        self.tables = tables

    def bit(self, lane: int, chance: int) -> int:
        is_set = self.states[lane] % (1 << FLAG_BITS) < chance
        self._step(lane, FLAG_BITS, *((chance, 0) if is_set else ((1 << FLAG_BITS) - chance, chance)))
        return int(is_set)

    def symbol(self, lane: int, table: int) -> int:
        b = 8 + self.tables.settings[24]
        slot, start = self.states[lane] % (1 << b), 0
        for symbol, frequency in enumerate(self.tables.frequencies[table]):
            if slot < start + frequency:
                self._step(lane, b, frequency, start)
                return symbol
            start += frequency
        raise AssertionError

    def low(self, lane: int) -> int:
        b = self.tables.settings[25]
        slot = self.states[lane] % (1 << b)
        self._step(lane, b, 1, slot)
        return slot

    def finish(self) -> None:
        require(all(x == 1 << 16 for x in self.states), "final state is not 2^16")
        require(next(self.words, None) is None, "words left over")

    def _step(self, lane: int, b: int, frequency: int, start: int) -> None:
        x = self.states[lane]
        x = frequency * (x >> b) + x % (1 << b) - start
        if x < 1 << 16:
            word = next(self.words, None)
            if word is None:
                raise CorruptFrameError("the frame is corrupt: words run out")
            x = (x << 16) + word
        self.states[lane] = x


def log(value: int) -> int:
    e = value.bit_length() - 1
    return 64 * e + (64 * value >> e) - 64


def chance(total: int) -> int:
    return CHANCES[min(max(20 + (total + 1024 >> 11), 0), 31)]


class RowsModel:
    """A chunk of `rows` rows, decoded by `steps`."""

    def __init__(self, header: Header, tables: RowsTables, steps: RowsSteps, rows: int) -> None:
        self.header, self.s, self.steps = header, tables.settings, steps
        self.z = zero_of(header)
        self.d = np.zeros((rows, header.columns), np.int64)
        self.is_flipped = header.zero != 0 and 2 * header.nnz > header.n
        self.flags = np.zeros_like(self.d)

    def decode(self) -> Array:
        """The indices of the chunk."""
        rows = len(self.d) if self.header.k > 1 else 0
        for first in range(0, rows, self.header.lanes):
            block = range(first, min(first + self.header.lanes, rows))
            self._flags(block)
            self._values(block)
        return self.d.reshape(-1) + self.z

    def _flags(self, block: range) -> None:
        group, s = self.header.group, self.s
        q3 = self._chances_of_columns(block.start)
        has_groups = group < self.header.columns
        for column in range(self.header.columns):
            first = column // group * group
            of_column = 8 * s[3] * (log(q3[column]) - log((1 << 16) - q3[column])) + 512 * (s[11] - 8)
            expected = log(128 + (sum(q3[:column]) >> 9))
            expected_here = log(128 + (sum(q3[first:column]) >> 9))
            for lane, row in enumerate(block):
                flags = self.flags[row]
                total = of_column + 8 * s[4] * (log(128 + 128 * int(flags[:column].sum())) - expected)
                if has_groups:
                    total += 8 * s[5] * (log(128 + 128 * int(flags[first:column].sum())) - expected_here)
                total += 1024 * sum((w - 3) * _at(flags, column, distance) for w, distance in self._neighbours())
                flags[column] = self.steps.bit(lane, chance(total))

    def _neighbours(self) -> list[tuple[int, int]]:
        s, stride = self.s, self.header.stride
        above = [(s[8], stride), (s[9], stride - 1), (s[10], stride + 1)] if stride else []
        return [(s[6], 1), (s[7], 2), *above]

    def _chances_of_columns(self, rows: int) -> list[int]:
        header, s = self.header, self.s
        columns, group, stride = header.columns, header.group, header.stride
        known = header.n - header.nnz if self.is_flipped else header.nnz
        q0 = ((2 * known + 1) << 16) // (2 * header.n + 2) if header.zero else 1 << 15
        set_flags = [int(count) for count in self.flags[:rows].sum(axis=0)]
        found = []
        for column in range(columns):
            first = column // group * group
            members = set_flags[first : first + group]
            q1 = _share(sum(members), rows * len(members), s[2], q0)
            near = [column, column - 1, column + 1] + ([column - stride, column + stride] if stride else [])
            near = [c for c in near if 0 <= c < columns]
            q2 = _share(sum(set_flags[c] for c in near), rows * len(near), s[1], q1)
            found.append(min(max(_share(set_flags[column], rows, s[0], q2), 16), (1 << 16) - 16))
        return found

    def _values(self, block: range) -> None:
        d, low_bits = self.d, self.s[25]
        before = d[: block.start]
        positive, negative = ((side > 0).sum(axis=0) for side in (before, -before))
        sizes = np.minimum(np.abs(before), 4095).sum(axis=0)
        kept = positive + negative
        mean = 64 * int(sizes.sum()) // int(kept.sum()) if kept.any() else 1 << 6 + self.s[23]
        recent = [16 * mean] * len(block)
        for column in range(self.header.columns):
            lanes = [(lane, row) for lane, row in enumerate(block) if self.flags[row, column] != self.is_flipped]
            signs = [self._sign(lane, row, column, positive, negative) for lane, row in lanes]
            symbols = []
            for (lane, _), sign in zip(lanes, signs, strict=True):
                table = self._table(recent[lane], mean, int(sizes[column]), int(kept[column]))
                side = self.s[17] % 8 + 1 if self.s[17] >= 8 and sign < 0 else 0
                symbols.append(self.steps.symbol(lane, table + side) << low_bits)
            for (lane, row), sign, symbol in zip(lanes, signs, symbols, strict=True):
                magnitude = symbol + (self.steps.low(lane) if low_bits else 0) + 1
                most = self.header.k - 1 - self.z if sign > 0 else self.z
                require(magnitude <= most, "index not in the codebook")
                d[row, column] = sign * magnitude
                shift = self.s[19] + 1
                recent[lane] += (min(magnitude, 4095) << 10 - shift) - (recent[lane] >> shift)

    def _sign(self, lane: int, row: int, column: int, positive: Array, negative: Array) -> int:
        if self.z in (0, self.header.k - 1):
            return 1 if self.z == 0 else -1
        s, stride, signs = self.s, self.header.stride, np.sign(self.d[row])
        every, others = int(positive.sum()), int(negative.sum())
        u = min(max(((2 * every + 1) << 16) // (2 * every + 2 * others + 2), 1 << 8), (1 << 16) - (1 << 8))
        v = (1 << 16) - u
        total = (64 - 8 * s[12] - 8 * s[13]) * (log(u) - log(v))
        of_column = 256 * int(positive[column]) + (u >> 6), 256 * int(negative[column]) + (v >> 6)
        total += 8 * s[12] * (log(of_column[0]) - log(of_column[1]))
        of_row = (128 * int((side * signs[:column] > 0).sum()) + (w >> 7) for side, w in ((1, u), (-1, v)))
        total += 8 * s[13] * (log(next(of_row)) - log(next(of_row)))
        total += 512 * (s[14] - 2) * (2 * _at(signs, column, 1) + _at(signs, column, 2))
        if stride:
            total += 512 * (s[15] - 2) * (2 * _at(signs, column, stride) + _at(signs, column, 2 * stride))
            total += 1024 * (s[16] - 2) * (_at(signs, column, stride - 1) + _at(signs, column, stride + 1))
        return 1 if self.steps.bit(lane, chance(total)) else -1

    def _table(self, recent: int, mean: int, size: int, kept: int) -> int:
        s = self.s
        tables = s[17] % 8 + 1
        total = (tables << 8 + s[18]) + 8 * s[22] * (log(recent) - log(16 * mean))
        total += 8 * s[21] * (log(64 * size + (mean << s[20])) - log((kept + (1 << s[20])) * mean))
        return min(max(total >> 9 + s[18], 0), tables - 1)


def _share(count: int, seen: int, trust: int, before: int) -> int:
    return ((count << 16) + (before << trust)) // (seen + (1 << trust))


def _at(row: Array, column: int, distance: int) -> int:
    return int(row[column - distance]) if distance <= column else 0


def _fields(header: Header, reader: ByteReader) -> Header:
    lanes, columns, group, stride = reader.u8(), reader.varint(), reader.varint(), reader.varint()
    require(lanes in LANES and lanes <= 16, "wrong number of lanes")
    require(1 <= columns <= 1 << 16, "columns out of range")
    is_whole = header.n % columns == 0 and (header.chunk >= header.n or header.chunk % columns == 0)
    require(is_whole, "chunks are not whole rows")
    require(1 <= group <= columns, "group out of range")
    require(stride == 0 or 2 <= stride <= columns, "stride out of range")
    return replace(header, lanes=lanes, columns=columns, group=group, stride=stride)


def _read(header: Header, reader: ByteReader) -> Array:
    section = read_section(reader)
    tables = read_rows_tables(section, header)
    section.finish("TABLES")

    def decode(chunk: ByteReader, m: int) -> Array:
        steps = _Decoder(chunk, tables, header.lanes)
        indices = RowsModel(header, tables, steps, m // header.columns).decode()
        steps.finish()
        return indices

    return np.concatenate(read_chunks(header, reader, decode))


CODER = Coder(8, Stores.INDICES, Layout.CHUNKS, _read, _fields)
