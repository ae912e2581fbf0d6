"""Weights of 16-bit floats without loss: the exponents are coded, mantissas of many elements are left as they are."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from dc_compiler.codec import binding, reference

LAYERS, SIZE = 4, 1 << 16


def layers(dtype: np.dtype[np.generic]) -> np.ndarray:
    """Normal weights whose layers have scales of their own, as those of a language model."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((LAYERS, SIZE)) * 0.02 * 2.0 ** rng.uniform(-1, 1, (LAYERS, 1))).astype(dtype)


@pytest.mark.parametrize(("dtype", "least"), [(ml_dtypes.bfloat16, 1.5), (np.float16, 1.17)])
def test_ratio(dtype: np.dtype[np.generic], least: float) -> None:
    weights = layers(dtype)
    frame = binding.encode_data(weights, "lossless")
    assert weights.nbytes / len(frame) > least
    decoded = binding.decode(frame)
    assert decoded.dtype == weights.dtype
    np.testing.assert_array_equal(decoded.view(np.uint16), weights.view(np.uint16))


def test_mantissas_of_many_elements_are_left_as_they_are() -> None:
    """The byte stream of the lower plane starts with its mode, 0 for raw; of few elements it is coded where that is
    smaller by a byte."""
    many = binding.encode_data(layers(np.dtype(ml_dtypes.bfloat16)), "lossless")
    info = binding.frame_info(many)
    start = info.header_bytes + 3  # a length of three bytes
    assert info.chunk_elements == LAYERS * SIZE
    assert many[start] == 0
    assert many[start + 1 + LAYERS * SIZE] == 1
    part = layers(np.dtype(ml_dtypes.bfloat16))[:1, :2048]
    np.testing.assert_array_equal(
        reference.decode(binding.encode_data(part, "lossless")).view(np.uint16), part.view(np.uint16)
    )
