"""The native layers that run from their kept weights, bound to NumPy for tests and benchmarks."""

from __future__ import annotations

import ctypes
import functools
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from dc_compiler.codec.library import library

Floats = npt.NDArray[np.float32]
Bounds = tuple[float, float] | None

_ERROR_BYTES = 256
_POINTER, _SIZE, _NUMBER, _TEXT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p
_BYTE, _FLOAT = ctypes.c_uint8, ctypes.c_float


@functools.cache
def _functions() -> ctypes.CDLL:
    loaded = library()
    signatures = {
        "dcc_sparse_matmul_make": (_NUMBER, [_POINTER, _SIZE, _SIZE, _NUMBER, _SIZE, _NUMBER, _POINTER, _TEXT, _SIZE]),
        "dcc_sparse_matmul_run": (
            _NUMBER,
            [_POINTER, _POINTER, _SIZE, _POINTER, _POINTER, _POINTER, _NUMBER, _TEXT, _SIZE],
        ),
        "dcc_sparse_matmul_bytes": (_SIZE, [_POINTER]),
        "dcc_sparse_matmul_free": (None, [_POINTER]),
        "dcc_sparse_int8_make": (
            _NUMBER,
            [_POINTER, _POINTER, _SIZE, _SIZE, _NUMBER, _NUMBER, _POINTER, _TEXT, _SIZE],
        ),
        "dcc_sparse_int8_run": (
            _NUMBER,
            [_POINTER, _POINTER, _SIZE, _BYTE, _FLOAT, _POINTER, _POINTER, _POINTER, _NUMBER, _TEXT, _SIZE],
        ),
        "dcc_sparse_int8_bytes": (_SIZE, [_POINTER]),
        "dcc_sparse_int8_free": (None, [_POINTER]),
        "dcc_sparse_conv_make": (_NUMBER, [_POINTER, _SIZE, _SIZE, _POINTER, _NUMBER, _POINTER, _TEXT, _SIZE]),
        "dcc_sparse_conv_shape": (_NUMBER, [_POINTER, _SIZE, _SIZE, _POINTER, _TEXT, _SIZE]),
        "dcc_sparse_conv_run": (
            _NUMBER,
            [_POINTER, _POINTER, _SIZE, _SIZE, _SIZE, _POINTER, _POINTER, _POINTER, _NUMBER, _TEXT, _SIZE],
        ),
        "dcc_sparse_conv_bytes": (_SIZE, [_POINTER]),
        "dcc_sparse_conv_free": (None, [_POINTER]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def _call(name: str, *arguments: object) -> None:
    error = ctypes.create_string_buffer(_ERROR_BYTES)
    if getattr(_functions(), name)(*arguments, error, _ERROR_BYTES) != 0:
        raise ValueError(error.value.decode())


def _address(array: npt.NDArray[Any] | None) -> int | None:
    return None if array is None else array.ctypes.data


def _bounds(bounds: Bounds) -> ctypes.Array[ctypes.c_float] | None:
    return None if bounds is None else (ctypes.c_float * 2)(*bounds)


class SparseMatMul:
    """y = x @ W + bias from the weights of W that are not zero, with the kernel set in use when it is made.

    weights     (k, n), or (n, k) if `transposed`, float32
    usual_rows  number of rows of most x, 0 if unknown
    threads     that make it
    """

    def __init__(self, weights: Floats, *, transposed: bool = False, usual_rows: int = 0, threads: int = 1) -> None:
        dense = np.ascontiguousarray(weights, np.float32)
        self.k, self.n = dense.shape[::-1] if transposed else dense.shape
        handle = _POINTER()
        arguments = (dense.ctypes.data, self.k, self.n, int(transposed), usual_rows, threads, ctypes.byref(handle))
        _call("dcc_sparse_matmul_make", *arguments)
        self._handle = handle
        weakref.finalize(self, _functions().dcc_sparse_matmul_free, handle)

    @property
    def nbytes(self) -> int:
        return int(_functions().dcc_sparse_matmul_bytes(self._handle))

    def run(
        self, x: Floats, out: Floats, *, bias: Floats | None = None, bounds: Bounds = None, threads: int = 1
    ) -> None:
        """Write (m, n) `out` for (m, k) `x` and (n,) `bias`, brought into `bounds`; contiguous float32."""
        assert x.shape[1] == self.k
        assert out.shape == (len(x), self.n)
        start, ends = _address(bias), _bounds(bounds)
        arguments = (self._handle, x.ctypes.data, len(x), start, ends, out.ctypes.data, threads)
        _call("dcc_sparse_matmul_run", *arguments)

    def __call__(self, x: Floats, bias: Floats | None = None, bounds: Bounds = None, threads: int = 1) -> Floats:
        out = np.empty((len(x), self.n), np.float32)
        self.run(x, out, bias=bias, bounds=bounds, threads=threads)
        return out


class SparseInt8MatMul:
    """y = (x - zero) @ W in integers, * (step * scales) + bias, from the weights of W that are not zero.

    points      (k, n), or (n, k) if `transposed`, int8
    scales      (n,) float32: what they are multiples of
    threads     that make it
    """

    def __init__(
        self, points: npt.NDArray[np.int8], scales: Floats, *, transposed: bool = False, threads: int = 1
    ) -> None:
        dense, own = np.ascontiguousarray(points, np.int8), np.ascontiguousarray(scales, np.float32)
        self.k, self.n = dense.shape[::-1] if transposed else dense.shape
        assert own.shape == (self.n,)
        handle = _POINTER()
        size = (self.k, self.n, int(transposed), threads)
        _call("dcc_sparse_int8_make", dense.ctypes.data, own.ctypes.data, *size, ctypes.byref(handle))
        self._handle = handle
        weakref.finalize(self, _functions().dcc_sparse_int8_free, handle)

    @property
    def nbytes(self) -> int:
        return int(_functions().dcc_sparse_int8_bytes(self._handle))

    def run(
        self, x: npt.NDArray[np.uint8], zero: int, step: float | np.float32, out: Floats, *, bias: Floats | None = None,
        bounds: Bounds = None, threads: int = 1,
    ) -> None:  # fmt: skip
        """Write (m, n) `out` for (m, k) `x` and (n,) `bias`, brought into `bounds`; contiguous."""
        assert x.shape[1] == self.k
        assert x.dtype == np.uint8
        assert out.shape == (len(x), self.n)
        arguments = (self._handle, x.ctypes.data, len(x), zero, float(step), _address(bias), _bounds(bounds))
        _call("dcc_sparse_int8_run", *arguments, out.ctypes.data, threads)

    def __call__(
        self, x: npt.NDArray[np.uint8], zero: int, step: float | np.float32, bias: Floats | None = None,
        bounds: Bounds = None, threads: int = 1,
    ) -> Floats:  # fmt: skip
        out = np.empty((len(x), self.n), np.float32)
        self.run(x, zero, step, out, bias=bias, bounds=bounds, threads=threads)
        return out


class SparseConv:
    """ONNX Conv from the weights of its (M, C / groups, kh, kw) float32 kernel that are not zero."""

    def __init__(
        self,
        weights: Floats,
        *,
        strides: tuple[int, int] = (1, 1),
        dilations: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        groups: int = 1,
        threads: int = 1,
    ) -> None:
        dense = np.ascontiguousarray(weights, np.float32)
        self.outputs, channels, *kernel = dense.shape
        self.channels = channels * groups
        attributes = (_SIZE * 11)(*kernel, *strides, *dilations, *pads, groups)
        handle = _POINTER()
        arguments = (dense.ctypes.data, self.outputs, self.channels, attributes, threads, ctypes.byref(handle))
        _call("dcc_sparse_conv_make", *arguments)
        self._handle = handle
        weakref.finalize(self, _functions().dcc_sparse_conv_free, handle)

    @property
    def nbytes(self) -> int:
        return int(_functions().dcc_sparse_conv_bytes(self._handle))

    def out_shape(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output for an image of this size. Raises ValueError when the kernel does not fit."""
        found = (_SIZE * 2)()
        _call("dcc_sparse_conv_shape", self._handle, height, width, found)
        return found[0], found[1]

    def run(
        self, x: Floats, out: Floats, *, bias: Floats | None = None, bounds: Bounds = None, threads: int = 1
    ) -> None:
        """Write (N, M, OH, OW) `out` for (N, C, H, W) `x` and (M,) `bias`, brought into `bounds`; all float32."""
        images, channels, height, width = x.shape
        assert channels == self.channels
        assert out.shape == (images, self.outputs, *self.out_shape(height, width))
        start, ends = _address(bias), _bounds(bounds)
        size = (images, height, width)
        _call("dcc_sparse_conv_run", self._handle, x.ctypes.data, *size, start, ends, out.ctypes.data, threads)

    def __call__(self, x: Floats, bias: Floats | None = None, bounds: Bounds = None, threads: int = 1) -> Floats:
        out = np.empty((len(x), self.outputs, *self.out_shape(*x.shape[2:])), np.float32)
        self.run(x, out, bias=bias, bounds=bounds, threads=threads)
        return out
