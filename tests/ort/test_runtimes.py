"""The oldest and newest onnxruntime that each form supports, installed aside and asked to serve compiled models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import ort_models as models
import pytest
from models.graphs import GRAPHS

from dc_compiler import compile_model
from dc_compiler.codec import binding

pytestmark = pytest.mark.runtimes

OLDEST_GRAPH, OLDEST_ALIAS, OLDEST_SESSION, NEWEST = "1.16.0", "1.18.1", "1.23.0", "1.31.1"
SERVE = """
import sys
import numpy as np, onnxruntime as ort
assert ort.__version__ == sys.argv[1], ort.__version__
options = ort.SessionOptions()
options.register_custom_ops_library(sys.argv[2])
session = ort.InferenceSession(sys.argv[3], options, providers=["CPUExecutionProvider"])
feed = dict(np.load(sys.argv[4]))
for _ in range(2):
    outputs = session.run(None, feed)
np.savez(sys.argv[5], *outputs)
"""


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runtimes")


def installed(folder: Path, version: str) -> Path:
    """The folder that holds this onnxruntime, installed on first use."""
    target = folder / version
    if not target.exists():
        minor = int(version.split(".")[1])
        needs = ["numpy<2"] if minor < 19 else ["numpy"]
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(target)]
        subprocess.run([*command, "--no-deps", f"onnxruntime=={version}"], check=True)
        subprocess.run([*command, *needs, "packaging", "flatbuffers", "coloredlogs", "protobuf", "sympy"], check=True)
    return target


def serve(
    folder: Path, version: str, model: onnx.ModelProto, feed: dict[str, np.ndarray], tmp_path: Path
) -> tuple[subprocess.CompletedProcess[str], list[np.ndarray]]:
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "feed.npz", **feed)  # type: ignore[arg-type]
    out = tmp_path / "out.npz"
    paths = [binding.get_library_path(), *(str(tmp_path / name) for name in ("model.onnx", "feed.npz", "out.npz"))]
    done = subprocess.run(
        [sys.executable, "-c", SERVE, version, *paths],
        env=os.environ | {"PYTHONPATH": str(installed(folder, version))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, [np.load(out)[name] for name in np.load(out).files] if out.exists() else []


@pytest.mark.parametrize(
    ("form", "version"),
    [
        ("graph", OLDEST_GRAPH),
        ("graph", OLDEST_ALIAS),
        ("graph", NEWEST),
        ("session", OLDEST_SESSION),
        ("session", NEWEST),
    ],
)
@pytest.mark.parametrize("name", ["conv", "matmul", "float16_raw"])
def test_serves(runtimes: Path, tmp_path: Path, name: str, form: str, version: str) -> None:
    model, feed = GRAPHS[name]()
    model.ir_version = 8
    compiled = compile_model(model, emit=form, min_size=256).model
    done, outputs = serve(runtimes, version, compiled, feed, tmp_path)
    assert done.returncode == 0, done.stderr
    expected = models.open_session(compiled).run(None, feed)
    for want, got in zip(expected, outputs, strict=True):
        tolerance = 1e-2 if want.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance)


def test_session_form_is_refused_by_older_runtimes(runtimes: Path, tmp_path: Path) -> None:
    model, feed = GRAPHS["matmul"]()
    model.ir_version = 8
    done, _ = serve(runtimes, OLDEST_ALIAS, compile_model(model, min_size=256).model, feed, tmp_path)
    assert done.returncode != 0
    assert f"onnxruntime {OLDEST_ALIAS}" in done.stderr
    assert "--emit graph" in done.stderr
