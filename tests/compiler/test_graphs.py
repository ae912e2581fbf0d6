"""Every hand-built graph and fixture compiles in both forms and unpacks to what the library decodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixtures.inputs import FIXTURES, sample_inputs
from models.graphs import GRAPHS

from dc_compiler import compile_model, get_library_path, unpack_model
from dc_compiler.recipe import Form
from dc_compiler.report import CompileReport

FORMS: tuple[Form, ...] = ("session", "graph")
# Its feed overrides a weight, which a packed weight does not allow (test_overridable in test_compile.py)
NAMES = sorted(GRAPHS.keys() - {"overridable_fed"})


def run(model: onnx.ModelProto | str, feed: dict[str, np.ndarray], optimize: bool = True) -> list[object]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.register_custom_ops_library(get_library_path())
    content = model if isinstance(model, str) else model.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def is_exact(report: CompileReport) -> bool:
    """Whether onnxruntime runs the very same graph with the very same constants."""
    moved = any("moved out" in n or "no longer an input" in n for n in report.notes)
    return report.form == "session" and not moved


def same(left: object, right: object, exact: bool) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        if exact or left.dtype.kind not in "fV":
            return left.tobytes() == right.tobytes() if left.dtype.kind != "O" else bool((left == right).all())
        scale = max(1.0, float(np.abs(np.nan_to_num(left.astype(np.float64), posinf=0, neginf=0)).max(initial=0)))
        tolerance = (2e-2 if left.dtype.itemsize == 2 else 1e-5) * scale
        return np.allclose(left.astype(np.float64), right.astype(np.float64), rtol=0, atol=tolerance, equal_nan=True)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(a, b, exact) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k], exact) for k in left)
    return left == right


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_lossless_changes_nothing(name: str, form: str) -> None:
    """With min_size 0 every float tensor is packed; session form keeps every bit of the outputs."""
    model, feed = GRAPHS[name]()
    expected = run(model, feed)
    result = compile_model(model, preset="lossless", min_size=0, emit=form)
    onnx.checker.check_model(result.model)
    assert same(expected, run(result.model, feed), exact=is_exact(result.report))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_default_equals_its_unpacked_model(name: str, form: str, tmp_path: Path) -> None:
    model, feed = GRAPHS[name]()
    path = tmp_path / "out.onnx"
    result = compile_model(model, path, min_size=64, emit=form, force=True)
    dense = unpack_model(path)
    onnx.checker.check_model(dense)
    assert same(run(dense, feed), run(str(path), feed), exact=result.report.form == "session")


@pytest.mark.parametrize("name", NAMES)
def test_slim_changes_nothing(name: str) -> None:
    """Nor do the coders that are made for small files."""
    model, feed = GRAPHS[name]()
    result = compile_model(model, pipeline="slim,encode(lossless)", min_size=0)
    onnx.checker.check_model(result.model)
    assert same(run(model, feed), run(result.model, feed), exact=is_exact(result.report))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FIXTURES)
def test_smallest_equals_its_unpacked_model(name: str, form: str, tmp_path: Path) -> None:
    feed = sample_inputs(name)
    path, dense = tmp_path / "out.onnx", tmp_path / "dense.onnx"
    result = compile_model(FIXTURES[name], path, preset="smallest", emit=form, force=True)
    assert any(t.reason is None for t in result.report.tensors)
    unpack_model(path, dense)
    assert same(run(str(dense), feed), run(str(path), feed), exact=result.report.form == "session")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FIXTURES)
def test_exports_of_frameworks(name: str, form: str, tmp_path: Path) -> None:
    feed = sample_inputs(name)
    path = tmp_path / "out.onnx"
    result = compile_model(FIXTURES[name], min_size=256, emit=form)
    onnx.save(result.model, path)
    assert any(t.reason is None for t in result.report.tensors)
    dense = tmp_path / "dense.onnx"
    unpack_model(path, dense)
    assert same(run(str(dense), feed), run(str(path), feed), exact=result.report.form == "session")
    lossless = compile_model(FIXTURES[name], preset="lossless", min_size=0, emit=form)
    assert same(run(str(FIXTURES[name]), feed), run(lossless.model, feed), exact=is_exact(lossless.report))
