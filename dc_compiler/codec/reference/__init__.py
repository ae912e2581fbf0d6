"""Reference decoder: FORMAT.md section by section, one file a coder, in slow and obvious Python for tests."""

from dc_compiler.codec.reference.context import CODER as _CONTEXT
from dc_compiler.codec.reference.context import ContextModel
from dc_compiler.codec.reference.decoder import decode, decode_indices, decode_points, parse_header
from dc_compiler.codec.reference.readers import crc32c
from dc_compiler.codec.reference.rows import CODER as _ROWS
from dc_compiler.codec.reference.rows import RowsModel, RowsTables
from dc_compiler.codec.reference.rows import symbols_of as rows_symbols
from dc_compiler.codec.reference.spec import DTYPES, LOG_SCALE_STEPS, Array, Header
from dc_compiler.codec.reference.text import TextModel
from dc_compiler.codec.reference.trees import TreesModel, trees_bytes

CONTEXT, ROWS = _CONTEXT.number, _ROWS.number

__all__ = [
    "CONTEXT", "DTYPES", "LOG_SCALE_STEPS", "ROWS", "Array", "ContextModel", "Header", "RowsModel", "RowsTables",
    "TextModel", "TreesModel", "crc32c", "decode", "decode_indices", "decode_points", "parse_header", "rows_symbols",
    "trees_bytes",
]  # fmt: skip
