"""Both forms served by a C++ program without Python, through the onnxruntime library that the wheel ships."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import ort_models as models
import pytest

from dc_compiler.codec import binding

HERE = Path(__file__).parent
LIBRARIES = sorted(Path(ort.__file__).parent.glob("capi/libonnxruntime.so.*"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program, or a skip where there is no compiler or the wheel has no plain library (before 1.23)."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None or not LIBRARIES:
        pytest.skip("needs a C++ compiler and a wheel with libonnxruntime.so")
    path = tmp_path_factory.mktemp("c_entry") / "c_entry"
    native = HERE.parents[1] / "dc_compiler" / "native"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
    subprocess.run([compiler, *flags, f"-I{native}", str(HERE / "c_entry.cpp"), "-o", str(path), "-ldl"], check=True)
    return path


def serve(program: Path, model: Path, *values: float) -> subprocess.CompletedProcess[str]:
    command = [str(program), str(LIBRARIES[0]), binding.get_library_path(), str(model), *map(repr, values)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("form", ["session", "graph"])
def test_c_program_gives_the_same_outputs(program: Path, tmp_path: Path, form: str) -> None:
    dense = models.chain(models.random_weights(2, (4, 4)))
    packed = (
        models.session_form(dense, {"w0", "w1"}) if form == "session" else models.graph_form(dense, {"w0": 1, "w1": 2})
    )
    onnx.save(packed, tmp_path / "model.onnx")
    x = [0.5, -1.0, 2.0, 0.25]
    done = serve(program, tmp_path / "model.onnx", *x)
    assert (done.returncode, done.stderr) == (0, "")
    (expected,) = models.open_session(packed).run(None, {"x": np.array([x], np.float32)})
    np.testing.assert_array_equal(np.array(done.stdout.split(), np.float32), expected[0])


def test_c_program_reports_a_damaged_model(program: Path, tmp_path: Path) -> None:
    packed = models.session_form(models.chain(models.random_weights(1, (4, 4))), {"w0"})
    (payload,) = (t for t in packed.graph.initializer if t.name == "w0.dcc")
    payload.raw_data = payload.raw_data[:-1] + b"?"
    onnx.save(packed, tmp_path / "model.onnx")
    done = serve(program, tmp_path / "model.onnx", 0, 0, 0, 0)
    assert done.returncode == 1
    assert "weight 'w0'" in done.stderr
