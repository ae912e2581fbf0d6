"""A tensor as codebook indices and scales (FORMAT.md 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dc_compiler.ir.dtypes import compute_dtype


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
    """

    indices: np.ndarray
    size: int
    codebook: np.ndarray | None = None
    grid_lo: int = 0
    zero: int | None = None
    scales: Scales | None = None

    def values(self, dtype: np.dtype, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Elements ``start`` to ``stop`` of the flat tensor, bit for bit what a decoder gives."""
        index = self.indices[start:stop]
        if self.scales is None and self.codebook is not None:
            return np.asarray(self.codebook[index])
        compute = compute_dtype(dtype)
        entries = self.codebook if self.codebook is not None else np.arange(self.size) + self.grid_lo
        result = entries.astype(compute)[index]
        if self.scales is not None:
            factors = self.scales.factors(compute)
            if self.scales.channels == 1:
                result *= factors[0]
            else:
                position = np.arange(start, start + len(index))
                result *= factors[(position // self.scales.inner) % self.scales.channels]
        return np.asarray(result.astype(dtype, copy=False))


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
