"""Verification: the comparison itself, inputs from files and functions, made-up inputs, and refusing what is worse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models.graphs import GRAPHS, model, node, tensor, weight, x_in, y_out

from dc_compiler import compile_model, verify_models
from dc_compiler.cli import main
from dc_compiler.errors import DataError, ModelError, QualityError
from dc_compiler.ort import quality
from dc_compiler.ort.data import InputSpec, fit_labels
from dc_compiler.ort.metrics import accuracy, mean_squared_error

NAN, INF = math.nan, math.inf
X = InputSpec("x", np.dtype(np.float32), (None, 4))


# Labels --------------------------------------------------------------------------------------------------------------


def test_accuracy() -> None:
    outputs = np.array([[0.1, 0.9], [0.8, 0.2], [0.0, 1.0]])
    labels = np.array([1, 0, 0])
    assert accuracy(labels, outputs) == pytest.approx(2 / 3)
    assert accuracy(labels[:, None], outputs[:, :, None, None]) == pytest.approx(2 / 3)
    assert accuracy(np.stack([labels, 1 - labels]), np.stack([outputs] * 2)) == pytest.approx(1 / 2)
    with pytest.raises(DataError, match=r"labels of shape \[2\] do not fit outputs of shape \[3, 2\]"):
        accuracy(labels[:2], outputs)


def test_mean_squared_error() -> None:
    outputs = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    assert mean_squared_error(np.array([[1.0, 2.0], [3.0, 6.0]]), outputs) == 1
    assert mean_squared_error(np.array([1, 5]), outputs[:, :1]) == 2
    with pytest.raises(DataError, match="floats are compared one by one"):
        mean_squared_error(np.zeros(2), outputs)


@pytest.mark.parametrize(
    ("labels", "shape", "wanted"),
    [
        (np.arange(4, dtype=np.uint8), (4, 5), np.arange(4)),
        (np.ones((4, 1, 3), bool), (4, 3, 1, 2), np.ones((4, 3), np.int64)),
        (np.arange(4), (4, 1), np.arange(4, dtype=np.float32)[:, None]),
        (np.arange(4, dtype=np.float16), (4,), np.arange(4, dtype=np.float32)),
        (np.eye(4), (4, 4), np.eye(4)),
        (np.eye(1), (1, 1, 1), np.ones((1, 1, 1))),
    ],
    ids=["classes", "classes of positions", "integers as values", "floats", "one-hot", "one sample"],
)
def test_labels_in_the_form_of_an_output(labels: Any, shape: tuple[int, ...], wanted: Any) -> None:
    found = fit_labels(labels, shape)
    assert found.dtype == wanted.dtype
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("label", [-1, 5])
def test_class_numbers_beyond_the_output(label: int) -> None:
    with pytest.raises(DataError, match=r"do not fit outputs of shape \[2, 5\]; start at class 0"):
        fit_labels(np.array([0, label]), (2, 5))


# Data ----------------------------------------------------------------------------------------------------------------


def classifier() -> onnx.ModelProto:
    return model(
        [node("MatMul", ["x", "w"], ["y"])], [x_in("batch", 64)], [y_out("batch", 10)], [tensor("w", weight(64, 10))]
    )


def test_accuracy_before_and_after(tmp_path: Path) -> None:
    """The original's own guesses as labels: right every time before; after heavy pruning, not."""
    net = classifier()
    x = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    guesses = (x @ weight(64, 10)).argmax(1)
    data = {"x": x, "label": guesses}
    result = compile_model(net, pipeline="prune(0.02),encode", min_size=1, data=data, labels="label")
    check = result.report.verification
    assert check is not None
    assert check.source == "data"
    assert check.accuracy_before == 1.0
    assert check.accuracy_after is not None
    assert check.accuracy_after < 0.8
    assert check.outputs[0].top1_agreement == check.accuracy_after


def test_squared_error_before_and_after(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The original's own outputs as the values wanted: no error before; after heavy pruning, that of the output."""
    x = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    onnx.save(classifier(), tmp_path / "in.onnx")
    np.savez(tmp_path / "data.npz", x=x, value=x @ weight(64, 10))
    argv = [str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), "--data", str(tmp_path / "data.npz")]
    options = ["--labels", "value", "--pipeline", "prune(0.5),encode", "--min-size", "1"]
    assert main(["compile", *argv, *options, "--json", str(tmp_path / "r.json")]) == 0
    check = json.loads((tmp_path / "r.json").read_text())["verification"]
    assert check["accuracy_before"] is None
    assert check["squared_error_before"] < 1e-10
    assert check["squared_error_after"] == pytest.approx(
        np.square(x @ weight(64, 10)).mean() / 10 ** (check["outputs"][0]["sqnr_db"] / 10), rel=1e-3
    )
    assert f"-> {check['squared_error_after']:.6g}" in capsys.readouterr().out


# What is not compared ------------------------------------------------------------------------------------------------


def test_random_models_are_not_compared() -> None:
    net, _ = GRAPHS["matmul"]()
    net.graph.node[0].output[0] = "h"
    net.graph.node.append(node("RandomUniformLike", ["h"], ["noise"]))
    net.graph.node.append(node("Add", ["h", "noise"], ["y"]))
    check = compile_model(net).report.verification
    assert check is not None
    assert check.skipped == "the original gives other outputs each time it runs"


def test_inputs_that_cannot_be_made_up_are_said_so() -> None:
    net, _ = GRAPHS["string_input"]()
    result = compile_model(net, min_size=16)
    assert result.report.verification is not None
    assert result.report.verification.skipped is not None
    assert "for which no data can be given" in result.report.verification.skipped
    with pytest.raises(DataError):
        compile_model(net, min_size=16, data={"x": np.zeros((1, 2))})


def test_models_with_other_outputs_are_not_comparable(tmp_path: Path) -> None:
    for name in ("matmul", "overridable_default"):
        onnx.save(GRAPHS[name]()[0], tmp_path / f"{name}.onnx")
    with pytest.raises(ModelError, match="does not have the outputs"):
        verify_models(tmp_path / "matmul.onnx", tmp_path / "overridable_default.onnx")


# Refusal -------------------------------------------------------------------------------------------------------------


def sensitive() -> onnx.ModelProto:
    """A model that lives from tiny differences: the grid's rounding errors are all that is left of ``x @ (a - b)``."""
    base = weight(64, 48)
    return model(
        [node("MatMul", ["x", "a"], ["p"]), node("MatMul", ["x", "b"], ["q"]), node("Sub", ["p", "q"], ["y"])],
        [x_in("batch", 64)],
        [y_out("batch", 48)],
        [tensor("a", base), tensor("b", base + weight(64, 48, seed=2) * np.float32(1e-3))],
    )


def test_a_result_that_is_bad_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = sensitive()
    onnx.save(net, tmp_path / "in.onnx")
    with pytest.raises(QualityError, match="cosine"):
        compile_model(net, tmp_path / "out.onnx")
    argv = ["compile", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), "--json", str(tmp_path / "r.json")]
    assert main(argv) == 1
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert "cosine" in shown.err
    assert "--force" in shown.err
    assert [p.name for p in tmp_path.iterdir()] == ["in.onnx"]
    assert main([*argv, "--force"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.onnx", "out.onnx", "r.json"]


def test_what_else_is_allowed(tmp_path: Path) -> None:
    """Lossless is exact on the same model; an explicit pipeline asks for no quality; force only notes."""
    net = sensitive()
    exact = compile_model(net, preset="lossless").report.verification
    assert exact is not None
    assert exact.identical
    explicit = compile_model(net, pipeline="cluster(grid),encode").report
    assert explicit.verification is not None
    assert explicit.verification.worst_cosine is not None
    assert explicit.verification.worst_cosine < 0.5
    forced = compile_model(net, force=True).report
    assert any("cosine" in note for note in forced.notes)


def test_data_sets_a_stricter_bound() -> None:
    assert quality.MIN_COSINE["data"] > quality.MIN_COSINE["made-up inputs"] > 0


@pytest.mark.parametrize("form", ["session", "graph"])
def test_an_output_that_becomes_nan_is_refused(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """sqrt(x*x @ w) for the smallest weights: what rounds below zero becomes NaN."""
    values = np.abs(weight(64, 48)) + np.float32(1e-6)
    values[:, 1] = np.float32(1e-6)
    values[0, 1] = np.float32(1e-3)
    less = values.copy()
    less[0, 0] /= 2
    net = model(
        [
            node("MatMul", ["x", "w"], ["p"]),
            node("Sub", ["p", "p"], ["zero"]),
            node("MatMul", ["x", "w2"], ["q"]),
            node("Sub", ["p", "q"], ["d"]),
            node("Sqrt", ["d"], ["y"]),
        ],
        [x_in("batch", 64)],
        [y_out("batch", 48)],
        [tensor("w", values), tensor("w2", less)],
    )
    data = {"x": np.ones((1, 64), np.float32)}
    with pytest.raises(QualityError, match="cosine"):
        compile_model(net, emit=form, set="w2:step=0.5", data=data)


def test_verify_says_how_many_samples_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more samples than it compares it tells both numbers; of fewer it says nothing."""
    monkeypatch.setattr("dc_compiler.ort.samples.CHECKED", 100)
    onnx.save(model([node("MatMul", ["x", "w"], ["y"])], [x_in("batch", 64)], [y_out("batch", 48)],
                    [tensor("w", weight(64, 48))]), tmp_path / "m.onnx")  # fmt: skip
    for count, told in ((100, False), (250, True)):
        np.savez(tmp_path / "d.npz", x=weight(count, 64))
        files = [str(tmp_path / "m.onnx"), str(tmp_path / "m.onnx")]
        assert main(["verify", *files, "--data", str(tmp_path / "d.npz")]) == 0
        assert ("100 of 250 samples check the result" in capsys.readouterr().out) == told
