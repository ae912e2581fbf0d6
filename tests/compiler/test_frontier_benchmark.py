"""benchmarks/frontier.py on a small model: every way gives a file that the test script runs, or says why not."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import default_preset
import frontier
import frontier_page
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
    monkeypatch.setattr(frontier, "NAIVE", ((None, 8), (0.5, 4)))
    frontier.main(
        ["net.onnx", "data.npz", "eval.py", "--steps", "0.1", "1", "--budget", "0.01", "--results", "results"]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "net: agreement"
    table = [line for line in lines[3 : lines.index("", 1)] if "%" in line[49:]]
    rows = {line[:28].strip() + "/" + line[28:49].strip(): line[49:].split() for line in table}
    size = (folder / "net.onnx").stat().st_size
    assert rows["original/"][:3] == [f"{size:,}", "1.00x", "1.0000"]
    assert list(rows) == [
        "original/", "int8 static/", "int8 static, xz/", "int8 dynamic/", "int8 dynamic, xz/",
        *(["MatMulNBits 4 bits/"] if importlib.util.find_spec("onnx_ir") else []),
        "dcc, no data/step 0.1", "dcc, no data/step 1", "dcc, data/step 0.1", "dcc, data/step 1",
        "dcc, data, budget/0.01 minutes", "naive k-means/8 bits", "naive pruning, k-means/4 bits, 50 % kept",
    ]  # fmt: skip
    scores = {name: float(row[2]) for name, row in rows.items()}
    assert min(scores.values()) > 0.2, scores  # by chance it would be a tenth
    assert min(scores["int8 static/"], scores["dcc, no data/step 0.1"], scores["dcc, data/step 0.1"]) > 0.9, scores
    assert float(rows["int8 static/"][1][:-1]) > 3
    assert float(rows["dcc, data/step 1"][1][:-1]) > float(rows["dcc, no data/step 0.1"][1][:-1]) > 4
    start = lines.index("", 1) + 2
    summary = {line[:28].strip(): line[49:].split() for line in lines[start : lines.index("", start)]}
    assert set(summary) <= {name.split("/")[0] for name in rows} - {"original"}
    assert summary["int8 static"] == [
        rows["int8 static/"][1] if scores["int8 static/"] >= b else "-" for b in (0.995, 0.99, 0.98)
    ]
    assert any(re.match(r"NNCodec +not installed for ", line) for line in lines)
    plot = ElementTree.parse(folder / "results" / "net.svg").getroot()
    named = {t.text for t in plot.iter("{http://www.w3.org/2000/svg}text")}
    assert {"original", "dcc, data", "int8 static", "agreement", "original bytes / file bytes"} <= named
    kept = frontier_page.read(folder / "results" / "net.csv")
    assert kept.command == "python benchmarks/frontier.py net.onnx data.npz eval.py --steps 0.1 1 --budget 0.01"
    assert list(kept.lines()) == lines[2 : lines.index("", 1)]


def test_some_ways_are_measured_again(folder: Path) -> None:
    options = ["net.onnx", "data.npz", "eval.py", "--results", "results", "--only"]
    frontier.main([*options, "no-data", "naive", "--steps", "0.1"])
    before = frontier_page.read(folder / "results" / "net.csv")
    frontier.main([*options, "no-data", "--steps", "0.2"])
    after = frontier_page.read(folder / "results" / "net.csv")
    assert [p.setting for p in after.points if p.way == "dcc, no data"] == ["step 0.2"]
    others = [[p for p in m.points if p.way != "dcc, no data"] for m in (before, after)]
    assert len(others[0]) == 1 + len(frontier.NAIVE)
    assert others[0] == others[1]
    ways = list(dict.fromkeys(p.way for p in after.points))
    assert ways == ["original", "dcc, no data", "naive k-means", "naive pruning, k-means"]


def test_nothing_coarser_than_ruin_is_measured(folder: Path) -> None:
    steps = ["0.1", "2", "3"]
    frontier.main(["net.onnx", "data.npz", "eval.py", "--results", "results", "--only", "no-data", "--steps", *steps])
    found = frontier_page.read(folder / "results" / "net.csv")
    assert [p.setting for p in found.points] == ["", "step 0.1", "step 2"]
    ruined = found.points[-1].value
    assert ruined is not None
    assert not found.is_near(ruined)
    assert [len(points) for points in found.curves().values()] == [1, 1]


def test_a_test_that_fails(folder: Path) -> None:
    """On the original it ends everything; on what a peer made it is said and the others go on."""
    (folder / "eval.py").write_text(TEST + 'raise SystemExit("broken" if "int8" in a.model else 0)')
    frontier.main(["net.onnx", "data.npz", "eval.py", "--results", "results", "--only", "onnxruntime"])
    found = {p.way: p for p in frontier_page.read(folder / "results" / "net.csv").points}
    assert found["original"].value == 1
    assert found["int8 static"].note == "eval.py fails on it: broken"
    assert found["int8 static"].value is found["int8 static"].bytes is None
    (folder / "eval.py").write_text("print('nothing')")
    with pytest.raises(default_preset.FailedTestError, match="printed no line 'metric = value'"):
        frontier.main(["net.onnx", "data.npz", "eval.py"])


def test_the_largest_ratio_at_a_metric() -> None:
    points = [(4.0, 0.9), (16.0, 0.7), (2.0, 1.0), (8.0, 0.9)]
    assert frontier_page.reached(points, 1.0) == pytest.approx(2.0)
    assert frontier_page.reached(points, 0.95) == pytest.approx(2 * 2**0.5)
    assert frontier_page.reached(points, 0.8) == pytest.approx(8 * 2**0.5)  # half way down from 0.9 to 0.7
    assert frontier_page.reached(points, 0.5) == 16.0
    assert frontier_page.reached(points, 1.1) is None


def test_luck_is_shared_out() -> None:
    """Of points that rise and fall by turns, the curve has the mean, and the luckiest does not count alone."""
    points = [(2.0, 1.0), (4.0, 0.8), (8.0, 0.9), (16.0, 0.5)]
    assert frontier_page.reached(points, 0.85) == pytest.approx(8.0)
    assert frontier_page.reached(points, 0.9) == pytest.approx(2 * 2 ** (2 / 3))
    assert frontier_page.reached(points, 0.675) == pytest.approx(8 * 2**0.5)


def measured(name: str, **ways: tuple[int, ...]) -> frontier_page.Measured:
    """A model of 1,000,000 bytes and a metric of 0.9; bytes of files that lose nothing, 3 points and 5 points."""
    points = [frontier_page.Point("original", "", 1_000_000, 0.9)]
    for way, sizes in ways.items():
        title = {"ours": "dcc, data", "codec": "NNCodec"}[way]
        points += [frontier_page.Point(title, f"n {s}", s, v) for s, v in zip(sizes, (0.9, 0.87, 0.85), strict=False)]
    points.append(frontier_page.Point("int8 static", "", note="refused: it has a, comma"))
    return frontier_page.Measured(name, "accuracy", "python benchmarks/frontier.py a.onnx", points)


def test_savings_at_an_equal_metric() -> None:
    models = [
        measured("a", ours=(100_000, 50_000), codec=(200_000, 100_000)),
        measured("b", ours=(100_000, 50_000), codec=(125_000, 62_500)),
    ]
    found = frontier_page.savings(models, "dcc, data")
    assert found["a"] == pytest.approx([50, 50, 50, 50])
    assert found["b"] == pytest.approx([20, 20, 20, 20])
    assert found["geometric mean"] == pytest.approx([100 * (1 - 0.4**0.5)] * 4)  # half and four fifths are left
    lines = list(frontier_page.summary_of_all(models))
    assert lines[0].split()[:5] == ["dcc,", "data,", "smaller", "than", "NNCodec"]
    assert lines[-1].split() == ["geometric", "mean", *["36.8", "%"] * 4]
    other = measured("c", ours=(100_000, 50_000), codec=(200_000, 50_000))  # half at the start, as much at 3 points
    by_drops = [1 - 2 ** (drop / 0.03 - 1) for drop in frontier_page.AVERAGED]
    expected = 100 * (1 - np.prod([1 - saved for saved in by_drops]) ** (1 / 6))
    assert frontier_page.savings([other], "dcc, data")["c"][-1] == pytest.approx(expected)
    alone = frontier_page.savings([measured("a", ours=(100_000,))], "dcc, data")
    assert alone == {"geometric mean": []}


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = measured("a", ours=(100_000, 50_000), codec=(200_000, 100_000))
    model.write(tmp_path / "page")
    assert frontier_page.read(tmp_path / "page" / "a.csv") == model
    monkeypatch.setattr(sys, "argv", ["frontier_page.py", str(tmp_path / "page.md")])
    frontier_page.main()
    text = (tmp_path / "page.md").read_text()
    assert (
        "| dcc, data, smaller than NNCodec by | within 0.5 % | within 1 point | within 2 points | 0.5 to 3 points |"
        in text
    )
    assert "| geometric mean | 50.0 % | 50.0 % | 50.0 % | 50.0 % |" in text
    assert "](page/a.svg)" in text
    assert [line.rstrip() for line in model.lines()] == text.split("```")[-2].strip("\n").splitlines()
    assert capsys.readouterr().out.splitlines()[-1].split()[-2:] == ["50.0", "%"]


def test_the_page_in_docs_is_that_of_its_points(tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs"
    models = [frontier_page.read(path) for path in sorted((docs / "frontier").glob("*.csv"))]
    assert (docs / "frontier.md").read_text() == frontier_page.page(models, "frontier")
    for model in models:
        assert (docs / "frontier" / f"{model.model}.svg").read_text() == model.plot()


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
