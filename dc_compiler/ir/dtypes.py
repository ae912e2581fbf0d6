"""Element types whose tensors can be compressed."""

from __future__ import annotations

import functools

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

# ONNX element types whose tensors can be compressed -> compute type of FORMAT.md 2.1
COMPUTE_DTYPES: dict[int, np.dtype] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float32),
    TensorProto.BFLOAT16: np.dtype(np.float32),
    TensorProto.DOUBLE: np.dtype(np.float64),
}


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """f64 for f64, f32 for the other floats."""
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)


def float_dtype(elem_type: int) -> np.dtype:
    """NumPy dtype of a compressible element type."""
    return (
        np.dtype(ml_dtypes.bfloat16)
        if elem_type == TensorProto.BFLOAT16
        else helper.tensor_dtype_to_np_dtype(elem_type)
    )


@functools.cache
def float_elem_types() -> frozenset[int]:
    """Element types that can be compressed."""
    return frozenset(COMPUTE_DTYPES)
