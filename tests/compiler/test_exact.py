"""Constants that are not weights stay exact in every preset, and pruning touches operands of products only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models.graphs import GRAPHS, Array, body, info, node, tensor, weight
from onnx import TensorProto, helper, numpy_helper
from test_patterns import HANN, N, mel_bank

from dc_compiler import compile_model, unpack_model
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.model import files, importer
from dc_compiler.report import cells
from dc_compiler.training.graph import trainable


def build(
    nodes: Sequence[onnx.NodeProto],
    stored: dict[str, Array],
    x: Sequence[int | str] = ("n", 32),
    y: Sequence[int | str] = ("n", "m"),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model from x to y."""
    tensors = [tensor(name, values) for name, values in stored.items()]
    net = helper.make_model(
        helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, *x)], [info("y", TensorProto.FLOAT, *y)], tensors),
        opset_imports=[
            helper.make_opsetid("", 17),
            helper.make_opsetid("com.microsoft", 1),
            helper.make_opsetid("f", 1),
        ],
        functions=functions,
        ir_version=8,
    )
    return net


def exact(net: onnx.ModelProto, name: str = "w", **options: Any) -> str | None:
    """Why a stored tensor of the model is not a weight."""
    program = importer.build_program(files.read_model(net), min_size=0, **options)
    (found,) = [r for r in program.records if r.name == name]
    return found.exact


W = weight(32, 48)
SHAPE = np.array([-1, 48], np.int64)
PRODUCTS: dict[str, list[onnx.NodeProto]] = {
    "matmul": [node("MatMul", ["x", "w"], ["y"])],
    "gemm": [node("Gemm", ["x", "w"], ["y"])],
    "transpose": [node("Transpose", ["w"], ["t"]), node("Gemm", ["x", "t"], ["y"], transB=1)],
    "cast": [
        node("Cast", ["w"], ["t"], to=11), node("Cast", ["t"], ["u"], to=1), node("MatMul", ["x", "u"], ["y"]),
    ],
    "identity_reshape": [
        node("Identity", ["w"], ["t"]), node("Reshape", ["t", "shape"], ["u"]), node("MatMul", ["x", "u"], ["y"]),
    ],
    "split": [
        node("Split", ["w"], ["t", "u"], axis=1), node("MatMul", ["x", "t"], ["a"]), node("MatMul", ["x", "u"], ["b"]),
        node("Add", ["a", "b"], ["y"]),
    ],
    "fake_quantized": [
        node("QuantizeLinear", ["w", "scale"], ["q"]), node("DequantizeLinear", ["q", "scale"], ["t"]),
        node("MatMul", ["x", "t"], ["y"]),
    ],
    "einsum": [node("Einsum", ["x", "w"], ["y"], equation="ni,im->nm")],
    "scaled": [node("Mul", ["w", "scale"], ["t"]), node("MatMul", ["x", "t"], ["y"])],
    "its_shape_is_read": [
        node("Shape", ["w"], ["s"]), node("MatMul", ["x", "w"], ["a"]), node("Expand", ["a", "s"], ["y"]),
    ],
    "fused": [node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")],
    "function": [node("Project", ["x", "w"], ["y"], domain="f")],
}  # fmt: skip
PROJECT = helper.make_function(
    "f", "Project", ["a", "b"], ["c"],
    [node("Transpose", ["b"], ["t"]), node("Gemm", ["a", "t"], ["c"], transB=1)], [helper.make_opsetid("", 17)],
)  # fmt: skip
MASKED = helper.make_function(
    "f", "Masked", ["a", "b"], ["c"], [node("Add", ["a", "b"], ["c"])], [helper.make_opsetid("", 17)]
)


@pytest.mark.parametrize("name", PRODUCTS)
def test_operands_of_products_are_weights(name: str) -> None:
    net = build(PRODUCTS[name], {"w": W, "shape": SHAPE, "scale": np.array(0.01, np.float32)}, functions=[PROJECT])
    onnx.checker.check_model(net)
    assert exact(net) is None


OTHERS: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "add": ([node("Add", ["x", "w"], ["y"])], "used by Add"),
    "multiplied_elementwise": ([node("Mul", ["x", "w"], ["y"])], "the model's outputs"),
    "gate_before_a_product": ([node("Mul", ["x", "w"], ["t"]), node("MatMul", ["t", "v"], ["y"])], "MatMul"),
    "compared": ([node("Less", ["x", "w"], ["t"]), node("Cast", ["t"], ["y"], to=1)], "used by Less"),
    "selected": ([node("Cast", ["x"], ["c"], to=9), node("Where", ["c", "x", "w"], ["y"])], "used by Where"),
    "sliced_and_added": (
        [node("Slice", ["w", "zero", "many", "zero"], ["t"]), node("Add", ["x", "t"], ["y"])], "used by Add",
    ),
    "joined_anchors": ([node("Concat", ["w", "w"], ["t"], axis=0), node("Sub", ["x", "t"], ["y"])], "used by Sub"),
    "transposed_and_added": ([node("Transpose", ["w"], ["t"]), node("Add", ["x", "t"], ["y"])], "used by Add"),
    "added_as_well": (
        [node("MatMul", ["x", "w"], ["a"]), node("Add", ["x", "w"], ["b"]), node("MatMul", ["b", "v"], ["c"]),
         node("Add", ["a", "c"], ["y"])], "used by Add",
    ),
    "bias_of_both_directions": (
        [node("Unsqueeze", ["x", "zero"], ["x3"]),
         node("LSTM", ["x3", "wl", "rl", "w"], ["y"], hidden_size=6, direction="bidirectional")],
        "used by LSTM",
    ),
    "function": ([node("Masked", ["x", "w"], ["y"], domain="f")], "used by Add"),
    "somebody_elses_operator": ([node("Secret", ["x", "w"], ["y"], domain="com.example")], "used by Secret"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_added_compared_or_selected_is_no_weight(name: str) -> None:
    nodes, words = OTHERS[name]
    stored = {"w": W, "v": weight(48, 4, seed=2), "zero": np.array([0]), "many": np.array([1000])}
    stored |= {"wl": weight(2, 24, 32, seed=3), "rl": weight(2, 24, 6, seed=4)}
    reason = exact(build(nodes, stored, functions=[MASKED]))
    assert reason is not None
    assert words in reason


def test_rows_looked_up_are_an_embedding_and_rows_chosen_for_good_are_not() -> None:
    table, chosen = weight(64, 48), np.array([3, 1, 2])
    look = [node("Cast", ["x"], ["i"], to=7), node("Gather", ["w", "i"], ["y"])]
    assert exact(build(look, {"w": table}, ["n"], ["n", 48])) is None
    choose = [node("Gather", ["w", "i"], ["t"]), node("Add", ["x", "t"], ["y"])]
    assert (
        exact(build(choose, {"w": table, "i": chosen}, ["n", 3, 48], ["n", 3, 48])) == "used by Add, not in a product"
    )


def test_a_table_of_positions_is_cut_to_the_length_of_the_input() -> None:
    nodes = [
        node("Shape", ["x"], ["length"], start=1, end=2),
        node("Slice", ["w", "zero", "length", "zero"], ["p"]),
        node("Add", ["x", "p"], ["y"]),
    ]
    assert exact(build(nodes, {"w": weight(64, 48), "zero": np.array([0])}, ["n", "t", 48], ["n", "t", 48])) is None


@pytest.mark.parametrize("op", ["MatMul", "Add"])
def test_what_a_branch_hands_out_is_followed(op: str) -> None:
    branches = {
        f"{name}_branch": body(name, [node("Transpose", [inner], [f"{name}_t"])], [info(f"{name}_t", 1, 48, 32)])
        for name, inner in (("then", "w"), ("else", "v"))
    }
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0), node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        node("If", ["c"], ["t"], **branches), node(op, ["x", "t"], ["y"]),
    ]  # fmt: skip
    reason = exact(build(nodes, {"w": weight(32, 48), "v": weight(32, 48, seed=3)}, ["n", 48]))
    assert reason == (None if op == "MatMul" else "used by Add, not in a product")


def test_every_weight_of_the_small_models_is_still_one() -> None:
    """Of the models whose tensors are weights; elsewhere the reason is looked at."""
    found = {}
    for name in GRAPHS:
        program = importer.build_program(files.read_model(GRAPHS[name]()[0]), min_size=0)
        found[name] = {r.name: r.exact for r in program.records if r.exact is not None and not r.is_vector}
    kept = {name: why for name, why in found.items() if why}
    allowed = {
        "lstm", "gru", "rnn",  # biases of both directions, peepholes
        "all_zero_weight", "same_value_weight", "weight_is_output", "constant_is_output", "if_returns_weight",
        "overridable_default", "overridable_fed", "quantized",
    }  # fmt: skip
    assert {name: why for name, why in kept.items() if name not in allowed} == {}


# End to end ----------------------------------------------------------------------------------------------------------


def front_end() -> onnx.ModelProto:
    """Log-mel energies of a signal: a Fourier basis under a Hann window, a mel bank, and a trained layer behind."""
    angles = np.arange(N // 2 + 1)[:, None] * np.arange(N) * 2 * np.pi / N
    basis = np.concatenate([np.cos(angles), np.sin(angles)])[:, None] * HANN
    nodes = [
        node("Conv", ["x", "basis"], ["c"], strides=[160]), node("Split", ["c"], ["re", "im"], axis=1),
        node("Mul", ["re", "re"], ["r2"]), node("Mul", ["im", "im"], ["i2"]), node("Add", ["r2", "i2"], ["p"]),
        node("Transpose", ["p"], ["pt"], perm=[0, 2, 1]), node("MatMul", ["pt", "mel"], ["ml"]),
        node("Add", ["ml", "eps"], ["me"]), node("Log", ["me"], ["l"]), node("MatMul", ["l", "w"], ["y"]),
    ]  # fmt: skip
    stored = {"basis": basis, "mel": mel_bank().T, "eps": np.array(1e-6), "w": weight(40, 64)}
    return build(nodes, {k: v.astype(np.float32) for k, v in stored.items()}, ["n", 1, "t"], ["n", "f", 64])


@pytest.mark.parametrize(
    "options",
    [{}, {"preset": "smallest"}, {"density": 0.3, "bits": 4},
     {"pipeline": "prune(density=0.2,scope=global),cluster(rd),encode(huffman)"}],
    ids=str,
)  # fmt: skip
def test_an_audio_front_end_stays_exact(options: dict[str, Any], tmp_path: Path) -> None:
    net = front_end()
    result = compile_model(net, tmp_path / "out.onnx", **options)
    rows = {t.name: t for t in result.report.tensors}
    assert rows["basis"].exact == "sinusoids under a window (a Fourier or cosine basis, a positional encoding)"
    assert rows["mel"].exact == "a filter bank (mel or the like)"
    assert "kept exactly: a filter bank" in cells(rows["mel"])[-1]
    assert rows["w"].exact is None
    assert rows["w"].codebook is not None
    assert rows["mel"].bytes < rows["mel"].raw_bytes / 2
    before = {t.name: t.raw_data for t in net.graph.initializer}
    after = {t.name: t.raw_data for t in unpack_model(tmp_path / "out.onnx").graph.initializer}
    assert [n for n in ("basis", "mel", "w") if before[n] != after[n]] == ["w"]


@pytest.mark.parametrize("big", [float(np.finfo(np.float32).min), -1e4])
def test_a_causal_mask_stays_shut(big: float, tmp_path: Path) -> None:
    mask = np.triu(np.full((48, 48), big, np.float32), 1)
    nodes = [node("MatMul", ["x", "w"], ["q"]), node("Add", ["q", "mask"], ["s"]), node("Softmax", ["s"], ["y"])]
    net = build(nodes, {"w": W, "mask": mask}, [48, 32], [48, 48])
    result = compile_model(net, tmp_path / "out.onnx", density=0.3, bits=5, min_size=0)
    after = {t.name: numpy_helper.to_array(t) for t in unpack_model(tmp_path / "out.onnx").graph.initializer}
    assert np.array_equal(after["mask"], mask)
    assert np.count_nonzero(after["w"]) == round(0.3 * W.size)
    (row,) = [t for t in result.report.tensors if t.name == "mask"]
    assert row.codebook == 2
    assert row.bytes < mask.nbytes / 20


def test_anchors_do_not_move(tmp_path: Path) -> None:
    grid = (np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1).reshape(1, -1, 2) * 7.7 + 1.3).astype(np.float32)
    net = build([node("Add", ["x", "anchors"], ["y"])], {"anchors": grid}, [1, 1600, 2], [1, 1600, 2])
    for options in ({"density": 0.3}, {}, {"preset": "smallest"}):
        compile_model(net, tmp_path / "out.onnx", **options)
        (after,) = unpack_model(tmp_path / "out.onnx").graph.initializer
        assert np.array_equal(numpy_helper.to_array(after), grid)


def test_a_weight_named_in_full_is_one() -> None:
    net = build([node("Add", ["x", "w"], ["y"])], {"w": W}, [32, 48], [32, 48])
    row = compile_model(net, set="w:step=0.2").report.tensors[0]
    assert (row.exact, row.codebook is not None) == (None, True)
    with pytest.raises(InvalidArgumentError, match=r"matches only what stays exact, such as 'w' \(used by Add"):
        compile_model(net, set="w*:step=0.2")


def test_formulas_are_not_trained_and_tables_that_are_added_are() -> None:
    nodes = [node("MatMul", ["x", "dct"], ["a"]), node("Add", ["a", "w"], ["y"])]
    dct = np.cos(np.pi / 48 * (np.arange(48) + 0.5) * np.arange(32)[:, None]).astype(np.float32)
    net = build(nodes, {"dct": dct, "w": W}, [32, 32], [32, 48])
    program = importer.build_program(files.read_model(net), min_size=0)
    assert [r.name for r in trainable(program)] == ["w"]
    assert program.weights() == []


# Nothing to prune ----------------------------------------------------------------------------------------------------


def test_a_quantized_model_hears_that_nothing_was_pruned() -> None:
    net, _ = GRAPHS["quantized"]()
    notes = compile_model(net, density=0.3, min_size=0).report.notes
    assert any(n.startswith("already quantized: ") and "int8" in n and "float model" in n for n in notes)
    pruned = [n for n in notes if n.startswith("prune: nothing was pruned")]
    program = importer.build_program(files.read_model(GRAPHS["quantized"]()[0]), min_size=0)
    assert len(pruned) == (0 if program.weights() else 1)


def test_a_density_that_finds_nothing_to_prune_is_told() -> None:
    net = build([node("Add", ["x", "w"], ["y"])], {"w": W}, [32, 48], [32, 48])
    (note,) = [n for n in compile_model(net, density=0.3).report.notes if n.startswith("prune")]
    assert note == (
        "prune: nothing was pruned: the model has no float weights that may be; what there is stays exactly as it is "
        "(used by Add, not in a product)"
    )
    assert not [n for n in compile_model(net, density=1.0).report.notes if n.startswith("prune")]


def test_constants_that_canonicalize_folds_become_weights() -> None:
    """A low-rank update, say, that is added to a weight in the graph."""
    nodes = [node("Add", ["v", "shift"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    net = build(nodes, {"v": W, "shift": weight(32, 48, seed=9)})
    assert exact(net, "v") == "used by Add, not in a product"
    (row,) = compile_model(net, pipeline="canonicalize,cluster(grid),encode").report.tensors
    assert row.exact is None
    assert row.codebook is not None
