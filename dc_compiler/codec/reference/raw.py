"""Section 3: coder `raw`."""

from __future__ import annotations

import numpy as np

from dc_compiler.codec.reference.coder import Coder, Layout, Stores
from dc_compiler.codec.reference.readers import ByteReader, read_section, require
from dc_compiler.codec.reference.spec import Array, Header, nibbles


def _read(header: Header, reader: ByteReader) -> Array:
    data = read_section(reader).data
    require(len(data) == header.bytes_of(header.n), "DATA has the wrong length")
    if not header.is_nibbles:
        return np.frombuffer(data, header.element)
    pairs = np.frombuffer(data, "u1")
    elements = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)
    require(not elements[header.n :].any(), "the last byte has bits left")
    return nibbles(elements[: header.n], header)


CODER = Coder(0, Stores.ELEMENTS, Layout.WHOLE, _read, is_empty=True)
