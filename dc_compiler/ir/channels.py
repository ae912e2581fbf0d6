"""Which axis of a weight holds its output channels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dc_compiler.ir.record import Use


def channel_layout(shape: tuple[int, ...], uses: Iterable[Use]) -> tuple[int, int]:
    """(channels, inner) of a weight: channels are what its first known consumer computes independently.

    Output channels for Conv, ConvTranspose, Gemm and MatMul, table rows for Gather, gates for recurrent layers;
    otherwise the first axis. Vectors and scalars are one channel.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if len(shape) < 2 or size == 0:
        return 1, max(size, 1)
    for use in uses:
        axis = _channel_axis(use, len(shape))
        if axis is not None:
            inner = int(np.prod(shape[axis + 1 :], dtype=np.int64))
            if use.op_type in _RECURRENT:  # [directions, gates, inputs]: every row of every direction
                return size // inner, inner
            return shape[axis], inner
    return shape[0], size // shape[0]


_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def _channel_axis(use: Use, rank: int) -> int | None:
    last = rank - 1
    match use.op_type, use.input_index:
        case ("Conv" | "ConvInteger", 1) | ("QLinearConv", 3):
            return 0
        case "ConvTranspose", 1:
            return 1
        case "Gemm", 1:
            return 0 if use.transposed else 1
        case ("MatMul" | "Attention" | "FusedMatMul" | "MatMulInteger" | "MatMulIntegerToFloat", 1):
            return last
        case ("DynamicQuantizeMatMul" | "QAttention", 1) | ("QLinearMatMul", 3):
            return last
        case "MatMul", 0:
            return last - 1
        case ("Gather" | "GatherBlockQuantized", 0):
            return 0
        case (("LSTM" | "GRU" | "RNN"), (1 | 2)):
            return 1
        case _:
            return None
