"""Section 5.3: adaptive binary coding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from dc_compiler.codec.reference.readers import require

_LOGIT_LIMIT = 2816
_LOW_LOGISTIC = [
    1, 2, 3, 5, 8, 13, 22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768,
]  # fmt: skip
_LOGISTIC = _LOW_LOGISTIC + [(1 << 16) - v for v in reversed(_LOW_LOGISTIC[:-1])]


def _squash(logit: int) -> int:
    y = limited(logit, -_LOGIT_LIMIT, _LOGIT_LIMIT - 1) + _LOGIT_LIMIT
    j, f = y >> 7, y % 128
    return _LOGISTIC[j] * (128 - f) + _LOGISTIC[j + 1] * f >> 7


@cache
def _stretch_table() -> list[int]:
    squashed = np.array([_squash(x) for x in range(-_LOGIT_LIMIT, _LOGIT_LIMIT)])
    found: list[int] = (np.searchsorted(squashed, 16 * np.arange(4096) + 8) - _LOGIT_LIMIT).tolist()
    return found


def limited(value: int, least: int, most: int) -> int:
    return min(max(value, least), most)


class BitCoder(Protocol):
    """Where bits come from: a chunk, or somebody who knows them."""

    def bit(self, p: int) -> int:
        """The next bit; that it is 1 has probability p / 2^16."""


@dataclass
class Slot:
    """An adaptive bit."""

    p: int = 1 << 15
    n: int = 0

    def learn(self, bit: int) -> None:
        self.p += ((bit << 16) - self.p) * ((1 << 17) // (2 * self.n + 3)) >> 16
        self.n = min(self.n + 1, 255)


class Mixer:
    """Predicts bits from slots."""

    def __init__(self, weight: int, slots: int) -> None:
        self.weights = [weight] * slots

    def bit(self, coder: BitCoder, slots: Sequence[Slot], rate: int) -> int:
        logits = [_stretch_table()[slot.p >> 4] for slot in slots]
        total = sum(w * x for w, x in zip(self.weights, logits, strict=True))
        p = limited(_squash(total >> 16), 16, (1 << 16) - 16)
        bit = coder.bit(p)
        for i, (x, slot) in enumerate(zip(logits, slots, strict=True)):
            change = x * ((bit << 16) - p) * rate + (1 << 21) >> 22
            self.weights[i] = limited(self.weights[i] + change, -(1 << 20), 1 << 20)
            slot.learn(bit)
        return bit


class RangeDecoder:
    """The bits of a chunk."""

    def __init__(self, chunk: bytes) -> None:
        self.data = chunk
        self.low, self.high = 0, (1 << 32) - 1
        self.shifted = 0
        self.value = int.from_bytes(self.data[:4].ljust(4, b"\0"), "big")

    def bit(self, p: int) -> int:
        middle = self.low + ((self.high - self.low) * p >> 16)
        bit = int(self.value <= middle)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 24 == self.high >> 24:
            at = self.shifted + 4
            following = self.data[at] if at < len(self.data) else 0
            self.low = self.low << 8 & 0xFFFFFFFF
            self.high = self.high << 8 & 0xFFFFFFFF | 255
            self.value = self.value << 8 & 0xFFFFFFFF | following
            self.shifted += 1
            require(self.shifted <= len(self.data), "an arithmetic code is cut short")
        return bit

    def finish(self) -> None:
        if self.low == 0:
            complete = len(self.data) == self.shifted
        else:
            complete = self.data[self.shifted :] == bytes([(self.low >> 24) + 1])
        require(complete, "an arithmetic code does not end where its symbols end")
