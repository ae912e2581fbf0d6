"""Gradients against finite differences: onnxruntime's float32 gradients, losses by the ONNX reference in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dc_compiler.errors import ModelError
from dc_compiler.training.gradients import GRADIENT, add_gradients

Array = NDArray[Any]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def scalar_model(
    nodes: Sequence[onnx.NodeProto], arrays: Mapping[str, Array], output: str, dtype: Any, opset: int = 18
) -> onnx.ModelProto:
    """A model whose inputs are ``arrays`` (integers become constants) and whose output is the sum of a fixed pattern
    times the value ``output``."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    floats = {k: v for k, v in arrays.items() if v.dtype.kind == "f"}
    graph = helper.make_graph(
        [
            *nodes,
            helper.make_node("Sin", [output], ["waves"]),  # so that every element counts differently
            helper.make_node("ReduceSum", ["waves"], ["loss"], keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info(k, kind, v.shape) for k, v in floats.items()],
        [helper.make_tensor_value_info("loss", kind, [])],
        [numpy_helper.from_array(v, k) for k, v in arrays.items() if k not in floats],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def check(
    nodes: onnx.NodeProto | Sequence[onnx.NodeProto], arrays: Mapping[str, Array], output: str = "y", opset: int = 18
) -> None:
    """The gradient of every float input along a random direction is the slope of the loss along it."""
    nodes = [nodes] if isinstance(nodes, onnx.NodeProto) else nodes
    floats = {k: v for k, v in arrays.items() if v.dtype.kind == "f"}
    exact = ReferenceEvaluator(scalar_model(nodes, arrays, output, np.float64, opset))
    model = add_gradients(scalar_model(nodes, arrays, output, np.float32, opset), list(floats), "loss")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [GRADIENT + k for k in floats]
    found = session.run(names, {k: v.astype(np.float32) for k, v in floats.items()})
    for (name, value), gradient in zip(floats.items(), found, strict=True):
        assert gradient.shape == (*value.shape, 1)
        direction = normal(*value.shape, seed=7)
        step = 1e-5
        ends: list[Any] = [exact.run(None, {**floats, name: value + s * step * direction}) for s in (1, -1)]
        slope = float(ends[0][0] - ends[1][0]) / (2 * step)
        size = float(np.linalg.norm(gradient) * np.linalg.norm(direction))
        assert size > 0
        assert float((gradient[..., 0] * direction).sum()) == pytest.approx(slope, abs=2e-4 * size), name


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strides that leave a rest": {"strides": [2, 3]},
    "uneven pads": {"pads": [1, 0, 2, 1], "strides": [2, 2]},
    "dilation": {"dilations": [2, 1], "pads": [2, 1, 2, 1]},
    "groups": {"group": 2, "pads": [1, 1, 1, 1]},
    "depthwise": {"group": 4, "strides": [2, 2]},
    "groups, dilation, strides": {"group": 2, "dilations": [2, 2], "strides": [2, 1], "pads": [0, 2, 1, 2]},
    "same upper": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same lower": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    "valid": {"auto_pad": "VALID"},
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution(options: dict[str, Any]) -> None:
    w = normal(4, 4 // options.get("group", 1), 3, 2)
    check(
        helper.make_node("Conv", ["x", "w", "b"], ["y"], **options), {"x": normal(2, 4, 8, 7), "w": w, "b": normal(4)}
    )


@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 5, 4, 6)], ids=["1-d", "3-d"])
def test_convolution_of_other_ranks(shape: tuple[int, ...]) -> None:
    w = normal(2, 3, *[2] * (len(shape) - 2))
    check(helper.make_node("Conv", ["x", "w"], ["y"], strides=[2] * (len(shape) - 2)), {"x": normal(*shape), "w": w})


def test_convolution_with_a_large_kernel() -> None:
    """Of so many places that their products would be slower."""
    w = normal(2, 3, 6, 6)
    check(
        helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 1], pads=[1, 2, 0, 1]),
        {"x": normal(2, 3, 9, 8), "w": w},
    )


@pytest.mark.parametrize(("kernel", "products"), [(2, 4), (6, 0)])
def test_weights_of_small_kernels_have_gradients_by_products(kernel: int, products: int) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    arrays = {"x": normal(2, 3, 9, 8), "w": normal(2, 3, kernel, kernel)}
    model = add_gradients(scalar_model([node], arrays, "y", np.float32), ["w"], "loss")
    assert [n.op_type for n in model.graph.node].count("Gemm") == products


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("c", [(3, 5), (5,), (1, 1), (3, 1)], ids=str)
def test_gemm(trans_a: int, trans_b: int, c: tuple[int, ...]) -> None:
    a = normal(4, 3) if trans_a else normal(3, 4)
    b = normal(5, 4) if trans_b else normal(4, 5)
    node = helper.make_node("Gemm", ["a", "b", "c"], ["y"], alpha=0.5, beta=2.0, transA=trans_a, transB=trans_b)
    check(node, {"a": a, "b": b, "c": normal(*c)})


SHAPES = [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((6, 2, 3, 4), (1, 2, 4, 5)), ((4,), (4, 5))]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_matmul(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    check(helper.make_node("MatMul", ["a", "b"], ["y"]), {"a": normal(*shapes[0]), "b": normal(*shapes[1])})


POOLS: dict[str, dict[str, Any]] = {
    "apart": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "gaps": {"kernel_shape": [2, 1], "strides": [3, 2]},
    "overlapping": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
}


@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)
def test_max_pool(options: dict[str, Any]) -> None:
    check(helper.make_node("MaxPool", ["x"], ["y"], **options), {"x": normal(2, 3, 8, 6)})


def test_max_pool_of_an_old_operator_set() -> None:
    check(helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3]), {"x": normal(1, 2, 6, 6)}, opset=13)


AVERAGES: dict[str, dict[str, Any]] = {
    "apart": {"strides": [2, 2]},
    "overlapping": {"strides": [1, 1]},
    "gaps": {"strides": [4, 3]},
    "pads do not count": {"strides": [2, 2], "pads": [1, 0, 1, 1]},
    "pads count": {"strides": [2, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1},
    "ceil": {"strides": [2, 2], "ceil_mode": 1},
    "ceil, pads": {"strides": [2, 2], "pads": [1, 1, 1, 0], "ceil_mode": 1},
    "ceil, pads count": {"strides": [2, 2], "pads": [1, 1, 1, 0], "ceil_mode": 1, "count_include_pad": 1},
    "same upper": {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "same lower": {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
}


@pytest.mark.parametrize("options", AVERAGES.values(), ids=AVERAGES)
def test_average_pool(options: dict[str, Any]) -> None:
    check(helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2], **options), {"x": normal(2, 3, 8, 7)})


def test_dilated_average_pool() -> None:
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2], dilations=[2], pads=[1, 1])
    check(node, {"x": normal(2, 3, 8)}, opset=19)


def test_global_average_pool() -> None:
    check(helper.make_node("GlobalAveragePool", ["x"], ["y"]), {"x": normal(2, 3, 8, 6)})


BROADCASTS = [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), ()), ((2, 3, 4), (1,)), ((3, 1), (2, 1, 4)), ((1, 3), (1, 3))]


@pytest.mark.parametrize("shapes", BROADCASTS, ids=str)
@pytest.mark.parametrize("kind", ["Mul", "Div"])
def test_broadcasting(kind: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (np.asarray(normal(*shape, seed=i)) for i, shape in enumerate(shapes))
    check(helper.make_node(kind, ["a", "b"], ["y"]), {"a": a, "b": np.asarray(np.sign(b) + b)})


@pytest.mark.parametrize("bounds", [("low", "high"), ("low",), ("", "high"), ()], ids=str)
def test_clip(bounds: tuple[str, ...]) -> None:
    nodes = [
        helper.make_node("Constant", [], ["low"], value_float=-0.4),
        helper.make_node("Constant", [], ["high"], value_float=0.3),
    ]
    check([*nodes, helper.make_node("Clip", ["x", *bounds], ["y"])], {"x": normal(5, 6)})


def test_clip_with_bounds_of_its_own() -> None:
    check(
        helper.make_node("Clip", ["x", "low", "high"], ["y"]),
        {"x": normal(5, 6), "low": np.array(-0.4), "high": np.array(0.3)},
    )


def test_gradients_of_constants_are_not_computed() -> None:
    """They would cost as much as those that are asked for."""
    nodes = [helper.make_node("Add", ["x", "c"], ["p"]), helper.make_node("Exp", ["p"], ["y"])]
    model = scalar_model(nodes, {"x": normal(4, 3), "c": normal(4, 3)}, "y", np.float32)
    graph = add_gradients(model, ["x"], "loss").graph
    used = {name for n in graph.node for name in n.input} | {o.name for o in graph.output}
    assert all(used.intersection(n.output) for n in graph.node)


def test_batch_normalization() -> None:
    """In inference the mean and the variance are constants."""
    statistics = [
        helper.make_node("Constant", [], ["m"], value_floats=[0.5, -1.0, 0.2]),
        helper.make_node("Constant", [], ["v"], value_floats=[0.5, 1.0, 2.0]),
    ]
    node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])
    check([*statistics, node], {"x": normal(2, 3, 4, 4), "s": normal(3, seed=1), "b": normal(3, seed=2)})


def test_layer_normalization() -> None:
    node = helper.make_node("LayerNormalization", ["x", "s", "b"], ["y"], axis=-1)
    check(node, {"x": normal(2, 3, 6), "s": normal(6, seed=1), "b": normal(6, seed=2)})


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent(kind: str, gates: int) -> None:
    arrays = {"x": normal(4, 2, 3), "w": normal(1, gates * 5, 3), "r": normal(1, gates * 5, 5)}
    arrays["b"] = normal(1, 2 * gates * 5)
    options: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" else {}
    check(helper.make_node(kind, ["x", "w", "r", "b"], ["y"], hidden_size=5, **options), arrays)


def test_attention_of_plain_operators() -> None:
    check(
        [
            helper.make_node("MatMul", ["x", "wq"], ["q"]),
            helper.make_node("MatMul", ["x", "wk"], ["k"]),
            helper.make_node("MatMul", ["x", "wv"], ["v"]),
            helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["q", "kt"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
            helper.make_node("MatMul", ["weights", "v"], ["y"]),
        ],
        {"x": normal(2, 3, 4), **{w: 0.5 * normal(4, 4, seed=i) for i, w in enumerate(("wq", "wk", "wv"))}},
    )


def test_attention_operator() -> None:
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"])
    check(node, {k: normal(1, 2, 3, 4, seed=i) for i, k in enumerate("qkv")}, opset=23)


def test_embedding_table() -> None:
    indices = np.array([[0, 3], [3, 1]])
    check(helper.make_node("Gather", ["table", "i"], ["y"]), {"table": normal(5, 4), "i": indices})


def test_a_value_used_twice_gets_both_gradients() -> None:
    check([helper.make_node("Mul", ["x", "x"], ["s"]), helper.make_node("Add", ["s", "x"], ["y"])], {"x": normal(3)})


def test_ties_of_a_pool_count_once() -> None:
    """Where the four inputs of a window are equal, one gets the gradient, not all."""
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    x = np.ones((1, 1, 4, 4), np.float32)
    model = add_gradients(scalar_model([node], {"x": x}, "y", np.float32), ["x"], "loss")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    gradient = session.run([f"{GRADIENT}x"], {"x": x})[0]
    assert gradient.sum() == pytest.approx(4 * np.cos(1), rel=1e-5)
    assert np.count_nonzero(gradient) == 4


def test_an_operator_without_gradient_is_named() -> None:
    node = helper.make_node("Foo", ["x"], ["y"], name="mystery", domain="custom")
    model = scalar_model([node], {"x": normal(3)}, "y", np.float32)
    model.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [3]))
    model.opset_import.add(domain="custom", version=1)
    with pytest.raises(ModelError, match=r"cannot be trained: node .mystery. \(Foo of custom\)"):
        add_gradients(model, ["x"], "loss")


def test_rules_of_onnx_ad_stay_its_own() -> None:
    from onnx_ad.rules import REVERSE

    before = dict(REVERSE)
    check(helper.make_node("MatMul", ["a", "b"], ["y"]), {"a": normal(2, 3), "b": normal(3, 2)})
    assert before == REVERSE
