"""Models that need another custom-operator library: compiled, verified, timed, trained on and served with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import ort_models as models
import pytest
from onnx import TensorProto, helper, numpy_helper

import dc_compiler
from dc_compiler import cli, compile_model, verify_models
from dc_compiler.errors import DccError, InvalidArgumentError
from dc_compiler.ort import bench

HERE = Path(__file__).parent
FORMS = ("session", "graph")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library with other.ops:Twice, or a skip where there is no compiler."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    path = tmp_path_factory.mktemp("other") / "libother.so"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-shared", "-fPIC"]
    native = HERE.parents[1] / "dc_compiler" / "native"
    subprocess.run([compiler, *flags, f"-I{native}", str(HERE / "custom_ops.cpp"), "-o", str(path)], check=True)
    return path


def doubled(domain: str = "other.ops", operator: str = "Twice") -> onnx.ModelProto:
    """x [n, 64] -> |x| -> the other library's operator -> times a weight [64, 64] -> y."""
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node(operator, ["a"], ["t"], domain=domain),
        helper.make_node("MatMul", ["t", "w"], ["y"]),
    ]
    x, y = (models.value(name, TensorProto.FLOAT, ["n", 64]) for name in "xy")
    graph = helper.make_graph(nodes, "graph", [x], [y], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)], ir_version=8
    )


@pytest.mark.parametrize("form", FORMS)
def test_compiled_and_verified(library: Path, tmp_path: Path, form: str) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(doubled(), source)
    flags = ["--custom-op-library", str(library)]
    assert cli.main(["compile", str(source), "-o", str(target), "--emit", form, *flags]) == 0
    result = verify_models(source, target, custom_op_libraries=[library])
    assert result.skipped is None
    assert result.outputs[0].cosine is not None
    assert 0.99 < result.outputs[0].cosine < 1
    assert cli.main(["verify", str(source), str(target), *flags]) == 0
    session = dc_compiler.InferenceSession(target, custom_op_libraries=[library])
    x = models.random_input(3, 64)
    want = 2 * np.abs(x) @ numpy_helper.to_array(doubled().graph.initializer[0])
    got = session.run(None, {"x": x})[0]
    assert float(np.vdot(got, want) / np.linalg.norm(got) / np.linalg.norm(want)) > 0.99


def test_lossless_is_identical(library: Path) -> None:
    report = compile_model(doubled(), preset="lossless", custom_op_libraries=str(library)).report
    assert report.verification is not None
    assert report.verification.identical
    assert report.verification.feeds > 0


def test_the_other_library_is_registered_first(library: Path) -> None:
    """The options that the inner session gets are those that dcc's library found when it was registered."""
    model = compile_model(doubled(), custom_op_libraries=library).model.SerializeToString()

    def serve(*order: str | Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        for path in order:
            options.register_custom_ops_library(str(path))
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    ours = dc_compiler.get_library_path()
    assert serve(library, ours).run(None, {"x": models.random_input(1, 64)})[0].shape == (1, 64)
    with pytest.raises(Exception, match=r"Twice.*is not a registered"):
        serve(ours, library)


def test_without_the_library_the_sentence_says_what_to_give(tmp_path: Path) -> None:
    onnx.save(doubled(), tmp_path / "in.onnx")
    result = verify_models(tmp_path / "in.onnx", tmp_path / "in.onnx")
    assert result.skipped is not None
    assert "other.ops:Twice" in result.skipped
    assert "--custom-op-library" in result.skipped


def test_a_library_that_is_missing_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"nowhere.so does not exist"):
        compile_model(tmp_path / "missing.onnx", custom_op_libraries=["nowhere.so"])
    with pytest.raises(InvalidArgumentError, match=r"nowhere.so does not exist"):
        bench.bench(tmp_path / "a", tmp_path / "b", custom_op_libraries=[Path("nowhere.so")])


def test_the_library_is_never_overwritten(library: Path, tmp_path: Path) -> None:
    copied = tmp_path / "lib.onnx"
    shutil.copy(library, copied)
    with pytest.raises(DccError, match=r"lib.onnx"):
        compile_model(doubled(), copied, custom_op_libraries=[copied])
    assert copied.read_bytes() == library.read_bytes()


def test_bench(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "LOAD_RUNS", 1)
    monkeypatch.setattr(bench, "LATENCY_SECONDS", 0.1)
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(doubled(), source)
    compile_model(source, target, custom_op_libraries=[library])
    command = ["bench", str(source), str(target), "--json"]
    assert cli.main([*command, "--custom-op-library", str(library)]) == 0
    output = capfd.readouterr()
    assert [row["name"] for row in json.loads(output.out)["rows"]] == [
        "file size",
        "load time",
        "peak memory",
        "latency",
    ]
    assert output.err == ""
    assert cli.main(command) == 2
    sentence = capfd.readouterr().err
    assert sentence.count("\n") == 1
    assert "--custom-op-library" in sentence
    assert "\x1b" not in sentence


def test_training_goes_through_the_session_with_the_library(library: Path) -> None:
    model = doubled()
    model.graph.value_info.append(models.value("t", TensorProto.FLOAT, [8, 64]))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 8
    report = compile_model(
        model, data={"x": models.random_input(64, 64)}, pipeline="prune(density=0.5),finetune(epochs=1,lr=1e-4),encode",
        custom_op_libraries=library,
    ).report  # fmt: skip
    assert [p.name for p in report.passes] == ["prune", "finetune", "encode"]


def test_onnxruntimes_log_stays_away(library: Path, tmp_path: Path) -> None:
    """Failures while loading outside and inside, and while running, print our sentence alone."""
    source, target, data = (tmp_path / name for name in ("in.onnx", "out.onnx", "data.npz"))
    model = doubled()
    model.graph.node.remove(model.graph.node[0])
    model.graph.node[0].input[0] = "x"  # no Abs: negative numbers reach Twice
    onnx.save(model, source)
    np.savez(data, x=-np.abs(models.random_input(4, 64)))
    given = ["--custom-op-library", str(library)]
    assert cli.main(["compile", str(source), "-o", str(target), "--density", "1", *given, "--force"]) == 0

    def errors(*words: str) -> str:
        command = [sys.executable, "-m", "dc_compiler", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        return done.stderr

    dense = tmp_path / "dense.onnx"
    onnx.save(models.chain([np.eye(64, dtype=np.float32)]), dense)
    sentences = [
        errors("verify", str(source), str(target), *given, "--data", str(data)),
        errors("verify", str(source), str(target), "--data", str(data)),
        errors("verify", str(dense), str(target)),
        errors("bench", str(dense), str(target)),
    ]
    for sentence, expected in zip(sentences, ("no negative numbers", *["is not a registered"] * 3), strict=True):
        assert sentence.startswith("dcc: ")
        assert sentence.count("\n") == 1
        assert expected in sentence
        assert "\x1b" not in sentence


@pytest.mark.runtimes
@pytest.mark.parametrize("form", FORMS)
def test_onnxruntime_extensions(tmp_path: Path, form: str) -> None:
    """With the library of another maker: ai.onnx.contrib:Inverse before a weight."""
    folder = tmp_path / "extensions"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, "onnxruntime-extensions"], check=True)
    (path,) = folder.glob("onnxruntime_extensions/_extensions_pydll*.so")
    model = doubled("ai.onnx.contrib", "Inverse")
    del model.graph.node[0]
    model.graph.node[0].input[0] = "x"
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 64
    x = 2 * np.eye(64, dtype=np.float32) + 0.01
    data = {"x": x[None].repeat(2, 0).reshape(128, 64)}
    fine = "cluster(grid),encode"  # near-lossless
    result = compile_model(model, emit=form, data=data, pipeline=fine, custom_op_libraries=[path])
    assert result.report.verification is not None
    assert result.report.verification.worst_cosine is not None
    assert result.report.verification.worst_cosine > 0.999
    dense = np.linalg.inv(x) @ numpy_helper.to_array(model.graph.initializer[0])
    session = dc_compiler.InferenceSession(result.model.SerializeToString(), custom_op_libraries=[path])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], dense, atol=0.05)
