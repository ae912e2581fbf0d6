"""Reference decoder: FORMAT.md section by section, one file a coder, in slow and obvious Python for tests."""

from dc_compiler.codec.reference.context import CODER as _CONTEXT
from dc_compiler.codec.reference.context import ContextModel
from dc_compiler.codec.reference.decoder import decode, decode_indices, decode_points, parse_header
from dc_compiler.codec.reference.readers import crc32c
from dc_compiler.codec.reference.spec import DTYPES, LOG_SCALE_STEPS, Array, Header
from dc_compiler.codec.reference.text import TextModel

CONTEXT = _CONTEXT.number

__all__ = [
    "CONTEXT", "DTYPES", "LOG_SCALE_STEPS", "Array", "ContextModel", "Header", "TextModel", "crc32c", "decode",
    "decode_indices", "decode_points", "parse_header",
]  # fmt: skip
