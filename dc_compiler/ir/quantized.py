"""A tensor as codebook indices and scales (FORMAT.md 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from dc_compiler.ir.dtypes import ELEMENT_TYPES, compute_dtype


@dataclass(frozen=True)
class Scales:
    """Per-channel factors: element ``i`` belongs to channel ``(i // inner) % channels`` (FORMAT.md 2.1).

    ``log_steps`` holds int32 eighths of an octave (FORMAT.md 3, scale kind 2).
    """

    log_steps: np.ndarray
    inner: int

    @property
    def channels(self) -> int:
        return len(self.log_steps)

    def factors(self, dtype: np.dtype) -> np.ndarray:
        """Scale of each channel, exactly as a decoder computes it: shape [channels]."""
        return log_step_values(self.log_steps).astype(dtype)


# 2**(j/8) rounded to f32, as printed in FORMAT.md section 3
_OCTAVE = np.array(
    [0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7], np.uint32
).view(np.float32)


def log_step_values(steps: np.ndarray) -> np.ndarray:
    """``2**(steps / 8)`` by the table of FORMAT.md section 3, float64 (exact), same shape as ``steps``."""
    return np.asarray(np.ldexp(_OCTAVE[steps & 7].astype(np.float64), steps >> 3))


def nearest_log_step(values: np.ndarray) -> np.ndarray:
    """Steps whose value is the largest not above ``values * 2**(1/16)``, int32, clipped to the format's range.

    Works on exact comparisons with the table only, so that every machine agrees.
    """
    mantissa, exponent = np.frexp(values.astype(np.float64))  # values = mantissa * 2**exponent, mantissa in [0.5, 1)
    bounds = np.append(_OCTAVE[1:].astype(np.float64) * 0.5, 1.0) * 0.957603  # between neighbouring steps
    eighth = np.searchsorted(bounds, mantissa, side="right")
    return np.asarray(np.clip((exponent.astype(np.int64) - 1) * 8 + eighth, -1008, 1015), np.int32)


@dataclass(frozen=True)
class Clustered:
    """A tensor as codebook indices (FORMAT.md 2.1).

    ``indices``: uint16, one per element, flat. ``codebook``: entries in the tensor's dtype, or in the compute type
    when there are scales; None for a grid, whose entry ``j`` is the integer ``grid_lo + j``. ``zero`` is the index
    of the entry that is +0.0, or None.

    Integers and short floats have a grid (without scales, of the numbers themselves; ``zero`` then is the entry that
    stands for zero) or a codebook of values. With scales, an integer is the product rounded to the nearest, plus
    ``offset``, limited to what its type holds.
    """

    indices: np.ndarray
    size: int
    codebook: np.ndarray | None = None
    grid_lo: int = 0
    zero: int | None = None
    scales: Scales | None = None
    offset: int = 0

    def values(self, dtype: np.dtype, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Elements ``start`` to ``stop`` of the flat tensor, bit for bit what a decoder gives."""
        index = self.indices[start:stop]
        if self.scales is None and self.codebook is not None:
            return np.asarray(self.codebook[index])
        is_integer = dtype in _INTEGERS
        if is_integer and self.scales is None:
            return np.asarray((index.astype(np.int32) + self.grid_lo).astype(dtype))
        compute = np.dtype(np.float32) if is_integer else compute_dtype(dtype)
        entries = self.codebook if self.codebook is not None else np.arange(self.size) + self.grid_lo
        result = entries.astype(compute)[index]
        if self.scales is not None:
            factors = self.scales.factors(compute)
            if self.scales.channels == 1:
                result *= factors[0]
            else:
                position = np.arange(start, start + len(index))
                result *= factors[(position // self.scales.inner) % self.scales.channels]
        return _rounded(result, self.offset, dtype) if is_integer else np.asarray(result.astype(dtype, copy=False))


_INTEGERS = frozenset(t.dtype for t in ELEMENT_TYPES if t.framed and (t.dtype.kind in "iu" or "int" in t.name))
_MOST_POINTS = 1 << 16


def is_integer(dtype: np.dtype) -> bool:
    """Whether frames of this type hold integers (FORMAT.md 2)."""
    return dtype in _INTEGERS


def integer_range(dtype: np.dtype) -> tuple[int, int]:
    """Least and largest number of an integer type."""
    info = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return int(info.min), int(info.max)


def _rounded(products: np.ndarray, offset: int, dtype: np.dtype) -> np.ndarray:
    """Integers of scaled points, as FORMAT.md 2.1 says."""
    least, most = integer_range(dtype)
    whole = np.rint(np.clip(products, -(2.0**20), 2.0**20)).astype(np.int32) + np.int32(offset)
    return np.asarray(np.clip(whole, least, most).astype(dtype))


def as_codes(values: np.ndarray, zero: int | None) -> Clustered | None:
    """A table of integers or short floats as indices into the values that lie in its range, which loses nothing; None
    where these are too many. ``zero`` is the number that stands for zero, if any."""
    flat = values.reshape(-1)
    if flat.dtype not in _INTEGERS:
        return _as_values(flat)
    flat = flat.astype(np.int8 if flat.dtype.kind == "V" else flat.dtype)  # 4 bits
    low, high = int(flat.min()), int(flat.max())
    if high - low >= _MOST_POINTS or max(-low, high) > 1 << 24:
        return None
    entry = zero - low if zero is not None and low <= zero <= high else None
    return Clustered((flat.astype(np.int32) - low).astype(np.uint16), high - low + 1, grid_lo=low, zero=entry)


def _as_values(flat: np.ndarray) -> Clustered:
    """The same of floats of a byte at most: their values in order."""
    bits = np.unique(flat.view(np.uint8))
    numbers = bits.view(flat.dtype).astype(np.float32)
    bits = bits[np.lexsort((bits, numbers))]
    places = np.zeros(256, np.uint16)
    places[bits] = np.arange(len(bits))
    found = np.flatnonzero(bits == 0)
    zero = int(found[0]) if len(found) else None
    return Clustered(places[flat.view(np.uint8)], len(bits), bits.view(flat.dtype), zero=zero)


def without_unused(clustered: Clustered) -> Clustered:
    """Drop codebook entries that no element uses (the zero entry stays)."""
    assert clustered.codebook is not None
    used = np.zeros(clustered.size, bool)
    used[clustered.indices] = True
    if clustered.zero is not None:
        used[clustered.zero] = True
    if used.all():
        return clustered
    renumber = (np.cumsum(used) - 1).astype(np.uint16)
    zero = None if clustered.zero is None else int(renumber[clustered.zero])
    codebook = clustered.codebook[used]
    return Clustered(renumber[clustered.indices], len(codebook), codebook, zero=zero, scales=clustered.scales)
