"""SparseInt8MatMul: every instruction set gives what MatMulInteger, Cast, Mul and Add of ONNX define."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_layers import Bounds, SparseInt8MatMul

from dc_compiler.codec import binding
from kernels.fused import Floats, assert_same, bounded

ISAS = binding.isas()
Points = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]


@pytest.fixture(autouse=True)
def any_isa() -> Iterator[None]:
    yield
    binding.select_isa("auto")


def product(
    x: Bytes, zero: int, step: np.float32, points: Points, scales: Floats, bias: Floats | None = None
) -> Floats:
    """Whole numbers modulo 2^32, then each float operation rounded."""
    sums = (x.astype(np.int64) - zero) @ points.astype(np.int64)
    floats = sums.astype(np.uint32).view(np.int32).astype(np.float32) * (step * scales)
    return floats if bias is None else floats + bias


def random_points(rng: np.random.Generator, k: int, n: int, density: float, levels: int) -> Points:
    values = rng.integers(-128, 128, levels or max(k * n, 1)).astype(np.int8)
    chosen = values[rng.integers(0, len(values), (k, n))]
    return np.where(rng.random((k, n)) < density, chosen, np.int8(0))


def made(isa: str, points: Points, scales: Floats, transposed: bool = False) -> SparseInt8MatMul:
    binding.select_isa(isa)
    return SparseInt8MatMul(points.T if transposed else points, scales, transposed=transposed)


def rows(rng: np.random.Generator, m: int, k: int) -> Bytes:
    return rng.integers(0, 256, (m, k)).astype(np.uint8)


SHAPES = [(0, 5), (1, 1), (1, 17), (3, 2), (127, 16), (128, 15), (129, 33), (131, 129), (300, 523), (523, 5)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("levels", [1, 16, 31, 0])
def test_odd_shapes(isa: str, levels: int) -> None:
    rng = np.random.default_rng(levels)
    for k, n in SHAPES:
        scales = rng.random(n).astype(np.float32)
        bias = rng.standard_normal(n).astype(np.float32)
        for density in (0.0, 0.1, 1.0):
            points = random_points(rng, k, n, density, levels)
            layer = made(isa, points, scales, transposed=bool(n % 2))
            for m in (0, 1, 3, 15, 37):
                x, step = rows(rng, m, k), np.float32(rng.random())
                assert_same(layer(x, 7, step), product(x, 7, step, points, scales))
                assert_same(layer(x, 255, step, bias), product(x, 255, step, points, scales, bias))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Bytes, int, np.float32, Points, Floats, Floats | None]:
    """Sizes up to a few windows, any step, scales and bias."""
    m, k, n = draw(st.integers(0, 12)), draw(st.integers(1, 400)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    points = random_points(rng, k, n, draw(st.floats(0, 1)), draw(st.sampled_from([0, 1, 30, 31, 32, 200])))
    scales = rng.standard_normal(n).astype(np.float32) * np.float32(draw(st.floats(0, 100)))
    bias = draw(st.sampled_from([None, rng.standard_normal(n).astype(np.float32)]))
    return rows(rng, m, k), draw(st.integers(0, 255)), np.float32(draw(st.floats(0, 10))), points, scales, bias


@settings(deadline=None)
@given(problems(), st.sampled_from(ISAS), st.booleans(), st.sampled_from([None, (0.0, np.inf), (-0.5, 6.0)]))
def test_any_numbers(
    problem: tuple[Bytes, int, np.float32, Points, Floats, Floats | None], isa: str, transposed: bool, bounds: Bounds
) -> None:
    x, zero, step, points, scales, bias = problem
    expected = bounded(product(x, zero, step, points, scales, bias), bounds)
    assert_same(made(isa, points, scales, transposed)(x, zero, step, bias, bounds) + 0, expected + 0)  # no -0.0


@pytest.mark.parametrize("isa", ISAS)
def test_far_between(isa: str) -> None:
    """Windows move by at most 65535 inputs."""
    points = np.zeros((200_000, 3), np.int8)
    points[[0, 70_000, 199_999], [0, 0, 2]] = 1, -2, 127
    x = rows(np.random.default_rng(0), 2, len(points))
    one = np.ones(3, np.float32)
    assert_same(made(isa, points, one)(x, 3, np.float32(1)), product(x, 3, np.float32(1), points, one))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("point", [-128, 127])
def test_sums_are_modulo_2_to_the_32(isa: str, point: int) -> None:
    points = np.full((70_000, 17), point, np.int8)
    x, one = np.full((2, len(points)), 255, np.uint8), np.ones(17, np.float32)
    x[1, ::2] = 254
    expected = product(x, 0, np.float32(1), points, one)
    assert np.sign(expected[0, 0]) == -np.sign(point)
    assert_same(made(isa, points, one)(x, 0, np.float32(1)), expected)


@pytest.mark.parametrize("levels", [31, 0])
@pytest.mark.parametrize("isa", ISAS)
def test_threads_change_nothing(isa: str, levels: int) -> None:
    rng = np.random.default_rng(3)
    points = random_points(rng, 300, 1100, 0.1, levels)
    scales, x = rng.random(1100).astype(np.float32), rows(rng, 70, 300)
    layer = made(isa, points, scales)
    assert_same(layer(x, 100, np.float32(0.5), threads=3), layer(x, 100, np.float32(0.5)))
    again = SparseInt8MatMul(points, scales, threads=3)
    assert_same(again(x, 100, np.float32(0.5)), layer(x, 100, np.float32(0.5)))


def test_bytes_held() -> None:
    """What README and docs say about memory."""
    rng = np.random.default_rng(0)
    for levels, most in ((31, 1.9), (0, 2.5)):
        points = random_points(rng, 4096, 1024, 0.09, levels)
        assert made("auto", points, np.ones(1024, np.float32)).nbytes < most * np.count_nonzero(points)
