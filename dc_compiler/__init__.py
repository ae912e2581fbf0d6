"""dcc: compiles ONNX models into much smaller ONNX models (Deep Compression, arXiv 1510.00149)."""

from __future__ import annotations

from pathlib import Path

# In a checkout the passes lie beside this folder instead of inside it (pyproject.toml puts them there on installation).
_checkout = Path(__file__).resolve().parent.parent
if not (Path(__file__).parent / "passes").exists() and (_checkout / "passes" / "__init__.py").exists():
    __path__.append(str(_checkout))

from dc_compiler.compiler import (  # noqa: E402
    CompileResult,
    compile_model,
    inspect_model,
    unpack_model,
    verify_models,
)
from dc_compiler.runtime import get_library_path  # noqa: E402

__all__ = ["CompileResult", "compile_model", "get_library_path", "inspect_model", "unpack_model", "verify_models"]
