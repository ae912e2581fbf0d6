"""Tensors that follow a formula are told from weights, with the noise of float arithmetic, in every layout."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from small_programs import DTYPES, Array

from dc_compiler.ir.patterns import find_pattern

N = 400
ANGLES = np.arange(N // 2 + 1)[:, None] * np.arange(N) * 2 * np.pi / N
HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N) / N)


def mel_bank(filters: int = 40, bins: int = 201, rate: float = 16000.0, *, slaney: bool = False) -> Array:
    """Triangles at equal distances on the mel scale, [filters, bins]."""
    points = 700 * (np.exp(np.linspace(0, 1127 * np.log(1 + rate / 2 / 700), filters + 2) / 1127) - 1)
    hertz = np.linspace(0, rate / 2, bins)
    rising = (hertz - points[:-2, None]) / np.diff(points)[:-1, None]
    falling = (points[2:, None] - hertz) / np.diff(points)[1:, None]
    bank: Array = np.maximum(0, np.minimum(rising, falling))
    return bank * (2 / (points[2:] - points[:-2]))[:, None] if slaney else bank


def positions(count: int = 512, width: int = 64) -> Array:
    """The positional encoding of "Attention is all you need", computed in float32 as PyTorch models do."""
    rates = np.exp(np.arange(0, width, 2, dtype=np.float32) * np.float32(-np.log(10000) / width))
    angles = np.arange(count, dtype=np.float32)[:, None] * rates
    return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(count, width)


def cosine_basis(count: int) -> Array:
    """Rows of the orthonormal DCT-II, [count, count]."""
    rows = np.cos(np.pi / count * (np.arange(count) + 0.5) * np.arange(count)[:, None]) * np.sqrt(2 / count)
    rows[0] /= np.sqrt(2)
    return np.asarray(rows)


def anchors(stride: float, size: int) -> Array:
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(1, -1, 2)
    return np.asarray((grid + 0.5) * stride)


FORMULAS: dict[str, tuple[Callable[[], Array], str]] = {
    "dft": (lambda: np.concatenate([np.cos(ANGLES), np.sin(ANGLES)])[:, None], "Fourier"),
    "dft_columns": (lambda: np.concatenate([np.cos(ANGLES), np.sin(ANGLES)]).T, "Fourier"),
    "dft_window": (lambda: np.concatenate([np.cos(ANGLES), -np.sin(ANGLES)])[:, None] * HANN, "under a window"),
    "dft_hanning": (lambda: np.concatenate([np.cos(ANGLES), np.sin(ANGLES)]) * np.hanning(N), "under a window"),
    "dft_kaiser": (lambda: np.concatenate([np.cos(ANGLES), np.sin(ANGLES)]) * np.kaiser(N, 8), "under a window"),
    "dft_padded": (lambda: np.concatenate([np.cos(ANGLES), np.sin(ANGLES)]) * np.pad(np.hamming(320), 40), "under"),
    "dft_cosines": (lambda: np.cos(ANGLES)[:, None] * HANN, "Fourier"),
    "dft_sines": (lambda: np.sin(ANGLES)[:, None] * HANN, "Fourier"),
    "dft_low_bins": (lambda: np.concatenate([np.cos(ANGLES[:120]), np.sin(ANGLES[:120])]) * HANN, "under a window"),
    "dft_low_cosines": (lambda: np.cos(ANGLES[:120]) * HANN, "Fourier"),
    "dft_scaled": (lambda: (np.cos(ANGLES) / N)[:, None], "Fourier"),
    "dct": (lambda: cosine_basis(64), "cosine"),
    "dct_blocks": (lambda: np.einsum("ux,vy->uvxy", cosine_basis(8), cosine_basis(8)).reshape(64, 1, 8, 8), "cosine"),
    "mfcc": (lambda: cosine_basis(40)[:13].T, "cosine"),
    "mel": (mel_bank, "filter bank"),
    "mel_columns": (lambda: mel_bank(80).T, "filter bank"),
    "mel_slaney": (lambda: mel_bank(128, 513, slaney=True), "filter bank"),
    "mel_kernel": (lambda: mel_bank()[:, :, None], "filter bank"),
    "positions": (positions, "positional"),
    "positions_scaled": (lambda: positions(5000, 32)[None] * 0.02, "positional"),
    "rotary": (lambda: np.cos(np.arange(256)[:, None] * 10000.0 ** (-np.arange(32) / 32)), "positional"),
    "rotary_long": (
        lambda: np.cos(np.arange(65536, dtype="f")[:, None] * (10000.0 ** (-np.arange(32) / 32)).astype("f")),
        "positional",
    ),
    "identity": (lambda: np.eye(48), "2 distinct values"),
    "permutation": (lambda: np.eye(64)[np.random.default_rng(0).permutation(64)], "2 distinct values"),
    "one_hot_kernel": (lambda: np.eye(9).reshape(9, 1, 3, 3).repeat(4, 0), "2 distinct values"),
    "frame_window": (lambda: np.diag(np.hanning(64)), "selection, permutation or diagonal"),
    "causal_mask": (lambda: np.triu(np.full((128, 128), -1e4), 1), "2 distinct values"),
    "ternary": (lambda: np.random.default_rng(0).integers(-1, 2, (64, 64)) * 0.037, "3 distinct values"),
    "hadamard": (lambda: np.array([[(-1) ** (i & j).bit_count() for j in range(32)] for i in range(32)]) / 5.7, "2 "),
    "zeros": (lambda: np.zeros((40, 40)), "one value"),
    "anchors": (lambda: anchors(8, 40), "multiples of 1/16"),
    "anchors_odd": (lambda: anchors(1 / 38, 38).reshape(38, 38, 2), "ramps"),
    "blur": (lambda: np.tile(np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256, (64, 1, 1, 1)), "6 distinct values"),
    "one_kernel": (lambda: np.tile(np.random.default_rng(3).random((1, 5, 5)), (64, 1, 1, 1)), "one row repeated"),
    "smoothing": (lambda: np.exp(-((np.arange(60)[:, None] - np.arange(60)) ** 2) / 97.0), "filter bank"),
    "toeplitz": (lambda: np.sin(np.subtract.outer(np.arange(40), np.arange(50)) ** 2 * 0.7), "Toeplitz"),
    "hankel": (lambda: np.sin(np.add.outer(np.arange(40), np.arange(50)) ** 2 * 0.7), "Hankel"),
    "decays": (lambda: np.linspace(0.5, 0.99, 16)[:, None] ** np.arange(32), "exponentials"),
    "hann_vector": (lambda: HANN, "window"),
    "hamming_vector": (lambda: np.hamming(64), "window"),
    "blackman_vector": (lambda: np.blackman(512), "window"),
    "gaussian_vector": (lambda: np.exp(-(np.linspace(-3, 3, 101) ** 2) / 2), "window"),
    "arange_vector": (lambda: np.arange(16.0), "ramps"),
    "rotary_rates": (lambda: 10000.0 ** (-np.arange(32) / 32), "exponentials"),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_are_recognised(name: str, dtype: type) -> None:
    build, words = FORMULAS[name]
    found = find_pattern(build().astype(np.float32).astype(dtype))  # float64 tensors often come from float32 models
    assert found is not None
    assert words in found


@pytest.mark.parametrize("name", ["dft", "dct", "mel", "positions", "rotary", "identity", "causal_mask", "hankel"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=str)
def test_formulas_are_recognised_in_half_precision(name: str, dtype: type) -> None:
    assert find_pattern(FORMULAS[name][0]().astype(dtype)) is not None


@pytest.mark.parametrize("name", ["dft", "dft_window", "mel", "dct", "positions", "anchors_odd", "toeplitz"])
@pytest.mark.parametrize("seed", range(3))
def test_a_formula_that_was_trained_further_is_a_weight(name: str, seed: int) -> None:
    values = FORMULAS[name][0]()
    noise = np.random.default_rng(seed).standard_normal(values.shape) * values.std() * 0.02
    assert find_pattern((values + noise).astype(np.float32)) is None


SHAPES = [(64,), (8, 8), (16, 64), (64, 16), (256, 32), (32, 1, 3, 3), (16, 8, 5, 5), (10, 1, 11), (4, 9, 64), (2, 300)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_weights_follow_no_formula(shape: tuple[int, ...], dtype: type) -> None:
    generator = np.random.default_rng(5)
    for draw in ("laplace", "standard_normal", "random", "standard_cauchy"):
        values = getattr(generator, draw)(size=shape)
        for weight in (values, 0.02 * values, np.abs(values), values * np.geomspace(1e-3, 1, shape[-1])):
            assert find_pattern(weight.astype(dtype)) is None


def test_weights_with_structure_follow_no_formula() -> None:
    """Sparse, low in rank, smooth, symmetric, sorted, rounded: still weights."""
    generator = np.random.default_rng(6)
    values = generator.standard_normal((64, 96))
    spectrum = np.fft.rfft(generator.standard_normal((64, 256)))
    weights = {
        "sparse": values * (generator.random(values.shape) < 0.05),
        "low_rank": generator.standard_normal((64, 2)) @ generator.standard_normal((2, 96)),
        "smooth": np.fft.irfft(spectrum * np.exp(-np.arange(129) / 4.0)),
        "symmetric": values[:, :64] + values[:, :64].T,
        "sorted": np.sort(values, axis=1),
        "clustered": np.quantile(values, np.linspace(0, 1, 64))[generator.integers(0, 64, values.shape)],
        "one_grid": np.rint(values * 20) * 0.0137,
        "ones_and_noise": 1 + 1e-3 * values,
    }
    found = {name: find_pattern(w.astype(np.float32)) for name, w in weights.items()}
    assert not {name: pattern for name, pattern in found.items() if pattern is not None}


@pytest.mark.parametrize("value", [0.0, 1.0, 0.37])
def test_constant_vectors_are_where_training_starts(value: float) -> None:
    assert find_pattern(np.full(64, value, np.float32)) is None
    assert find_pattern(np.float32(value) * np.array([1, 1 + 1e-5] * 32, np.float32)) is None
