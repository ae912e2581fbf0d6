"""Small records and programs to run single passes on, and float tensors of every element type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from dc_compiler import ir
from dc_compiler.pass_manager import Context, Pass, check_invariants

Array = NDArray[Any]
DTYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float64))
CONV, MATMUL = ir.Use("Conv", 1), ir.Use("MatMul", 1)


def record(values: Array, name: str = "w", use: ir.Use = MATMUL) -> ir.WeightRecord:
    """A weight with one consumer."""
    return ir.WeightRecord(name, values, helper.np_dtype_to_tensor_dtype(values.dtype), (use,))


def program(*records: ir.WeightRecord) -> ir.Program:
    """A program whose graph does not matter: passes work on the records."""
    proto = onnx.ModelProto(opset_import=[helper.make_opsetid("", 18)])
    return ir.Program(proto, list(records), [], "test", sum(r.nbytes for r in records), Path())


def apply(passes: Pass | list[Pass], *records: ir.WeightRecord, **context: Any) -> None:
    """Run passes one after the other over the records, checking the invariants after each."""
    net = program(*records)
    run = Context(**({"jobs": 1} | context))
    for step in passes if isinstance(passes, list) else [passes]:
        step.run(net, run)
        check_invariants(net, run)


def bits(values: Array) -> Array:
    """The bit patterns of a float array."""
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    """Standard normal values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
