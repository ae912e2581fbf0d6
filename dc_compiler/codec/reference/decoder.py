"""A frame as a whole."""

from __future__ import annotations

import numpy as np

from dc_compiler.codec.reference.header import open_frame
from dc_compiler.codec.reference.readers import ByteReader, require
from dc_compiler.codec.reference.spec import GRID, NO_CODEBOOK, NO_SCALES, Array, Header
from dc_compiler.codec.reference.table import CODERS
from dc_compiler.codec.reference.values import dequantize, nonzero_bits, read_codebook, read_scales


def parse_header(frame: bytes) -> Header:
    """Read and check the header and its CRC; the sections are not looked at. Raises CorruptFrameError."""
    return open_frame(frame)[0]


def decode(frame: bytes, max_bytes: int = 1 << 31) -> Array:
    """Decode a frame to an array of its dims and dtype (ml_dtypes.bfloat16 for bf16).

    Raises CorruptFrameError when the frame breaks a rule of FORMAT.md or decodes to more than `max_bytes`.
    """
    header, reader = open_frame(frame)
    _check_size(header, max_bytes)
    if header.codebook_kind == NO_CODEBOOK:
        values = _read_elements(header, reader)
    else:
        codebook, scales, indices = _read_indexed(header, reader)
        values = dequantize(header, codebook, scales, indices)
    reader.finish("the frame")
    return values.reshape(header.dims)


def decode_indices(frame: bytes, max_bytes: int = 1 << 31) -> Array:
    """Decode only the codebook indices: uint16, in the shape of the tensor. Raises as `decode` does."""
    header, reader = open_frame(frame)
    _check_size(header, max_bytes)
    require(header.codebook_kind != NO_CODEBOOK, "the frame has no codebook")
    indices = _read_indexed(header, reader)[2]
    reader.finish("the frame")
    return indices.astype(np.uint16).reshape(header.dims)


def decode_points(frame: bytes, max_bytes: int = 1 << 31) -> tuple[Array, Array]:
    """The points of a scaled grid of f32 as int8 in the shape of the tensor, and its (channels,) scales.

    Raises as `decode` does, and where the frame is of another kind or a point does not fit.
    """
    header, reader = open_frame(frame)
    _check_size(header, max_bytes)
    require(header.codebook_kind == GRID and header.element == np.float32, "the frame holds no grid of f32")
    codebook, scales, indices = _read_indexed(header, reader)
    require(scales is not None, "the frame has no scales")
    require(codebook[0] >= -128 and codebook[-1] <= 127, "a point does not fit int8")
    reader.finish("the frame")
    assert scales is not None
    return codebook[indices].astype(np.int8).reshape(header.dims), scales.astype(np.float32)


def _check_size(header: Header, max_bytes: int) -> None:
    require(header.bytes_of(header.n) <= max_bytes, f"it decodes to more than {max_bytes} bytes")


def _read_elements(header: Header, reader: ByteReader) -> Array:
    """The elements of a frame without a codebook: 1-D, in the tensor's dtype."""
    values = CODERS[header.coder].read(header, reader)
    require(nonzero_bits(values) == header.nnz, "wrong number of non-zeros")
    return values


def _read_indexed(header: Header, reader: ByteReader) -> tuple[Array, Array | None, Array]:
    """Codebook (k,), scales (channels,) or None, and indices (n,) of a frame with a codebook."""
    codebook = read_codebook(header, reader)
    scales = read_scales(header, reader) if header.scale_kind != NO_SCALES else None
    indices = CODERS[header.coder].read(header, reader)
    nnz = header.n if header.zero == 0 else int(np.count_nonzero(indices != header.zero - 1))
    require(nnz == header.nnz, "wrong number of non-zeros")
    return codebook, scales, indices
