"""The reference's fused multiply-add is exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernels.fused import fused

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(FINITE, FINITE, FINITE)
def test_no_float32_is_closer(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    found = fused(a, b, c)[0]
    if abs(exact) > Fraction(float(np.finfo(np.float32).max)):
        return
    with np.errstate(over="ignore"):
        neighbours = np.nextafter(found, np.array([-np.inf, np.inf], np.float32))
    for other in neighbours:
        if not np.isfinite(other):
            continue
        distance, best = abs(Fraction(float(other)) - exact), abs(Fraction(float(found)) - exact)
        assert best < distance or (best == distance and found.view(np.int32) % 2 == 0)


def test_a_sum_that_float64_would_round_to_half_way() -> None:
    assert fused(2.0**-30, 2.0**-34, 1 + 2.0**-24)[0] == np.float32(1 + 2.0**-23)
    assert fused(-(2.0**-30), 2.0**-34, 1 + 2.0**-24)[0] == 1
