"""Rate-distortion curves of single weights: figures that can be worked out, weights anywhere, and what is shown."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models.graphs import GRAPHS
from onnx import TensorProto, helper, numpy_helper
from single_layers import normal

import dc_compiler
from dc_compiler import ir
from dc_compiler.cli import main
from dc_compiler.exploration.sensitivity import SensitivityReport
from dc_compiler.model import files, importer
from dc_compiler.pass_manager import Context
from dc_compiler.passes.cluster import Cluster

Array = np.ndarray
WIDTH = 48


def product(*weights: Array) -> onnx.ModelProto:
    """y = x w0 w1 ... with x [n, k]."""
    names = ["x", *(f"v{i}" for i in range(1, len(weights))), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(len(weights))]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weights[0].shape[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weights[-1].shape[1]])
    stored = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "product", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rounded(model: onnx.ModelProto, step: float) -> dict[str, ir.WeightRecord]:
    """What the clustering without data makes of all weights."""
    program = importer.build_program(files.read_model(model), min_size=1024)
    Cluster(mode="grid", step=step).run(program, Context(jobs=1))
    return {r.name: r for r in program.records}


def entropy(record: ir.WeightRecord) -> float:
    assert record.clustered is not None
    _, counts = np.unique(record.clustered.indices, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def divergence(output: Array, exact: Array) -> float:
    """Squared error in variances: of all, or on the mean over the features, each by itself."""
    error = np.square(output - exact)
    return max(float(error.mean() / exact.var()), float((error.mean(0) / exact.var(0)).mean()))


def test_figures_that_can_be_worked_out() -> None:
    """Few samples: no calibration, and all are judged. The outputs are far too small for scores of classes."""
    first, second = normal(WIDTH, WIDTH), normal(WIDTH, 40, seed=1) / 1000
    model, x = product(first, second), normal(20, WIDTH, seed=2)
    report = dc_compiler.sensitivity(model, data={"x": x}, steps=(0.25, 1.0), jobs=1)
    assert (report.is_calibrated, report.samples, report.inputs) == (False, 20, "samples")
    assert report.notes == ["20 samples are too few to calibrate on; give 32 or more"]
    exact = x.astype(np.float64) @ first @ second
    curves = {c.name: c for c in report.curves}
    assert {n: (c.shape, c.elements) for n, c in curves.items()} == {
        "w0": ((WIDTH, WIDTH), WIDTH * WIDTH), "w1": ((WIDTH, 40), WIDTH * 40),
    }  # fmt: skip
    for place, step in enumerate(report.steps):
        new = rounded(model, step)
        outputs = {
            "w0": x.astype(np.float64) @ new["w0"].values @ second,
            "w1": x.astype(np.float64) @ first @ new["w1"].values,
        }
        for name, output in outputs.items():
            point = curves[name].points[place]
            assert point.divergence == pytest.approx(divergence(output, exact), rel=1e-3)
            assert point.bits == pytest.approx(entropy(new[name]), rel=1e-12)
            assert (point.disagreement, point.score) == (0.0, None)
        both = x.astype(np.float64) @ new["w0"].values @ new["w1"].values
        assert report.together[place].divergence == pytest.approx(divergence(both, exact), rel=1e-3)
        mean = np.average([entropy(new["w0"]), entropy(new["w1"])], weights=[WIDTH * WIDTH, WIDTH * 40])
        assert report.together[place].bits == pytest.approx(mean, rel=1e-12)
    for curve in report.curves:
        fine, coarse = curve.points
        saved = curve.elements * (fine.bits - coarse.bits)
        assert curve.per_bit == pytest.approx((coarse.divergence - fine.divergence) / saved, rel=1e-12)
        assert curve.per_kb == 8000 * curve.per_bit > 0
    assert report.curves[0].per_bit > report.curves[1].per_bit


def test_few_values_cost_nothing_and_keep_their_bits() -> None:
    few = np.random.default_rng(0).permutation(np.repeat(normal(128, seed=3), WIDTH * WIDTH // 128))
    model = product(normal(WIDTH, WIDTH), few.reshape(WIDTH, WIDTH) / 1000)
    report = dc_compiler.sensitivity(model, data={"x": normal(20, WIDTH, seed=2)}, jobs=1)
    assert [c.name for c in report.curves] == ["w0", "w1"]
    assert report.curves[1].per_bit == 0
    assert [(p.bits, p.divergence) for p in report.curves[1].points] == [(7.0, 0.0)] * len(report.steps)


def test_what_stays_exact_is_said() -> None:
    model = product(normal(WIDTH, WIDTH), np.eye(WIDTH, dtype=np.float32))
    report = dc_compiler.sensitivity(model, jobs=1)
    assert [c.name for c in report.curves] == ["w0"]
    assert "1 tensor stays exact: w1 (2 distinct values)" in report.notes


def test_a_part_that_hardly_counts_comes_last() -> None:
    """y = x w0 + x w1, w1 a thousandth of w0."""
    weights = {"w0": normal(WIDTH, WIDTH) / 1000, "w1": normal(WIDTH, WIDTH, seed=1) / 1_000_000}
    nodes = [helper.make_node("MatMul", ["x", n], [f"p{n}"]) for n in weights]
    nodes.append(helper.make_node("Add", ["pw0", "pw1"], ["y"]))
    model = product(weights["w0"])
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in weights.items())
    report = dc_compiler.sensitivity(model, data={"x": normal(200, WIDTH, seed=3)}, jobs=1)
    assert report.is_calibrated
    assert report.samples == 68  # two fifths of what the check part leaves
    first, last = report.curves
    assert (first.name, last.name) == ("w0", "w1")
    assert first.per_bit > 1e5 * last.per_bit > 0
    for curve in report.curves:
        assert all(a.bits > b.bits for a, b in zip(curve.points, curve.points[1:], strict=False))
        assert all(a.divergence < b.divergence for a, b in zip(curve.points, curve.points[1:], strict=False))


def test_labels_give_a_score() -> None:
    model = product(normal(WIDTH, WIDTH), normal(WIDTH, 40, seed=1))
    x = normal(200, WIDTH, seed=2)
    truth = (x @ normal(WIDTH, WIDTH) @ normal(WIDTH, 40, seed=1)).argmax(-1)
    options: dict[str, Any] = {"data": {"x": x, "y": truth}, "labels": "y", "steps": "0.05, 4", "jobs": 1}
    report = dc_compiler.sensitivity(model, **options)
    assert (report.metric, report.before) == ("accuracy", 1.0)
    for point in report.curves[0].points:
        assert point.score == pytest.approx(1 - point.disagreement)
    assert report.curves[0].points[-1].disagreement > 0.1


@pytest.mark.parametrize(
    "name", ["if_initializers", "loop_body", "lstm", "gather_embedding", "float16_raw", "bfloat16_raw"]
)
def test_weights_anywhere_on_made_up_inputs(name: str) -> None:
    model, _ = GRAPHS[name]()
    report = dc_compiler.sensitivity(model, steps=(0.25, 2.0), jobs=1)
    assert (report.is_calibrated, report.inputs, report.samples) == (False, "made-up inputs", 8)
    assert report.curves
    assert all(c.points[-1].bits < c.points[0].bits < 8 for c in report.curves)
    assert all(p.divergence >= 0 for c in report.curves for p in c.points)
    assert max(c.points[-1].divergence for c in report.curves) > 1e-3


def test_steps_are_allocated_around_weights_of_bodies() -> None:
    """Weights of an If's branches cannot be probed as inputs; compiling such a model measures the others."""
    model, x = GRAPHS["if_initializers"]()
    data = [x] * 40
    text = "cluster(grid,step=0.5,calibrate=true,allocate=true),encode"
    result = dc_compiler.compile_model(model, pipeline=text, data=data)
    assert [t.coder is not None for t in result.report.tensors if t.reason is None] == [True, True]


def test_a_model_without_weights() -> None:
    model, _ = GRAPHS["small_parameters"]()
    report = dc_compiler.sensitivity(model, jobs=1)
    assert report.curves == []
    assert "the model has no weight that can be rounded" in report.notes
    assert "<svg" not in report.to_html()


def test_threads_do_not_matter() -> None:
    model, data = product(normal(WIDTH, WIDTH), normal(WIDTH, 40, seed=1)), {"x": normal(64, WIDTH, seed=2)}
    one, two = (dc_compiler.sensitivity(model, data=data, jobs=jobs).curves for jobs in (1, 2))
    assert [c.name for c in one] == [c.name for c in two]
    for a, b in zip(one, two, strict=True):
        assert [p.bits for p in a.points] == [p.bits for p in b.points]
        assert [p.divergence for p in a.points] == pytest.approx([p.divergence for p in b.points], rel=1e-3)


# What is shown --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(product(normal(WIDTH, WIDTH), normal(WIDTH, 40, seed=1)), tmp_path / "in.onnx")
    np.savez(tmp_path / "data.npz", x=normal(64, WIDTH, seed=2))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dc_compiler.console.FILE_WIDTH", 80)
    assert main(["sensitivity", "in.onnx", "--data", "data.npz", "--report", "page.html", "--json", "facts.json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    report: SensitivityReport = dc_compiler.sensitivity("in.onnx", data="data.npz")
    assert json.loads((folder / "facts.json").read_text()) == json.loads(report.to_json())
    lines = shown.out.splitlines()
    assert " ".join(lines[0].split()) == "weight elements bits at 0.125 at 0.25 at 0.5 at 1 at 2 a kB"
    assert lines[3].startswith("all at once")
    assert max(map(len, lines[:4])) <= 80
    first = report.curves[0]
    wanted = [first.name, f"{first.elements:,}", f"{first.points[2].bits:.1f}"]
    assert lines[1].split()[:3] == wanted
    assert lines[1].split()[3:8] == [f"{p.divergence:.1e}" for p in first.points]
    page = (folder / "page.html").read_text()
    assert page == report.to_html()
    assert page.count("<polyline") == 3  # two weights, and all at once
    assert f"<td class=whole>{first.points[0].divergence:.2e}</td>" in page
    assert not re.search(r"<script|https?:|url\(|@import|<link|<img", page)


def test_long_and_odd_names(folder: Path) -> None:
    """Numbers stay whole in 80 columns, names are folded, and what steers terminals or browsers is escaped."""
    from rich.console import Console

    from dc_compiler import console

    model = onnx.load("in.onnx")
    name = "a/long/path/" * 9 + "\x1b[31m<b>&"
    model.graph.node[0].input[1] = model.graph.initializer[0].name = name
    report = dc_compiler.sensitivity(model, steps=(0.125, 0.25, 0.5, 1, 2))
    out = Console(width=80, file=io.StringIO(), force_terminal=False)
    out.print(console.sensitivity(report)[0])
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= 80
    assert "\x1b" not in shown
    first = next(c for c in report.curves if c.name == name)
    for text in ("2,304", *(f"{p.divergence:.1e}" for p in first.points), f"{first.per_kb:.1e}"):
        assert text in shown.split()
    page = report.to_html()
    assert "\x1b" not in page
    assert r"\x1b[31m&lt;b&gt;&amp;" in page
    assert "<b>" not in page


def test_many_weights_are_cut_off(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dc_compiler import console

    report = dc_compiler.sensitivity("in.onnx", data="data.npz")
    shown = console.rendered(console.sensitivity(report, most=1))
    assert "1 less sensitive weights are not shown; --json and --report list all" in shown
    assert report.curves[1].name not in shown.split()


def test_without_weights_there_are_sentences_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = dc_compiler.sensitivity("in.onnx", skip="*")
    assert report.notes[-1] == "the model has no weight that can be rounded"
    assert "<svg" not in report.to_html()
    assert "<table" not in report.to_html()
    assert main(["sensitivity", "in.onnx", "--skip", "*"]) == 0
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == report.facts()
