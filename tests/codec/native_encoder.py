"""The library's encoder for what frame_builder describes, and frames of it that can be taken apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from frame_builder import Fields, Frame, Quantized

from dc_compiler.codec import binding
from dc_compiler.codec.reference import DTYPES, readers


def encode(q: Quantized, coder: str, position_bits: int = 0, chunk: int = 0, threads: int = 1) -> bytes:
    """A frame of `q`; chunk 0 leaves the choice to the encoder."""
    log = q.log_scales
    return binding.encode_codebook(
        q.indices.astype(np.uint16),
        dims=q.indices.shape,
        dtype=DTYPES[q.dtype],
        codebook=q.codebook,
        grid_lo=q.lo,
        k=q.k,
        zero=q.zero - 1 if q.zero else None,
        scales=q.scales,
        log_scales=None if log is None else np.array([log[0] + d for d in log[1]], np.int32),
        channels=len(q.scales) if q.scales is not None else len(log[1]) if log else 0,
        inner=q.inner,
        offset=q.offset,
        coder=coder,
        position_bits=position_bits,
        chunk_elements=chunk,
        threads=threads,
    )


def attributes_frame(data: npt.NDArray[np.uint8]) -> Frame:
    """A frame of a node's attributes (coder `trees`)."""
    n = data.size
    fields = Fields(9, 2, (n,), int(np.count_nonzero(data)), chunk=n)
    section = readers.ByteReader(binding.encode_data(data, "trees"))
    section.take(len(fields.to_bytes()) + 4)
    return Frame(fields, (section.take(section.varint()),))
