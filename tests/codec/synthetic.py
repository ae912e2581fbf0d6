"""Synthetic tensors from integer arithmetic alone, so that they are the same on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def integers(count: int, bound: int, seed: int) -> Array:
    """`count` integers in 0..bound-1 as int64, from a 64-bit linear congruential generator; bound below 2^31."""
    state = seed
    out = np.empty(count, np.int64)
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        out[i] = (state >> 33) * bound >> 31
    return out


def peaked(count: int, k: int, seed: int) -> Array:
    """Indices below `k`, most frequent in the middle: sums of three integers, so roughly bell-shaped."""
    parts = integers(3 * count, k, seed).reshape(3, count)
    indices: Array = parts.sum(axis=0) // 3
    return indices


def sparse(count: int, k: int, zero_index: int, kept_percent: int, seed: int) -> Array:
    """Peaked indices of which all but about `kept_percent` % are replaced by `zero_index`."""
    kept = integers(count, 100, seed + 1) < kept_percent
    return np.where(kept, peaked(count, k, seed), zero_index)


def bell(count: int, seed: int) -> Array:
    """Float32 values, roughly bell-shaped around 0, exact multiples of 2^-20."""
    values: Array = (integers(4 * count, 1 << 16, seed).reshape(4, count).sum(axis=0) - (1 << 17)).astype("<f4")
    return values / (1 << 20)
