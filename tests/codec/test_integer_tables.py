"""Tables of integers whose channels have deviations of their own are coded below their order-0 entropy."""

from __future__ import annotations

import numpy as np
import pytest

from dc_compiler import ir
from dc_compiler.codec import binding

ROWS, COLUMNS = 256, 512


def entropy_bytes(values: np.ndarray) -> float:
    """Bytes of a code for single numbers, whose own table is free."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


@pytest.mark.parametrize(
    ("rows", "columns", "most"), [(0.0, 0.6, 0.96), (0.6, 0.0, 0.96), (0.5, 0.5, 0.95), (0.0, 0.0, 1.01)]
)
def test_channels_have_statistics_of_their_own(rows: float, columns: float, most: float) -> None:
    """Deviations of rows and columns spread by these powers of e."""
    rng = np.random.default_rng(3)
    deviations = np.exp(rows * rng.standard_normal((ROWS, 1)) + columns * rng.standard_normal((1, COLUMNS)))
    weights = rng.standard_normal((ROWS, COLUMNS)) * deviations
    table = np.rint(weights / np.abs(weights).max() * 127).astype(np.int8)
    codes = ir.as_codes(table, 0)
    assert codes is not None
    frame = binding.encode_clustered(codes, table.shape, table.dtype, coder="rows", threads=1)
    assert len(frame) < most * entropy_bytes(table)
    np.testing.assert_array_equal(binding.decode(frame), table)
