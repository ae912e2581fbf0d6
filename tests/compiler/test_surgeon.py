"""prune(criterion=obs): against an obvious implementation, and against magnitudes on what a network computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import dc_compiler
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.passes import surgeon as module
from dc_compiler.passes.cluster.compensate import DAMPING
from dc_compiler.passes.prune import Prune
from dc_compiler.passes.surgeon import pruned

Array = np.ndarray


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def gram_of(rows: Array) -> Array:
    return np.asarray(rows.T @ rows / len(rows))[None]


def inputs(count: int, k: int, seed: int = 0) -> Array:
    """Rows of correlated inputs."""
    return np.asarray(normal(count, k, seed=seed) @ normal(k, k, seed=seed + 1) + 0.5)


def obvious(weights: Array, gram: Array, keep: int) -> Array:
    """The importance of a weight, and what becomes of those behind it, by the inverses of the matrices themselves."""
    k = len(gram)
    damped = gram.astype(np.float64) + DAMPING * np.diag(gram).mean() * np.eye(k)
    order = np.argsort(-np.diag(gram), kind="stable")
    rest = weights.astype(np.float64)
    for number, j in enumerate(order):
        importance = np.zeros(weights.shape)
        for later, i in enumerate(order[number:], number):
            behind = order[later:]
            importance[:, i] = rest[:, i] ** 2 / np.linalg.inv(damped[np.ix_(behind, behind)])[0, 0]
        kept = importance[:, j] >= np.sort(importance.ravel())[-keep]
        keep -= int(np.count_nonzero(kept))
        behind = order[number + 1 :]
        for o in range(len(rest)):
            if not kept[o]:
                if len(behind):
                    rest[o, behind] += np.linalg.solve(damped[np.ix_(behind, behind)], damped[behind, j]) * rest[o, j]
                rest[o, j] = 0
    return rest


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_the_obvious_way_gives(seed: int) -> None:
    gram, weights = gram_of(inputs(200, 12, seed)), normal(1, 7, 12, seed=seed)
    values, mask = pruned(weights, gram, 30)
    assert np.count_nonzero(mask) == 30
    np.testing.assert_array_equal(values != 0, mask)
    np.testing.assert_allclose(values[0], obvious(weights[0], gram[0], 30), rtol=1e-5)


@pytest.mark.parametrize("keep", [1, 77, 300, 959, 960])
def test_blocks_keep_as_many_as_asked_for(keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHOICES", 6)
    values, mask = pruned(normal(2, 12, 40), gram_of(inputs(500, 40)), keep)
    assert np.count_nonzero(mask) == keep
    assert not values[~mask].any()
    assert not np.signbit(values[~mask]).any()


def test_a_layer_with_correlated_inputs_keeps_its_outputs_much_better() -> None:
    rows = inputs(2000, 48)
    weights = normal(1, 32, 48)
    values, _ = pruned(weights, gram_of(rows), 768)
    magnitude = np.where(np.abs(weights) >= np.sort(np.abs(weights).ravel())[-768], weights, 0)
    errors = [np.square(rows @ (weights - w)[0].T).mean() for w in (values, magnitude)]
    assert errors[0] < 0.5 * errors[1]


def network() -> onnx.ModelProto:
    """Two layers with biases."""
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "a", "p"], ["m"]),
        onnx.helper.make_node("Relu", ["m"], ["r"]),
        onnx.helper.make_node("Gemm", ["r", "b", "q"], ["y"]),
    ]
    stored = {"a": normal(24, 96) / 5, "p": normal(96), "b": normal(96, 24, seed=1) / 10, "q": normal(24, seed=2)}
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 24]) for n in "xy")
    tensors = [onnx.numpy_helper.from_array(v, k) for k, v in stored.items()]
    graph = onnx.helper.make_graph(nodes, "network", [x], [y], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def error(pipeline: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, float]:
    """Squared error of the outputs in their variance, on new inputs, and the density of the weights."""
    path = tmp_path_factory.mktemp("pruned") / "m.onnx"
    dc_compiler.compile_model(network(), path, pipeline=pipeline, data={"x": inputs(300, 24)})
    model = dc_compiler.unpack_model(path)
    x = inputs(600, 24)[300:]
    sessions = (ort.InferenceSession(m.SerializeToString()) for m in (network(), model))
    wanted, found = (s.run(None, {"x": x})[0].astype(np.float64) for s in sessions)
    weights = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name in "ab"]
    return float(np.square(found - wanted).mean() / wanted.var()), float(np.mean([w != 0 for w in weights[:1]]))


def test_outputs_change_less_than_by_magnitude(tmp_path_factory: pytest.TempPathFactory) -> None:
    by_magnitude, density = error("prune(density=0.5),encode", tmp_path_factory)
    by_surgeon, same = error("prune(density=0.5,criterion=obs),encode", tmp_path_factory)
    assert density == same == 0.5
    assert by_surgeon < 0.8 * by_magnitude


def test_a_calibrated_grid_leaves_zeros_where_they_are(tmp_path_factory: pytest.TempPathFactory) -> None:
    _, density = error(
        "prune(density=0.5,criterion=obs),cluster(grid,step=0.3,calibrate=true),encode", tmp_path_factory
    )
    assert density <= 0.5


def test_what_does_not_fit_is_refused() -> None:
    for options in ({"scope": "global", "density": 0.5}, {"schedule": "gradual"}, {"threshold": 1.0}):
        with pytest.raises(InvalidArgumentError, match="criterion"):
            Prune(criterion="obs", **options)
    with pytest.raises(InvalidArgumentError, match="data"):
        dc_compiler.compile_model(network(), pipeline="prune(density=0.5,criterion=obs),encode")
