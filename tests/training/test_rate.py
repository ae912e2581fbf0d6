"""Entropy-constrained quantization: the logarithm, the cells, and that the cost is what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dc_compiler.passes.cluster import rate


def cost(quantizer: rate.Quantizer, values: Any, zeros: int, price: float) -> float:
    """Squared error plus price times the bits of an ideal code."""
    index = quantizer.indices(values)
    counts = np.bincount(index, minlength=len(quantizer.entries))
    counts[quantizer.zero] += zeros
    used = counts[counts > 0]
    bits = -(used * np.log2(used / counts.sum())).sum()
    return float(np.square(values.astype(np.float64) - quantizer.entries[index]).sum() + price * bits)


def test_logarithm() -> None:
    numbers = np.concatenate([np.arange(1, 5000), [2.0**40 + 1, 1e-9]])
    assert rate.log2(numbers) == pytest.approx(np.log2(numbers), abs=1e-12, rel=1e-12)


@given(
    st.lists(st.integers(-400, 400), min_size=1, max_size=60), st.integers(0, 200), st.floats(0, 3), st.integers(1, 9)
)
@settings(deadline=None, max_examples=200)
def test_fit_is_never_worse_than_all_zero_or_the_start(
    numbers: list[int], zeros: int, price: float, count: int
) -> None:
    values = np.sort(np.array(numbers, np.float32) / 100)
    quantizer = rate.fit(values, zeros, price, rate.spread(values, count))
    assert (np.diff(quantizer.entries) > 0).all()
    assert (np.diff(quantizer.bounds) >= 0).all()
    assert len(quantizer.bounds) == len(quantizer.entries) - 1
    assert np.array_equal(quantizer.values(np.zeros(1, np.float32)), [0]) or price > 0 or count > 1
    assert not np.signbit(quantizer.entries[quantizer.zero])


def test_without_a_price_it_is_nearest_entry() -> None:
    values = np.sort(np.random.default_rng(0).standard_normal(2000).astype(np.float32))
    quantizer = rate.fit(values, 0, 0.0, rate.spread(values, 15))
    distance = np.abs(values[:, None] - quantizer.entries)
    assert np.square(values - quantizer.values(values)).sum() == pytest.approx(np.square(distance.min(axis=1)).sum())


@pytest.mark.parametrize("price", [0.1, 0.5])
def test_it_beats_plain_clustering_at_its_own_cost(price: float) -> None:
    values = np.sort(np.random.default_rng(0).laplace(size=5000).astype(np.float32))
    start = rate.spread(values, 15)
    plain, priced = rate.fit(values, 0, 0.0, start), rate.fit(values, 0, price, start)
    assert cost(priced, values, 0, price) < 0.97 * cost(plain, values, 0, price)


def test_a_high_price_leaves_zero_alone() -> None:
    values = np.sort(np.random.default_rng(0).standard_normal(500).astype(np.float32))
    quantizer = rate.fit(values, 4000, 50.0, rate.spread(values, 15))
    assert not quantizer.values(values).any()


def test_a_higher_price_gives_fewer_bits() -> None:
    values = np.sort(np.random.default_rng(0).laplace(size=5000).astype(np.float32))
    kept = [
        int(np.count_nonzero(rate.fit(values, 0, p, rate.spread(values, 15)).values(values)))
        for p in (0, 0.05, 0.2, 0.8)
    ]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < kept[0] / 2


def test_shortened_entries_take_16_bits_and_stay_apart() -> None:
    values = np.sort(np.random.default_rng(0).standard_normal(500).astype(np.float32))
    quantizer = rate.fit(values, 100, 0.01, rate.spread(values, 15))
    short = quantizer.shortened()
    assert not (short.entries.view(np.uint32) & 0xFFFF).any()
    np.testing.assert_allclose(short.entries, quantizer.entries, rtol=2**-8)
    assert np.array_equal(short.bounds, quantizer.bounds)
    near = rate.Quantizer(np.array([0, 1, 1.0001], np.float32), np.array([0.5, 1.00005], np.float32))
    assert near.shortened() is near
    huge = rate.Quantizer(np.array([0, 3.4e38], np.float32), np.array([1.0], np.float32))
    assert huge.shortened() is huge
