"""All coders by number (section 2)."""

from __future__ import annotations

from dc_compiler.codec.reference import context, fixed, huffman, lossless, lz, rans, raw, rows, text, trees
from dc_compiler.codec.reference.coder import Coder

_ALL = (
    raw.CODER,
    fixed.CODER,
    huffman.CODER,
    rans.CODER,
    lossless.CODER,
    lz.CODER,
    context.CODER,
    text.CODER,
    rows.CODER,
    trees.CODER,
)
CODERS: dict[int, Coder] = {coder.number: coder for coder in _ALL}
