"""dcc: compiles ONNX models into much smaller ONNX models (Deep Compression, arXiv 1510.00149)."""

from dc_compiler.codec.binding import get_library_path
from dc_compiler.compiler import (
    CompileResult,
    compile_model,
    inspect_model,
    unpack_model,
    verify_models,
)
from dc_compiler.ort.sessions import InferenceSession, session_options

__all__ = [
    "CompileResult",
    "InferenceSession",
    "compile_model",
    "get_library_path",
    "inspect_model",
    "session_options",
    "unpack_model",
    "verify_models",
]
