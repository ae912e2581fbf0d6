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
from onnx import TensorProto, helper, numpy_helper

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


@pytest.mark.parametrize("version", [OLDEST_SESSION, NEWEST])
@pytest.mark.parametrize("execution", ["sparse", "int8"])
def test_serves_layers_that_run_otherwise(runtimes: Path, tmp_path: Path, execution: str, version: str) -> None:
    """A convolution and a product, from what is kept of their weights and in integers."""
    random = np.random.default_rng(0)
    weights = {"k": (16, 8, 3, 3), "w": (16 * 6 * 6, 128), "b": (128,)}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"]),
    ]
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in weights.items()}
    x, y = models.value("x", TensorProto.FLOAT, ["n", 8, 8, 8]), models.value("y", TensorProto.FLOAT, ["n", 128])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(a, n) for n, a in arrays.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    samples = {"x": random.standard_normal((40, 8, 8, 8)).astype(np.float32)}
    pipeline = "prune(density=0.1),cluster,encode" if execution == "sparse" else "cluster(grid),encode"
    made = compile_model(model, pipeline=pipeline, execution=execution, data=samples, min_size=256)
    assert [t.execution for t in made.report.tensors if len(t.shape) > 1] == [execution] * 2
    done, outputs = serve(runtimes, version, made.model, samples, tmp_path)
    assert done.returncode == 0, done.stderr
    (wanted,) = models.open_session(made.model).run(None, samples)
    error = np.abs(outputs[0] - wanted).max() / np.abs(wanted).max()
    assert error < (1e-5 if execution == "sparse" else 0.03)  # a step of a range, where one runtime fuses more
