"""Elements of 4 bits: NumPy holds each in a byte of its own, files and onnxruntime two in a byte, the first below."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

NIBBLES = frozenset(np.dtype(t) for t in (ml_dtypes.uint4, ml_dtypes.int4, ml_dtypes.float4_e2m1fn))


def shares_bytes(dtype: np.dtype[Any]) -> bool:
    """Whether two elements of this type share a byte."""
    return dtype in NIBBLES


def pack_nibbles(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Bytes of elements of 4 bits, in row-major order, uint8 [ceil(n / 2)]; the last upper half is 0 for odd n."""
    flat = values.reshape(-1)
    is_float = flat.dtype == ml_dtypes.float4_e2m1fn
    bits = flat.view(np.uint8) if is_float else flat.astype(np.int8).view(np.uint8)
    halves = np.zeros(flat.size + flat.size % 2, np.uint8)
    halves[: flat.size] = bits & 15
    return np.asarray(halves[::2] | halves[1::2] << 4, np.uint8)


def unpack_nibbles(pairs: NDArray[np.uint8], count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The first ``count`` elements in these bytes, of a type of 4 bits [count]."""
    halves = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)[:count]
    if dtype == ml_dtypes.int4:
        return np.asarray(((halves ^ 8).astype(np.int8) - 8).astype(dtype))
    return np.asarray(halves.view(dtype) if dtype == ml_dtypes.float4_e2m1fn else halves.astype(dtype))
