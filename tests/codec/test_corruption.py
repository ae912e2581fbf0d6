"""Damaged frames: refused, or decoded to the same values; with CRCs made right again, both decoders agree."""

from __future__ import annotations

import random

import numpy as np
import pytest
from bad_frames import ALL_GOOD
from frame_builder import join
from golden_frames import bits

from dc_compiler.codec import binding, reference
from dc_compiler.codec.reference import Array
from dc_compiler.errors import CorruptFrameError

EVERY_VALUE_BELOW = 72  # bytes; larger frames get single bits and a few more changes per byte
SOME_MASKS = (1, 2, 4, 8, 16, 32, 64, 128, 0xFF, 0x55, 0x03)
MUTATIONS = 300  # of each frame
LIMIT = 1 << 16  # bytes; what rightly claims to be larger is not decoded
TOO_LARGE = "too large"


def _native(frame: bytes, threads: int = 1) -> Array | None:
    try:
        return binding.decode(frame, threads=threads)
    except CorruptFrameError:
        return None


def _reference(frame: bytes) -> tuple[Array | None, str]:
    """Values, or None and why not."""
    try:
        header = reference.parse_header(frame)
        if header.n * header.element.itemsize > LIMIT:
            return None, TOO_LARGE
        return reference.decode(frame), ""
    except CorruptFrameError as error:
        return None, str(error)


def _same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(bits(a), bits(b))


@pytest.mark.parametrize("name", ALL_GOOD)
def test_every_truncation_is_refused(name: str) -> None:
    frame = ALL_GOOD[name].to_bytes()
    accepted = [size for size in range(len(frame)) if _native(frame[:size]) is not None]
    assert accepted == []


@pytest.mark.parametrize("name", ALL_GOOD)
def test_every_changed_byte_is_refused_or_harmless(name: str) -> None:
    frame = ALL_GOOD[name].to_bytes()
    values = reference.decode(frame)
    masks = range(1, 256) if len(frame) < EVERY_VALUE_BELOW else SOME_MASKS
    harmful = []
    for at in range(len(frame)):
        changed = bytearray(frame)
        for mask in masks:
            changed[at] = frame[at] ^ mask
            decoded = _native(bytes(changed))
            if decoded is not None and not _same(decoded, values):
                harmful.append((at, mask))
    assert harmful == []


def _mutate(body: bytes, rng: random.Random) -> bytes:
    """A bit flipped, or a byte replaced, removed or inserted."""
    changed = bytearray(body)
    at = rng.randrange(len(body) + 1)
    kind = rng.randrange(5)
    if kind <= 1 and at < len(body):
        changed[at] ^= 1 << rng.randrange(8)
    elif kind == 2 and at < len(body):
        changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif kind == 3:
        del changed[at : at + 1]
    else:
        changed.insert(at, rng.randrange(256))
    return bytes(changed)


def _mutants(name: str) -> list[bytes]:
    """Frames with one to three changes in the header or the section bodies, lengths and CRCs made right."""
    rng = random.Random(name)
    frame = ALL_GOOD[name]
    mutants = []
    for _ in range(MUTATIONS):
        parts = [frame.fields.to_bytes(), *frame.sections]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            at = rng.randrange(len(parts))
            parts[at] = _mutate(parts[at], rng)
        mutants.append(join(parts[0], parts[1:]))
    return mutants


@pytest.mark.parametrize("name", ALL_GOOD)
def test_decoders_agree_on_mutants_with_right_crcs(name: str) -> None:
    accepted = refused = 0
    for frame in _mutants(name):
        values, reason = _reference(frame)
        if reason == TOO_LARGE:
            continue
        for threads in (1, 2):
            decoded = _native(frame, threads)
            if values is None:
                assert decoded is None, f"accepted, but {reason}: {frame.hex()}"
            else:
                assert decoded is not None, f"refused, but correct: {frame.hex()}"
                assert _same(decoded, values), f"decoded to other values: {frame.hex()}"
        accepted += values is not None
        refused += values is None
    assert refused > MUTATIONS // 4
    assert accepted > 0


def test_some_mutants_are_good_frames_of_other_values() -> None:
    """The differential test above has something to compare."""
    different = 0
    for name in ("raw", "fixed", "dense", "positions", "lossless", "lz"):
        values = reference.decode(ALL_GOOD[name].to_bytes())
        for frame in _mutants(name):
            mutant, _ = _reference(frame)
            different += mutant is not None and not _same(mutant, values)
    assert different > 50
