"""What gradients say about errors in weights, against what such errors really do to the outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from single_layers import network, normal

from dc_compiler import ir
from dc_compiler.calibration.allocation import COARSER, FINER, relative_steps
from dc_compiler.calibration.calibration import Calibration
from dc_compiler.calibration.curvature import moved
from dc_compiler.errors import ModelError
from dc_compiler.model import files, importer
from dc_compiler.ort.samples import Samples

Array = np.ndarray
ERROR = 2.0**-6


def two_layers(last: str) -> onnx.ModelProto:
    """x [n, 12] through two layers of which the second sees small inputs."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["m"]),
        helper.make_node("Tanh", ["m"], ["t"]),
        helper.make_node("Mul", ["t", "small"], ["s"]),
        helper.make_node("MatMul", ["s", "b"], ["z"]),
        helper.make_node(last, ["z"], ["y"]),
    ]
    model = network(
        nodes, (12,), a=normal(12, 16) / 4, small=np.full(16, 0.25, np.float32), b=normal(16, 10, seed=1) * 4
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10]))
    return model


def with_a_second_output(model: onnx.ModelProto) -> onnx.ModelProto:
    """The values before the last layer as well, in [n, 2, 8]."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.node.append(helper.make_node("Reshape", ["m", "shape"], ["second"]))
    changed.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 2, 8]), "shape"))
    changed.graph.output.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, ["n", 2, 8]))
    return changed


def opened(model: onnx.ModelProto, count: int = 400) -> tuple[ir.Program, Calibration]:
    samples = Samples(
        {"x": normal(count, 12, seed=5)}, None, files.read_model(model), trains=False, calibrates=True, threads=2
    )
    program = importer.build_program(files.read_model(model), min_size=1)
    return program, Calibration(program, samples)


def found(program: ir.Program, calibration: Calibration, seed: int = 0, threads: int = 2) -> dict[str, float]:
    errors = {name: ir.Scales(np.array([-48]), 1) for name in ("a", "b")}
    assert errors["a"].factors(np.dtype(np.float64))[0] == ERROR
    moves = moved(program, errors, calibration.judge, calibration.samples, seed, threads)
    return {name: float(m.sum()) for name, m in moves.items()}


def divergence(program: ir.Program, calibration: Calibration, name: str) -> float:
    """Mean divergence with random errors in one weight."""
    record = next(r for r in program.records if r.name == name)
    changes = calibration.judge.changes(program, [record])
    shifted = (record.values + ERROR * normal(*record.shape, seed=9 + i) for i in range(40))
    return float(np.mean([changes.of({name: values}).divergence for values in shifted]))


@pytest.mark.parametrize("last", ["Softmax", "Identity", "Sigmoid"])
def test_errors_move_the_outputs_as_gradients_say(last: str) -> None:
    """Scores of classes, logits of classes, and values."""
    program, calibration = opened(two_layers(last))
    both = np.mean([list(found(program, calibration, seed).values()) for seed in range(4)], axis=0)
    expected = [divergence(program, calibration, name) for name in ("a", "b")]
    assert both[0] / both[1] == pytest.approx(expected[0] / expected[1], rel=0.25)


def test_all_outputs_count() -> None:
    """A weight that the second output depends on as well moves more than with the first alone."""
    one, two = (found(*opened(m)) for m in (two_layers("Softmax"), with_a_second_output(two_layers("Softmax"))))
    assert two["b"] / two["a"] < 0.7 * one["b"] / one["a"]


def test_threads_do_not_matter() -> None:
    program, calibration = opened(two_layers("Softmax"))
    assert found(program, calibration, threads=1) == found(program, calibration, threads=3)


def test_operators_without_gradients_are_named() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["m"]),
        helper.make_node("Reshape", ["m", "square"], ["q"]),
        helper.make_node("Inverse", ["q"], ["y"], name="turn", domain="com.microsoft"),
    ]
    program, calibration = opened(network(nodes, (12,), a=normal(12, 16), square=np.array([-1, 4, 4])))
    with pytest.raises(ModelError, match="turn"):
        moved(program, {"a": ir.Scales(np.array([-48]), 1)}, calibration.judge, calibration.samples, 0, 1)


def test_channels_are_told_apart() -> None:
    """Errors in a column that is multiplied by nothing later do nothing."""
    model = two_layers("Identity")
    second = onnx.numpy_helper.to_array(model.graph.initializer[2]).copy()
    second[3] = 0
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(second, "b"))
    program, calibration = opened(model)
    errors = {"a": ir.Scales(np.full(16, -48), 1)}
    moves = moved(program, errors, calibration.judge, calibration.samples, 0, 1)["a"]
    assert [i for i, m in enumerate(moves) if m == 0] == [3]


def alike(**moves: float) -> dict[str, Array]:
    """The same in each of two channels."""
    return {name: np.full(2, m / 2) for name, m in moves.items()}


def test_a_bit_more_helps_every_weight_alike() -> None:
    """Squared steps are as elements over moves; factors are held between their bounds."""
    sizes = {"a": 400, "b": 100, "c": 100, "d": 4000}
    steps = relative_steps(sizes, alike(a=1.0, b=1.0, c=0.25, d=10.0))
    assert steps["a"] / steps["b"] == pytest.approx(2)
    assert steps["c"] / steps["b"] == pytest.approx(2)
    assert steps["d"] == pytest.approx(steps["a"])
    assert np.prod([steps[n] ** sizes[n] for n in sizes]) == pytest.approx(1)
    far = relative_steps({"a": 100, "b": 100, "c": 10000}, alike(a=1e-9, b=1.0, c=1.0))
    assert far["a"] == pytest.approx(COARSER)
    assert far["b"] == pytest.approx(FINER)
    assert relative_steps({"a": 1}, alike(a=0.0)) == relative_steps({}, {}) == {}


def test_classes_that_no_sample_is_of_do_not_make_a_classifier_coarse() -> None:
    sizes = {"few": 800, "all": 800}
    steps = relative_steps(sizes, {"few": np.array([4.0, 4, 0, 0, 0, 0, 0, 0]), "all": np.full(8, 4.0)})
    assert steps["few"] == pytest.approx(steps["all"])
