"""Fused multiply-add of float32 in NumPy, for references of kernels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def fused(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> Floats:
    """a * b + c, rounded once.

    The product is exact in float64. The sum is rounded to odd there, after which rounding to float32 is as if it were
    the only one (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    with np.errstate(all="ignore"):
        product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
        added = np.asarray(c, np.float64)
        rounded = np.array(product + added, ndmin=1)
        back = rounded - product
        lost = (product - (rounded - back)) + (added - back)
        bits = rounded.view(np.int64)
        odd = bits + np.where(np.signbit(lost) == np.signbit(rounded), 1, -1)
        inexact = np.isfinite(rounded) & np.isfinite(lost) & (lost != 0) & (bits % 2 == 0)
        return np.where(inexact, odd, bits).view(np.float64).astype(np.float32)


def bounded(values: Floats, bounds: tuple[float, float] | None) -> Floats:
    """Values brought into bounds, NaN excepted."""
    return values if bounds is None else np.clip(values, np.float32(bounds[0]), np.float32(bounds[1]))


def assert_same(actual: Floats, expected: Floats) -> None:
    """The same bits, but for which NaN it is."""
    assert actual.shape == expected.shape
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(np.where(nan, 0, actual).view(np.int32), np.where(nan, 0, expected).view(np.int32))
