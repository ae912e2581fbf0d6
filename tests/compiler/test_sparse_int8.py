"""--execution int8 with few weights left: products of integers that run from what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from small_nets import net

from dc_compiler import InferenceSession, compile_model, inspect_model, session_options, unpack_model
from dc_compiler.codec import binding
from dc_compiler.model.packed import open_packed

Array = np.ndarray
ROWS, COLUMNS = 512, 640
PRUNED = "prune(density=0.05),cluster(grid),encode"


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def node(op_type: str, *inputs: str, to: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, list(inputs), [to], **attributes)


W, T, B = normal(ROWS, COLUMNS), normal(COLUMNS, ROWS), normal(COLUMNS, seed=3)
BIAS = {"b": B}
CLIP = {"low": np.array(-0.25, np.float32), "high": np.array(4, np.float32)}
CHAIN = ["MatMulInteger", "Cast", "Mul", "Mul"]
# Nodes, what is stored, the shape of x; operators of the library's domain, sorted
LAYERS: dict[str, tuple[list[onnx.NodeProto], dict[str, Array], tuple[int | str, ...], list[str]]] = {
    "matmul": ([node("MatMul", "x", "w")], {"w": W}, ("n", ROWS), CHAIN),
    "matmul of 3 axes": ([node("MatMul", "x", "w")], {"w": W}, ("n", 4, ROWS), CHAIN),
    "matmul of 1 axis": ([node("MatMul", "x", "w")], {"w": W}, (ROWS,), CHAIN),
    "gemm": ([node("Gemm", "x", "w")], {"w": W}, ("n", ROWS), CHAIN),
    "gemm with bias": ([node("Gemm", "x", "w", "b")], {"w": W} | BIAS, ("n", ROWS), [*CHAIN, "Add"]),
    "gemm with bias of 2 axes": (
        [node("Gemm", "x", "w", "b")], {"w": W, "b": B[None]}, ("n", ROWS), [*CHAIN, "Add"],
    ),
    "gemm transposed": (
        [node("Gemm", "x", "w", "b", transB=1)], {"w": T} | BIAS, ("n", ROWS), [*CHAIN, "Add", "Transpose"],
    ),
    "gemm, relu": (
        [node("Gemm", "x", "w", "b", to="a", transB=1), node("Relu", "a")], {"w": T} | BIAS, ("n", ROWS),
        [*CHAIN, "Add", "Transpose", "Relu"],
    ),
    "matmul, clip": (
        [node("MatMul", "x", "w", to="a"), node("Clip", "a", "low", "high")], {"w": W} | CLIP, ("n", ROWS),
        [*CHAIN, "Clip"],
    ),
    "matmul, sum of its own": (
        [node("MatMul", "x", "w", to="a"), node("Add", "a", "b", to="c"), node("Relu", "c")], {"w": W} | BIAS,
        ("n", ROWS), CHAIN,
    ),
    "two of one input": (
        [node("MatMul", "x", "w", to="a"), node("MatMul", "x", "v", to="c"), node("Add", "a", "c")],
        {"w": W, "v": normal(ROWS, COLUMNS, seed=5)}, ("n", ROWS), CHAIN * 2,
    ),
    "one weight twice": (
        [node("MatMul", "x", "w", to="a"), node("Tanh", "x", to="t"), node("MatMul", "t", "w", to="c"),
         node("Add", "a", "c")],
        {"w": W}, ("n", ROWS), CHAIN * 2,
    ),
    "one weight twice, transposed": (
        [node("Gemm", "x", "w", to="a", transB=1), node("Tanh", "x", to="t"),
         node("Gemm", "t", "w", to="c", transB=1), node("Add", "a", "c")],
        {"w": T}, ("n", ROWS), [*CHAIN * 2, "Transpose", "Transpose"],
    ),
    "one after the other": (
        [node("MatMul", "x", "w", to="a"), node("Relu", "a", to="r"), node("MatMul", "r", "v")],
        {"w": W, "v": T}, ("n", ROWS), [*CHAIN * 2, "Relu"],
    ),
    "matrix added": (  # to rows of x: that is no bias
        [node("Gemm", "x", "w", "c")], {"w": W, "c": normal(3, COLUMNS)}, (3, ROWS), [],
    ),
}  # fmt: skip


def made(nodes: list[onnx.NodeProto], stored: dict[str, Array], shape: Any, pipeline: str = PRUNED) -> Any:
    return compile_model(net(nodes, stored, shape), execution="int8", pipeline=pipeline, force=True, min_size=1024)


def run(session: Any, x: Array) -> Array:
    return np.asarray(session.run(None, {"x": x})[0])


def served(model: onnx.ModelProto, execution: str = "auto", threads: int = 1) -> Any:
    options = session_options(config={"dcc.execution": execution}, intra_op_num_threads=threads, log_severity_level=4)
    return InferenceSession(model.SerializeToString(), options)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_run_in_integers_from_what_is_kept(name: str) -> None:
    """As the standard model does that the file unpacks to, on every instruction set."""
    nodes, stored, shape, ours = LAYERS[name]
    result = made(nodes, stored, shape)
    wanted = {"sparse.int8" if ours else "int8"}
    assert {t.execution for t in result.report.tensors if t.name in ("w", "v")} == wanted
    inner = open_packed(result.model, "made").inner
    assert sorted(n.op_type for n in inner.graph.node if n.domain == "dcc.run") == sorted(ours)
    plain = unpack_model(result.model)
    assert {n.domain for n in plain.graph.node} == {""}
    x = normal(*(3 if d == "n" else int(d) for d in shape), seed=9)
    standard = run(ort.InferenceSession(plain.SerializeToString()), x)
    np.testing.assert_array_equal(run(served(result.model, "dense"), x), standard)
    got = run(served(result.model, "sparse"), x)
    assert got.shape == standard.shape
    # onnxruntime fuses a bias with one rounding less; one layer's last bit may be the next one's rounding
    tolerance = 2e-2 if name == "one after the other" else 1e-6
    np.testing.assert_allclose(got, standard, rtol=0, atol=tolerance * np.abs(standard).max())
    np.testing.assert_array_equal(run(served(result.model, "sparse", threads=2), x), got)
    try:
        for isa in binding.isas():
            binding.select_isa(isa)
            np.testing.assert_array_equal(run(served(result.model, "sparse"), x), got)
    finally:
        binding.select_isa("auto")


def test_the_bits_are_those_of_the_operators() -> None:
    """DynamicQuantizeLinear, whole numbers, one rounding for each of Mul, Mul and Add."""
    nodes, stored, shape, _ = LAYERS["gemm, relu"]
    model = made(nodes, stored, shape).model
    plain = {t.name: numpy_helper.to_array(t) for t in unpack_model(model).graph.initializer}
    x = normal(5, ROWS, seed=9)
    low, high = np.float32(min(0, x.min())), np.float32(max(0, x.max()))
    step = np.float32((high - low) / np.float32(255))
    zero = np.clip(np.rint(-low / step), 0, 255)
    rounded = np.clip(np.rint(x / step) + zero, 0, 255) - zero
    sums = (rounded.astype(np.int64) @ plain["w"].T.astype(np.int64)).astype(np.float32)
    expected = np.maximum(sums * (step * plain["w.scale"]) + plain["b"], 0)
    np.testing.assert_array_equal(run(served(model, "sparse"), x), expected)


def test_no_rows() -> None:
    nodes, stored, shape, _ = LAYERS["matmul"]
    model = made(nodes, stored, shape).model
    assert run(served(model, "sparse"), normal(0, ROWS)).shape == (0, COLUMNS)


def test_many_weights_run_dense() -> None:
    nodes, stored, shape, _ = LAYERS["matmul"]
    result = made(nodes, stored, shape, "prune(density=0.5),cluster(grid),encode")
    assert {t.execution for t in result.report.tensors} == {"int8"}


def test_the_file_says_so(tmp_path: Path) -> None:
    nodes, stored, shape, _ = LAYERS["gemm with bias"]
    result = made(nodes, stored, shape)
    assert "int8: 1 weight runs in integers, 1 of them from what is kept" in result.report.notes
    path = tmp_path / "m.onnx"
    onnx.save(result.model, path)
    assert [t.execution for t in inspect_model(path).tensors if t.name == "w"] == ["sparse.int8"]


def test_inputs_that_do_not_fit() -> None:
    model = net([node("MatMul", "x", "w")], {"w": W}, ("n", ROWS))
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.Clear()
    result = compile_model(model, execution="int8", pipeline=PRUNED, force=True)
    with pytest.raises(Exception, match="rows"):
        run(served(result.model, "sparse"), normal(2, ROWS + 1))
