"""Layers that run in integers.

A weight on a scaled grid (``cluster(grid)``) with at most 8 bits of points is an int8 tensor with a scale a channel as
it is. onnxruntime's own int8 kernels multiply by it, the other factor rounded to 8 bits: as it comes in products, with
a range from samples in convolutions. The weight takes a quarter of the memory; numbers change, by about a percent of a
layer's output, so nobody gets this unasked.
"""

from dc_compiler.model.int8.choose import choose_int8
from dc_compiler.model.int8.rewrite import run_in_int8

__all__ = ["choose_int8", "run_in_int8"]
