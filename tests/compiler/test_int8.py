"""--execution int8: layers that multiply do so in integers, by onnxruntime's own kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import small_nets
from onnx import TensorProto, helper, numpy_helper

from dc_compiler import InferenceSession, compile_model, inspect_model, unpack_model
from dc_compiler.cli import main
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.model.int8 import choose

Array = np.ndarray
FLOAT = TensorProto.FLOAT
ROWS, COLUMNS = 256, 320


def weight(*shape: int, seed: int = 0) -> Array:
    """Normal values with an outlier, which a grid of few points has to reach."""
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    values.reshape(-1)[7] = 40
    return values


def net(nodes: list[onnx.NodeProto], weights: dict[str, Array], *, opset: int = 17) -> onnx.ModelProto:
    return small_nets.net(nodes, weights, ["n", ROWS], opset)


def node(op_type: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, list(inputs), ["y"], **attributes)


B = {"b": np.linspace(-3, 3, COLUMNS).astype(np.float32)}
GRID = "cluster(grid),encode"
LAYERS: dict[str, tuple[onnx.NodeProto, dict[str, Array]]] = {
    "matmul": (node("MatMul", "x", "w"), {"w": weight(ROWS, COLUMNS)}),
    "gemm": (node("Gemm", "x", "w"), {"w": weight(ROWS, COLUMNS)}),
    "gemm with bias": (node("Gemm", "x", "w", "b"), {"w": weight(ROWS, COLUMNS)} | B),
    "gemm transposed": (node("Gemm", "x", "w", "b", transB=1), {"w": weight(COLUMNS, ROWS)} | B),
}


def in_integers(x: Array, w: Array, scales: Array) -> Array:
    """What DynamicQuantizeLinear, MatMulInteger and two scales make of x [n, k] and w int8 [k, m]."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
    zero = np.clip(np.rint(-np.float32(low) / scale), 0, 255)
    rounded = np.clip(np.rint(x / scale) + zero, 0, 255) - zero
    return np.asarray((rounded @ w.astype(np.float64)).astype(np.float32) * (scale * scales))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_run_in_integers(name: str, tmp_path: Path) -> None:
    """As a slow reference says, and to the bit as the standard model that the file unpacks to."""
    layer, weights = LAYERS[name]
    model = net([layer], weights)
    path = tmp_path / "m.onnx"
    result = compile_model(model, path, execution="int8", pipeline="cluster(grid),encode")
    (row,) = [t for t in result.report.tensors if t.name == "w"]
    assert row.execution == "int8"
    assert "int8: 1 weight runs in integers" in result.report.notes
    x = np.random.default_rng(1).standard_normal((9, ROWS)).astype(np.float32)
    (got,) = InferenceSession(path).run(None, {"x": x})
    plain = unpack_model(path)
    stored = {t.name: numpy_helper.to_array(t) for t in plain.graph.initializer}
    assert stored["w"].dtype == np.int8
    assert np.abs(stored["w"].astype(int)).max() <= 127
    (standard,) = ort.InferenceSession(plain.SerializeToString()).run(None, {"x": x})
    np.testing.assert_array_equal(got, standard)
    w = stored["w"].T if "transposed" in name else stored["w"]
    wanted = in_integers(x, w, stored["w.scale"]) + stored.get("b", np.float32(0))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)
    (original,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert np.sum(got * original) > 0.999 * np.linalg.norm(got) * np.linalg.norm(original)


def test_a_value_is_rounded_once() -> None:
    """Three products of one input share what rounds it, as query, key and value do."""
    products = [helper.make_node("MatMul", ["x", f"w{i}"], [f"v{i}"]) for i in range(3)]
    model = net([*products, node("Sum", "v0", "v1", "v2")], {f"w{i}": weight(ROWS, COLUMNS, seed=i) for i in range(3)})
    plain = unpack_model(compile_model(model, execution="int8", pipeline="cluster(grid),encode").model)
    kinds = [n.op_type for n in plain.graph.node]
    assert (kinds.count("DynamicQuantizeLinear"), kinds.count("MatMulInteger")) == (1, 3)


def test_one_weight_of_two_layers() -> None:
    square = weight(ROWS, ROWS)
    model = net([helper.make_node("MatMul", ["x", "w"], ["v"]), node("MatMul", "v", "w")], {"w": square})
    result = compile_model(model, execution="int8", pipeline="cluster(grid),encode")
    plain = unpack_model(result.model)
    assert [n.op_type for n in plain.graph.node].count("MatMulInteger") == 2
    assert len([t for t in plain.graph.initializer if t.data_type == TensorProto.INT8]) == 1


LARGE = weight(ROWS, COLUMNS)
OBSTACLES: dict[str, tuple[onnx.ModelProto, str, str]] = {
    "first factor": (net([node("MatMul", "w", "x")], {"w": weight(300, 256)}), "cluster(grid)", "read by MatMul"),
    "turned": (
        net(
            [
                helper.make_node("MatMul", ["x", "w"], ["v"]),
                helper.make_node("Transpose", ["w"], ["t"]),
                node("MatMul", "v", "t"),
            ],
            {"w": LARGE},
        ),
        "cluster(grid)",
        "read by MatMul and Transpose",
    ),
    "alpha": (net([node("Gemm", "x", "w", alpha=0.5)], {"w": LARGE}), "cluster(grid)", "read by Gemm"),
    "small": (net([node("MatMul", "x", "w")], {"w": weight(ROWS, 20)}), "cluster(grid)", "too small to gain"),
    "three axes": (net([node("MatMul", "x", "w")], {"w": LARGE[None]}), "cluster(grid)", "3 axes"),
    "codebook": (net([node("MatMul", "x", "w")], {"w": LARGE}), "cluster(bits=4)", "not on a scaled grid of float32"),
    "many points": (
        net([node("MatMul", "x", "w")], {"w": LARGE}),
        "cluster(grid,points=200)",
        "points of more than 8 bits",
    ),
    "lossless": (net([node("MatMul", "x", "w")], {"w": LARGE}), "", "not on a scaled grid of float32"),
    "old operators": (
        net([node("MatMul", "x", "w")], {"w": LARGE}, opset=10),
        "cluster(grid)",
        "operator set 10 cannot round values to 8 bits (11 can)",
    ),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_cannot_stays_dense_and_says_why(name: str) -> None:
    model, clusters, reason = OBSTACLES[name]
    pipeline = ",".join(filter(None, [clusters, "encode"]))
    result = compile_model(model, execution="int8", pipeline=pipeline, min_size=1024)
    assert {t.execution for t in result.report.tensors} <= {"decode", "kept"}
    assert f"int8: 0 weights run in integers; 1 not: {reason}" in result.report.notes


def conv(*inputs: str, to: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", list(inputs), [to], **attributes)


def kernel(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def conv_net(nodes: list[onnx.NodeProto], weights: dict[str, Array], opset: int, axes: int = 2) -> onnx.ModelProto:
    return small_nets.net(nodes, weights, ["n", 8, *[12] * axes], opset)


PADS: dict[str, Any] = {"pads": [1, 1, 1, 1]}
K, BIAS = kernel(8, 8, 3, 3), {"b": kernel(8)}
CONVOLUTIONS: dict[str, tuple[list[onnx.NodeProto], dict[str, Array], int]] = {
    "plain": ([conv("x", "w")], {"w": K}, 2),
    "bias": ([conv("x", "w", "b", **PADS)], {"w": K} | BIAS, 2),
    "relu": ([conv("x", "w", "b", to="c", **PADS), node("Relu", "c")], {"w": K} | BIAS, 2),
    "depthwise": ([conv("x", "w", "b", group=8, **PADS)], {"w": kernel(32, 1, 3, 3), "b": kernel(32)}, 2),
    "groups": ([conv("x", "w", group=2)], {"w": kernel(8, 4, 3, 3)}, 2),
    "strides": ([conv("x", "w", "b", strides=[2, 3], dilations=[1, 2])], {"w": K} | BIAS, 2),
    "one axis": ([conv("x", "w", "b")], {"w": kernel(8, 8, 5)} | BIAS, 1),
    "residual": (
        [
            conv("x", "w", "b", to="c", **PADS),
            helper.make_node("Relu", ["c"], ["r"]),
            conv("r", "v", to="d", **PADS),
            helper.make_node("Add", ["d", "x"], ["s"]),
            node("Relu", "s"),
        ],
        {"w": K, "v": kernel(8, 8, 3, 3, seed=1)} | BIAS,
        2,
    ),
    "used twice": ([conv("x", "w", to="c", **PADS), conv("c", "w", **PADS)], {"w": K}, 2),
    "sigmoid": ([conv("x", "w", to="c"), node("Sigmoid", "c")], {"w": K}, 2),
}


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_run_in_integers(name: str, opset: int, tmp_path: Path) -> None:
    """With ranges from samples; as the standard model says that the file unpacks to, which computes in floats."""
    nodes, weights, axes = CONVOLUTIONS[name]
    model = conv_net(nodes, weights, opset, axes)
    samples = np.random.default_rng(2).standard_normal((40, 8, *[12] * axes)).astype(np.float32)
    path = tmp_path / "m.onnx"
    report = compile_model(
        model, path, execution="int8", pipeline="cluster(grid),encode", data={"x": samples}, min_size=16
    ).report
    kernels = [n for n, a in weights.items() if a.ndim > 1]
    assert [t.name for t in report.tensors if t.execution == "int8"] == kernels
    (got,) = InferenceSession(path).run(None, {"x": samples})
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = unpack_model(path)
    if opset < 13:
        assert "com.microsoft" in {o.domain for o in plain.opset_import}
    (floats,) = ort.InferenceSession(plain.SerializeToString(), options).run(None, {"x": samples})
    (original,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": samples})
    assert np.abs(got - floats).max() <= 0.03 * np.abs(floats).max()  # a step or two of the last range
    assert np.sum(got * original) > 0.998 * np.linalg.norm(got) * np.linalg.norm(original)


def test_convolutions_are_fused(tmp_path: Path) -> None:
    """Rounded values flow from layer to layer: what is left of the residual block is integer operators."""
    for opset in (11, 17):
        model = conv_net(*CONVOLUTIONS["residual"][:2], opset)
        samples = np.random.default_rng(2).standard_normal((40, 8, 12, 12)).astype(np.float32)
        made = compile_model(
            model, execution="int8", pipeline="cluster(grid),encode", data={"x": samples}, min_size=16
        ).model
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{opset}.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(unpack_model(made).SerializeToString(), options)
        kinds = [n.op_type for n in onnx.load(tmp_path / f"{opset}.onnx").graph.node]
        assert kinds.count("QLinearConv") == 2, kinds
        assert "Conv" not in kinds


def test_convolutions_need_ranges() -> None:
    model = conv_net(*CONVOLUTIONS["bias"][:2], 17)
    notes = compile_model(model, execution="int8", pipeline="cluster(grid),encode", min_size=16).report.notes
    reason = "1 not: Conv, whose inputs need ranges: give --data, three batches or more"
    assert f"int8: 0 weights run in integers; {reason}" in notes


def test_a_convolution_of_a_stored_tensor_stays() -> None:
    """No sample tells what that is, and onnxruntime computes it once when it loads the model."""
    nodes = [conv("k", "w", to="c"), node("Mul", "x", "c")]
    model = conv_net(nodes, {"k": kernel(1, 8, 14, 14, seed=1), "w": K}, 17)
    samples = {"x": kernel(40, 8, 12, 12, seed=2)}
    made = compile_model(model, execution="int8", pipeline="cluster(grid),encode", data=samples, min_size=16)
    assert all(t.execution != "int8" for t in made.report.tensors)
    assert any("1 not: what it multiplies is stored, too" in n for n in made.report.notes)


def test_bodies_read_what_was_rounded() -> None:
    """A body that reads a rounded value of the graph around it reads the same numbers as everybody."""
    body = helper.make_graph(
        [helper.make_node("Neg", ["c"], ["z"])], "body", [], [helper.make_tensor_value_info("z", FLOAT, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["z2"])], "other", [], [helper.make_tensor_value_info("z2", FLOAT, None)]
    )
    nodes = [
        conv("x", "w", to="c", **PADS),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["is"]),
        helper.make_node("If", ["is"], ["y"], then_branch=body, else_branch=other),
    ]
    model = conv_net(nodes, {"w": K, "zero": np.zeros((), np.float32)}, 17)
    samples = np.random.default_rng(2).standard_normal((40, 8, 12, 12)).astype(np.float32)
    made = compile_model(model, execution="int8", pipeline="cluster(grid),encode", data={"x": samples}, min_size=16)
    plain = unpack_model(made.model)
    (branch,) = [n for n in plain.graph.node if n.op_type == "If"]
    assert {i for a in branch.attribute for n in a.g.node for i in n.input} == {"c.float"}
    x = {"x": samples[:3]}
    (wanted,) = ort.InferenceSession(model.SerializeToString()).run(None, x)
    (got,) = ort.InferenceSession(plain.SerializeToString()).run(None, x)
    assert np.abs(got - wanted).max() < 0.05 * np.abs(wanted).max()


def test_a_preset_makes_its_grids_fit() -> None:
    """Outliers ask for more than 127 points of the default's grid; its channels get a coarser one."""
    model = net([node("MatMul", "x", "w")], {"w": LARGE})
    dense, integer = (compile_model(model, execution=how).report for how in ("dense", "int8"))
    assert "points=120" in integer.pipeline
    assert "points" not in dense.pipeline
    assert [t.execution for t in integer.tensors] == ["int8"]


def test_auto_keeps_numbers_exact() -> None:
    model = net([node("MatMul", "x", "w")], {"w": LARGE})
    same = [compile_model(model, execution=how).model.SerializeToString(deterministic=True) for how in ("auto", None)]
    assert same[0] == same[1]
    assert b"int8" not in same[0]


def test_bad_choices(tmp_path: Path) -> None:
    model = net([node("MatMul", "x", "w")], {"w": LARGE})
    with pytest.raises(InvalidArgumentError, match="execution fast is not valid; give auto, dense, sparse, int8"):
        compile_model(model, execution="fast")
    recipe = tmp_path / "r.toml"
    recipe.write_text('execution = "int8"\n')
    assert [t.execution for t in compile_model(model, recipe=recipe).report.tensors] == ["int8"]


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target, plain = (tmp_path / f"{n}.onnx" for n in ("in", "out", "plain"))
    onnx.save(net([node("Gemm", "x", "w", "b")], {"w": LARGE} | B), source)
    assert main(["compile", str(source), "-o", str(target), "--execution", "int8"]) == 0
    assert "run by int8" in capsys.readouterr().out
    assert [t.execution for t in inspect_model(target).tensors if t.name == "w"] == ["int8"]
    assert main(["verify", str(source), str(target), "--min-cosine", "0.99"]) == 0
    assert main(["unpack", str(target), "-o", str(plain)]) == 0
    onnx.checker.check_model(onnx.load(plain), full_check=True)


def test_the_same_bytes_from_any_number_of_threads() -> None:
    model = net([node("MatMul", "x", "w")], {"w": LARGE})
    one, two = (compile_model(model, execution="int8", jobs=jobs).model for jobs in (1, 2))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


def test_graph_form_where_it_must_be() -> None:
    """A model that no operator can carry runs its products in int8 nevertheless."""
    graph = net([helper.make_node("MatMul", ["x", "w"], ["v"]), node("Identity", "v")], {"w": LARGE})
    graph.graph.output.append(helper.make_tensor_sequence_value_info("s", FLOAT, None))
    graph.graph.node.append(helper.make_node("SequenceConstruct", ["v"], ["s"]))
    report = compile_model(graph, execution="int8").report
    assert report.form == "graph"
    assert any(n.startswith("graph form instead of session form: ") for n in report.notes)
    assert [t.execution for t in report.tensors if t.name == "w"] == ["int8"]


@pytest.mark.parametrize("name", LAYERS)
def test_products_in_graph_form(name: str, tmp_path: Path) -> None:
    """To the bit as the standard model that the file unpacks to; a product with a transposed weight stays in floats."""
    layer, weights = LAYERS[name]
    path = tmp_path / "m.onnx"
    report = compile_model(net([layer], weights), path, execution="int8", emit="graph", pipeline=GRID).report
    is_int8 = name != "gemm transposed"
    wanted = "int8" if is_int8 else "decode"
    for rows in (report.tensors, inspect_model(path).tensors):
        assert [t.execution for t in rows if t.name == "w"] == [wanted]
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert ("DecodeInt8" in {n.op_type for n in model.graph.node}) == is_int8
    plain = unpack_model(path)
    stored = {t.name: numpy_helper.to_array(t) for t in plain.graph.initializer}
    assert stored["w"].dtype == (np.int8 if is_int8 else np.float32)
    session, standard = InferenceSession(path), ort.InferenceSession(plain.SerializeToString())
    for seed in (1, 2):
        x = np.random.default_rng(seed).standard_normal((9, ROWS)).astype(np.float32)
        got, expected = (np.asarray(s.run(None, {"x": x})[0]) for s in (session, standard))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_graph_form_with_more_weights_than_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers of one shape differ in their fill value; weights beyond are copied in every run."""
    monkeypatch.setattr(choose, "LEAST_SIZE", 1)
    count, side = 257, 64
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"v{i}"]) for i in range(count)]
    nodes.append(helper.make_node("Sum", [f"v{i}" for i in range(count)], ["y"]))
    weights = {f"w{i}": weight(side, side, seed=i) for i in range(count)}
    model = small_nets.net(nodes, weights, ["n", side])
    path = tmp_path / "m.onnx"
    report = compile_model(model, path, execution="int8", emit="graph", pipeline=GRID, force=True).report
    assert {t.execution for t in report.tensors} == {"int8"}
    decoders = [n for n in onnx.load(path).graph.node if n.op_type == "DecodeInt8"]
    assert [len(n.input) for n in decoders] == [2] * 255 + [1] * (count - 255)
    x = np.random.default_rng(1).standard_normal((2, side)).astype(np.float32)
    session, standard = InferenceSession(path), ort.InferenceSession(unpack_model(path).SerializeToString())
    for _ in range(2):
        got, expected = (np.asarray(s.run(None, {"x": x})[0]) for s in (session, standard))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
