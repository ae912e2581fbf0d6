"""Section 7: coder `lossless`."""

from __future__ import annotations

from typing import Any

import numpy as np

from dc_compiler.codec.reference.byte_stream import read_byte_stream
from dc_compiler.codec.reference.coder import Coder, Layout, Stores, read_chunks
from dc_compiler.codec.reference.readers import ByteReader
from dc_compiler.codec.reference.spec import PLAIN_FLOATS, Array, Header


def _chunk(chunk: ByteReader, m: int, dtype: np.dtype[Any], *, is_float: bool) -> Array:
    planes = [read_byte_stream(chunk, m) for _ in range(dtype.itemsize)]
    words: Array = np.stack(planes, axis=1).reshape(-1).view(f"<u{dtype.itemsize}")
    if is_float:
        words = words >> 1 | words << (8 * dtype.itemsize - 1)
    return words.view(dtype)


def _read(header: Header, reader: ByteReader) -> Array:
    is_float = header.dtype in PLAIN_FLOATS
    parts = read_chunks(header, reader, lambda chunk, m: _chunk(chunk, m, header.element, is_float=is_float))
    return np.concatenate(parts)


CODER = Coder(4, Stores.ELEMENTS, Layout.CHUNKS, _read)
