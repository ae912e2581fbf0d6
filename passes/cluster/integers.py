"""Coarser grids for weights that are quantized already, on multiples of their own quantum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto

from dc_compiler import ir

MOST_BITS = 16  # of integers that a grid may be laid over


def can_coarsen(record: ir.WeightRecord) -> bool:
    """Whether a record holds weights as integers of which one number stands for zero."""
    kind = ir.find_element_type(record.elem_type)
    has_zero = record.quantized is not None and record.quantized.is_weight and record.quantized.zero is not None
    return has_zero and kind is not None and kind.bits <= MOST_BITS and ir.is_integer(record.values.dtype)


def as_floats(record: ir.WeightRecord) -> ir.WeightRecord:
    """The weight in units of its quantum, as float32, with its zero point at 0."""
    assert record.quantized is not None
    values = record.values.astype(np.float32) - np.float32(record.quantized.zero or 0)
    return replace(record, values=values, elem_type=TensorProto.FLOAT, quantized=None, exact=None)


def whole_steps(scales: ir.Scales) -> ir.Scales:
    """Scales of at least one quantum: with a finer one a channel keeps its numbers."""
    return replace(scales, log_steps=np.maximum(scales.log_steps, 0))


def in_quanta(clustered: ir.Clustered, record: ir.WeightRecord) -> ir.Clustered:
    """What a grid over :func:`as_floats` is for the integers."""
    assert record.quantized is not None
    assert record.quantized.zero is not None
    return replace(clustered, offset=record.quantized.zero)
