"""Gram matrices of the inputs of weights, against what the layer itself computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper
from single_layers import layer, network, normal, numbers, opened

from dc_compiler.calibration import grams as module
from dc_compiler.calibration.grams import collect
from dc_compiler.calibration.products import find_products
from dc_compiler.calibration.views import View, fewest_parts, split_inputs

Array = np.ndarray
# operator, extents of the weight and of a sample, attributes
CONVOLUTIONS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("Conv", (8, 3, 3, 3), (3, 9, 7), {}),
    ("Conv", (8, 3, 3, 3), (3, 9, 7), {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}),
    ("Conv", (8, 3, 3, 3), (3, 9, 7), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", (8, 3, 2, 2), (3, 9, 7), {"auto_pad": "SAME_LOWER"}),
    ("Conv", (8, 3, 2, 2), (3, 9, 7), {"auto_pad": "VALID", "strides": [3, 2]}),
    ("Conv", (8, 2, 3), (4, 11), {"group": 2, "pads": [1, 1]}),
    ("Conv", (6, 1, 3, 3), (6, 5, 5), {"group": 6}),
    ("Conv", (4, 2, 2, 2, 2), (2, 4, 5, 3), {"strides": [1, 2, 1]}),
]
MULTIPLICATIONS: list[tuple[str, tuple[int, ...], tuple[int, ...], int, dict[str, Any]]] = [
    ("MatMul", (6, 5), (6,), 1, {}),
    ("MatMul", (6, 5), (4, 6), 1, {}),
    ("MatMul", (3, 6, 5), (3, 4, 6), 1, {}),
    ("MatMul", (3, 6, 5), (1, 4, 6), 1, {}),
    ("MatMul", (1, 6, 5), (4, 6), 1, {}),
    ("MatMul", (2, 1, 6, 5), (2, 3, 4, 6), 1, {}),
    ("MatMul", (2, 3, 6, 5), (2, 1, 4, 6), 1, {}),
    ("MatMul", (5, 6), (6, 4), 0, {}),
    ("Gemm", (6, 5), (6,), 1, {}),
    ("Gemm", (5, 6), (6,), 1, {"transB": 1}),
]


def change(op: str, weight: Array, shape: tuple[int, ...], index: int, attributes: dict[str, Any], x: Array) -> float:
    """Sum of squares of what the layer gives for a weight: what a change of this size does to its outputs."""
    model = layer(op, weight, shape, index, **attributes)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return float(np.square(session.run(None, {"x": x})[0].astype(np.float64)).sum())


@pytest.mark.parametrize(
    ("op", "extents", "shape", "index", "attributes"),
    [*((op, w, s, 1, a) for op, w, s, a in CONVOLUTIONS), *MULTIPLICATIONS],
)
def test_a_gram_matrix_tells_what_a_change_does_to_the_outputs(
    op: str, extents: tuple[int, ...], shape: tuple[int, ...], index: int, attributes: dict[str, Any]
) -> None:
    """Whatever the change: the squared error of the outputs is its quadratic form."""
    x = normal(5, *shape)
    program, samples = opened(layer(op, normal(*extents, seed=1), shape, index, **attributes), x)
    gram = collect(program, samples)["w"][0]
    factors = []
    for seed in range(4):
        changed = normal(*extents, seed=10 + seed)
        matrices = gram.place.apply(changed).astype(np.float64)
        form = np.einsum(
            "goi,gij,goj->",
            matrices,
            np.broadcast_to(gram.matrices, (len(matrices), *gram.matrices.shape[1:])),
            matrices,
        )
        factors.append(change(op, changed, shape, index, attributes, x) / form)
    np.testing.assert_allclose(factors, factors[0], rtol=1e-3)  # the number of rows


def test_a_transposed_convolution_whose_windows_do_not_overlap() -> None:
    x, extents = normal(5, 4, 3, 3), (4, 2, 2, 2)
    program, samples = opened(layer("ConvTranspose", normal(*extents), (4, 3, 3), strides=[2, 2]), x)
    gram = collect(program, samples)["w"][0]
    assert gram.place.extents == (1, 8, 4)
    factors = []
    for seed in range(4):
        changed = normal(*extents, seed=10 + seed)
        matrix = gram.place.apply(changed).astype(np.float64)
        form = np.einsum("goi,gij,goj->", matrix, gram.matrices, matrix)
        factors.append(change("ConvTranspose", changed, (4, 3, 3), 1, {"strides": [2, 2]}, x) / form)
    np.testing.assert_allclose(factors, factors[0], rtol=1e-3)


def test_many_rows_are_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layer("Conv", normal(8, 3, 3, 3), (3, 32, 32), pads=[1, 1, 1, 1])
    program, samples = opened(model, normal(40, 3, 32, 32))
    whole = collect(program, samples)["w"][0].matrices
    monkeypatch.setattr(module, "LEAST_ROWS", 1000)
    part = collect(program, samples)["w"][0].matrices
    assert not np.array_equal(part, whole)
    assert np.abs(part - whole).max() < 0.2 * np.abs(whole).max()


@pytest.mark.parametrize("shape", [(4, 12), (3, 4, 12)])
def test_matrices_of_many_inputs(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    """Each part has the squares of its own inputs, for every matrix."""
    monkeypatch.setattr("dc_compiler.calibration.products.LARGEST", 4)
    x = normal(1, *shape)
    program, samples = opened(layer("MatMul", normal(3, 12, 5, seed=1), shape), x)
    (gram,) = collect(program, samples)["w"]
    assert gram.place.extents == (9, 5, 4)
    for i in range(9):
        rows = x.reshape(-1, 4, 12)[i // 3 % (shape[0] if len(shape) > 2 else 1), :, i % 3 * 4 :][:, :4]
        np.testing.assert_allclose(gram.matrices[i], rows.T @ rows / 4, rtol=1e-4, atol=1e-6)


def test_many_inputs_are_taken_in_parts() -> None:
    view = View((10, 12)).reshape(1, 10, 12)
    cut = split_inputs(view, 3)
    assert cut.extents == (3, 10, 4)
    weight = normal(10, 12)
    np.testing.assert_array_equal(cut.apply(weight)[1], weight[:, 4:8])
    assert fewest_parts(9216, 4096) == 3
    assert fewest_parts(4097 * 2, 4096) is None or 4097 * 2 % (fewest_parts(4097 * 2, 4096) or 1) == 0


@pytest.mark.parametrize("extents", [(2, 3, 4), (4, 5, 1)])
def test_a_view_goes_back(extents: tuple[int, ...]) -> None:
    view = View(extents).transpose(2, 0, 1).reshape(-1, extents[0]).transpose(1, 0).reshape(1, extents[0], -1)
    weight = normal(*extents)
    np.testing.assert_array_equal(view.restore(view.apply(weight)), weight)


def test_a_weight_that_something_else_uses_too_has_no_gram_matrix() -> None:
    model = layer("MatMul", normal(6, 6), (6,))
    assert set(find_products(opened(model, normal(3, 6))[0])) == {"w"}
    model.graph.node.append(helper.make_node("Relu", ["w"], ["z"]))
    assert not find_products(opened(model, normal(3, 6))[0])


def test_a_weight_that_is_cut_and_turned_before_it_is_used() -> None:
    """As exporters of recurrent layers do with gates; each part has the inputs that it is multiplied with."""
    nodes = [
        helper.make_node("Slice", ["w", "n0", "n4", "n0"], ["upper"]),
        helper.make_node("Slice", ["w", "n4", "n10", "n0"], ["lower"]),
        helper.make_node("Transpose", ["upper"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["a"]),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Gemm", ["r", "lower"], ["b"], transB=1),
        helper.make_node("Concat", ["a", "b"], ["y"], axis=1),
    ]
    w, x = normal(10, 6), normal(50, 6, seed=1)
    program, samples = opened(network(nodes, (6,), w=w, n0=numbers(0), n4=numbers(4), n10=numbers(10)), x)
    upper, lower = collect(program, samples)["w"]
    np.testing.assert_array_equal(upper.place.apply(w)[0], w[:4])
    np.testing.assert_array_equal(lower.place.apply(w)[0], w[4:])
    np.testing.assert_allclose(upper.matrices[0], x.T @ x / 50, rtol=1e-4, atol=1e-6)
    r = np.maximum(x, 0)
    np.testing.assert_allclose(lower.matrices[0], r.T @ r / 50, rtol=1e-4, atol=1e-6)
    target = np.zeros(60, np.float32)
    for gram in (upper, lower):
        gram.place.put(target, gram.place.apply(w))
    np.testing.assert_array_equal(target, w.reshape(-1))


def test_parts_that_share_elements_have_no_gram_matrix() -> None:
    nodes = [
        helper.make_node("Slice", ["w", "n0", "n4", "n0"], ["upper"]),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Gemm", ["a", "upper"], ["y"]),
    ]
    program, samples = opened(network(nodes, (4,), w=normal(4, 4), n0=numbers(0), n4=numbers(4)), normal(9, 4))
    assert not collect(program, samples)
