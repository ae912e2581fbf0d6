"""Equal tensors are stored once, under whatever names and wherever they are; what only looks equal is not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models.graphs import Array, body, constant, info, node, sample, tensor, weight
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dc_compiler import InferenceSession, compile_model, unpack_model
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.model import files, importer

W = weight(32, 48)


def build(
    nodes: Sequence[onnx.NodeProto], stored: dict[str, Array], x: Sequence[int | str] = ("n", 32), elem: int = 1
) -> onnx.ModelProto:
    """A model from x to y."""
    graph = helper.make_graph(
        nodes, "g", [info("x", elem, *x)], [info("y", TensorProto.FLOAT, "n", "m")],
        [tensor(name, values) for name, values in stored.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def stored(net: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Names of the tensors that a program keeps, and of those that each stands for."""
    program = importer.build_program(files.read_model(net), min_size=1024)
    return {r.name: r.aliases for r in program.records if r.size >= 1024}


TWO = [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["x", "v"], ["b"]), node("Sub", ["a", "b"], ["y"])]
HEAD = [node("Gather", ["e", "x"], ["a"]), node("Relu", ["a"], ["r"]), node("MatMul", ["r", "h"], ["y"])]
TABLE = weight(96, 32)


def branches(then_nodes: list[onnx.NodeProto], else_nodes: list[onnx.NodeProto], **inside: Any) -> list[onnx.NodeProto]:
    """If with one weight a branch."""
    graphs = {
        f"{name}_branch": body(name, nodes, [info(f"{name}_y", 1, "n", 48)], weights=inside.get(name, ()))
        for name, nodes in (("then", then_nodes), ("else", else_nodes))
    }
    choose = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Cast", ["s"], ["c"], to=TensorProto.BOOL)]
    return [*choose, node("If", ["c"], ["y"], **graphs)]


CASES: dict[str, tuple[onnx.ModelProto, dict[str, tuple[str, ...]]]] = {
    "two_names": (build(TWO, {"w": W, "v": W}), {"w": ("v",)}),
    "three_names": (
        build([*TWO[:2], node("MatMul", ["x", "u"], ["c"]), node("Sum", ["a", "b", "c"], ["y"])],
              {"w": W, "v": W, "u": W}),
        {"w": ("v", "u")},
    ),
    "a_constant_that_comes_later": (build([TWO[0], constant("v", W), *TWO[1:]], {"w": W}), {"w": ("v",)}),
    "two_constants": (build([constant("v", W), TWO[1],
                             constant("w", W), TWO[0], TWO[2]], {}), {"v": ("w",)}),
    "both_branches": (
        build(branches([node("MatMul", ["x", "w"], ["then_y"])], [node("MatMul", ["x", "v"], ["else_y"])],
                       then=[tensor("w", W)], **{"else": [tensor("v", W)]}), {}),
        {"v": ("w",)},
    ),
    "a_branch_and_the_graph": (
        build(branches([node("MatMul", ["x", "w"], ["then_y"])], [node("MatMul", ["x", "v"], ["else_y"])],
                       then=[tensor("w", W)]), {"v": W}),
        {"v": ("w",)},
    ),
    "tied_head": (build(HEAD, {"e": TABLE, "h": TABLE.T}, ["n"], TensorProto.INT64), {"e": ("h",)}),
    "tied_head_that_comes_first": (
        build(HEAD, {"h": TABLE.T, "e": TABLE}, ["n"], TensorProto.INT64), {"e": ("h",)},
    ),
    "tied_head_in_a_constant": (
        build([constant("h", np.ascontiguousarray(TABLE.T)), *HEAD], {"e": TABLE}, ["n"], TensorProto.INT64),
        {"e": ("h",)},
    ),
    "integers": (
        build([node("Cast", ["w"], ["wf"], to=1), node("Cast", ["v"], ["vf"], to=1), node("MatMul", ["x", "wf"], ["a"]),
               node("MatMul", ["x", "vf"], ["b"]), TWO[2]],
              {"w": (W * 400).astype(np.int8), "v": (W * 400).astype(np.int8)}),
        {"w": ("v",)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["session", "graph"])
def test_equal_tensors_are_stored_once(name: str, form: str, tmp_path: Path) -> None:
    net, wanted = CASES[name]
    onnx.checker.check_model(net)
    assert stored(net) == wanted
    result = compile_model(net, tmp_path / "out.onnx", preset="lossless", emit=form)
    assert len([t for t in result.report.tensors if np.prod(t.shape) >= 1024]) == 1
    assert sum(note.endswith("stored once") for note in result.report.notes) == len(next(iter(wanted.values())))
    assert result.report.output_bytes < 0.75 * net.ByteSize()
    if name != "integers" or form == "session":  # else nothing is packed
        onnx.checker.check_model(unpack_model(tmp_path / "out.onnx"))
    x = np.arange(5) * 7 if "head" in name else sample(5, 32)
    (before,) = ReferenceEvaluator(net).run(None, {"x": x})
    (after,) = InferenceSession(tmp_path / "out.onnx").run(None, {"x": x})
    np.testing.assert_allclose(np.asarray(after), np.asarray(before), atol=1e-6)


def changed(values: Array) -> Array:
    """The same values, two of which have changed places: the same sums."""
    result = values.copy()
    result[0, 0], result[0, 1] = values[0, 1], values[0, 0]
    return result


def as_output() -> onnx.ModelProto:
    net = build(TWO, {"w": W, "v": W})
    net.graph.output.append(info("v", TensorProto.FLOAT, 32, 48))
    return net


def overridable() -> onnx.ModelProto:
    net = build(TWO, {"w": W, "v": W})
    net.graph.input.append(info("v", TensorProto.FLOAT, 32, 48))
    return net


SQUARE = weight(48, 48)
DIFFERENT: dict[str, onnx.ModelProto] = {
    "other_order": build(TWO, {"w": W, "v": changed(W)}),
    "zeros_of_another_sign": build(TWO, {"w": W * (W < 0.1), "v": np.where(W < 0.1, W, np.float32(-0.0))}),
    "other_shape": build([node("Reshape", ["v", "s"], ["u"]), TWO[0], node("MatMul", ["x", "u"], ["b"]), TWO[2]],
                         {"w": W, "v": W.reshape(48, 32), "s": np.array([32, 48])}),
    "other_type": build([node("Cast", ["v"], ["u"], to=1), TWO[0], node("MatMul", ["x", "u"], ["b"]), TWO[2]],
                        {"w": W.view(np.int32).view(np.float32), "v": W.view(np.int32)}),
    "small": build(TWO, {"w": W[:, :16], "v": W[:, :16]}),
    "is_an_output": as_output(),
    "can_be_overridden": overridable(),
    "transposed_for_an_addition": build(
        [node("Add", ["x", "w"], ["a"]), node("Add", ["a", "v"], ["y"])], {"w": SQUARE, "v": SQUARE.T}, [48, 48]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_not_equal_or_seen_from_outside_stays_apart(name: str) -> None:
    program = importer.build_program(files.read_model(DIFFERENT[name]), min_size=0)
    assert {"w", "v"} <= {r.name for r in program.records}


def test_vectors_stay_apart() -> None:
    """Biases that start alike are trained apart."""
    zeros = np.zeros(2048, np.float32)
    nodes = [node("Add", ["x", "w"], ["a"]), node("Add", ["a", "v"], ["y"])]
    assert stored(build(nodes, {"w": zeros, "v": zeros}, ["n", 2048])) == {"w": (), "v": ()}


def test_complex_numbers_are_compared_too() -> None:
    """onnxruntime runs few operators on them, but whatever it reads can be stored once."""
    w = W + 1j * W.astype(np.complex128)
    nodes = [node("Add", ["w", "v"], ["c"]), node("Shape", ["c"], ["s"]), node("Cast", ["s"], ["y"], to=1)]
    assert stored(build(nodes, {"w": w, "v": w})) == {"w": ("v",)}
    assert stored(build(nodes, {"w": w, "v": w.conj()})) == {"w": (), "v": ()}


def test_every_name_of_a_tensor_still_means_it() -> None:
    net = build(TWO, {"w": W, "v": W})
    for name in ("w", "v", "v*"):
        (row,) = compile_model(net, skip=name).report.tensors
        assert row.reason == f"skipped by '{name}'"
        (row,) = compile_model(net, pipeline="cluster(bits=6),encode", set=f"{name}:bits=2").report.tensors
        assert row.codebook == 4


@pytest.mark.parametrize(("net", "one", "other"), [("two_names", "w", "v"), ("tied_head", "e", "h")])
def test_skipping_one_name_says_that_it_skips_the_others(net: str, one: str, other: str) -> None:
    given, _ = CASES[net]
    for skip, told in (
        ([one], f"{other}: skipped with {one}, as they are stored once"),
        ([other], f"{one}: skipped with {other}, as they are stored once"),
        ([one, other], None),
    ):
        program = importer.build_program(files.read_model(given), min_size=1024, skip=skip)
        assert [n for n in program.notes if "skipped" in n] == ([] if told is None else [told])
        labels = np.zeros(96, np.int64)
        x = np.arange(96) if net == "tied_head" else sample(96, 32)
        with pytest.raises(InvalidArgumentError, match="finds no weight") as refused:
            compile_model(given, pipeline="finetune,cluster,encode", data={"x": x, "l": labels}, labels="l", skip=skip)
        reason = f"skipped by '{skip[0]}'"
        assert f"; {one} and {other} are stored once and left alone together: {reason}" in str(refused.value)


def test_its_own_transpose_is_no_news() -> None:
    """canonicalize would say that it cannot fold it; somebody else's Transpose is told of."""
    given, _ = CASES["tied_head"]
    notes = compile_model(given).report.notes
    assert any(n == "h: the transpose of e, stored once" for n in notes)
    assert not any("canonicalize" in n for n in notes)
    nodes = [HEAD[0], HEAD[1], node("Transpose", ["e"], ["h"], name="theirs", perm=[1, 0]), HEAD[2]]
    theirs = build(nodes, {"e": TABLE}, ["n"], TensorProto.INT64)
    assert "canonicalize: theirs: what it reads is used elsewhere, too" in compile_model(theirs).report.notes


@pytest.mark.parametrize("name", ["two_names", "tied_head"])
def test_tied_weights_are_trained_as_one(name: str, tmp_path: Path) -> None:
    net, _ = CASES[name]
    if name == "two_names":
        net = build([*TWO[:2], node("Add", ["a", "b"], ["y"])], {"w": W, "v": W})
    x = np.arange(96) if name == "tied_head" else sample(96, 32)
    labels = np.arange(96) % (96 if name == "tied_head" else 48)
    pipeline = "prune(density=0.5),finetune(epochs=2),cluster(bits=6),encode"
    compile_model(net, tmp_path / "out.onnx", pipeline=pipeline, data={"x": x, "labels": labels}, labels="labels")
    (after,) = [t for t in unpack_model(tmp_path / "out.onnx").graph.initializer if np.prod(t.dims) >= 1024]
    values, original = numpy_helper.to_array(after), TABLE if name == "tied_head" else W
    kept = values != 0
    assert abs(int(kept.sum()) - original.size // 2) <= original.size // 100
    assert np.abs(values[kept] - original[kept]).max() > 1e-3


def test_many_tensors_of_the_same_elements_take_little_time() -> None:
    """Nobody's tensors agree in all sums and differ; somebody's crafted ones shall not take forever."""
    count = 600
    generator = np.random.default_rng(0)
    flat = W.reshape(-1)
    tensors = {f"w{i}": flat[generator.permutation(flat.size)].reshape(32, 48) for i in range(count)}
    nodes = [node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(count)]
    net = build([*nodes, node("Sum", [f"y{i}" for i in range(count)], ["y"])], tensors)
    start = time.perf_counter()
    assert len(stored(net)) == count
    assert time.perf_counter() - start < 10
