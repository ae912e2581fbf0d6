"""Metrics: scikit-learn's scorers on outputs of every shape, functions of the user's, and what does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sklearn.metrics as oracle
from onnx import TensorProto, helper, numpy_helper

from dc_compiler import compile_model, verify_models
from dc_compiler.cli import main
from dc_compiler.errors import DataError, InvalidArgumentError
from dc_compiler.ort.metrics import Scorer, default_metric, make_metric

Array = np.ndarray
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.standard_normal((200, 4)).astype(np.float32)
CLASSES = np.where(RANDOM.random(200) < 0.5, LOGITS.argmax(1), RANDOM.integers(0, 4, 200))
POWERS = np.exp(LOGITS.astype(np.float64))
PROBABILITIES = POWERS / POWERS.sum(1, keepdims=True)
VALUES = RANDOM.standard_normal(200).astype(np.float32)
GUESSES = (VALUES + 0.3 * RANDOM.standard_normal(200)).astype(np.float32)[:, None]
YES = RANDOM.integers(0, 2, 200)
SCORES = (YES - 0.5 + RANDOM.standard_normal(200)).astype(np.float32)[:, None]


def value(name: str, labels: Any, *outputs: Array) -> float:
    return make_metric(name)(np.asarray(labels), outputs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", oracle.accuracy_score(CLASSES, LOGITS.argmax(1))),
        ("balanced_accuracy", oracle.balanced_accuracy_score(CLASSES, LOGITS.argmax(1))),
        ("f1_macro", oracle.f1_score(CLASSES, LOGITS.argmax(1), average="macro")),
        ("matthews_corrcoef", oracle.matthews_corrcoef(CLASSES, LOGITS.argmax(1))),
        ("neg_log_loss", -oracle.log_loss(CLASSES, PROBABILITIES)),
        ("roc_auc_ovr", oracle.roc_auc_score(CLASSES, PROBABILITIES, multi_class="ovr")),
        ("top_k_accuracy", oracle.top_k_accuracy_score(CLASSES, PROBABILITIES, k=2)),
    ],
)
def test_class_numbers(name: str, expected: float) -> None:
    assert value(name, CLASSES, LOGITS[:70], LOGITS[70:]) == pytest.approx(expected, rel=1e-6)
    assert value(name, CLASSES, PROBABILITIES) == pytest.approx(expected, rel=1e-6)  # a softmax inside the model


def test_a_class_number_for_every_position() -> None:
    outputs, labels = LOGITS.reshape(20, 10, 4), CLASSES.reshape(20, 10)
    assert value("f1_macro", labels, outputs) == value("f1_macro", CLASSES, LOGITS)


def test_two_classes_and_yes_or_no() -> None:
    two = np.hstack([-SCORES, SCORES])
    expected = oracle.roc_auc_score(YES, SCORES.ravel())
    assert value("roc_auc", YES, two) == pytest.approx(expected)
    assert value("roc_auc", YES, SCORES) == pytest.approx(expected)
    assert value("roc_auc", YES, SCORES.ravel()) == pytest.approx(expected)
    assert value("f1", YES, SCORES) == pytest.approx(oracle.f1_score(YES, SCORES.ravel() >= 0))
    sure = 1 / (1 + np.exp(-SCORES))  # a sigmoid inside the model
    assert value("f1", YES, sure) == pytest.approx(oracle.f1_score(YES, SCORES.ravel() >= 0))
    assert value("neg_log_loss", YES, sure) == pytest.approx(value("neg_log_loss", YES, SCORES), rel=1e-5)


def test_several_yes_or_no() -> None:
    yes = np.stack([YES, 1 - YES, YES], 1)
    scores = np.hstack([SCORES, SCORES, -SCORES])
    assert value("f1_macro", yes, scores) == pytest.approx(oracle.f1_score(yes, scores >= 0, average="macro"))
    assert value("roc_auc", yes, scores) == pytest.approx(oracle.roc_auc_score(yes, scores))
    pair, halves = yes[:, :2], scores[:, :2]
    assert value("roc_auc", pair, halves) == pytest.approx(oracle.roc_auc_score(pair, halves))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("r2", oracle.r2_score(VALUES, GUESSES.ravel())),
        ("neg_mean_absolute_error", -np.abs(VALUES - GUESSES.ravel()).mean()),
        ("neg_root_mean_squared_error", -np.sqrt(np.square(VALUES - GUESSES.ravel()).mean())),
    ],
)
def test_values(name: str, expected: float) -> None:
    assert value(name, VALUES, GUESSES) == pytest.approx(expected, rel=1e-5)
    ages = np.round(10 * VALUES).astype(int)  # whole numbers are values too, for a metric of values
    assert value("neg_mean_absolute_error", ages, GUESSES) == pytest.approx(-np.abs(ages - GUESSES.ravel()).mean())


def test_a_function_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metric.py").write_text("def worst(labels, outputs): return abs(outputs[:, 0] - labels).max()")
    monkeypatch.chdir(tmp_path)
    assert value("own_metric:worst", VALUES, GUESSES) == pytest.approx(np.abs(VALUES - GUESSES.ravel()).max())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("acuracy", "did you mean accuracy"),
        ("", "none of scikit-learn's scorers"),
        ("nomodule:f", "--metric nomodule:f cannot be used"),
        ("json:missing", "--metric json:missing cannot be used"),
        ("json:decoder", "'decoder' is not callable"),
    ],
)
def test_names_that_are_no_metric(name: str, sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        make_metric(name)


@pytest.mark.parametrize(
    ("name", "labels", "outputs", "sentence"),
    [
        ("r2", CLASSES, LOGITS, "'r2' compares values, but the labels are class numbers"),
        ("accuracy", VALUES, GUESSES, r"'accuracy' cannot be taken of labels of shape \[200\] and outputs of shape"),
        ("roc_auc", CLASSES, LOGITS, "'roc_auc' cannot be taken .* multi_class"),
        ("roc_auc", np.zeros(200, int), SCORES, "cannot be taken .* (are all classes|Only one class)"),
        ("f1_macro", CLASSES[:20], LOGITS, "do not fit outputs"),
        ("json:dumps", CLASSES, LOGITS, "'json:dumps' cannot be taken .*TypeError"),
    ],
)
def test_metrics_that_do_not_fit(name: str, labels: Array, outputs: Array, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        value(name, labels, outputs)


def test_outputs_that_cannot_be_joined() -> None:
    with pytest.raises(DataError, match="different shape for each feed"):
        value("accuracy", CLASSES, LOGITS[:100], LOGITS[100:, :3])
    with pytest.raises(DataError, match="no axis of samples"):
        value("accuracy", CLASSES, np.float32(1))  # type: ignore[arg-type]


# Compiling -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classifier and samples of three classes of very different size."""
    weight = RANDOM.standard_normal((64, 3)).astype(np.float32)
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", extent]) for name, extent in (("x", 64), ("y", 3))
    )
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "graph", [x], [y], [numpy_helper.from_array(weight, "w")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "in.onnx")
    samples = RANDOM.standard_normal((300, 64)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=samples, label=(samples @ weight).argmax(1), value=samples @ weight)
    return tmp_path


def test_compile_and_verify_tell_the_metric(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target, data = (str(folder / name) for name in ("in.onnx", "out.onnx", "d.npz"))
    given = ["--data", data, "--labels", "label", "--metric", "f1_macro"]
    report_file = folder / "r.json"
    words = ["compile", source, "-o", target, "--pipeline", "prune(0.2),encode", "--min-size", "1", *given]
    assert main([*words, "--json", str(report_file), "--report", str(folder / "r.html")]) == 0
    scores = json.loads(report_file.read_text())["verification"]["scores"]
    assert scores["metric"] == "f1_macro"
    assert scores["before"] == 1
    assert 0 < scores["after"] < 1
    line = f"f1_macro: 1 -> {scores['after']:.6g}"
    assert line in capsys.readouterr().out
    assert line.replace(">", "&gt;") in (folder / "r.html").read_text()
    assert main(["verify", source, target, *given]) == 0
    assert line in capsys.readouterr().out
    checked = verify_models(source, target, data=data, labels="label", metric="balanced_accuracy").scores
    assert checked is not None
    assert (checked.metric, checked.before) == ("balanced_accuracy", 1)


def test_the_default_is_accuracy_or_squared_error(folder: Path) -> None:
    def scores(labels: str) -> Any:
        result = compile_model(folder / "in.onnx", data=folder / "d.npz", labels=labels, min_size=1).report.verification
        assert result is not None
        return result

    classes, values = scores("label"), scores("value")
    assert classes.scores.metric == "accuracy"
    assert (classes.scores.before, classes.scores.after) == (classes.accuracy_before, classes.accuracy_after)
    assert values.scores.metric == "mean squared error"
    assert values.scores.after == values.squared_error_after


def test_a_metric_that_does_not_fit_is_refused_before_any_work(folder: Path) -> None:
    steps: list[str] = []
    for metric, error in (("r2", DataError), ("roc_auc", DataError), ("nothing", InvalidArgumentError)):
        with pytest.raises(error, match=metric):
            compile_model(
                folder / "in.onnx", folder / "out.onnx", data=folder / "d.npz", labels="label", metric=metric,
                progress=lambda name, *rest: steps.append(name),
            )  # fmt: skip
    assert steps == []
    assert not (folder / "out.onnx").exists()
    with pytest.raises(InvalidArgumentError, match="--metric needs --data"):
        compile_model(folder / "in.onnx", metric="r2")
    with pytest.raises(InvalidArgumentError, match="--metric needs --data"):
        verify_models(folder / "in.onnx", folder / "in.onnx", metric="r2")


def test_without_labels_the_answers_of_the_original_stand_for_them(folder: Path) -> None:
    classes = make_metric("f1_macro").answers([LOGITS[:70], LOGITS[70:]])
    assert np.array_equal(classes, LOGITS.argmax(1))
    assert np.array_equal(make_metric("accuracy").answers([LOGITS.reshape(20, 1, 10, 4)]).ravel(), LOGITS.argmax(1))
    assert np.array_equal(make_metric("accuracy").answers([SCORES]), SCORES[:, 0] >= 0)
    assert np.array_equal(make_metric("accuracy").answers([np.abs(SCORES[:9] / 9)]), np.abs(SCORES[:9, 0] / 9) >= 0.5)
    assert np.array_equal(make_metric("r2").answers([GUESSES]), GUESSES)
    assert make_metric("numpy:allclose").answers([LOGITS]).shape == LOGITS.shape
    options: dict[str, Any] = {"data": folder / "d.npz", "metric": "accuracy"}
    coarse: dict[str, Any] = {"pipeline": "prune(0.2),encode", "min_size": 1}
    compiled = compile_model(folder / "in.onnx", folder / "coarse.onnx", **options, **coarse).report.verification
    found = verify_models(folder / "in.onnx", folder / "coarse.onnx", **options)
    assert compiled is not None
    for result in (compiled, found):
        assert result.scores is not None
        assert not result.scores.has_labels
        assert result.scores.before == 1.0
        assert result.scores.after == pytest.approx(result.outputs[0].top1_agreement)
        assert result.scores.after < 1
        assert result.accuracy_before is None
    command = ["verify", str(folder / "in.onnx"), str(folder / "coarse.onnx"), "--data", str(folder / "d.npz")]
    assert main([*command, "--metric", "r2"]) == 0


def test_scikit_learn_is_imported_only_for_its_scorers(folder: Path) -> None:
    code = (
        "import sys; from dc_compiler import compile_model; "
        "compile_model('in.onnx', data='d.npz', labels='label', min_size=1); sys.exit('sklearn' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=None, check=True)


def test_class_numbers_that_a_model_gives_itself_are_compared_one_by_one() -> None:
    """As classifiers of ai.onnx.ml give them; they are no values whose squared error means anything."""
    labels, said = np.array([0, 1, 2, 5]), [np.array([0, 1]), np.array([1, 5])]
    assert default_metric(labels, said).name == "accuracy"
    assert Scorer(None)(labels, said) == 0.75
