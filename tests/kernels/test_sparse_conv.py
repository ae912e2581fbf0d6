"""SparseConv: every instruction set gives the bits that its documented order of sums defines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_layers import Bounds, SparseConv

from dc_compiler.codec import binding
from kernels.fused import Floats, assert_same, bounded, fused

ISAS = binding.isas()
SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-30, 1e30, 3e38)


@pytest.fixture(autouse=True)
def any_isa() -> Iterator[None]:
    yield
    binding.select_isa("auto")


@dataclass(frozen=True)
class Attributes:
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1


def whole(weights: Floats, groups: int) -> Floats:
    """The kernel of one group that does what this one of several does."""
    outputs, channels, *kernel = weights.shape
    result = np.zeros((outputs, channels * groups, *kernel), np.float32)
    for group in range(groups):
        rows = slice(group * outputs // groups, (group + 1) * outputs // groups)
        result[rows, group * channels : (group + 1) * channels] = weights[rows]
    return result


def convolution(x: Floats, weights: Floats, a: Attributes, bias: Floats | None = None) -> Floats:
    """What SparseConv promises: a fused multiply-add a kept weight by channel, row, column; no sum is -0.0."""
    weights = whole(weights, a.groups)
    outputs, channels, *kernel = weights.shape
    padded = np.pad(x, ((0, 0), (0, 0), a.pads[0::2], a.pads[1::2]))
    out = [(padded.shape[2 + i] - (kernel[i] - 1) * a.dilations[i] - 1) // a.strides[i] + 1 for i in (0, 1)]
    start = np.zeros(outputs, np.float32) if bias is None else bias
    sums = np.tile(start[:, None, None], (len(x), 1, *out))
    for channel in range(channels):
        for row, column in np.ndindex(*kernel):
            y, z = row * a.dilations[0], column * a.dilations[1]
            rows = slice(y, y + (out[0] - 1) * a.strides[0] + 1, a.strides[0])
            columns = slice(z, z + (out[1] - 1) * a.strides[1] + 1, a.strides[1])
            weight = weights[:, channel, row, column][:, None, None]
            pixels = padded[:, channel, None, rows, columns]
            sums = np.where(weight != 0, fused(pixels, weight, sums), sums)
    return sums + np.float32(0)


def made(isa: str, weights: Floats, a: Attributes) -> SparseConv:
    binding.select_isa(isa)
    return SparseConv(weights, strides=a.strides, dilations=a.dilations, pads=a.pads, groups=a.groups)


def kept(rng: np.random.Generator, density: float, *shape: int) -> Floats:
    return np.where(rng.random(shape) < density, rng.standard_normal(shape), 0).astype(np.float32)


SAME = Attributes(pads=(1, 1, 1, 1))
LAYERS = [
    # images, outputs, channels, kernel, height, width, attributes
    (1, 1, 1, (1, 1), 1, 1, Attributes()),
    (2, 67, 5, (1, 1), 13, 17, Attributes()),
    (1, 3, 131, (1, 1), 7, 7, Attributes(strides=(2, 2))),
    (1, 65, 17, (3, 3), 14, 14, SAME),
    (1, 8, 9, (3, 3), 7, 7, SAME),
    (1, 5, 3, (3, 3), 57, 61, SAME),
    (2, 4, 3, (7, 7), 31, 29, Attributes(strides=(2, 2), pads=(3, 3, 3, 3))),
    (1, 4, 2, (11, 5), 40, 23, Attributes(strides=(4, 3), dilations=(2, 1), pads=(0, 2, 5, 1))),
    (1, 4, 3, (3, 2), 12, 19, Attributes(strides=(4, 1), dilations=(3, 5), pads=(6, 0, 0, 7))),
    (1, 2, 2, (2, 3), 2, 1, Attributes(pads=(4, 9, 4, 9))),
    (1, 134, 70, (3, 3), 13, 13, Attributes(pads=(1, 1, 1, 1), groups=2)),
    (2, 69, 69, (1, 1), 5, 5, Attributes(groups=3)),
    (1, 10, 5, (3, 1), 9, 4, Attributes(strides=(2, 1), groups=5)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_the_bits_are_those_of_the_order_of_sums(
    layer: tuple[int, int, int, tuple[int, int], int, int, Attributes],
) -> None:
    images, outputs, channels, kernel, height, width, a = layer
    rng = np.random.default_rng(0)
    for density in (0.0, 0.2, 1.0):
        weights = kept(rng, density, outputs, channels // a.groups, *kernel)
        x = rng.standard_normal((images, channels, height, width)).astype(np.float32)
        bias = rng.standard_normal(outputs).astype(np.float32)
        expected = convolution(x, weights, a, bias)
        for isa in ISAS:
            assert_same(made(isa, weights, a)(x, bias), expected)


FLOATS = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Floats, Floats, Attributes, Floats | None]:
    """x, weights, attributes and bias, with infinities, NaN, subnormal numbers and both zeros."""
    small, size = st.integers(0, 3), st.integers(1, 3)
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    steps, dilations, groups = draw(st.tuples(size, size)), draw(st.tuples(size, size)), draw(size)
    a = Attributes(steps, dilations, draw(st.tuples(small, small, small, small)), groups)
    least = [max(1, (kernel[i] - 1) * a.dilations[i] + 1 - a.pads[i] - a.pads[i + 2]) for i in (0, 1)]
    height, width = (draw(st.integers(n, n + 20)) for n in least)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def filled(*shape: int) -> Floats:
        pool = np.array(draw(st.lists(FLOATS, min_size=1, max_size=20)), np.float32)
        return pool[rng.integers(0, len(pool), shape)]

    images, outputs, channels = draw(st.integers(0, 2)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    shape = (outputs * groups, channels, *kernel)
    weights = np.where(rng.random(shape) < draw(st.floats(0, 1)), filled(*shape), np.float32(0))
    bias = draw(st.sampled_from([None, filled(outputs * groups)]))
    return filled(images, channels * groups, height, width), weights, a, bias


@settings(deadline=None)
@given(problems(), st.sampled_from(ISAS), st.sampled_from([None, (0.0, np.inf), (0.0, 6.0)]))
def test_any_numbers(problem: tuple[Floats, Floats, Attributes, Floats | None], isa: str, bounds: Bounds) -> None:
    x, weights, a, bias = problem
    assert_same(made(isa, weights, a)(x, bias, bounds), bounded(convolution(x, weights, a, bias), bounds))


@pytest.mark.parametrize("isa", ISAS)
def test_threads_change_nothing(isa: str) -> None:
    rng = np.random.default_rng(3)
    layer = made(isa, kept(rng, 0.2, 130, 40, 3, 3), SAME)
    x = rng.standard_normal((2, 40, 28, 28)).astype(np.float32)
    assert_same(layer(x, threads=3), layer(x))


def test_what_cannot_be_is_refused() -> None:
    weights = np.ones((1, 1, 3, 3), np.float32)
    with pytest.raises(ValueError, match="a kernel, stride or dilation of 0"):
        SparseConv(weights, strides=(0, 1))
    with pytest.raises(ValueError, match="no multiple of its groups"):
        SparseConv(weights, groups=2)
    with pytest.raises(ValueError, match="no input channels"):
        SparseConv(weights[:, :0])
    layer = SparseConv(weights, pads=(0, 0, 0, 1))
    assert layer.out_shape(3, 2) == (1, 1)
    with pytest.raises(ValueError, match="larger than the padded image"):
        layer.out_shape(3, 1)
    with pytest.raises(ValueError, match="sizes are those of no array"):
        SparseConv(weights, pads=(2**64 - 1, 0, 0, 0)).out_shape(3, 3)
