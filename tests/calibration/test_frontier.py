"""The frontier of size and quality: every point is a file that compile writes, and the original is one of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifier import classifier, data
from models.graphs import GRAPHS
from onnx import numpy_helper

import dc_compiler
from dc_compiler.cli import main
from dc_compiler.errors import InvalidArgumentError, ModelError

STEPS = (0.1, 0.5, 2.0)


PLAIN = "prune(density=0.9),cluster(grid,step=1),encode"


@pytest.mark.parametrize(("with_data", "pipeline"), [(False, None), (True, None), (False, PLAIN), (True, PLAIN)])
def test_points_are_files_that_compile_writes(with_data: bool, pipeline: str | None, tmp_path: Path) -> None:
    model = classifier()
    onnx.save(model, tmp_path / "in.onnx")
    options: dict[str, Any] = {"data": data(), "labels": "label"} if with_data else {}
    report = dc_compiler.frontier(tmp_path / "in.onnx", **options, pipeline=pipeline, steps=STEPS, jobs=1)
    assert [p.name for p in report.points] == ["original", "step 0.1", "step 0.5", "step 2"]
    for point in report.points[1:]:
        output = tmp_path / "out.onnx"
        done = dc_compiler.compile_model(
            tmp_path / "in.onnx", output, pipeline=point.pipeline, min_size=report.min_size, **options, jobs=1
        )
        assert point.bytes == output.stat().st_size
        assert point.ratio == done.report.ratio == report.points[0].bytes / point.bytes
        checked = done.report.verification
        assert checked is not None
        if with_data:
            assert done.report.samples is not None
            assert (report.inputs, report.samples) == ("samples", done.report.samples["check"])
            assert point.score == pytest.approx(checked.accuracy_after)
            assert 1 - point.disagreement == pytest.approx(checked.outputs[0].top1_agreement)
            assert ("calibrate=true" in point.pipeline) == (pipeline is None)
        else:
            assert (report.inputs, report.samples, point.score) == ("made-up inputs", 8, None)
            assert "calibrate" not in point.pipeline


def test_the_original_is_a_point() -> None:
    model = classifier()
    report = dc_compiler.frontier(model, data=data(), labels="label", steps=STEPS, jobs=1)
    first = report.points[0]
    assert (first.step, first.pipeline, first.bytes, first.ratio) == (None, "", model.ByteSize(), 1.0)
    assert (first.divergence, first.disagreement) == (0.0, 0.0)
    lossless = dc_compiler.compile_model(
        model, data=data(), labels="label", pipeline="cluster(grid,step=0.001,calibrate=true),encode", jobs=1
    )
    assert lossless.report.verification is not None
    assert first.score == lossless.report.verification.accuracy_before
    assert report.metric == "accuracy"


def test_coarser_is_smaller_and_further_away() -> None:
    model = classifier()
    report = dc_compiler.frontier(model, data={"x": data()["x"]}, jobs=1)
    assert [p.step for p in report.points] == [None, 0.08, 0.125, 0.2, 0.32, 0.5, 0.8, 1.25, 2.0]
    sizes = [p.bytes for p in report.points]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    moved = [p.divergence for p in report.points]
    assert moved[0] == 0 < moved[1] < 0.01 < moved[-1]
    assert moved[1] < moved[3] < moved[5] < moved[-1]
    assert report.metric is None
    assert all(p.score is None for p in report.points)


def test_the_pipeline_shown_has_the_step() -> None:
    report = dc_compiler.frontier(classifier(), steps=(0.08, 0.5), jobs=1)
    assert "step=" not in report.points[1].pipeline  # it is the default
    pipeline = "canonicalize,cluster(mode=grid,step=0.5,shorten=true),encode"
    assert report.facts()[1].startswith(f"step 0.5: --pipeline '{pipeline}' --min-size 16")


def test_a_metric_of_the_users() -> None:
    report = dc_compiler.frontier(classifier(), data=data(), labels="label", metric="f1_macro", steps=(0.1,), jobs=1)
    assert report.metric == "f1_macro"
    assert all(p.score is not None and 0 <= p.score <= 1 for p in report.points)
    assert report.titles()[-1] == "f1_macro"


def test_the_pipeline_around_the_step_is_kept() -> None:
    text = "prune(density=0.5),cluster(grid,step=3),encode(huffman)"
    report = dc_compiler.frontier(classifier(), pipeline=text, steps=(0.25,), jobs=1)
    assert report.points[1].pipeline == "prune(density=0.5),cluster(mode=grid,step=0.25),encode(coder=huffman)"


def test_no_weight_to_round() -> None:
    report = dc_compiler.frontier(classifier(), skip="*", steps=(0.1, 1.0), jobs=1)
    assert report.points[1].bytes == report.points[2].bytes
    assert report.notes[-1] == "the model has no weight that can be rounded"


def test_few_samples_do_not_calibrate() -> None:
    few = {"x": data()["x"][:20]}
    report = dc_compiler.frontier(classifier(), data=few, steps=(0.1,), jobs=1)
    assert (report.inputs, report.samples) == ("samples", 20)
    assert report.notes[0] == "20 samples are too few to calibrate on; give 32 or more"
    assert "calibrate" not in report.points[1].pipeline


def test_seeds_and_threads() -> None:
    model, inputs = classifier(), {"x": data()["x"]}
    one, two = (dc_compiler.frontier(model, data=inputs, steps=(0.5,), jobs=jobs).points[1] for jobs in (1, 2))
    assert one.bytes == two.bytes
    assert one.divergence == pytest.approx(two.divergence, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pipeline": "cluster(bits=5),encode"}, "the step of cluster(grid) is what is varied, and the pipeline lacks"),
        ({"pipeline": "cluster(grid,calibrate=true),encode"}, "the pipeline needs --data"),
        ({"jobs": 1, "cluster": "tcp://localhost:1"}, "give --jobs or --cluster, not both"),
        ({"steps": ()}, "give at least 1"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        dc_compiler.frontier(GRAPHS["matmul"]()[0], **options)


# What is shown --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("labels", "charts"), [("", 2), ("--labels label", 2)])
def test_the_command(
    labels: str, charts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(classifier(), tmp_path / "in.onnx")
    np.savez(tmp_path / "data.npz", **data())  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    line = f"frontier in.onnx --data data.npz {labels} --steps 0.1,2 --report page.html --json facts.json"
    assert main(line.split()) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    report = dc_compiler.frontier("in.onnx", data="data.npz", labels="label" if labels else None, steps=(0.1, 2))
    assert json.loads((tmp_path / "facts.json").read_text()) == json.loads(report.to_json())
    lines = shown.out.splitlines()
    assert lines[0].split() == ["bytes", "ratio", "divergence", "changed", "%", *(["accuracy"] if labels else [])]
    assert [" ".join(text.split()) for text in lines[1:4]] == [" ".join(cells) for cells in report.lines()]
    assert max(map(len, lines[:4])) <= 80
    page = (tmp_path / "page.html").read_text()
    assert page == report.to_html()
    assert page.count("<svg") == charts
    assert not re.search(r"<script|https?:|url\(|@import|<link|<img", page)
    assert set(Path().iterdir()) == {Path(n) for n in ("in.onnx", "data.npz", "page.html", "facts.json")}


@pytest.mark.parametrize("explore", [dc_compiler.frontier, dc_compiler.sensitivity])
@pytest.mark.parametrize("where", ["weights", "samples"])
def test_outputs_that_are_not_finite(explore: Any, where: str) -> None:
    """Nothing can be told of them, so nothing is: not that everything moved."""
    model, inputs = GRAPHS["matmul"]()[0], None
    if where == "weights":
        tensor = model.graph.initializer[0]
        values = numpy_helper.to_array(tensor).copy()
        values[0] = np.nan
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    else:
        value = model.graph.input[0]
        inputs = {value.name: np.full((64, value.type.tensor_type.shape.dim[1].dim_value), np.inf, np.float32)}
    source = "made-up inputs" if inputs is None else "samples"
    with pytest.raises(ModelError, match=f"an output is not finite for {source}, so nothing tells"):
        explore(model, data=inputs, steps=(0.1, 1.0), jobs=1)
