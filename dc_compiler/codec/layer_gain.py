"""What layers gain by running from what is kept of their weights: the library's cost model (native/kernels)."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

from dc_compiler.codec import binding
from dc_compiler.codec.library import library

BEST_ISA = "avx512"  # with which most layers gain
_MATRIX, _KERNEL, _INT8 = range(3)  # dcc.h


@dataclass(frozen=True)
class LayerGain:
    """What is expected of a layer that may run from what is kept of its weight.

    runs    whether the library lets it
    gain    how many times as fast as dense in onnxruntime (in int8: as dense int8), for the number of rows or images
            at a time with which that is least; 0 where it is not known
    """

    runs: bool
    gain: float


def layer_gain(frame: bytes, *, in_int8: bool, isa: str | None = None) -> LayerGain:
    """What is expected of a layer with the weight in a frame.

    Args:
        isa: the kernel set; None for the one in use.

    Raises:
        CorruptFrameError: the frame is damaged.
    """
    info = binding.frame_info(frame)
    is_kernel = len(info.dims) > 2
    inputs = math.prod(info.dims[1:]) if is_kernel else info.elements
    kind = _INT8 if in_int8 else _KERNEL if is_kernel else _MATRIX
    gain = ctypes.c_double()
    kept = info.nonzero / max(1, info.elements)
    name = None if isa is None else isa.encode()
    runs = library().dcc_runs_sparse(name, kind, inputs, info.elements, kept, ctypes.byref(gain))
    return LayerGain(bool(runs), gain.value)
