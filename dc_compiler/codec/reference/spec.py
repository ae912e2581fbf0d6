"""What FORMAT.md fixes by number, and the header of a frame (sections 1 and 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
NO_CODEBOOK, VALUES, GRID, SHORT_VALUES = range(4)
NO_SCALES, SCALE_VALUES, SCALE_LOG = range(3)
UINT8 = 2
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    UINT8: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    16: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype(ml_dtypes.float8_e4m3fn),
    18: np.dtype(ml_dtypes.float8_e4m3fnuz),
    19: np.dtype(ml_dtypes.float8_e5m2),
    20: np.dtype(ml_dtypes.float8_e5m2fnuz),
    21: np.dtype(ml_dtypes.uint4),
    22: np.dtype(ml_dtypes.int4),
    23: np.dtype(ml_dtypes.float4_e2m1fn),
}
# Least and largest number of integer dtypes, and their bits; dtypes of 4 bits, which NumPy holds in bytes of their own
INTEGERS = {2: (0, 255, 8), 3: (-128, 127, 8), 4: (0, 65535, 16), 5: (-32768, 32767, 16), 6: (-(2**31), 2**31 - 1, 32),
            21: (0, 15, 4), 22: (-8, 7, 4)}  # fmt: skip
NIBBLES = (21, 22, 23)
PLAIN_FLOATS = (1, 10, 11, 16)
LANES = (1, 2, 4, 8, 16, 32)
LOG_SCALE_STEPS = np.array(
    [0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7], np.uint32
).view(np.float32)


def nibbles(halves: Array, header: Header) -> Array:
    """Elements of 4 bits from their bits, a byte each."""
    if header.element == ml_dtypes.int4:
        return np.where(halves < 8, halves.astype(np.int8), halves.astype(np.int8) - 16).astype(header.element)
    return halves.view(header.element) if header.element == ml_dtypes.float4_e2m1fn else halves.astype(header.element)


@dataclass(frozen=True)
class Header:
    """The header of a frame (section 2). Fields that the frame does not have are zero."""

    dtype: int
    coder: int
    codebook_kind: int
    scale_kind: int
    dims: tuple[int, ...]
    nnz: int
    k: int = 0
    zero: int = 0
    lo: int = 0
    channels: int = 0
    inner: int = 0
    offset: int = 0
    chunk: int = 0
    lanes: int = 0
    position_bits: int = 0
    columns: int = 0
    group: int = 0
    stride: int = 0

    @property
    def n(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.dims)

    @property
    def element(self) -> np.dtype[Any]:
        """Element type of the tensor."""
        return DTYPES[self.dtype]

    @property
    def is_nibbles(self) -> bool:
        """Whether two elements share a byte."""
        return self.dtype in NIBBLES

    def bytes_of(self, elements: int) -> int:
        """Bytes that so many elements take."""
        return -(-elements // 2) if self.is_nibbles else elements * self.element.itemsize

    @property
    def compute(self) -> np.dtype[Any]:
        """The compute type of section 2.1."""
        return np.dtype("<f8" if self.dtype == 11 else "<f4")

    def chunk_sizes(self) -> Iterator[int]:
        """Elements of each chunk, in order."""
        for first in range(0, self.n, self.chunk):
            yield min(self.chunk, self.n - first)
