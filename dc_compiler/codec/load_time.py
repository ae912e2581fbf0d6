"""What loading costs, by a model that gives the same figures on every machine: slow coders must pay for their time.

A file that is smaller by 1 % may take twice as long to load: that is the price. Times are modelled, not measured, so
that the bytes written do not depend on the machine: opening a session takes a while and dense weights pass through
memory some times (benchmarks/serving.py); decoding an element costs what the library's table of coders says
(benchmarks/codec_speed.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dc_compiler.codec import binding

SESSION_SECONDS = 0.01
DENSE_BYTE_SECONDS = 3e-9
DOUBLING = 0.01  # share of the file that a doubling of the load time must save


@dataclass(frozen=True)
class Alternative:
    """A frame that is smaller by ``saved`` bytes and takes ``seconds`` more to decode."""

    saved: int
    seconds: float


def dense_seconds(nbytes: int) -> float:
    """Time to open a session with dense weights of so many bytes."""
    return SESSION_SECONDS + DENSE_BYTE_SECONDS * nbytes


def decode_seconds(frame: bytes) -> float:
    """Time to decode a frame on one core."""
    info = binding.frame_info(frame)
    return binding.coders()[info.coder].decode_seconds(info.elements, info.nonzero)


def gain(saved: int, file_bytes: int, before: float, after: float) -> float:
    """Share of the file that is saved, less the price of the time; rounded, for logarithms differ in their last bit."""
    return round(saved / file_bytes - DOUBLING * math.log2(after / before), 9)


def worth_their_time(alternatives: Sequence[Alternative], file_bytes: int, seconds: float) -> list[int]:
    """Which alternatives to take, so that the gain is largest: those that save most for their time.

    Args:
        alternatives: one for each weight that has one.
        file_bytes: size of the file without them, at least 1. seconds: its load time.

    Returns:
        Positions in ``alternatives``, in ascending order.
    """
    order = sorted(range(len(alternatives)), key=lambda i: (-alternatives[i].saved / alternatives[i].seconds, i))
    best, best_gain = 0, 0.0
    saved, after = 0, seconds
    for taken, position in enumerate(order, 1):
        saved += alternatives[position].saved
        after += alternatives[position].seconds
        if (now := gain(saved, file_bytes, seconds, after)) >= best_gain:
            best, best_gain = taken, now
    return sorted(order[:best])
