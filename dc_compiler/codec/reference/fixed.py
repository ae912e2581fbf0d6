"""Section 3: coder `fixed`."""

from __future__ import annotations

import numpy as np

from dc_compiler.codec.reference.coder import Coder, Layout, Stores
from dc_compiler.codec.reference.readers import BitReader, ByteReader, read_section, require
from dc_compiler.codec.reference.spec import Array, Header


def _read(header: Header, reader: ByteReader) -> Array:
    section = read_section(reader)
    width = (header.k - 1).bit_length()
    require(len(section.data) == -(-header.n * width // 8), "DATA has the wrong length")
    bits = BitReader(section.data)
    indices = np.zeros(header.n, np.int64) if width == 0 else np.array([bits.take(width) for _ in range(header.n)])
    bits.pad()
    require(int(indices.max()) < header.k, "index not in the codebook")
    return indices


CODER = Coder(1, Stores.INDICES, Layout.WHOLE, _read)
