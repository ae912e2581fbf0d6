"""Element types of tensors: one table, by which everything decides what it may do with a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

DType = np.dtype[Any]


@dataclass(frozen=True)
class ElementType:
    """What is known of an element type of ONNX.

    Attributes:
        name: of TensorProto.DataType, in lower case.
        number: of TensorProto.DataType.
        dtype: how NumPy holds an element.
        bits: of an element in a file.
        compute: the type that decoders compute in (FORMAT.md 2.1); None for types whose tensors are no weights that can
            be pruned and clustered.
        trains: the type that training computes in; None for what has no gradient.
        framed: whether the codec has frames of it.
        packs: whether tensors of it are packed wherever they are, though passes cannot change them: without loss.
        carried: whether onnxruntime hands such tensors through custom operators, and inputs can be made for them.
        quantizes: whether a product's operand of this type is a quantized weight (``ir/quantization.py``).
    """

    name: str
    number: int
    dtype: DType
    bits: int
    compute: DType | None = None
    trains: DType | None = None
    framed: bool = False
    packs: bool = False
    carried: bool = False
    quantizes: bool = False

    @property
    def bit_pattern(self) -> DType:
        """The unsigned type of the same size, or plain bytes, in which elements are compared bit for bit."""
        size = self.dtype.itemsize
        return np.dtype(f"u{size}") if size <= 8 else np.dtype((np.void, size))

    def nbytes(self, count: int) -> int:
        """Bytes that ``count`` elements take in a file."""
        return (count * self.bits + 7) // 8

    @property
    def is_compressible(self) -> bool:
        """Whether passes may change such tensors."""
        return self.compute is not None

    @property
    def is_packable(self) -> bool:
        """Whether such tensors are packed."""
        return self.is_compressible or self.packs

    @property
    def ort_name(self) -> str:
        """How onnxruntime calls a tensor of it."""
        return f"tensor({self.name})"


def _row(name: str, number: int, dtype: DTypeLike, bits: int = 0, **facts: Any) -> ElementType:
    held = np.dtype(dtype)
    return ElementType(name, number, held, bits or 8 * held.itemsize, **facts)


_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)

ELEMENT_TYPES: tuple[ElementType, ...] = (
    _row("float", 1, np.float32, compute=_F32, trains=_F32, framed=True, carried=True),
    _row("uint8", 2, np.uint8, framed=True, carried=True, quantizes=True),
    _row("int8", 3, np.int8, framed=True, carried=True, quantizes=True),
    _row("uint16", 4, np.uint16, framed=True, carried=True),
    _row("int16", 5, np.int16, framed=True, carried=True),
    _row("int32", 6, np.int32, framed=True, carried=True),
    _row("int64", 7, np.int64, carried=True),
    _row("bool", 9, np.bool_, carried=True),
    _row("float16", 10, np.float16, compute=_F32, trains=_F32, framed=True, carried=True),
    _row("double", 11, np.float64, compute=_F64, trains=_F64, framed=True, carried=True),
    _row("uint32", 12, np.uint32, carried=True),
    _row("uint64", 13, np.uint64, carried=True),
    _row("complex64", 14, np.complex64),
    _row("complex128", 15, np.complex128),
    _row("bfloat16", 16, ml_dtypes.bfloat16, compute=_F32, trains=_F32, framed=True, carried=True),
    _row("float8e4m3fn", 17, ml_dtypes.float8_e4m3fn, framed=True, quantizes=True),
    _row("float8e4m3fnuz", 18, ml_dtypes.float8_e4m3fnuz, framed=True, quantizes=True),
    _row("float8e5m2", 19, ml_dtypes.float8_e5m2, framed=True, quantizes=True),
    _row("float8e5m2fnuz", 20, ml_dtypes.float8_e5m2fnuz, framed=True, quantizes=True),
    _row("uint4", 21, ml_dtypes.uint4, 4, framed=True, quantizes=True),
    _row("int4", 22, ml_dtypes.int4, 4, framed=True, quantizes=True),
    _row("float4e2m1", 23, ml_dtypes.float4_e2m1fn, 4, framed=True, quantizes=True),
)
_BY_NUMBER = {t.number: t for t in ELEMENT_TYPES}
_BY_DTYPE = {t.dtype: t for t in ELEMENT_TYPES}


def find_element_type(number: int) -> ElementType | None:
    """The type with this TensorProto.DataType; None for strings and what onnx has added since."""
    return _BY_NUMBER.get(number)


def element_type(number: int) -> ElementType:
    """The type with this TensorProto.DataType.

    Raises:
        KeyError: the table lacks it.
    """
    return _BY_NUMBER[number]


def element_type_of(dtype: DTypeLike) -> ElementType:
    """The type that NumPy holds as ``dtype``.

    Raises:
        KeyError: the table lacks it.
    """
    return _BY_DTYPE[np.dtype(dtype)]


def is_compressible(number: int) -> bool:
    """Whether tensors with this TensorProto.DataType can be pruned, clustered and packed."""
    found = _BY_NUMBER.get(number)
    return found is not None and found.is_compressible


def compute_dtype(dtype: DTypeLike) -> DType:
    """The type that decoders compute elements of a compressible ``dtype`` in (FORMAT.md 2.1)."""
    compute = element_type_of(dtype).compute
    assert compute is not None
    return compute
