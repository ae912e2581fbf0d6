"""shrink: channels that carry nothing go, and the model computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dc_compiler import compile_model
from dc_compiler.ir.links import find_links
from dc_compiler.model import files, importer, packed

Array = np.ndarray
PERCEPTRON = """<ir_version: 8, opset_import: ["": 17]>
g (float[n, 6] x) => (float[n, 3] y) {
    a = Gemm<transB = 1>(x, w1, b1)
    r = Relu(a)
    m = MatMul(r, w2)
    c = Add(m, b2)
    t = LeakyRelu<alpha = 0.25>(c)
    y = Gemm(t, w3, b3)
}"""
NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[n, 2, 10, 10] x) => (float[n, 3] y) {
    a = Conv(x, w1, b1)
    r = Relu(a)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
    c = Conv<pads = [PADS, PADS, PADS, PADS]>(p, w2, b2)
    q = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(c)
    f = FLATTEN
    y = Gemm(f, w3, b3)
}"""


def model(text: str, weights: dict[str, Array]) -> onnx.ModelProto:
    result = onnx.parser.parse_model(text)
    result.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in weights.items())
    return result


def run(proto: onnx.ModelProto, x: Array) -> Array:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def shrunk(proto: onnx.ModelProto, pipeline: str = "shrink,encode(lossless)") -> tuple[onnx.ModelProto, Any]:
    result = compile_model(proto, pipeline=pipeline, min_size=0)
    return packed.unpack(result.model, "the result"), result.report


def shapes(proto: onnx.ModelProto) -> dict[str, list[int]]:
    return {t.name: list(t.dims) for t in proto.graph.initializer}


def perceptron(generator: np.random.Generator) -> dict[str, Array]:
    extents = {"w1": (8, 6), "b1": (8,), "w2": (8, 7), "b2": (7,), "w3": (7, 3), "b3": (3,)}
    return {k: generator.normal(size=v).astype(np.float32) for k, v in extents.items()}


def network(generator: np.random.Generator, inputs: int) -> dict[str, Array]:
    extents = {"w1": (6, 2, 3, 3), "b1": (6,), "w2": (5, 6, 3, 3), "b2": (5,), "w3": (inputs, 3), "b3": (3,)}
    return {k: generator.normal(size=v).astype(np.float32) for k, v in extents.items()}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), density=st.floats(0.02, 0.6))
def test_a_sparse_perceptron_computes_the_same(seed: int, density: float) -> None:
    generator = np.random.default_rng(seed)
    weights = perceptron(generator)
    for name in ("w1", "w2", "w3"):
        weights[name] *= generator.random(weights[name].shape) < density
    proto = model(PERCEPTRON, weights)
    x = generator.normal(size=(4, 6)).astype(np.float32)
    small, _ = shrunk(proto)
    np.testing.assert_allclose(run(small, x), run(proto, x), rtol=1e-4, atol=1e-4)
    kept = {t.name: onnx.numpy_helper.to_array(t) for t in small.graph.initializer}
    assert kept["w1"].shape[0] == kept["w2"].shape[0] == kept["b1"].size
    for used, made in ((kept["w2"].any(1), kept["w1"].any(1)), (kept["w3"].any(1), kept["w2"].any(0))):
        assert bool((used & made).all()) or used.size == 1  # nothing useless is left


@pytest.mark.parametrize("flatten", ["Flatten(q)", "Reshape(q, shape)"])
@pytest.mark.parametrize("pads", [0, 1])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_sparse_convolutional_network_computes_the_same(flatten: str, pads: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = network(generator, 20 if pads else 5)
    for name in ("w1", "w2", "w3"):
        weights[name] *= generator.random(weights[name].shape) < 0.1
    text = NETWORK.replace("PADS", str(pads)).replace("FLATTEN", flatten)
    if "shape" in flatten:
        weights["shape"] = np.array([-1, len(weights["w3"])])
    proto = model(text, weights)
    x = generator.normal(size=(3, 2, 10, 10)).astype(np.float32)
    small, _ = shrunk(proto)
    np.testing.assert_allclose(run(small, x), run(proto, x), rtol=1e-4, atol=1e-4)


def test_a_chain_of_uses_is_followed_to_its_end() -> None:
    weights = perceptron(np.random.default_rng(0))
    weights["w3"][2:5] = 0  # these outputs of w2 are for nothing,
    weights["w2"][4, [0, 1, 5, 6]] = 0  # so this output of w1 is
    small, report = shrunk(model(PERCEPTRON, weights))
    assert shapes(small)["w3"] == [4, 3]
    assert shapes(small)["w2"] == [7, 4]
    assert shapes(small)["w1"] == [7, 6]
    assert shapes(small)["b2"] == [4]
    assert report.passes[0].facts == {"channels removed": 4}


def test_padding_keeps_constants_where_they_are() -> None:
    weights = network(np.random.default_rng(1), 20)
    weights["w1"][2], weights["b1"][2] = 0, 1.0  # constant 1 inside, 0 in the padding: no bias does the same
    weights["w1"][4], weights["b1"][4] = 0, -1.0  # always 0
    proto = model(NETWORK.replace("PADS", "1").replace("FLATTEN", "Flatten(q)"), weights)
    small, _ = shrunk(proto)
    assert shapes(small)["w1"] == [6, 2, 3, 3]
    weights = network(np.random.default_rng(1), 5)
    weights["w1"][2], weights["b1"][2] = 0, 1.0
    small, _ = shrunk(model(NETWORK.replace("PADS", "0").replace("FLATTEN", "Flatten(q)"), weights))
    assert shapes(small)["w1"] == [5, 2, 3, 3]


@pytest.mark.parametrize("shape", [[-1, 16], [-1, 4], [2, -1]])
def test_a_reshape_across_samples_or_channels_is_left_alone(shape: list[int]) -> None:
    """4 channels of 2 x 2: rows of 16 are samples, rows of 4 are channels; 2 rows are samples if there are 2."""
    generator = np.random.default_rng(6)
    rows = 16 if shape[1] != 4 else 4
    weights = {
        "w1": generator.normal(size=(4, 1, 3, 3)).astype(np.float32),
        "w2": generator.normal(size=(rows, 3)).astype(np.float32),
        "shape": np.array(shape),
    }
    weights["w2"][rows // 4 : rows // 2] = 0
    text = """<ir_version: 8, opset_import: ["": 17]>
g (float[n, 1, 4, 4] x) => (float[m, 3] y) {
    a = Conv(x, w1)
    f = Reshape(a, shape)
    y = MatMul(f, w2)
}"""
    proto = model(text, weights)
    x = generator.normal(size=(2, 1, 4, 4)).astype(np.float32)
    small, _ = shrunk(proto)
    np.testing.assert_allclose(run(small, x), run(proto, x), rtol=1e-4, atol=1e-4)
    assert shapes(small)["w1"][0] == (3 if shape == [-1, 16] else 4)


def test_normalization_of_another_axis_is_left_alone() -> None:
    generator = np.random.default_rng(7)
    weights = {k: generator.normal(size=v).astype(np.float32) for k, v in {"w1": (6, 5), "w2": (5, 3)}.items()}
    weights |= {k: generator.random(5).astype(np.float32) + 1 for k in ("scale", "bias", "mean", "var")}
    weights["w2"][1] = 0
    text = """<ir_version: 8, opset_import: ["": 17]>
g (float[n, 5, 6] x) => (float[n, 5, 3] y) {
    a = MatMul(x, w1)
    b = BatchNormalization(a, scale, bias, mean, var)
    y = MatMul(b, w2)
}"""
    proto = model(text, weights)
    small, _ = shrunk(proto)
    x = generator.normal(size=(2, 5, 6)).astype(np.float32)
    np.testing.assert_allclose(run(small, x), run(proto, x), rtol=1e-4, atol=1e-4)


def test_clustered_weights_shrink_too_and_a_layer_is_never_empty() -> None:
    weights = perceptron(np.random.default_rng(2))
    weights["w2"][:] = 0
    x = np.random.default_rng(3).normal(size=(5, 6)).astype(np.float32)
    proto = model(PERCEPTRON, weights)
    small, _ = shrunk(proto, "cluster(kmeans,bits=6),shrink,encode")
    assert shapes(small)["w2"] == [1, 1]
    np.testing.assert_allclose(run(small, x), run(proto, x), rtol=1e-3, atol=1e-3)


def test_what_may_not_change_stays() -> None:
    weights = perceptron(np.random.default_rng(4))
    weights["w3"][2:5] = 0
    proto = model(PERCEPTRON, weights)
    skipped = compile_model(proto, pipeline="shrink,encode(lossless)", min_size=0, skip="w2").model
    assert shapes(packed.unpack(skipped, "it"))["w3"] == [7, 3]
    proto.graph.output.append(onnx.helper.make_tensor_value_info("m", onnx.TensorProto.FLOAT, None))
    assert shapes(shrunk(proto)[0])["w3"] == [7, 3]


@pytest.mark.parametrize("emit", ["session", "graph"])
@pytest.mark.parametrize("min_size", [0, 20])  # with 20 the biases are left alone, but lose channels all the same
def test_the_compiled_model_runs(emit: str, min_size: int) -> None:
    weights = perceptron(np.random.default_rng(5))
    weights["w1"][2:5] = 0
    report = compile_model(
        model(PERCEPTRON, weights), pipeline="shrink,encode(lossless)", min_size=min_size, emit=emit
    ).report
    assert {t.name: t.shape for t in report.tensors}["b1"] == (5,)
    assert report.verification is not None
    assert report.verification.outputs[0].max_abs_error == pytest.approx(0, abs=1e-5)


def test_sorted_channels_compute_the_same() -> None:
    generator = np.random.default_rng(5)
    weights = network(generator, 20)
    for name, density in (("w1", (0.2, 0.9, 0.3, 0.6, 0.1, 0.9)), ("w2", (0.3, 0.1, 0.9, 0.5, 0.7))):
        shape = (len(density), 1, 1, 1)
        weights[name] *= generator.random(weights[name].shape) < np.array(density).reshape(shape)
    text = NETWORK.replace("PADS", "1").replace("FLATTEN", "Flatten(q)")
    proto = model(text, weights)
    x = generator.normal(size=(4, 2, 10, 10)).astype(np.float32)
    result, report = shrunk(proto, "shrink(sort=true),encode(lossless)")
    assert report.passes[0].facts["layers sorted"] == 2
    assert any("another order" in note for note in report.notes)
    np.testing.assert_allclose(run(result, x), run(proto, x), rtol=1e-4, atol=1e-4)
    after = {t.name: onnx.numpy_helper.to_array(t) for t in result.graph.initializer}
    for name in ("w1", "w2"):
        counts = np.count_nonzero(after[name].reshape(len(after[name]), -1), axis=1)
        assert (np.diff(counts) <= 0).all()
        np.testing.assert_array_equal(np.sort(after[name], axis=None), np.sort(weights[name], axis=None))
    _, report = shrunk(result, "shrink(sort=true),encode(lossless)")
    assert report.passes[0].facts["layers sorted"] == 0


def test_channels_keep_their_order_unless_asked() -> None:
    generator = np.random.default_rng(6)
    weights = perceptron(generator)
    weights["w1"] *= generator.random(weights["w1"].shape) < 0.7
    small, _ = shrunk(model(PERCEPTRON, weights))
    kept = {t.name: onnx.numpy_helper.to_array(t) for t in small.graph.initializer}
    np.testing.assert_array_equal(kept["w1"], weights["w1"])


def test_a_value_that_a_body_hands_out_keeps_its_channels() -> None:
    """No node takes ``m`` but the next layer, yet a branch has it as its output (which onnxruntime refuses to load)."""
    generator = np.random.default_rng(0)
    weights = {"w1": generator.standard_normal((6, 8)).astype(np.float32), "w2": np.ones((8, 3), np.float32)}
    weights["w1"][:, 2:] = 0
    helper = onnx.helper
    value = helper.make_tensor_value_info("m", 1, ["n", 8])
    branch = {f"{name}_branch": helper.make_graph([], name, [], [value]) for name in ("then", "else")}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m"]),
        helper.make_node("If", ["c"], ["z"], **branch),
        helper.make_node("MatMul", ["m", "w2"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", 1, ["n", 3]), helper.make_tensor_value_info("z", 1, ["n", 8])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["n", 6])], outputs,
        [*(onnx.numpy_helper.from_array(v, k) for k, v in (weights | {"c": np.array(True)}).items())],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert find_links(importer.build_program(files.read_model(proto), min_size=0)) == []
