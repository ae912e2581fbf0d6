"""Section 3: coder `raw`."""

from __future__ import annotations

import numpy as np

from dc_compiler.codec.reference.coder import Coder, Layout, Stores
from dc_compiler.codec.reference.readers import ByteReader, read_section, require
from dc_compiler.codec.reference.spec import Array, Header


def _read(header: Header, reader: ByteReader) -> Array:
    data = read_section(reader).data
    require(len(data) == header.n * header.element.itemsize, "DATA has the wrong length")
    return np.frombuffer(data, header.element)


CODER = Coder(0, Stores.ELEMENTS, Layout.WHOLE, _read, is_empty=True)
