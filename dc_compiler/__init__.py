"""dcc: compiles ONNX models into much smaller ONNX models (Deep Compression, arXiv 1510.00149).

Names are looked up on first use: the ``dcc`` command starts without NumPy and onnx, whose import takes a while.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dc_compiler.codec.binding import get_library_path
    from dc_compiler.compiler import CompileResult, compile_model, inspect_model, unpack_model, verify_models
    from dc_compiler.diff import diff_models
    from dc_compiler.exploration.frontier import frontier
    from dc_compiler.exploration.sensitivity import sensitivity
    from dc_compiler.ort.sessions import InferenceSession, session_options

__all__ = [
    "CompileResult",
    "InferenceSession",
    "compile_model",
    "diff_models",
    "frontier",
    "get_library_path",
    "inspect_model",
    "sensitivity",
    "session_options",
    "unpack_model",
    "verify_models",
]

_HOMES = {
    "InferenceSession": "dc_compiler.ort.sessions",
    "diff_models": "dc_compiler.diff",
    "frontier": "dc_compiler.exploration.frontier",
    "get_library_path": "dc_compiler.codec.binding",
    "sensitivity": "dc_compiler.exploration.sensitivity",
    "session_options": "dc_compiler.ort.sessions",
}  # the others live in dc_compiler.compiler


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES.get(name, "dc_compiler.compiler")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
