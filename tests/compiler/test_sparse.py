"""--execution sparse: layers that run from what is kept of their weights."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from kernels.fused import assert_same, fused
from onnx import TensorProto, helper, numpy_helper
from small_nets import net

from dc_compiler import InferenceSession, compile_model, inspect_model, session_options, unpack_model
from dc_compiler.cli import main
from dc_compiler.codec import binding
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.model.packed import open_packed

Array = np.ndarray
FLOAT = TensorProto.FLOAT
PRUNED = "prune(density=0.1),cluster,encode"


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def node(op_type: str, *inputs: str, to: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, list(inputs), [to], **attributes)


W, T, BIAS = normal(60, 70), normal(70, 60), {"b": normal(70, seed=3)}
KERNEL, KERNEL_BIAS = normal(12, 8, 3, 3), {"b": normal(12, seed=3)}
PAIR: dict[str, Array] = {"w": W, "v": normal(70, 60, seed=1)}
LAYERS: dict[str, tuple[onnx.ModelProto, tuple[int, ...]]] = {
    "matmul": (net([node("MatMul", "x", "w")], {"w": W}, ("n", 60)), (5, 60)),
    "matmul of 3 axes": (net([node("MatMul", "x", "w")], {"w": W}, ("n", 4, 60)), (5, 4, 60)),
    "no rows": (net([node("MatMul", "x", "w")], {"w": W}, ("n", 60)), (0, 60)),
    "gemm": (net([node("Gemm", "x", "w")], {"w": W}, ("n", 60)), (3, 60)),
    "gemm with bias": (net([node("Gemm", "x", "w", "b")], {"w": W} | BIAS, ("n", 60)), (1, 60)),
    "gemm transposed": (net([node("Gemm", "x", "w", "b", transB=1)], {"w": T} | BIAS, ("n", 60)), (2, 60)),
    "chain": (
        net(
            [node("MatMul", "x", "w", to="a"), node("Relu", "a", to="r"), node("MatMul", "r", "v")], PAIR, ("n", 60)
        ),
        (2, 60),
    ),
    "conv": (net([node("Conv", "x", "w")], {"w": KERNEL}, ("n", 8, 9, 11)), (2, 8, 9, 11)),
    "pointwise": (net([node("Conv", "x", "w")], {"w": normal(12, 8, 1, 1)}, ("n", 8, 7, 5)), (2, 8, 7, 5)),
    "conv with all": (
        net(
            [node("Conv", "x", "w", "b", strides=[2, 1], pads=[1, 0, 2, 3], dilations=[1, 2], kernel_shape=[3, 3])],
            {"w": KERNEL} | KERNEL_BIAS,
            ("n", 8, "h", "w"),
        ),
        (3, 8, 10, 13),
    ),
    "groups": (
        net([node("Conv", "x", "w", "b", group=2)], {"w": normal(12, 4, 3, 3)} | KERNEL_BIAS, ("n", 8, 9, 9)),
        (2, 8, 9, 9),
    ),
    "no images": (net([node("Conv", "x", "w")], {"w": KERNEL}, ("n", 8, 9, 11)), (0, 8, 9, 11)),
}  # fmt: skip


def run(session: Any, x: Array) -> Array:
    return np.asarray(session.run(None, {"x": x})[0])


def served(model: onnx.ModelProto, execution: str | None = None, threads: int = 1) -> Any:
    config = {} if execution is None else {"dcc.execution": execution}
    options = session_options(config=config, intra_op_num_threads=threads, log_severity_level=4)
    return InferenceSession(model.SerializeToString(), options)


def compiled(model: onnx.ModelProto, **options: Any) -> Any:
    return compile_model(model, pipeline=PRUNED, execution="sparse", min_size=1, **options)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_run_from_what_is_kept(name: str) -> None:
    """As the standard model does that the file unpacks to, on any number of threads; to the bit where it is served
    dense."""
    model, shape = LAYERS[name]
    made = compiled(model)
    stored = [t for t in made.report.tensors if len(t.shape) > 1]
    assert {t.execution for t in stored} == {"sparse"}
    plain = unpack_model(made.model)
    assert {(n.domain, n.op_type) for n in plain.graph.node} == {(n.domain, n.op_type) for n in model.graph.node}
    assert [o.domain for o in plain.opset_import] == [""]
    x = normal(*shape, seed=9)
    wanted = run(ort.InferenceSession(plain.SerializeToString()), x)
    got = run(served(made.model, "sparse"), x)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(run(served(made.model, "sparse", threads=2), x), got)
    np.testing.assert_array_equal(run(served(made.model, "dense"), x), wanted)


def test_sums_are_in_the_documented_order() -> None:
    """A fused multiply-add a kept weight, by ascending input, from the bias on: what two verified parts make of it."""
    model, shape = LAYERS["gemm with bias"]
    made = compiled(model)
    stored = {t.name: numpy_helper.to_array(t) for t in unpack_model(made.model).graph.initializer}
    x = normal(*shape, seed=9)
    sums = np.tile(stored["b"], (len(x), 1))
    for i, row in enumerate(stored["w"]):
        sums = np.where(row != 0, fused(x[:, i : i + 1], row, sums), sums)
    assert_same(run(served(made.model, "sparse"), x), sums + np.float32(0))


CLIP = {"low": np.array(-0.25, np.float32), "high": np.array(0.5, np.float32)}
CONV_A = node("Conv", "x", "w", "b", to="a")
KERNELS: dict[str, Array] = {"w": KERNEL} | KERNEL_BIAS
IMAGES = ("n", 8, 9, 11)
# Nodes, what is stored, the shape of x, the operator set; how many nodes are left to onnxruntime
BOUNDED: dict[str, tuple[list[onnx.NodeProto], dict[str, Array], tuple[int | str, ...], int, list[str]]] = {
    "conv, relu": ([CONV_A, node("Relu", "a")], KERNELS, IMAGES, 17, []),
    "conv, clip": ([CONV_A, node("Clip", "a", "low", "high")], KERNELS | CLIP, IMAGES, 17, []),
    "conv, clip from below": ([CONV_A, node("Clip", "a", "low")], KERNELS | CLIP, IMAGES, 17, []),
    "conv, clip from above": ([CONV_A, node("Clip", "a", "", "high")], KERNELS | CLIP, IMAGES, 17, []),
    "conv, clip of old": ([CONV_A, node("Clip", "a", min=-0.25, max=0.5)], KERNELS, IMAGES, 10, []),
    "conv, clip by a value": (
        [node("ReduceMax", "x", to="top", keepdims=0), CONV_A, node("Clip", "a", "low", "top")],
        KERNELS | CLIP, IMAGES, 17, ["ReduceMax"],
    ),
    "matmul, relu": ([node("MatMul", "x", "w", to="a"), node("Relu", "a")], {"w": W}, ("n", 60), 17, []),
    "matmul, clip": ([node("MatMul", "x", "w", to="a"), node("Clip", "a", "low")], {"w": W} | CLIP, ("n", 60), 17, []),
    "gemm, relu": (
        [node("Gemm", "x", "w", "b", to="a", transB=1), node("Relu", "a")], {"w": T} | BIAS, ("n", 60), 17, []
    ),
    "a chain": (
        [node("MatMul", "x", "w", to="a"), node("Relu", "a", to="r"), node("MatMul", "r", "v", to="c"),
         node("Relu", "c", to="d"), node("Relu", "d")], PAIR, ("n", 60), 17, ["Relu"],
    ),
    "read by another": (
        [CONV_A, node("Relu", "a", to="r"), node("Add", "a", "r")], KERNELS, IMAGES, 17, ["Relu", "Add"]
    ),
    "two of them": (
        [CONV_A, node("Relu", "a", to="r"), node("Clip", "a", "low", to="s"), node("Add", "s", "r")],
        KERNELS | CLIP, IMAGES, 17, ["Relu", "Clip", "Add"],
    ),
    "another activation": ([CONV_A, node("Sigmoid", "a")], KERNELS, IMAGES, 17, ["Sigmoid"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BOUNDED)
def test_relu_and_clip_are_part_of_the_layer_before(name: str) -> None:
    """The library has no operators Relu and Clip: what is marked so runs as part of the layer, or in onnxruntime."""
    nodes, stored, x_shape, opset, left = BOUNDED[name]
    model = net(nodes, stored, x_shape, opset)
    model.graph.output[0].type.tensor_type.elem_type = FLOAT
    made = compiled(model)
    inner = open_packed(made.model, "made").inner
    assert [n.op_type for n in inner.graph.node if n.domain != "dcc.run"] == left
    plain = unpack_model(made.model)
    assert [(n.domain, n.op_type) for n in plain.graph.node] == [("", n.op_type) for n in nodes]
    x = normal(*(3 if d == "n" else int(d) for d in x_shape), seed=9)
    wanted = run(ort.InferenceSession(plain.SerializeToString()), x)
    np.testing.assert_allclose(run(served(made.model, "sparse"), x), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(run(served(made.model, "dense"), x), wanted)


def test_on_every_instruction_set() -> None:
    """The same bits, also where the library itself would decode: it has no fast kernels for portable code."""
    for name in ("gemm with bias", "conv with all"):
        model, shape = LAYERS[name]
        made, x, results = compiled(model), normal(*shape, seed=9), []
        try:
            for isa in binding.isas():
                binding.select_isa(isa)
                results.append(run(served(made.model, "sparse"), x))
        finally:
            binding.select_isa("auto")
        assert len(results) > 1
        for other in results[1:]:
            assert_same(other, results[0])


def test_two_runs_at_a_time() -> None:
    """Copies of images are not shared."""
    model, shape = LAYERS["conv with all"]
    session = served(compiled(model).model, "sparse")
    inputs = [normal(*shape, seed=i) for i in range(4)]
    wanted = [run(session, x) for x in inputs]
    results: list[list[Array]] = [[] for _ in inputs]

    def work(i: int) -> None:
        results[i] = [run(session, inputs[i]) for _ in range(50)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found, expected in zip(results, wanted, strict=True):
        assert all(np.array_equal(f, expected) for f in found)


STAYS: dict[str, onnx.ModelProto] = {
    "depthwise": net([node("Conv", "x", "w", group=8)], {"w": normal(8, 1, 3, 3)}, ("n", 8, 9, 9)),
    "auto_pad": net([node("Conv", "x", "w", auto_pad="SAME_UPPER")], {"w": KERNEL}, ("n", 8, 9, 9)),
    "one axis": net([node("Conv", "x", "w")], {"w": normal(12, 8, 3)}, ("n", 8, 9)),
    "matrix added": net([node("Gemm", "x", "w", "c")], {"w": W, "c": normal(5, 70)}, (5, 60)),
    "alpha": net([node("Gemm", "x", "w", alpha=2.0)], {"w": W}, ("n", 60)),
    "first factor": net([node("MatMul", "w", "x")], {"w": normal(70, 60)}, (60, 5)),
    "stack": net([node("MatMul", "x", "w")], {"w": normal(2, 60, 70)}, (2, 5, 60)),
    "read twice": net(
        [node("MatMul", "x", "w", to="a"), node("Transpose", "w", to="t"), node("MatMul", "a", "t")],
        {"w": W},
        ("n", 60),
    ),
    "output": net([node("MatMul", "x", "w", to="z"), node("Relu", "z")], {"w": W}, ("n", 60)),
}
STAYS["output"].graph.output.append(helper.make_tensor_value_info("w", FLOAT, W.shape))


@pytest.mark.parametrize("name", STAYS)
def test_what_cannot_is_decoded(name: str) -> None:
    made = compiled(STAYS[name])
    assert all(t.execution in ("decode", "kept") for t in made.report.tensors)
    assert not any("sparse:" in n for n in made.report.notes)
    served(made.model)


def test_auto_takes_what_gains() -> None:
    model = net([node("MatMul", "x", "w")], {"w": normal(128, 128)}, ("n", 128))

    def executions(pipeline: str, **options: Any) -> set[str]:
        made = compile_model(model, pipeline=pipeline, force=True, **options)
        return {t.execution for t in made.report.tensors}

    assert executions(PRUNED) == {"sparse"}
    assert executions("prune(density=0.5),cluster,encode") == {"decode"}
    assert executions(PRUNED, execution="dense") == {"decode"}
    assert executions(PRUNED, emit="graph") == {"decode"}
    small = net([node("MatMul", "x", "w")], {"w": normal(60, 60)}, ("n", 60))
    assert {t.execution for t in compile_model(small, pipeline=PRUNED).report.tensors} == {"decode"}


@pytest.mark.parametrize("density", [0.05, 0.5])
def test_the_library_does_what_the_report_says(density: float) -> None:
    """Sums of both ways differ in their last bits."""
    model = net([node("MatMul", "x", "w")], {"w": normal(600, 512)}, ("n", 600))
    made = compile_model(model, pipeline=f"prune(density={density}),cluster,encode", execution="sparse")
    (row,) = made.report.tensors
    x = normal(3, 600, seed=9)
    ways = {how: run(served(made.model, how), x) for how in ("auto", "sparse", "dense")}
    assert not np.array_equal(ways["sparse"], ways["dense"])
    assert row.runs_sparse == (density < 0.1 and binding.isa() == "avx512")
    np.testing.assert_array_equal(ways["auto"], ways["sparse" if row.runs_sparse else "dense"])


def test_lossless_stays_exact() -> None:
    """The preset promises every bit, also of a model that is sparse already."""
    sparse = np.where(np.random.default_rng(1).random((128, 128)) < 0.05, normal(128, 128), 0).astype(np.float32)
    model = net([node("MatMul", "x", "w")], {"w": sparse}, ("n", 128))
    report = compile_model(model, preset="lossless").report
    assert {t.execution for t in report.tensors} == {"decode"}
    assert report.verification is not None
    assert report.verification.identical


def test_bad_choices(tmp_path: Path) -> None:
    model = LAYERS["matmul"][0]
    with pytest.raises(InvalidArgumentError, match="--execution sparse needs the session form"):
        compiled(model, emit="graph")
    with pytest.raises(Exception, match=r"dcc\.execution must be auto, dense or sparse, not 'fast'"):
        served(compiled(model).model, "fast")


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target, plain = (tmp_path / f"{n}.onnx" for n in ("in", "out", "plain"))
    onnx.save(LAYERS["gemm transposed"][0], source)
    command = ["compile", str(source), "-o", str(target), "--execution", "sparse", "--pipeline", PRUNED]
    assert main([*command, "--min-size", "1"]) == 0
    assert "run by sparse" in capsys.readouterr().out
    assert [t.execution for t in inspect_model(target).tensors if t.name == "w"] == ["sparse"]
    assert main(["unpack", str(target), "-o", str(plain)]) == 0
    assert main(["verify", str(plain), str(target), "--min-cosine", "0.999999"]) == 0
    onnx.checker.check_model(onnx.load(plain), full_check=True)


BAD_INPUTS = (
    ("matmul", (5, 61), "rows"),
    ("conv", (1, 7, 9, 11), "channels"),
    ("conv", (1, 8, 2, 2), "larger than the padded image"),
)


@pytest.mark.parametrize(("name", "shape", "complaint"), BAD_INPUTS)
def test_inputs_that_do_not_fit(name: str, shape: tuple[int, ...], complaint: str) -> None:
    """Where the model declares no extents, the operator looks itself."""
    model = onnx.ModelProto()
    model.CopyFrom(LAYERS[name][0])
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.Clear()
    session = served(compile_model(model, pipeline=PRUNED, execution="sparse", min_size=1, force=True).model, "sparse")
    with pytest.raises(Exception, match=complaint):
        run(session, normal(*shape))
