"""Inputs of weights that are not simply the input of one layer: moved, fused, recurrent, and inside bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from single_layers import network, normal, numbers, opened

from dc_compiler import InferenceSession, compile_model
from dc_compiler.calibration import grams as module
from dc_compiler.calibration.grams import Gram, collect

Array = np.ndarray
Node = onnx.NodeProto
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Node:
    """A node; names are separated by blanks, and "-" is none."""
    taken, made = ([n.replace("-", "") for n in text.split()] for text in (inputs, outputs))
    return helper.make_node(op, taken, made, **attributes)


def fused(op: str, inputs: str, outputs: str, **attributes: Any) -> Node:
    """A node of onnxruntime's own operators."""
    return node(op, inputs, outputs, domain="com.microsoft", **attributes)


def outputs(model: onnx.ModelProto, x: Array, *names: str) -> list[Array]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(a) for a in session.run(list(names) or None, {"x": x})]


def form(gram: Gram, changed: Array) -> float:
    """What the Gram matrix says of a change of the weight."""
    matrices = gram.place.apply(changed).astype(np.float64)
    squares = np.broadcast_to(gram.matrices, (len(matrices), *gram.matrices.shape[1:]))
    return float(np.einsum("goi,gij,goj->", matrices, squares, matrices))


def check(nodes: list[Node], x: Array, weight: Array, parts: int = 1, **stored: Array) -> None:
    """The weight ``w`` has so many Gram matrices, which cover it; and whatever the change of each part, what it does to
    the outputs, which are linear in ``w``, is the matrix' quadratic form times the number of rows."""
    program, samples = opened(network(nodes, x.shape[1:], w=weight, **stored), x)
    found = collect(program, samples)["w"]
    assert len(found) == parts
    seen = np.zeros(weight.size, int)
    for gram in found:
        gram.place.put(seen, seen[:1] * 0 + 1 + gram.place.apply(seen.reshape(weight.shape)))
        factors = []
        for seed in range(4):
            changed = np.zeros(weight.size, weight.dtype)
            gram.place.put(changed, gram.place.apply(normal(*weight.shape, seed=10 + seed)))
            changed = changed.reshape(weight.shape)
            moved = outputs(network(nodes, x.shape[1:], w=changed, **stored), x)
            factors.append(sum(np.square(m.astype(np.float64)).sum() for m in moved) / form(gram, changed))
        np.testing.assert_allclose(factors, factors[0], rtol=2e-3)
    np.testing.assert_array_equal(seen, 1)


MOVES: dict[str, tuple[list[Node], tuple[int, ...], int]] = {  # to outputs y, extents of the weight, parts
    "transposed": ([node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")], (5, 6), 1),
    "reshaped": (
        [node("Constant", "", "s", value_ints=[6, -1]), node("Reshape", "w s", "r"), node("Identity", "r", "i"),
         node("MatMul", "x i", "y")], (3, 2, 5), 1,
    ),
    "squeezed": (
        [node("Squeeze", "w n0", "s"), node("Unsqueeze", "s n0", "u"), node("Squeeze", "u n0", "t"),
         node("Gemm", "x t", "y", transB=1)], (1, 5, 6), 1,
    ),
    "split": (
        [node("Split", "w", "a b", axis=0), node("Relu", "x", "r"), node("Gemm", "x a", "ya", transB=1),
         node("Gemm", "r b", "yb", transB=1), node("Concat", "ya yb", "y", axis=1)], (8, 6), 2,
    ),
    "sliced with a step": (
        [node("Slice", "w n0 n9 n1 n2", "a"), node("Slice", "w n1 n9 n1 n2", "b"), node("Relu", "x", "r"),
         node("MatMul", "x a", "ya"), node("MatMul", "r b", "yb"), node("Add", "ya yb", "y")], (6, 8), 2,
    ),
    "gates in another order": (
        [node("Split", "w", "a b", axis=0), node("Concat", "b a", "c", axis=0), node("Gemm", "x c", "y", transB=1)],
        (8, 6), 1,
    ),
    "used twice": (
        [node("Transpose", "w", "t", perm=[1, 0]), node("Transpose", "w", "u", perm=[1, 0]), node("Relu", "x", "r"),
         node("MatMul", "x t", "ya"), node("MatMul", "r u", "yb"), node("Concat", "ya yb", "y", axis=1)], (5, 6), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_weights_that_are_moved(name: str) -> None:
    nodes, extents, parts = MOVES[name]
    indices = {f"n{i}": numbers(i) for i in (0, 1, 2, 9)}
    used = {n for one in nodes for n in one.input}
    check(nodes, normal(40, 6), normal(*extents, seed=1), parts, **{k: v for k, v in indices.items() if k in used})


def test_a_weight_that_is_cast() -> None:
    nodes = [node("Cast", "w", "c", to=TensorProto.FLOAT), node("MatMul", "x c", "y")]
    check(nodes, normal(40, 6), normal(6, 5, seed=1).astype(np.float16))


def test_weights_that_are_joined() -> None:
    """As exporters do with the directions of recurrent layers: each has the rows of its own."""
    stored = {name: normal(5, n, seed=i) for i, (name, n) in enumerate({"w": 3, "v": 3, "r": 5, "s": 5}.items())}
    nodes = [node("Unsqueeze", f"{n} n0", f"{n}3") for n in "wvrs"]
    nodes += [node("Concat", "w3 v3", "both", axis=0), node("Concat", "r3 s3", "past", axis=0)]
    nodes += [node("RNN", "x both past", "y", hidden_size=5, direction="bidirectional")]
    x = normal(7, 4, 3)
    model = network(nodes, (4, 3), **stored, n0=numbers(0))
    found = collect(*opened(model, x))
    states = outputs(model, x)[0]
    past = {"r": states[:-1, 0].reshape(-1, 5), "s": states[1:, 1].reshape(-1, 5)}
    for name, rows in ({"w": x.reshape(-1, 3), "v": x.reshape(-1, 3)} | past).items():
        (gram,) = found[name]
        np.testing.assert_allclose(gram.matrices[0], rows.T @ rows / len(rows), rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(gram.place.apply(stored[name])[0], stored[name])


def test_weights_that_are_joined_and_cut() -> None:
    """The first and half of the second take x, the rest what ReLU makes of it."""
    nodes = [node("Concat", "v w", "c", axis=0), node("Split", "c", "a b", axis=0), node("Relu", "x", "r"),
             node("Gemm", "x a", "ya", transB=1), node("Gemm", "r b", "yb", transB=1),
             node("Concat", "ya yb", "y", axis=1)]  # fmt: skip
    x = normal(40, 6)
    found = collect(*opened(network(nodes, (6,), v=normal(3, 6), w=normal(7, 6)), x))
    r = np.maximum(x, 0)
    assert [g.place.extents for g in found["v"]] == [(1, 3, 6)]
    assert [g.place.extents for g in found["w"]] == [(1, 2, 6), (1, 5, 6)]
    for gram, rows in zip([*found["v"], *found["w"]], (x, x, r), strict=True):
        np.testing.assert_allclose(gram.matrices[0], rows.T @ rows / 40, rtol=1e-3, atol=1e-5)
    check(nodes, x, normal(7, 6, seed=1), 2, v=np.zeros((3, 6), np.float32))


def test_weights_that_are_joined_along_the_inputs_have_no_gram_matrices() -> None:
    nodes = [node("Concat", "w v", "c", axis=0), node("MatMul", "x c", "y")]
    assert not collect(*opened(network(nodes, (6,), w=normal(2, 5), v=normal(4, 5)), normal(9, 6)))


def test_elements_that_stand_at_two_places_have_no_gram_matrix() -> None:
    """Half of the weight twice, and the other half never: rounding is to lose neither."""
    nodes = [node("Split", "w", "a b", axis=0), node("Concat", "a a", "c", axis=0), node("Gemm", "x c", "y", transB=1)]
    assert not collect(*opened(network(nodes, (6,), w=normal(8, 6)), normal(9, 6)))


@pytest.mark.parametrize(
    ("nodes", "extents", "shape"),
    [
        ([fused("FusedMatMul", "x w", "y", transB=1, alpha=0.5)], (5, 6), (4, 6)),
        ([fused("FusedMatMul", "x w", "y", transA=1)], (4, 5), (4, 6)),
        ([fused("FusedMatMul", "x w", "y", transA=1, transB=1)], (3, 5, 4), (4, 6)),
        ([fused("FusedMatMul", "w x", "y", transA=1)], (4, 5), (4, 6)),
        ([fused("FusedMatMul", "w x", "y", transB=1)], (5, 6), (4, 6)),
        ([fused("FusedConv", "x w", "y", group=2, strides=[2])], (8, 2, 3), (4, 11)),
        ([fused("FusedGemm", "x w", "y", transB=1, activation="LeakyRelu", activation_alpha=1.0)], (5, 6), (6,)),
    ],
)
def test_fused_operators(nodes: list[Node], extents: tuple[int, ...], shape: tuple[int, ...]) -> None:
    x = normal(3, *shape)
    check(nodes, x, normal(*extents, seed=1))


def test_attention_projects_all_of_its_inputs_at_once() -> None:
    nodes = [fused("Attention", "x w b", "y", num_heads=2)]
    x = normal(6, 5, 8)
    program, samples = opened(network(nodes, (5, 8), w=normal(8, 24, seed=1), b=normal(24, seed=2)), x)
    (gram,) = collect(program, samples)["w"]
    assert gram.place.extents == (1, 24, 8)
    np.testing.assert_allclose(gram.matrices[0], np.einsum("nti,ntj->ij", x, x) / 30, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("starts", [False, True])
def test_recurrent_layers_take_in_inputs_and_their_own_states(op: str, direction: str, *, starts: bool) -> None:
    """Those of the step before in their direction, the initial ones too, though the model names no states."""
    directions, gates = 1 + (direction == "bidirectional"), {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    weights = {"w": normal(directions, gates * 5, 3, seed=2), "r": normal(directions, gates * 5, 5, seed=3)}
    x = normal(7, 4, 3)
    before = [node("Expand", "one n", "e"), node("ReduceSum", "x n0", "s", keepdims=1)]
    before += [node("ReduceSum", "s n2", "sum", keepdims=1), node("Mul", "e sum", "h")]
    sizes = {"n": numbers(directions, 4, 5), "n0": numbers(0), "n2": numbers(2), "one": np.ones(1, np.float32)}
    extra, inputs = (sizes, "x w r - - h") if starts else ({}, "x w r")

    def model(names: str) -> onnx.ModelProto:
        layer = node(op, inputs, names, hidden_size=5, direction=direction)
        return network([*(before if starts else []), layer], (4, 3), **weights, **extra)

    program, samples = opened(model("- y"), x)
    found = collect(program, samples)
    np.testing.assert_allclose(found["w"][0].matrices[0], np.einsum("tbi,tbj->ij", x, x) / 28, rtol=1e-4, atol=1e-6)
    assert found["w"][0].place.extents == (1, directions * gates * 5, 3)
    assert not program.proto.graph.node[-1].output[0]
    states = outputs(model("y"), x)[0]
    first = x.sum((0, 2))[None, :, None] * np.ones((1, 4, 5), np.float32)
    for d in range(directions):
        own = states[:, d]
        past = own[1:] if direction == "reverse" or d else own[:-1]
        past = np.concatenate([past, first]) if starts else past
        mean = np.einsum("tbi,tbj->ij", past, past) / (len(past) * 4)
        np.testing.assert_allclose(found["r"][0].matrices[d], mean, rtol=1e-3, atol=1e-5)


def test_uses_count_by_their_rows_however_many_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight is used at 4,096 places of a sample, which are thinned out, and once."""
    monkeypatch.setattr(module, "LEAST_ROWS", 100)
    nodes = [node("MatMul", "x w", "a"), node("ReduceSum", "x n1", "s"), node("MatMul", "s w", "b")]
    x = normal(20, 4096, 3)
    model = network([*nodes, node("Add", "a b", "y")], (4096, 3), w=normal(3, 3, seed=1), n1=numbers(1))
    program, samples = opened(model, x)
    (gram,) = collect(program, samples)["w"]
    both = np.concatenate([x.reshape(-1, 3), x.sum(1)]).astype(np.float64)
    np.testing.assert_allclose(gram.matrices[0], both.T @ both / len(both), atol=0.3)


def test_a_weight_times_a_stored_tensor_has_no_inputs() -> None:
    nodes = [node("MatMul", "w v", "p"), node("MatMul", "x p", "y")]
    program, samples = opened(network(nodes, (6,), w=normal(6, 6), v=normal(6, 6, seed=3)), normal(9, 6))
    assert collect(program, samples) == {}


# Bodies ---------------------------------------------------------------------------------------------------------------


def body(nodes: list[Node], inputs: dict[str, int], outputs: dict[str, int], **stored: Array) -> onnx.GraphProto:
    """A graph with inputs and outputs of these types; all but floats are single values."""
    taken, made = (
        [helper.make_tensor_value_info(n, t, None if t == FLOAT else []) for n, t in given.items()]
        for given in (inputs, outputs)
    )
    return helper.make_graph(nodes, "body", taken, made, [numpy_helper.from_array(v, k) for k, v in stored.items()])


def test_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which every batch takes one: each weight has the inputs of its own batches."""
    monkeypatch.setattr("dc_compiler.ort.activations.BATCH", 1)
    stored = {"v": normal(4, 6, seed=1), "u": normal(6, 6, seed=2)}
    yes = body([node("Relu", "x", "r"), node("MatMul", "r w", "a")], {}, {"a": FLOAT}, w=normal(6, 5))
    no = body([node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "t v", "b"), node("MatMul", "b u", "c"),
               node("Slice", "c n0 n5 n2", "a")], {}, {"a": FLOAT}, **stored)  # fmt: skip
    nodes = [node("ReduceSum", "x", "s", keepdims=0), node("Greater", "s zero", "g")]
    nodes += [node("If", "g", "y", then_branch=yes, else_branch=no)]
    cuts = {"n0": numbers(0), "n5": numbers(5), "n2": numbers(2), "zero": np.zeros((), np.float32)}
    x = normal(30, 4, 6)
    program, samples = opened(network(nodes, (4, 6), **cuts), x)
    before = program.proto.SerializeToString()
    found = collect(program, samples)
    is_first = x.sum((1, 2)) > 0
    r, t = np.maximum(x[is_first], 0).reshape(-1, 6), x[~is_first].transpose(0, 2, 1).reshape(-1, 4)
    second = t @ stored["v"]
    for name, rows in (("w", r), ("v", t), ("u", second)):
        np.testing.assert_allclose(found[name][0].matrices[0], rows.T @ rows / len(rows), rtol=1e-3, atol=1e-5)
    assert program.proto.SerializeToString() == before


def loop(nodes: list[Node], **stored: Array) -> list[Node]:
    """A Loop of three iterations, which takes ``before`` and makes ``after`` of it; its first value is x."""
    inner = body(
        [*nodes, node("Identity", "go", "goes")], {"i": INT64, "go": BOOL, "before": FLOAT},
        {"goes": BOOL, "after": FLOAT}, **stored,
    )  # fmt: skip
    true = numpy_helper.from_array(np.array(True))
    three = numpy_helper.from_array(np.array(3))
    constants = [node("Constant", "", "start", value=true), node("Constant", "", "count", value=three)]
    return [*constants, node("Loop", "count start x", "y", body=inner)]


def three_steps(x: Array, w: Array) -> Array:
    """Inputs of a weight in ``x = tanh(x w)``."""
    steps = [x]
    for _ in range(2):
        steps.append(np.tanh(steps[-1] @ w))
    return np.concatenate(steps)


@pytest.mark.parametrize("stored_outside", [False, True])
def test_loops(*, stored_outside: bool) -> None:
    """Inputs of all iterations count; the weight may belong to the graph around the loop."""
    w, x = normal(6, 6), normal(20, 6, seed=1)
    inside, outside = ({}, {"w": w}) if stored_outside else ({"w": w}, {})
    nodes = loop([node("MatMul", "before w", "m"), node("Tanh", "m", "after")], **inside)
    program, samples = opened(network(nodes, (6,), **outside), x)
    rows = three_steps(x, w)
    np.testing.assert_allclose(collect(program, samples)["w"][0].matrices[0], rows.T @ rows / 60, rtol=1e-3, atol=1e-5)


def test_weights_of_bodies_are_rounded_by_their_inputs() -> None:
    """A compiled loop gives what the original does more nearly than without calibration."""
    w, x = normal(64, 64) / 8, normal(200, 64, seed=1) @ normal(64, 64, seed=2) / 8
    model = network(loop([node("MatMul", "before w", "m"), node("Tanh", "m", "after")], w=w), (64,))
    (wanted,) = outputs(model, x)
    errors = []
    for options in ("", ",calibrate=true"):
        result = compile_model(model, pipeline=f"cluster(grid,step=0.5{options}),encode", data={"x": x})
        session = InferenceSession(result.model.SerializeToString())
        errors.append(float(np.square(session.run(None, {"x": x})[0] - wanted).mean()))
    assert errors[1] < 0.85 * errors[0]


def test_a_branch_inside_a_loop() -> None:
    """A weight moved in a branch: the value of the loop that it multiplies counts in every iteration, though the branch
    does not run in the first. What a branch computes itself cannot be seen."""
    w, x = normal(6, 6), normal(20, 6, seed=1)
    moved = [node("Transpose", "w", "t", perm=[1, 0]), node("Gemm", "before t", "p", transB=1), node("Tanh", "p", "q")]
    moved += [node("MatMul", "q u", "o")]
    yes, no = body(moved, {}, {"o": FLOAT}), body([node("Neg", "before", "o2")], {}, {"o2": FLOAT})
    inner = [node("Cast", "i", "later", to=BOOL), node("If", "later", "after", then_branch=yes, else_branch=no)]
    program, samples = opened(network(loop(inner, w=w, u=np.eye(6, dtype=np.float32)), (6,)), x)
    found = collect(program, samples)
    rows = np.concatenate([x, three_steps(-x, w)[:40]])
    np.testing.assert_allclose(found["w"][0].matrices[0], rows.T @ rows / 60, rtol=1e-3, atol=1e-5)
    assert set(found) == {"w"}


def test_scans() -> None:
    """Over the samples; the outputs go another way."""
    w, u, x = normal(6, 6), normal(6, 6, seed=1), normal(20, 4, 6, seed=1)
    nodes = [node("MatMul", "one w", "m"), node("Tanh", "m", "h"), node("MatMul", "h u", "out")]
    inner = body(nodes, {"one": FLOAT}, {"out": FLOAT}, w=w, u=u)
    scan = node("Scan", "x", "y", body=inner, num_scan_inputs=1, scan_output_directions=[1], scan_output_axes=[1])
    program, samples = opened(network([scan], (4, 6)), x)
    found = collect(program, samples)
    for name, rows in (("w", x.reshape(-1, 6)), ("u", np.tanh(x.reshape(-1, 6) @ w))):
        np.testing.assert_allclose(found[name][0].matrices[0], rows.T @ rows / 80, rtol=1e-3, atol=1e-5)


def test_a_recurrent_layer_in_a_branch() -> None:
    w, r, x = normal(1, 20, 3, seed=2), normal(1, 20, 5, seed=3), normal(7, 4, 3)
    layer = [node("LSTM", "x w r", "- last", hidden_size=5)]
    yes = body(layer, {}, {"last": FLOAT}, w=w, r=r)
    no = body([node("Constant", "", "none", value=numpy_helper.from_array(np.zeros((1, 4, 5), np.float32)))], {},
              {"none": FLOAT})  # fmt: skip
    nodes = [node("ReduceMax", "x", "s", keepdims=0), node("Cast", "s", "c", to=BOOL)]
    nodes += [node("If", "c", "y", then_branch=yes, else_branch=no)]
    program, samples = opened(network(nodes, (4, 3)), x)
    found = collect(program, samples)
    states = outputs(network([node("LSTM", "x w r", "y", hidden_size=5)], (4, 3), w=w, r=r), x)[0][:-1, 0]
    np.testing.assert_allclose(
        found["r"][0].matrices[0], np.einsum("tbi,tbj->ij", states, states) / 24, rtol=1e-3, atol=1e-5
    )
    assert "w" in found


def test_a_recurrence_of_one_step_says_nothing_of_its_states() -> None:
    """As in models that are given one frame at a time: no state is seen before the last one."""
    w, r = normal(1, 20, 3), normal(1, 20, 5, seed=1)
    layer = [node("LSTM", "x w r", "- y", hidden_size=5)]
    program, samples = opened(network(layer, (4, 3), w=w, r=r), normal(1, 4, 3))
    found = collect(program, samples)
    assert list(found) == ["w"]


def test_loops_whose_values_change_shape_leave_the_rest_its_inputs() -> None:
    """onnxruntime cannot stack them."""
    inner = [node("Concat", "before before", "twice", axis=0), node("MatMul", "twice w", "after")]
    nodes = [*loop(inner, w=normal(6, 6)), node("MatMul", "x v", "z")]
    model = network(nodes, (6,), v=normal(6, 5))
    model.graph.output.append(onnx.ValueInfoProto(name="z"))
    assert set(collect(*opened(model, normal(20, 6)))) == {"v"}
