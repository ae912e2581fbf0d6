"""What loading costs, by a model that gives the same figures on every machine: slower coders must pay for their time.

A file that is smaller by 1 % may take twice as long to load: that is the price, and ten times as much from half as
long again as the original takes on. Times are modelled, not measured, so that the bytes written do not depend on the
machine: onnxruntime opens a session, works on each node and passes the weights through memory some times; a compiled
model takes a second session around its own (benchmarks/serving.py); decoding a frame costs what the library's table
of coders says (benchmarks/codec_speed.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dc_compiler.codec import binding

SESSION_SECONDS = 0.0005
OUTER_SECONDS = 0.0007
NODE_SECONDS = 25e-6
DENSE_BYTE_SECONDS = 0.7e-9
LEAST_SECONDS = 1e-9  # between two frames
DOUBLING = 0.01  # share of the file that a doubling of the load time must save
LONG_DOUBLING = 0.1  # the same where loading takes long
LONG = 1.5  # from so much of the original's time on


@dataclass(frozen=True)
class Alternative:
    """A frame that is smaller by ``saved`` bytes and takes ``seconds`` more to decode than the one before it."""

    saved: int
    seconds: float


def dense_seconds(nbytes: int, nodes: int) -> float:
    """Time to open a session of so many nodes with dense weights of so many bytes."""
    return SESSION_SECONDS + NODE_SECONDS * nodes + DENSE_BYTE_SECONDS * nbytes


def compiled_seconds(nbytes: int, nodes: int, frames: Iterable[bytes]) -> float:
    """Time to open a compiled model, whose weights take so many bytes when they are decoded from frames."""
    return OUTER_SECONDS + dense_seconds(nbytes, nodes) + sum(map(decode_seconds, frames))


def decode_seconds(frame: bytes) -> float:
    """Time to decode a frame on one core."""
    info = binding.frame_info(frame)
    return binding.coders()[info.coder].decode_seconds(info.elements, info.nonzero)


def gain(saved: int, file_bytes: int, before: float, after: float, original: float = math.inf) -> float:
    """Share of the file that is saved, less the price of the time; rounded, for logarithms differ in their last bit.

    ``before`` and ``after`` are load times, as ``original`` is that of the dense model that the file was made from.
    """
    long = LONG * original
    price = DOUBLING * math.log2(min(after, max(before, long)) / before)
    if after > long:
        price += LONG_DOUBLING * math.log2(after / max(before, long))
    return round(saved / file_bytes - price, 9)


def alternatives_of(frames: Sequence[bytes]) -> list[tuple[bytes, Alternative]]:
    """Frames of one weight, from the fastest to the smallest, but for the first: each with what it is worth.

    One that saves less for its time than the next does is left out.
    """
    chosen: list[tuple[bytes, float]] = []
    found: list[Alternative] = []
    for frame in frames:
        seconds = decode_seconds(frame)
        while chosen:
            step = Alternative(len(chosen[-1][0]) - len(frame), max(seconds - chosen[-1][1], LEAST_SECONDS))
            if not found or found[-1].saved * step.seconds > step.saved * found[-1].seconds:
                found.append(step)
                break
            found.pop()
            chosen.pop()
        chosen.append((frame, seconds))
    return [(frame, step) for (frame, _), step in zip(chosen[1:], found, strict=True)]


def worth_their_time(
    alternatives: Sequence[Alternative], file_bytes: int, seconds: float, original: float = math.inf
) -> list[int]:
    """Which alternatives to take, so that the gain is largest: those that save most for their time.

    Args:
        alternatives: those of one weight in the order of their time, as :func:`alternatives_of` gives them; so none is
            taken without those before it.
        file_bytes: size of the file without them, at least 1.
        seconds: its load time.
        original: that of the dense model.

    Returns:
        Positions in ``alternatives``, in ascending order.
    """
    order = sorted(range(len(alternatives)), key=lambda i: (-alternatives[i].saved / alternatives[i].seconds, i))
    best, best_gain = 0, 0.0
    saved, after = 0, seconds
    for taken, position in enumerate(order, 1):
        saved += alternatives[position].saved
        after += alternatives[position].seconds
        if (now := gain(saved, file_bytes, seconds, after, original)) >= best_gain:
            best, best_gain = taken, now
    return sorted(order[:best])
