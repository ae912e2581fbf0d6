"""Section 5.4: coder `context`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dc_compiler.codec.reference.arithmetic import BitCoder, Mixer, RangeDecoder, Slot, limited
from dc_compiler.codec.reference.coder import Coder, Layout, Stores, read_chunks
from dc_compiler.codec.reference.readers import ByteReader, require
from dc_compiler.codec.reference.spec import Array, Header

_LEVELS = [38, 54, 76, 108, 152, 215, 304, 431, 609, 861, 1218, 1722, 2435]


def _fields(header: Header, reader: ByteReader) -> Header:
    columns, group, stride = reader.varint(), reader.varint(), reader.varint()
    require(1 <= columns <= min(header.chunk, header.n), "columns out of range")
    require(1 <= group <= columns, "group of columns out of range")
    require(stride != 1 and stride <= columns, "stride out of range")
    return replace(header, columns=columns, group=group, stride=stride)


def _read(header: Header, reader: ByteReader) -> Array:
    return np.concatenate(read_chunks(header, reader, lambda chunk, m: _chunk(header, chunk, m)))


def _chunk(header: Header, chunk: ByteReader, m: int) -> Array:
    coder = RangeDecoder(chunk.rest())
    indices = ContextModel(header, coder, m).decode()
    coder.finish()
    return indices


class ContextModel:
    """What is known of a chunk of ``m`` elements while it is decoded; ``d`` is its elements in rows of columns."""

    def __init__(self, header: Header, coder: BitCoder, m: int) -> None:
        self.header, self.coder, self.m = header, coder, m
        self.z = header.zero - 1 if header.zero else header.k // 2
        self.d = np.zeros((-(-m // header.columns), header.columns), np.int64)
        self.slots: dict[tuple[Any, ...], Slot] = {}
        self.kept_mixer, self.sign_mixer = Mixer(18350, 5), Mixer(1 << 15, 2)
        self.node_mixers = [Mixer(26214, 3) for _ in range(64)]
        self.elements = self.kept = 0
        self.kept_of_column = np.zeros(header.columns, np.int64)
        self.last_of_column = np.zeros(header.columns, np.int64)
        self.last_of_row = 0

    def decode(self) -> Array:
        """The indices of the chunk."""
        for i in range(self.m if self.header.k > 1 else 0):
            self._element(*divmod(i, self.header.columns))
        return self.d.reshape(-1)[: self.m] + self.z

    def _element(self, row: int, column: int) -> None:
        if column == 0:
            self.last_of_row = 0
        d = 0
        if self._is_kept(row, column):
            sign = self._sign(row, column)
            d = sign * self._magnitude(column, sign)
            self.last_of_column[column] = self.last_of_row = d
            self.kept_of_column[column] += 1
        self.d[row, column] = d
        self.elements += 1
        self.kept += d != 0

    def _slot(self, *key: Any) -> Slot:
        return self.slots.setdefault(key, Slot())

    def _level(self, count: int, seen: int) -> int:
        kept = 2 * self.kept + 1
        ratio = (count * (2 * self.elements + 2) + 2 * kept << 8) // ((seen + 2) * kept)
        return sum(limit <= ratio for limit in _LEVELS)

    def _at(self, row: int, column: int, distance: int) -> int:
        return int(np.sign(self.d[row, column - distance])) if distance <= column else 0

    def _is_kept(self, row: int, column: int) -> int:
        columns, group, stride = self.header.columns, self.header.group, self.header.stride
        kept = self.kept_of_column
        first = column // group * group
        members = kept[first : first + group]
        near = [column, column - 1, column + 1] + ([column - stride, column + stride] if stride else [])
        near = [c for c in near if 0 <= c < columns]
        neighbours = [self._at(row, column, 1), self.d[row - 1, column] if row else 0]
        if stride:
            neighbours += [self._at(row, column, stride + more) for more in (0, -1, 1)]
        of_column = self._level(int(kept[column]), row)
        of_row = self._level(int(np.count_nonzero(self.d[row, :column])), column)
        in_group = self._level(int(np.count_nonzero(self.d[row, first:column])), column - first)
        slots = [
            self._slot("near", self._level(int(kept[near].sum()), row * len(near)), of_row),
            self._slot("group", in_group, self._level(int(members.sum()), row * len(members))),
            self._slot("neighbours", tuple(bool(d) for d in neighbours), of_column),
            self._slot("densities", of_column, of_row),
            self._slot("column", column),
        ]
        guess = limited(((2 * self.kept + 1) << 16) // (2 * self.elements + 2), 32, (1 << 16) - 32)
        for slot in slots:
            if slot.n == 0:
                slot.p, slot.n = guess, 4
        return self.kept_mixer.bit(self.coder, slots, 33 + 83968 // (256 + self.elements))

    def _sign(self, row: int, column: int) -> int:
        if self.z in (0, self.header.k - 1):
            return 1 if self.z == 0 else -1
        stride = self.header.stride
        distances = [1, 2] + ([stride - 1, stride, stride + 1, 2 * stride] if stride else [])
        around = limited(sum(self._at(row, column, distance) for distance in distances), -2, 2)
        lasts = int(np.sign(self.last_of_column[column])), int(np.sign(self.last_of_row))
        slots = [self._slot("signs", around, *lasts), self._slot("sign of column", column)]
        return 1 if self.sign_mixer.bit(self.coder, slots, 328) else -1

    def _magnitude(self, column: int, sign: int) -> int:
        most = self.header.k - 1 - self.z if sign > 0 else self.z
        exponent = 0
        while most >> exponent + 1 and self._node(column, sign, min(exponent, 7)):
            exponent += 1
        magnitude = 1
        for _ in range(exponent):
            magnitude = 2 * magnitude + self._node(column, sign, min(8 + 8 * exponent + min(magnitude, 7), 63))
        require(magnitude <= most, "index not in the codebook")
        return magnitude

    def _node(self, column: int, sign: int, node: int) -> int:
        of_row, of_column = (min(abs(int(d)), 15) for d in (self.last_of_row, self.last_of_column[column]))
        slots = [
            self._slot("node", sign, node),
            self._slot("row's node", of_row, sign, node),
            self._slot("column's node", of_column, sign, node),
        ]
        return self.node_mixers[node].bit(self.coder, slots, 164)


CODER = Coder(6, Stores.INDICES, Layout.CHUNKS, _read, _fields)
