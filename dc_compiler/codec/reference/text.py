"""Section 8.2: coder `text`."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np

from dc_compiler.codec.reference.arithmetic import BitCoder, Mixer, RangeDecoder, Slot
from dc_compiler.codec.reference.coder import Coder, Layout, Stores, read_chunks
from dc_compiler.codec.reference.readers import ByteReader
from dc_compiler.codec.reference.spec import Array, Header

_ORDERS = (0, 1, 2, 3, 4, 6)
_PRIMER = Path(__file__).parents[1] / "primer.hex"


@cache
def _primer() -> bytes:
    lines = _PRIMER.read_text().splitlines()
    return b"".join(bytes.fromhex(line.partition("#")[0]) for line in lines)


def _read(header: Header, reader: ByteReader) -> Array:
    return np.frombuffer(b"".join(read_chunks(header, reader, _chunk)), np.uint8)


def _chunk(chunk: ByteReader, n: int) -> bytes:
    coder = RangeDecoder(chunk.rest())
    data = TextModel.after_primer().decode(coder, n)
    coder.finish()
    return data


class _Told:
    """The bits of bytes that are known."""

    def __init__(self, data: bytes) -> None:
        self.bits = iter(np.unpackbits(np.frombuffer(data, np.uint8)).tolist())

    def bit(self, p: int) -> int:
        return next(self.bits)


class TextModel:
    """The history of a chunk, and what followed what in it."""

    def __init__(self) -> None:
        self.history = bytearray()
        self.slots: dict[tuple[int, ...], Slot] = {}
        self.mixers: dict[tuple[int, int, bool], Mixer] = {}
        self.places: dict[int, int] = {}
        self.place: int | None = None
        self.length = 0
        self.primed: TextModel | None = None

    @classmethod
    def after_primer(cls) -> TextModel:
        """A model that has learned the primer, whose slots are copied when they are used."""
        primed, model = _primed(), cls()
        model.history += primed.history
        model.places |= primed.places
        model.place, model.length = primed.place, primed.length
        for key, mixer in primed.mixers.items():
            model.mixers[key] = copy.deepcopy(mixer)
        model.primed = primed
        return model

    def decode(self, coder: BitCoder, n: int) -> bytes:
        """The next ``n`` bytes."""
        for _ in range(n):
            self._byte(coder)
        return bytes(self.history[len(self.history) - n :])

    def _byte(self, coder: BitCoder) -> None:
        contexts = [self._hash(j, order) for j, order in enumerate(_ORDERS)]
        node, is_match = 1, self.place is not None
        for i in reversed(range(8)):
            expected = self.history[self.place] >> i & 1 if is_match and self.place is not None else None
            bit = self._bit(coder, contexts, node, expected)
            is_match = is_match and bit == expected
            node = 2 * node + bit
        self._append(node & 255)

    def _h(self, distance: int) -> int:
        return self.history[-distance] if distance <= len(self.history) else 0

    def _hash(self, table: int, order: int) -> int:
        x = table
        for distance in range(1, order + 1):
            x = (x + self._h(distance) + 1) * 0x9E3779B1 % (1 << 32)
        return x

    def _bit(self, coder: BitCoder, contexts: list[int], node: int, expected: int | None) -> int:
        slots = []
        for table, context in enumerate(contexts):
            y = context ^ node * 0x7FEB352D % (1 << 32)
            y = (y ^ y >> 15) * 0x2C1B3C6D % (1 << 32)
            y ^= y >> 12
            slots.append(self._slot(table, y % (1 << 18)))
        longest = max((table for table, slot in enumerate(slots) if slot.n > 0), default=0)
        is_settled = slots[longest].n > 2
        trust = 0 if expected is None else 1 if self.length <= 4 else 2 if self.length <= 8 else 3
        match = Slot()
        if expected is not None:
            match = self._slot(-1, min(self.length, 15), expected)
        mixer = self.mixers.setdefault((longest, trust, is_settled), Mixer(19660, 7))
        return mixer.bit(coder, [*slots, match], 200)

    def _slot(self, *key: int) -> Slot:
        if key not in self.slots:
            before = None if self.primed is None else self.primed.slots.get(key)
            self.slots[key] = Slot() if before is None else copy.copy(before)
        return self.slots[key]

    def _append(self, byte: int) -> None:
        if self.place is not None and self.history[self.place] == byte:
            self.place, self.length = self.place + 1, min(self.length + 1, 32)
        else:
            self.place, self.length = None, 0
        self.history.append(byte)
        n = len(self.history)
        if n < 3:
            return
        q = (self._h(1) + (self._h(2) << 8) + (self._h(3) << 16)) * 0x9E3779B1 % (1 << 32) >> 16
        place = self.places.get(q)
        if self.place is None and place is not None:
            length = 0
            while length < min(32, place) and self.history[place - 1 - length] == self.history[n - 1 - length]:
                length += 1
            if length >= 3:
                self.place, self.length = place, length
        self.places[q] = n


@cache
def _primed() -> TextModel:
    model, primer = TextModel(), _primer()
    model.decode(_Told(primer), len(primer))
    return model


CODER = Coder(7, Stores.BYTES, Layout.ONE_CHUNK, _read)
