"""benchmarks/frontier.py on a small model: every way gives a file that the test script runs, or says why not."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import frontier
import numpy as np
import onnx
import peers
import pytest
from models.graphs import sample, weight
from onnx import TensorProto, helper, numpy_helper

TEST = """
import argparse, onnxruntime as ort, numpy as np
p = argparse.ArgumentParser(); p.add_argument("model"); p.add_argument("--custom-op"); a = p.parse_args()
options = ort.SessionOptions(); options.register_custom_ops_library(a.custom_op); options.log_severity_level = 4
x, y = np.load("test.npz").values()
print("agreement =", np.mean(ort.InferenceSession(a.model, options).run(None, {"x": x})[0].argmax(1) == y))
"""
CODEC = """
def encode(arrays, options):
    global last
    last = {k: v.round(1) for k, v in arrays.items()}
    print("noise")
    return bytes(1000)
def decode(coded): return last
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shapes = {"a": (64, 128), "b": (128, 96), "c": (96, 10)}
    nodes, value = [], "x"
    for name in shapes:
        nodes.append(helper.make_node("MatMul", [value, name], [f"m{name}"]))
        nodes.append(helper.make_node("Relu", [f"m{name}"], [value := f"r{name}"]))
    nodes = [*nodes[:-1], helper.make_node("Identity", ["mc"], ["y"])]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n, k in (("x", 64), ("y", 10)))
    stored = [numpy_helper.from_array(weight(*s, seed=i), n) for i, (n, s) in enumerate(shapes.items())]
    model = helper.make_model(helper.make_graph(nodes, "net", [x], [y], stored), ir_version=8)
    model.opset_import[0].version = 17
    onnx.save(model, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=sample(64, 64))
    weights = {t.name: numpy_helper.to_array(t) for t in stored}
    inputs = sample(200, 64, seed=5)
    hidden = np.maximum(np.maximum(inputs @ weights["a"], 0) @ weights["b"], 0)
    np.savez(tmp_path / "test.npz", x=inputs, y=(hidden @ weights["c"]).argmax(1))
    (tmp_path / "eval.py").write_text(TEST)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_table_and_a_plot(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(frontier, "STEPS", (0.1, 1.0))
    monkeypatch.setattr(frontier, "NAIVE", ((None, 8), (0.5, 4)))
    monkeypatch.setattr(sys, "argv", ["frontier.py", "net.onnx", "data.npz", "eval.py", "--plots", "plots"])
    frontier.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "net: agreement"
    table = [line for line in lines[3 : lines.index("", 1)] if "%" in line[49:]]
    rows = {line[:28].strip() + "/" + line[28:49].strip(): line[49:].split() for line in table}
    size = (folder / "net.onnx").stat().st_size
    assert rows["original/"][:3] == [f"{size:,}", "1.00x", "1.0000"]
    assert list(rows) == [
        "original/", "int8 static/", "int8 static, xz/", "int8 dynamic/", "int8 dynamic, xz/",
        *(["MatMulNBits 4 bits/"] if importlib.util.find_spec("onnx_ir") else []),
        "dcc, no data/step 0.1", "dcc, no data/step 1.0", "dcc, data/step 0.1", "dcc, data/step 1.0",
        "naive k-means, Huffman/8 bits", "naive k-means, Huffman/4 bits, 50 % kept",
    ]  # fmt: skip
    scores = {name: float(row[2]) for name, row in rows.items()}
    assert min(scores.values()) > 0.2, scores  # by chance it would be a tenth
    assert min(scores["int8 static/"], scores["dcc, no data/step 0.1"], scores["dcc, data/step 0.1"]) > 0.9, scores
    assert float(rows["int8 static/"][1][:-1]) > 3
    assert float(rows["dcc, data/step 1.0"][1][:-1]) > float(rows["dcc, no data/step 0.1"][1][:-1]) > 4
    summary = {line[:28].strip(): line[28:].split() for line in lines[lines.index("", 1) + 2 :]}
    assert summary["original"] == ["1.00x", "1.00x"]
    assert set(summary) == {name.split("/")[0] for name in rows}
    assert any(re.match(r"NNCodec +not installed for ", line) for line in lines)
    plot = ElementTree.parse(folder / "plots" / "net.svg").getroot()
    named = {t.text for t in plot.iter("{http://www.w3.org/2000/svg}text")}
    assert {"original", "dcc, data", "int8 static", "agreement", "original bytes / file bytes"} <= named


def test_the_largest_ratio_at_a_metric() -> None:
    points = [(4.0, 0.9), (16.0, 0.7), (2.0, 1.0), (8.0, 0.9)]
    assert frontier.reached(points, 1.0) == pytest.approx(2.0)
    assert frontier.reached(points, 0.95) == pytest.approx(2 * 2**0.5)
    assert frontier.reached(points, 0.8) == pytest.approx(8 * 2**0.5)  # half way down from 0.9 to 0.7
    assert frontier.reached(points, 0.5) == 16.0
    assert frontier.reached(points, 1.1) is None


def test_a_codec_in_another_interpreter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for NNCodec that keeps one decimal and says that it took 1,000 bytes."""
    package = folder / "site" / "nncodec"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "nn.py").write_text(CODEC)
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))
    (found,) = peers.nncodec(folder / "net.onnx", folder, sys.executable, [-20])
    assert (found.way, found.setting, found.note) == ("NNCodec", "qp -20", "")
    assert 1000 < found.bytes < 2000  # the stream, and the graph without weights
    assert found.model is not None
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        for path in (folder / "net.onnx", found.model)
    )
    assert set(before) == set(after)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values.round(1))


def test_what_a_quantizer_refuses(folder: Path) -> None:
    (folder / "bad.npz").write_bytes(b"")
    found = next(iter(peers.quantized(folder / "net.onnx", folder / "bad.npz", folder)))
    assert (found.way, found.model) == ("int8 static", None)
    assert found.note.startswith("refused: ")
    assert "bad.npz" in found.note
