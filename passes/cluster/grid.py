"""Uniform grids with a scale for every output channel, rounded so that errors balance."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from dc_compiler import ir

ERROR_UNIT = 1 << 20  # a rounding error of one grid step, as an integer


def fits_a_grid(values: np.ndarray) -> bool:
    """Whether rounding cannot overflow and logarithmic scales (2**-126 to 2**127) reach the steps needed."""
    magnitude = float(np.abs(values).max())
    most = min(float(ml_dtypes.finfo(values.dtype).max) / 4, 2.0**110)  # type: ignore[no-untyped-call]
    return magnitude == 0 or 2.0**-100 <= magnitude <= most


def channel_statistics(
    flat: np.ndarray, channels: int, inner: int, *, centred: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation (or root mean square) and largest magnitude of each channel, float64 [channels] each.

    Element ``i`` belongs to channel ``(i // inner) % channels``. Sums run in a fixed order, so every machine agrees.
    """
    cube = flat.reshape(-1, channels, inner)
    total = np.zeros(channels)
    squares = np.zeros(channels)
    largest = np.zeros(channels)
    rows = max(1, ir.BLOCK // max(1, channels * inner))
    columns = max(1, ir.BLOCK // inner) if rows == 1 else channels
    for r in ir.blocks(cube.shape[0], rows):
        for c in ir.blocks(channels, columns):
            part = cube[r, c].astype(np.float64)
            total[c] += ir.ordered_sum(part)
            squares[c] += ir.ordered_sum(part * part)
            largest[c] = np.maximum(largest[c], np.abs(part).max(axis=(0, 2)))
    count = cube.shape[0] * inner
    variance = squares / count
    if centred:
        # the floor keeps the grid of a channel of nearly equal values from becoming absurdly fine
        variance = np.maximum(variance - (total / count) ** 2, variance * 2.0**-12)
    return np.sqrt(variance), largest


def within_range(steps: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Log steps at most 255 apart, as the format asks: channels 2**32 times weaker than the strongest get a coarser
    scale, and channels of zeros any."""
    if not used.any():
        return np.zeros_like(steps)
    strongest = steps[used].max()
    return np.asarray(np.where(used, np.maximum(steps, strongest - 255), strongest))


def normalised(flat: np.ndarray, scales: ir.Scales) -> np.ndarray:
    compute = ir.compute_dtype(flat.dtype)
    cube = flat.astype(compute).reshape(-1, scales.channels, scales.inner)
    return np.asarray((cube / scales.factors(compute)[:, None]).reshape(-1))


def round_to_grid(flat: np.ndarray, scales: ir.Scales) -> ir.Clustered:
    """Multiples of each channel's scale near the weights; occurring grid points span the codebook."""
    return on_grid(points_of(flat, scales), scales)


def points_of(flat: np.ndarray, scales: ir.Scales) -> np.ndarray:
    """The multiple of its channel's scale that is taken for each weight, int32 [n].

    Rounding to nearest leaves each channel with a random sum of errors, which activations of one sign (after ReLU, say)
    turn into a shift of the output. So the roundings nearest to a tie are flipped until the errors of a channel sum to
    about zero (the idea of SQuant, Guo et al., arXiv 2202.07471, for whole channels).
    """
    factors = scales.factors(np.dtype(np.float64))
    cube = flat.reshape(-1, scales.channels, scales.inner)
    points = np.empty(cube.shape, np.int32)
    step = max(1, ir.BLOCK // (cube.shape[0] * scales.inner))
    for c in ir.blocks(scales.channels, step):
        rows = np.moveaxis(cube[:, c], 1, 0).astype(np.float64).reshape(c.stop - c.start, -1) / factors[c, None]
        rounded = np.rint(rows)
        rows -= rounded
        for row, error in zip(rounded, rows, strict=True):
            _balance(row, error)
        points[:, c] = np.moveaxis(rounded.reshape(c.stop - c.start, cube.shape[0], scales.inner), 0, 1)
    return points.reshape(-1)


def errors_like(flat: np.ndarray, scales: ir.Scales, offset: float) -> np.ndarray:
    """Weights with errors like those of :func:`round_to_grid` in a fraction of its time, in the weights' dtype [n].

    These are errors of plain rounding to a grid shifted by ``offset`` steps, less their mean in each channel, where
    balanced rounding makes the mean vanish by flips.
    """
    compute = ir.compute_dtype(flat.dtype)
    factors = scales.factors(compute)[:, None]
    cube = flat.astype(compute).reshape(-1, scales.channels, scales.inner)
    errors = cube / factors
    errors += compute.type(offset)
    errors -= np.rint(errors)
    errors -= errors.mean(axis=(0, 2), keepdims=True)
    errors *= factors
    return np.asarray((cube - errors).reshape(-1).astype(flat.dtype))


def on_grid(points: np.ndarray, scales: ir.Scales) -> ir.Clustered:
    """The codebook that spans the points, int32 [n], of a flat weight."""
    low, high = int(points.min()), int(points.max())
    zero = -low if low <= 0 <= high else None
    return ir.Clustered((points - low).astype(np.uint16), high - low + 1, grid_lo=low, zero=zero, scales=scales)


def expanded(scales: ir.Scales, shape: tuple[int, ...]) -> np.ndarray:
    """The scale of every element, float64 of this shape."""
    factors = scales.factors(np.dtype(np.float64))
    outer = math.prod(shape) // (scales.channels * scales.inner)
    return np.broadcast_to(factors[:, None], (outer, scales.channels, scales.inner)).reshape(shape)


def _balance(row: np.ndarray, error: np.ndarray) -> None:
    """Flip the roundings nearest to a tie, in place, until the errors (weight minus point, in steps) sum to within half
    a step. Sums are of integers, so every machine agrees."""
    units = np.rint(error * ERROR_UNIT).astype(np.int64)
    total = int(units.sum())
    flips = (abs(total) + ERROR_UNIT // 2) // ERROR_UNIT
    flips = min(flips, len(row))
    if flips == 0:
        return
    sign = 1 if total > 0 else -1
    signed = units * sign
    cut = np.partition(signed, len(row) - flips)[len(row) - flips]
    above = signed > cut
    row[above] += sign
    row[np.flatnonzero(signed == cut)[: flips - int(np.count_nonzero(above))]] += sign
