"""Sums and choices that every machine makes alike, and work in blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 1 << 20  # elements handled at a time where a whole temporary array would cost too much memory


def blocks(size: int, block: int = BLOCK) -> Iterator[slice]:
    """Slices that cover ``range(size)``."""
    for start in range(0, size, block):
        yield slice(start, min(size, start + block))


def ordered_sum(cube: np.ndarray) -> np.ndarray:
    """Sum of float64 [a, channels, b] over both outer axes, added up in memory order: [channels].

    NumPy's own sums depend on the processor's vector width; a running sum does not.
    """
    rows = cube[:, :, 0] if cube.shape[2] == 1 else np.cumsum(cube, axis=2)[:, :, -1]
    if len(rows) > rows.shape[1]:
        return np.asarray(np.cumsum(rows, axis=0)[-1])
    total: np.ndarray = np.zeros_like(rows[0])
    for row in rows:  # of many channels, without all the sums on the way
        total += row
    return total


def exact_std(flat: np.ndarray) -> float:
    """Standard deviation of a flat array, the same on every machine."""
    total = squares = 0.0
    for s in blocks(flat.size):
        part = flat[s].astype(np.float64).reshape(1, 1, -1)
        total += float(ordered_sum(part)[0])
        squares += float(ordered_sum(part * part)[0])
    mean = total / flat.size
    return float(np.sqrt(max(0.0, squares / flat.size - mean * mean)))


def largest(flat: np.ndarray, keep: int) -> np.ndarray:
    """Mask, bool [n], of the ``keep`` elements of largest magnitude; the first of equals win."""
    if keep >= flat.size:
        return np.ones(flat.size, bool)
    if keep == 0:
        return np.zeros(flat.size, bool)
    magnitude = np.abs(flat)
    if magnitude.dtype.itemsize == 2:  # sorting half floats is slow in NumPy
        magnitude = magnitude.astype(np.float32)
    work = magnitude.copy()
    work.partition(flat.size - keep)
    cut = work[flat.size - keep]
    del work
    mask = magnitude > cut
    ties = np.flatnonzero(magnitude == cut)[: keep - int(np.count_nonzero(mask))]
    mask[ties] = True
    return np.asarray(mask)
