"""What is asked for is reached, on a small classifier: sizes, ratios, drops, and the default with data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifier import classifier, data
from onnx import TensorProto, helper, numpy_helper
from single_layers import normal

from dc_compiler import InferenceSession, compile_model
from dc_compiler.calibration import tuning
from dc_compiler.calibration.allocation import relative_steps
from dc_compiler.calibration.goals import Targets, parse_size
from dc_compiler.cli import main
from dc_compiler.compiler import CompileResult
from dc_compiler.errors import InvalidArgumentError, QualityError
from dc_compiler.passes.cluster.compensate import caught_up

Array = np.ndarray


@functools.cache
def inputs() -> dict[str, Array]:
    return {"x": data()["x"]}


NEAR_LOSSLESS = "canonicalize,cluster(grid),encode"


def compiled(**options: Any) -> CompileResult:
    return compile_model(classifier(), **options)


@functools.cache
def on_inputs(max_drop: float | None = None) -> CompileResult:
    """What several tests compare with."""
    return compiled(max_drop=max_drop, data=inputs())


@functools.cache
def without_data(pipeline: str | None = None) -> CompileResult:
    """Likewise, without data."""
    return compiled(pipeline=pipeline)


def size(result: CompileResult) -> int:
    return len(result.model.SerializeToString())


@pytest.mark.parametrize("share", [1.8, 0.9, 0.6])
def test_the_best_file_of_a_size(share: float) -> None:
    """With data and without."""
    wanted = share * size(without_data())
    for given in ({}, {"data": inputs()}):
        result = compiled(target_size=int(wanted), **given)
        assert 0.98 * wanted <= size(result) <= wanted


def test_a_ratio() -> None:
    result = compiled(target_ratio=7, data=inputs())
    assert 7 <= result.report.ratio < 7.2


def test_a_size_that_cannot_be_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(classifier(), tmp_path / "in.onnx")
    command = ["compile", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), "--target-size", "1kB"]
    assert main(command) == 1
    message = capsys.readouterr().err
    assert "the targets cannot be reached: the nearest has" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()
    assert main([*command, "--force"]) == 0
    assert (tmp_path / "out.onnx").exists()


def test_the_default_with_data_takes_the_coarsest_step_that_is_safe() -> None:
    found = on_inputs()
    assert size(found) < 0.85 * size(without_data(NEAR_LOSSLESS))
    x = {"x": normal(4000, 32, seed=99)}
    one, other = (
        InferenceSession(m.SerializeToString()).run(None, x)[0].argmax(axis=1) for m in (classifier(), found.model)
    )
    assert (one == other).mean() > 0.93
    assert any(note.startswith("the step of cluster is") for note in found.report.notes)


def test_few_samples_are_not_calibrated_on() -> None:
    few = {"x": inputs()["x"][:20]}
    result = compiled(data=few)
    assert size(result) == size(without_data())
    assert "20 samples are too few to calibrate on; give 32 or more" in result.report.notes


def test_few_batches_of_a_fixed_size_are_not_calibrated_on() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(classifier())
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 64
    few = {"x": inputs()["x"][:128]}
    notes = compile_model(model, data=few).report.notes
    assert "128 samples are too few to calibrate on; give 384 or more" in notes
    many = compile_model(model, data=inputs()).report
    assert any(note.startswith("the step of cluster is") for note in many.notes)


def test_feeds_of_different_shapes_are_shared_out() -> None:
    x = inputs()["x"]
    feeds = [{"x": x[i : i + 1 + i % 3]} for i in range(0, 300, 3)]
    result = compiled(data=feeds)
    assert result.report.samples == {"train": 51, "validation": 34, "check": 15}
    assert size(result) < 0.9 * size(without_data(NEAR_LOSSLESS))


@pytest.mark.parametrize("drop", [0.5, 3.0])
def test_a_drop(drop: float) -> None:
    """On the check part, in points of the metric, and on samples that nobody gave."""
    result = compiled(max_drop=drop, data=data(), labels="label")
    check = result.report.verification
    assert check is not None
    assert check.scores is not None
    assert 100 * (check.scores.before - check.scores.after) <= drop + 1e-9


def test_a_larger_drop_makes_a_smaller_file() -> None:
    sizes = [size(on_inputs(drop)) for drop in (1, 3, 16)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_both_a_size_and_a_drop() -> None:
    """The smallest that loses no more; where it is too large, neither is given up silently."""
    alone = size(on_inputs(3))
    assert size(compiled(max_drop=3, target_size=2 * alone, data=inputs())) == alone
    with pytest.raises(
        QualityError, match=r"cannot be reached: the nearest has .* and changes [\d.]+ % of the answers"
    ):
        compiled(max_drop=3, target_size=alone // 2, data=inputs())


# What the cluster pass takes from elsewhere to help, and the opposite of it
HELPERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "allocate": ("relative_steps", lambda *a: {name: 1 / f**4 for name, f in relative_steps(*a).items()}),
    "sequential": ("caught_up", lambda weights, moments: 3 * weights - 2 * caught_up(weights, moments)),
}


@pytest.mark.parametrize("name", HELPERS)
def test_what_helps_most_models_is_done_only_where_it_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the opposite of what is true the file is as good as without."""

    def pipeline(options: str) -> str:
        text = f"cluster(grid,calibrate=true{options}),encode"
        result = compiled(pipeline=text, max_drop=3, data=inputs())
        return next(s for s in result.report.pipeline.split("),") if s.startswith("cluster"))

    plain, helped = pipeline(""), pipeline(f",{name}=true")
    assert f"{name}=true" in helped
    function, opposite = HELPERS[name]
    monkeypatch.setattr(f"dc_compiler.passes.cluster.cluster.{function}", opposite)
    assert pipeline(f",{name}=true") == plain


def test_the_result_does_not_depend_on_threads() -> None:
    one, two = (compiled(data=inputs(), jobs=jobs).model.SerializeToString(deterministic=True) for jobs in (1, 2))
    assert one == two


@pytest.mark.parametrize(
    ("text", "count"), [("5MB", 5_000_000), ("800 kB", 800_000), ("1.5MiB", 3 << 19), ("123", 123), ("2gb", 2 * 10**9)]
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-5MB", "5XB", "five"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="--target-size"):
        parse_size(text)


@pytest.mark.parametrize(
    "options", [{"ratio": 0.5}, {"size": 0}, {"drop": -1.0}, {"drop": 101.0}, {"ratio": 2.0, "size": 9}]
)
def test_bad_targets(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="--"):
        Targets(**options)


def test_a_drop_needs_data_and_a_step_to_choose() -> None:
    with pytest.raises(InvalidArgumentError, match="--max-drop needs --data"):
        compiled(max_drop=1)
    with pytest.raises(InvalidArgumentError, match=r"step of cluster\(grid\), which the pipeline lacks"):
        compiled(target_ratio=5, pipeline="cluster(kmeans),encode")


def test_outputs_that_weights_do_not_reach_are_not_calibrated_on() -> None:
    """Nothing vouches for a step then."""
    model = onnx.ModelProto()
    model.CopyFrom(classifier())
    model.graph.node[-1].CopyFrom(helper.make_node("Greater", ["mc", "scale"], ["over"]))
    model.graph.node.append(helper.make_node("Cast", ["over"], ["one"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Mul", ["one", "zero"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))
    result = compile_model(model, data=inputs())
    assert "not calibrated: changed weights do not change the outputs for these inputs" in result.report.notes
    assert result.report.pipeline.endswith("cluster(mode=grid),encode")


def test_scores_beside_large_coordinates_count() -> None:
    """The boxes of a detector vary a thousand times as much as its scores, which the weights decide about."""
    model = onnx.ModelProto()
    model.CopyFrom(classifier())
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("both", TensorProto.FLOAT, ["n", 16]))
    first = helper.make_node("Slice", ["x", "n0", "n8", "n1"], ["corner"])
    boxes = helper.make_node("Mul", ["corner", "far"], ["boxes"])
    small = helper.make_node("Mul", ["mc", "tiny"], ["small"])
    model.graph.node.extend([first, boxes, small, helper.make_node("Concat", ["boxes", "small"], ["both"], axis=1)])
    constants = {
        "n0": np.array([0]),
        "n8": np.array([8]),
        "n1": np.array([1]),
        "far": np.float32(1e3),
        "tiny": np.float32(1e-2),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    result = compile_model(model, data=inputs())
    step = next(float(n.split()[5].rstrip(";")) for n in result.report.notes if n.startswith("the step of cluster is"))
    assert step < 1


@pytest.mark.parametrize("metric", ["balanced_accuracy", "r2"])
def test_a_metric_without_labels_compares_with_the_original(metric: str) -> None:
    """A drop of so many points of a metric of which the original itself has 1."""
    fine, coarse = (compiled(data=inputs(), metric=metric, max_drop=drop) for drop in (2, 20))
    assert size(coarse) < size(fine)
    for result, drop in ((fine, 2), (coarse, 20)):
        found = result.report.verification
        assert found is not None
        assert found.scores is not None
        assert (found.scores.metric, found.scores.before, found.scores.has_labels) == (metric, 1.0, False)
        assert found.scores.after >= 1 - drop / 100


def offset() -> onnx.ModelProto:
    """The classifier with a bias a thousand times as large as what it is added to."""
    model = onnx.ModelProto()
    model.CopyFrom(classifier())
    bias = (1000 + 100 * np.random.default_rng(1).standard_normal(128)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    model.graph.node[1].input[0] = "biased"
    model.graph.node.insert(1, helper.make_node("Add", ["ma", "bias"], ["biased"]))
    return model


@pytest.mark.parametrize("has_data", [True, False])
def test_biases_that_do_not_bear_to_be_rounded_stay(has_data: bool, tmp_path: Path) -> None:
    """As of inputs in decibels: in bfloat16 they would hide what they are added to."""
    options: dict[str, Any] = {"data": inputs()} if has_data else {}
    report = compile_model(offset(), tmp_path / "out.onnx", **options).report
    assert "shorten" not in report.pipeline
    assert ("calibrate" in report.pipeline) == has_data
    report = compile_model(classifier(), **options).report
    assert "shorten=true" in report.pipeline


def test_the_default_is_what_it_is_without_data_where_calibration_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asked for a target that could be missed."""
    monkeypatch.setattr(tuning, "excess_of", lambda *_, **__: lambda distance: 2.0)
    report = compile_model(classifier(), data=inputs()).report
    assert "calibrate" not in report.pipeline
    assert any(n.startswith("not calibrated: at no step") for n in report.notes)
