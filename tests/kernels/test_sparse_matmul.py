"""SparseMatMul: every instruction set and layout gives the bits that its documented order of sums defines."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_layers import SparseMatMul

from dc_compiler.codec import binding
from kernels.fused import Floats, assert_same, fused

SEVERAL_ROWS = 64  # as `usual_rows`, asks for the layout for many rows
LAYOUTS = [(isa, usual) for isa in binding.isas() for usual in (1, SEVERAL_ROWS)]
SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-30, 1e30, 3e38)


@pytest.fixture(autouse=True)
def any_isa() -> Iterator[None]:
    yield
    binding.select_isa("auto")


def product(x: Floats, weights: Floats, bias: Floats | None = None) -> Floats:
    """What SparseMatMul promises: a fused multiply-add for each kept weight, by ascending input; no sum is -0.0."""
    k, n = weights.shape
    start = np.zeros(n, np.float32) if bias is None else bias
    sums = np.tile(start, (len(x), 1))
    for c in range(k):
        sums = np.where(weights[c] != 0, fused(x[:, c, None], weights[c], sums), sums)
    return sums + np.float32(0)


def made(isa: str, weights: Floats, usual_rows: int, transposed: bool = False) -> SparseMatMul:
    binding.select_isa(isa)
    return SparseMatMul(weights.T if transposed else weights, transposed=transposed, usual_rows=usual_rows)


def random_weights(rng: np.random.Generator, k: int, n: int, density: float, levels: int) -> Floats:
    values = rng.standard_normal(levels or max(k * n, 1)).astype(np.float32)
    chosen = values[rng.integers(0, len(values), (k, n))]
    return np.where(rng.random((k, n)) < density, chosen, np.float32(0))


SHAPES = [
    (0, 5),
    (1, 1),
    (1, 17),
    (3, 2),
    (31, 16),
    (32, 15),
    (33, 33),
    (127, 129),
    (128, 64),
    (129, 65),
    (300, 523),
    (523, 5),
]


@functools.cache
def cases(levels: int) -> list[tuple[Floats, Floats, Floats]]:
    """Weights, rows and their products, of each shape and density."""
    rng = np.random.default_rng(levels)
    found = []
    for (k, n), density in itertools.product(SHAPES, (0.0, 0.2, 1.0)):
        weights = random_weights(rng, k, n, density, levels)
        x = rng.standard_normal((37, k)).astype(np.float32)
        found.append((weights, x, product(x, weights)))
    return found


@pytest.mark.parametrize(("isa", "usual_rows"), LAYOUTS)
@pytest.mark.parametrize("levels", [31, 256, 0])
def test_the_bits_are_those_of_the_order_of_sums(isa: str, usual_rows: int, levels: int) -> None:
    for weights, x, expected in cases(levels):
        layer = made(isa, weights, usual_rows, transposed=bool(weights.shape[1] % 2))
        for m in (0, 1, 3, 37):
            assert_same(layer(x[:m]), expected[:m])


@pytest.mark.parametrize("levels", [20, 0])
@pytest.mark.parametrize("usual_rows", [0, 1, SEVERAL_ROWS])
@pytest.mark.parametrize("isa", binding.isas())
def test_every_number_of_rows(isa: str, usual_rows: int, levels: int) -> None:
    rng = np.random.default_rng(0)
    weights = random_weights(rng, 200, 67, 0.2, levels)
    layer = made(isa, weights, usual_rows)
    x = rng.standard_normal((131, 200)).astype(np.float32)
    expected = product(x, weights)
    for m in (*range(70), 127, 128, 129, 130, 131):
        assert_same(layer(x[:m]), expected[:m])


FLOATS = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32))


BOUNDS = st.sampled_from([None, (0.0, np.inf), (0.0, 6.0), (-np.inf, -1.0)])


@st.composite
def problems(draw: st.DrawFn) -> tuple[Floats, Floats, Floats | None]:
    """x, weights and bias of any size up to a few blocks, with infinities, NaN, subnormal numbers and both zeros."""
    m, k, n = draw(st.integers(0, 20)), draw(st.integers(1, 160)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def filled(*shape: int) -> Floats:
        pool = np.array(draw(st.lists(FLOATS, min_size=1, max_size=40)), np.float32)
        return pool[rng.integers(0, len(pool), shape)]

    weights = np.where(rng.random((k, n)) < draw(st.floats(0, 1)), filled(k, n), np.float32(0))
    return filled(m, k), weights, draw(st.sampled_from([None, filled(n)]))


@settings(deadline=None)
@given(problems(), st.sampled_from(LAYOUTS), st.booleans())
def test_any_numbers(problem: tuple[Floats, Floats, Floats | None], layout: tuple[str, int], transposed: bool) -> None:
    x, weights, bias = problem
    assert_same(made(layout[0], weights, layout[1], transposed)(x, bias), product(x, weights, bias))


@pytest.mark.parametrize(("isa", "usual_rows"), LAYOUTS)
def test_what_is_not_kept_multiplies_nothing(isa: str, usual_rows: int) -> None:
    weights = np.zeros((100, 20), np.float32)
    weights[40, 3], weights[99, 3] = 2, -0.0
    x = np.full((9, 100), np.inf, np.float32)
    x[:, 40] = 3
    assert_same(
        made(isa, weights, usual_rows)(x), np.tile(np.where(np.arange(20) == 3, 6, 0), (9, 1)).astype(np.float32)
    )


@pytest.mark.parametrize(("isa", "usual_rows"), LAYOUTS)
def test_far_between(isa: str, usual_rows: int) -> None:
    """Windows of layout `lanes` move by at most 65535 inputs."""
    weights = np.zeros((200_000, 3), np.float32)
    weights[[0, 70_000, 199_999], [0, 0, 2]] = 1, 2, 3
    x = np.arange(400_000, dtype=np.float32).reshape(2, -1)
    expected = [[140_000, 0, 3 * 199_999], [200_000 + 2 * 270_000, 0, 3 * 399_999]]
    assert_same(made(isa, weights, usual_rows)(x), np.array(expected, np.float32))


@pytest.mark.parametrize("levels", [31, 0])
@pytest.mark.parametrize(("isa", "usual_rows"), LAYOUTS)
def test_threads_change_nothing(isa: str, usual_rows: int, levels: int) -> None:
    rng = np.random.default_rng(3)
    weights = random_weights(rng, 300, 1100, 0.1, levels)
    x = rng.standard_normal((130, 300)).astype(np.float32)
    layer = made(isa, weights, usual_rows)
    assert_same(layer(x, threads=3), layer(x))
    for transposed in (False, True):
        given = weights.T if transposed else weights
        other = SparseMatMul(given, transposed=transposed, usual_rows=usual_rows, threads=3)
        assert other.nbytes == layer.nbytes
        assert_same(other(x), layer(x))


@pytest.mark.parametrize("levels", [32, 257])
@pytest.mark.parametrize(("isa", "usual_rows"), LAYOUTS)
def test_one_more_level_than_codes(isa: str, usual_rows: int, levels: int) -> None:
    weights = np.arange(1, levels + 1, dtype=np.float32).repeat(2).reshape(-1, 2)
    x = np.ones((5, levels), np.float32)
    assert_same(made(isa, weights, usual_rows)(x), product(x, weights))


@pytest.mark.parametrize(("levels", "most"), [(31, {"lanes": 2.5, "rows": 2.4}), (0, {"lanes": 5.7, "rows": 5.4})])
def test_bytes_a_kept_weight(levels: int, most: dict[str, float]) -> None:
    rng = np.random.default_rng(1)
    weights = random_weights(rng, 1024, 512, 0.09, levels)
    for isa in binding.isas():
        for usual_rows in (1, SEVERAL_ROWS):
            by_lanes = isa == "avx512" and usual_rows == 1
            layer = made(isa, weights, usual_rows)
            assert layer.nbytes / np.count_nonzero(weights) < most["lanes" if by_lanes else "rows"]


@pytest.mark.skipif("avx512" not in binding.isas(), reason="other sets have one layout")
def test_the_usual_number_of_rows_chooses_the_layout() -> None:
    weights = random_weights(np.random.default_rng(1), 256, 64, 0.1, 0)
    unknown, one, several = (made("avx512", weights, usual).nbytes for usual in (0, 1, SEVERAL_ROWS))
    assert unknown == one != several
    unknown, one, several = (made("avx512", np.sign(weights), usual).nbytes for usual in (0, 1, SEVERAL_ROWS))
    assert unknown == one + several


def test_sizes_of_no_array_are_refused() -> None:
    weights: npt.NDArray[np.float32] = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (0, 2**40), (0, 0))
    with pytest.raises(ValueError, match="more than 2\\^32"):
        SparseMatMul(weights)
