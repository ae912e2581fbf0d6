"""canonicalize: what it folds, what it leaves alone and why, and that outputs, names and everything else stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models.graphs import GRAPHS
from onnx import TensorProto, helper, numpy_helper
from small_programs import Array, normal
from test_corpus import DATA, feed_of, runs
from test_graphs import FORMS, NAMES, run, same

from dc_compiler import compile_model, ir
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.model import files, importer
from dc_compiler.model.opened import open_weights
from dc_compiler.pass_manager import Context, PassManager, PassReport
from dc_compiler.passes.canonicalize import Canonicalize
from dc_compiler.passes.canonicalize.survey import has_work
from dc_compiler.recipe import Form, parse_pipeline

node = helper.make_node


def value(name: str, *shape: Any, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto],
    stored: dict[str, Array], opset: int = 17, **more: Any,
) -> onnx.ModelProto:  # fmt: skip
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more)
    onnx.checker.check_model(made)
    return made


def canonical(given: onnx.ModelProto, skip: Sequence[str] = ()) -> tuple[ir.Program, PassReport]:
    """The program after the pass alone, with what the manager checks after it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(given)
    program = importer.build_program(files.read_model(copy), min_size=1, skip=skip)
    manager = PassManager([Canonicalize(), *parse_pipeline("encode(lossless)")])
    manager.passes.pop()
    return program, manager.run(program, Context(jobs=1))[0]


def ops(program: ir.Program) -> list[str]:
    return [n.op_type for n in program.proto.graph.node]


def values(program: ir.Program) -> dict[str, Array]:
    return {r.name: r.values for r in program.records}


def compare(given: onnx.ModelProto, *, exact: bool = False, forms: Sequence[Form] = FORMS, **feeds: Array) -> None:
    """The forms compute what the original does, and no file is larger than without the pass but for its name."""
    expected = run(given, feeds)
    for form in forms:
        plain = compile_model(given, pipeline="encode(lossless)", min_size=1, emit=form)
        result = compile_model(given, pipeline="canonicalize,encode(lossless)", min_size=1, emit=form)
        got = run(result.model, feeds)
        assert same(expected, got, exact=exact)
        assert result.report.output_bytes <= plain.report.output_bytes + len("canonicalize,")


def normalization(channels: int, seed: int, dtype: Any = np.float32) -> dict[str, Array]:
    """Parameters of a BatchNormalization, away from the identity."""
    random = np.random.default_rng(seed)
    return {
        "scale": random.uniform(0.5, 2, channels).astype(dtype),
        "shift": random.standard_normal(channels).astype(dtype),
        "mean": random.standard_normal(channels).astype(dtype),
        "variance": random.uniform(0.1, 3, channels).astype(dtype),
    }


NORMALIZE = node("BatchNormalization", ["h", "scale", "shift", "mean", "variance"], ["y"], "bn", epsilon=1e-3)


def layer(kind: str) -> tuple[onnx.NodeProto, tuple[int, ...], dict[str, Array], int]:
    """A layer, the shape of its input, its tensors, and its output channels."""
    match kind:
        case "Conv":
            return node("Conv", ["x", "w"], ["h"], "layer"), (2, 4, 7, 7), {"w": normal(6, 4, 3, 3)}, 6
        case "Conv, bias, groups":
            stored = {"w": normal(6, 2, 3, 3), "b": normal(6, seed=1)}
            return node("Conv", ["x", "w", "b"], ["h"], "layer", group=2), (2, 4, 7, 7), stored, 6
        case "ConvTranspose":
            return node("ConvTranspose", ["x", "w"], ["h"], "layer"), (2, 4, 5, 5), {"w": normal(4, 6, 3, 3)}, 6
        case "ConvTranspose, bias, groups":
            stored = {"w": normal(4, 3, 3, 3), "b": normal(6, seed=1)}
            return node("ConvTranspose", ["x", "w", "b"], ["h"], "layer", group=2), (2, 4, 5, 5), stored, 6
        case "Gemm":
            return node("Gemm", ["x", "w"], ["h"], "layer", alpha=0.5), (3, 5), {"w": normal(5, 6)}, 6
        case "Gemm, bias, transB":
            stored = {"w": normal(6, 5), "b": normal(1, 6, seed=1)}
            return node("Gemm", ["x", "w", "b"], ["h"], "layer", transB=1), (3, 5), stored, 6
        case _:
            return node("MatMul", ["x", "w"], ["h"], "layer"), (3, 5), {"w": normal(5, 6)}, 6


LAYERS = (
    "Conv", "Conv, bias, groups", "ConvTranspose", "ConvTranspose, bias, groups", "Gemm", "Gemm, bias, transB",
    "MatMul",
)  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("constants", [False, True], ids=["initializers", "Constant nodes"])
def test_batch_normalization(kind: str, constants: bool) -> None:
    """Folded into every layer: one bias is left of the four parameters, and the outputs are the same."""
    made, shape, stored, channels = layer(kind)
    stored = stored | normalization(channels, 3)
    rank = [None] * len(shape)
    nodes = [made, NORMALIZE]
    if constants:  # each right before the node that takes it
        makers = {
            name: node("Constant", [], [name], value=numpy_helper.from_array(array)) for name, array in stored.items()
        }
        nodes = [m for n in nodes for m in (*(makers[i] for i in n.input if i in makers), n)]
        stored = {}
    given = model(nodes, [value("x", *shape)], [value("y", *rank)], stored)
    program, report = canonical(given)
    assert report.facts["batch normalizations folded"] == 1
    expected = ["MatMul", "Add"] if kind == "MatMul" else [made.op_type]
    assert [o for o in ops(program) if o != "Constant"] == expected
    onnx.checker.check_model(open_weights(program, ()))
    assert sorted(values(program)) == sorted(["w", "b" if "bias" in kind else "shift"])
    assert "1 batch normalizations" in program.rounding[0]
    compare(given, x=normal(*shape, seed=9))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_batch_normalization_of_other_types(dtype: Any) -> None:
    """Products in float64, rounded once."""
    stored = {"w": normal(3, 2, 1, 1, dtype=dtype)} | normalization(3, 3, dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [node("Conv", ["x", "w"], ["h"]), NORMALIZE]
    program, _ = canonical(
        model(nodes, [value("x", 1, 2, 5, 5, kind=kind)], [value("y", 1, 3, 5, 5, kind=kind)], stored)
    )
    exact = {k: v.astype(np.float64) for k, v in stored.items()}
    factor = exact["scale"] / np.sqrt(exact["variance"] + float(np.float32(1e-3)))
    got = values(program)
    assert np.array_equal(got["w"], (exact["w"] * factor[:, None, None, None]).astype(dtype))
    assert np.array_equal(got["shift"], (exact["shift"] - exact["mean"] * factor).astype(dtype))


def two_layers(second: onnx.NodeProto, **more: Array) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    nodes = [node("Conv", ["x", "w"], ["h"], "layer"), NORMALIZE, second]
    return nodes, {"w": normal(4, 4, 3, 3)} | normalization(4, 3) | more


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("shared weight", "weights or its parameters are shared"),
        ("shared parameter", "weights or its parameters are shared"),
        ("layer used twice", "the layer before it is used elsewhere"),
        ("layer is an output", "the layer before it is used elsewhere"),
        ("skipped", "left alone"),
        ("variance", "not positive"),
        ("overflow", "overflow"),
        ("training", "it trains"),
    ],
)
def test_batch_normalization_that_stays(change: str, reason: str) -> None:
    """With the reason in the report, and every value as it was."""
    nodes, stored = two_layers(node("Relu", ["y"], ["z"]))
    outputs = [value("z", 1, 4, None, None)]
    skip = []
    match change:
        case "shared weight":
            nodes[2] = node("Conv", ["y", "w"], ["z"], pads=[1, 1, 1, 1])
        case "shared parameter":
            nodes[2] = node("Mul", ["y", "scale"], ["z"])
        case "layer used twice":
            nodes[2] = node("Add", ["y", "h"], ["z"])
        case "layer is an output":
            outputs.append(value("h", 1, 4, None, None))
        case "skipped":
            skip = ["w"]
        case "variance":
            stored["variance"][1] = -5
        case "overflow":
            stored["scale"][0] = stored["w"].flat[0] = 1e30
            stored["variance"][0] = 1e-30
        case "training":
            nodes[1] = node("BatchNormalization", [*NORMALIZE.input], ["y", "", ""], "bn", training_mode=1)
            del nodes[1].output[1:]
    given = model(nodes, [value("x", 1, 4, 6, 6)], outputs, stored)
    program, report = canonical(given, skip)
    assert report.facts["batch normalizations folded"] == 0
    assert [n for n in program.notes if n.startswith("canonicalize: bn: ") and reason in n]
    assert "BatchNormalization" in ops(program)
    got = values(program)
    assert all(np.array_equal(got[name], stored[name]) for name in ("w", "scale", "shift", "mean", "variance"))


def test_matmul_of_more_axes_keeps_its_normalization() -> None:
    """Channels of BatchNormalization are axis 1, those of MatMul the last."""
    stored = {"w": normal(5, 6)} | normalization(4, 3)
    given = model([node("MatMul", ["x", "w"], ["h"]), NORMALIZE], [value("x", 2, 4, 5)], [value("y", 2, 4, 6)], stored)
    program, report = canonical(given)
    assert report.facts["batch normalizations folded"] == 0
    assert any("does not make a matrix" in n for n in program.notes)
    compare(given, exact=True, x=normal(2, 4, 5))


def test_moved_weights_become_visible_under_their_names() -> None:
    """A weight behind Transpose and Reshape is the layer's own then: its uses and its channel axis are known."""
    nodes = [
        node("Transpose", ["head"], ["t"], perm=[1, 0]),
        node("Reshape", ["t", "shape"], ["r"]),
        node("Identity", ["r"], ["i"]),
        node("MatMul", ["x", "i"], ["y"]),
    ]
    stored = {"head": normal(30, 40), "shape": np.array([20, 60])}
    given = model(nodes, [value("x", 2, 20)], [value("y", 2, 60)], stored)
    program, report = canonical(given)
    assert ops(program) == ["MatMul"]
    assert [(r.name, r.shape, [u.op_type for u in r.uses]) for r in program.records] == [("head", (20, 60), ["MatMul"])]
    assert [t.name for t in program.proto.graph.initializer] == ["head"]
    assert np.array_equal(program.records[0].values, stored["head"].T.reshape(20, 60))
    assert (report.facts["constants folded"], report.changed) == (2, 3)
    compare(given, exact=True, x=normal(2, 20))
    clustered = compile_model(given, pipeline="canonicalize,cluster(grid),encode", set="head:step=0.5", min_size=1)
    assert clustered.report.tensors[0].name == "head"
    assert clustered.report.tensors[0].codebook is not None
    assert clustered.report.tensors[0].codebook < 40  # the override by the weight's own name counts


def test_a_tied_head_is_not_copied() -> None:
    """The embedding is read by Gather and, transposed, by MatMul: folding would store it twice."""
    nodes = [
        node("Gather", ["table", "ids"], ["h"]),
        node("Transpose", ["table"], ["t"], "head", perm=[1, 0]),
        node("MatMul", ["h", "t"], ["y"]),
    ]
    given = model(nodes, [value("ids", 3, kind=TensorProto.INT64)], [value("y", 3, 50)], {"table": normal(50, 32)})
    program, _ = canonical(given)
    assert ops(program) == ["Gather", "Transpose", "MatMul"]
    assert "canonicalize: head: what it reads is used elsewhere, too" in program.notes
    compare(given, exact=True, ids=np.array([1, 2, 49]))


@pytest.mark.parametrize(
    ("made", "stored"),
    [
        ([node("Cast", ["w"], ["c"], "n", to=TensorProto.FLOAT)], {"w": normal(40, 50, dtype=np.float16)}),
        (
            [node("DequantizeLinear", ["w", "s"], ["c"], "n")],
            {"w": np.arange(2000, dtype=np.uint8).reshape(40, 50), "s": np.float32(0.1)},
        ),
        ([node("Mul", ["w", "s"], ["c"], "n")], {"w": normal(40, 1), "s": normal(1, 50)}),
        (  # eight levels times a factor a row: every product is another number
            [node("Mul", ["w", "s"], ["c"], "n")],
            {"w": np.random.default_rng(0).integers(-4, 4, (40, 50)).astype(np.float32), "s": normal(40, 1)},
        ),
        (
            [node("Expand", ["w", "s"], ["c"], "n")],
            {"w": np.ones((1, 1), np.float32), "s": np.array([40, 50])},
        ),
    ],
    ids=["half floats", "packed integers", "outer product", "few levels", "growing"],
)
def test_what_would_grow_stays(made: list[onnx.NodeProto], stored: dict[str, Array]) -> None:
    nodes = [*made, node("MatMul", ["x", "c"], ["y"])]
    given = model(nodes, [value("x", 2, 40)], [value("y", 2, 50)], stored)
    program, report = canonical(given)
    assert ops(program) == [made[0].op_type, "MatMul"]
    assert report.facts["constants folded"] == 0
    # onnxruntime rounds the inputs of products with constants of integers, which the graph form has none of
    are_integers = stored["w"].dtype == np.uint8
    compare(given, exact=True, forms=FORMS[:1] if are_integers else FORMS, x=normal(2, 40))


def test_arithmetic_on_a_weight_of_its_own() -> None:
    """Weight times factor: one weight, as onnxruntime computes it when it loads the model."""
    stored = {"w": normal(40, 50), "s": normal(40, 1, seed=1)}
    nodes = [node("Mul", ["w", "s"], ["c"]), node("MatMul", ["x", "c"], ["y"])]
    given = model(nodes, [value("x", 2, 40)], [value("y", 2, 50)], stored)
    program, _ = canonical(given)
    assert ops(program) == ["MatMul"]
    assert np.array_equal(values(program)["w"], stored["w"] * stored["s"])
    compare(given, exact=True, x=normal(2, 40))


def test_nothing_huge_is_computed() -> None:
    """A few bytes that stand for terabytes: the size is known before."""
    nodes = [
        node("Add", ["a", "b"], ["c"]),
        node("Gather", ["a", "i"], ["g"]),
        node("ReduceMax", ["c"], ["d"], keepdims=0),
        node("Add", ["x", "d"], ["y"]),
    ]
    stored = {"a": normal(1 << 16, 1), "b": normal(1, 1 << 16), "i": np.zeros(1 << 16, np.int64)}
    program, report = canonical(model(nodes, [value("x")], [value("y")], stored))
    assert ops(program) == ["Add", "ReduceMax", "Add"]
    assert report.facts["dead nodes"] == 1


def test_identities() -> None:
    """Between nodes, at the model's outputs, at its inputs, of stored tensors, and in front of bodies."""
    then = helper.make_graph([node("Relu", ["b"], ["t"])], "then", [], [value("t", 2, 3)])
    other = helper.make_graph([node("Neg", ["b"], ["e"])], "else", [], [value("e", 2, 3)])
    nodes = [
        node("Identity", ["x"], ["a"]),
        node("MatMul", ["a", "w"], ["m"]),
        node("Identity", ["m"], ["b"]),
        node("If", ["c"], ["f"], then_branch=then, else_branch=other),
        node("Add", ["f", "m"], ["s"]),
        node("Identity", ["s"], ["y"]),
        node("Relu", ["s"], ["z"]),
        node("Identity", ["x"], ["same"]),
        node("Identity", ["w"], ["stored"]),
    ]
    outputs = [value("y", 2, 3), value("z", 2, 3), value("same", 2, 3), value("stored", 3, 3)]
    given = model(nodes, [value("x", 2, 3), value("c", kind=TensorProto.BOOL)], outputs, {"w": normal(3, 3)})
    program, _ = canonical(given)
    assert ops(program) == ["MatMul", "If", "Add", "Relu", "Identity", "Identity"]
    assert [list(n.input) for n in program.proto.graph.node[:4]] == [["x", "w"], ["c"], ["f", "m"], ["y"]]
    assert list(program.proto.graph.node[2].output) == ["y"]
    assert [n.input[0] for g in list(ir.walk_graphs(program.proto.graph))[1:] for n in g.node] == ["m", "m"]
    assert sum("known elsewhere" in n for n in program.notes) == 1
    onnx.checker.check_model(open_weights(program, ()))
    for choice in (True, False):
        compare(given, exact=True, x=normal(2, 3), c=np.array(choice))


def test_names_that_mean_something_else_in_a_body() -> None:
    """A body has its own ``x``: what it takes from outside under another name must not become that."""
    then = helper.make_graph(
        [node("Neg", ["c_in"], ["x"]), node("Add", ["x", "a"], ["t"])], "then", [], [value("t", 3)]
    )
    other = helper.make_graph([node("Relu", ["a"], ["e"])], "else", [], [value("e", 3)])
    nodes = [
        node("Relu", ["i"], ["x0"]),
        node("Neg", ["x0"], ["c_in"]),
        node("Identity", ["c_in"], ["a"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    given = model(nodes, [value("i", 3), value("c", kind=TensorProto.BOOL)], [value("y", 3)], {})
    nodes[0].output[0] = nodes[1].input[0] = "x0"
    for choice in (True, False):
        program, _ = canonical(given)
        assert "Identity" not in ops(program)
        assert same(
            run(given, {"i": normal(3), "c": np.array(choice)}),
            run(program.proto, {"i": normal(3), "c": np.array(choice)}),
            exact=True,
        )
    hidden = onnx.ModelProto()
    hidden.CopyFrom(given)
    hidden.graph.node[1].output[0] = hidden.graph.node[2].input[0] = "x"  # which the body hides
    hidden.graph.node[3].attribute[0].g.node[0].input[0] = "i"
    program, _ = canonical(hidden)
    assert "Identity" in ops(program)
    assert any("another value of the same name" in n for n in program.notes)


def test_what_bodies_hand_out_is_not_dead() -> None:
    """The output of a branch may be a value of the main graph that no node takes."""
    then = helper.make_graph([], "then", [], [value("n", 3)])
    other = helper.make_graph([], "else", [], [value("w", 3)])
    nodes = [
        node("Neg", ["x"], ["n"]),
        node("Exp", ["x"], ["dead"]),
        node("Exp", ["dead"], ["deader"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    tensors = {"w": normal(3), "unused": normal(3)}
    graph = helper.make_graph(
        nodes, "g", [value("x", 3), value("c", kind=TensorProto.BOOL)], [value("y", 3)],
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )  # fmt: skip
    given = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    program, report = canonical(given)
    assert ops(program) == ["Neg", "If"]
    assert [t.name for t in program.proto.graph.initializer] == ["w"]
    assert report.facts["dead nodes"] == 2


def test_everything_else_is_carried_over() -> None:
    """Domain, version, documentation, metadata, annotations, functions, operator sets: what the scratch copy loses."""
    function = helper.make_function(
        "local", "Twice", ["v"], ["t"], [node("Add", ["v", "v"], ["t"])], [helper.make_opsetid("", 17)]
    )
    nodes = [
        node("Identity", ["x"], ["a"]),
        node("Twice", ["a"], ["b"], "call", domain="local", doc_string="why"),
        node("Transpose", ["w"], ["t"]),
        node("MatMul", ["b", "t"], ["y"], "product"),
        node("Identity", ["x"], ["noted"]),
        node("Relu", ["noted"], ["z"]),
    ]
    nodes[3].metadata_props.add(key="of", value="a node")
    graph = helper.make_graph(
        nodes, "graph", [value("x", 2, 3)], [value("y", 2, 4), value("z", 2, 3)],
        [numpy_helper.from_array(normal(4, 3), "w")], doc_string="of the graph",
        value_info=[value("b", 2, 3), value("t", 3, 4), value("w", 4, 3)],
    )  # fmt: skip
    graph.metadata_props.add(key="of", value="the graph")
    graph.quantization_annotation.add(tensor_name="noted").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="w"
    )
    given = helper.make_model(
        graph, functions=[function], ir_version=10, model_version=7, domain="org.example", doc_string="of the model",
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("local", 1)],
    )  # fmt: skip
    given.metadata_props.add(key="of", value="the model")
    program, _ = canonical(given)
    proto = program.proto
    assert ops(program) == ["Twice", "Transpose", "MatMul", "Identity", "Relu"]  # the last two, and w, are annotated
    expected = onnx.ModelProto()
    expected.CopyFrom(given)
    del expected.graph.node[0]
    expected.graph.node[0].input[0] = "x"
    del expected.graph.value_info[2]
    for tensors in (expected.graph.initializer, proto.graph.initializer):
        del tensors[:]
    assert proto == expected


def test_too_strange_for_onnx_graphsurgeon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph stays as it is, with the reason."""

    def refuse(given: onnx.ModelProto) -> None:
        raise ValueError("not for me")

    monkeypatch.setattr("onnx_graphsurgeon.import_onnx", refuse)
    given = model([node("Identity", ["x"], ["y"])], [value("x", 3)], [value("y", 3)], {})
    program, report = canonical(given)
    assert ops(program) == ["Identity"]
    assert report.changed == 0
    assert "not for me" in program.notes[0]


def test_it_comes_first() -> None:
    with pytest.raises(
        InvalidArgumentError, match="'canonicalize' must come before the pass that makes weights pruned"
    ):
        PassManager(parse_pipeline("prune,canonicalize,encode(lossless)"))


@pytest.mark.parametrize("name", NAMES)
def test_hand_built_graphs(name: str) -> None:
    """Valid, the same outputs, and no larger but for the name of the pass."""
    given, feed = GRAPHS[name]()
    plain = compile_model(given, pipeline="encode(lossless)", min_size=0)
    result = compile_model(given, pipeline="canonicalize,encode(lossless)", min_size=0)
    onnx.checker.check_model(result.model)
    assert same(run(given, feed), run(result.model, feed), exact=False)
    assert result.report.output_bytes <= plain.report.output_bytes + len("canonicalize,")


PATHS = sorted(DATA.glob("**/model.onnx"))


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.parent.name)
def test_corpus(path: Path) -> None:
    """Every model of onnx's backend tests keeps its outputs, and what it declares."""
    given = onnx.load(path)
    program = importer.build_program(files.read_model(path), min_size=0)
    declared = program.signature(weights=False)
    Canonicalize().run(program, Context(jobs=1))
    assert program.signature(weights=False) == declared
    assert [s.value_name for s in program.sites] == [
        s.value_name for s in ir.weight_sites(program.proto.graph) if s.value_name in {r.name for r in program.records}
    ]
    if runs(given):
        feed = feed_of(path, given)
        assert same(run(given, feed), run(open_weights(program, ()), feed), exact=False)


@pytest.mark.parametrize("name", [*NAMES, *PATHS], ids=lambda n: n if isinstance(n, str) else n.parent.name)
def test_where_it_sees_no_work_there_is_none(name: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the survey of the message skips would have changed nothing and said nothing."""
    given = GRAPHS[name]()[0] if isinstance(name, str) else onnx.load(name)
    if has_work(importer.build_program(files.read_model(given), min_size=0).proto.graph):
        pytest.skip("there may be some")
    found = [canonical(given)]
    monkeypatch.setattr("dc_compiler.passes.canonicalize.canonicalize.has_work", lambda _: True)
    found.append(canonical(given))
    (one, before), (other, after) = found
    assert one.proto == other.proto
    assert [(r.name, r.uses, r.tied, r.exact) for r in one.records] == [
        (r.name, r.uses, r.tied, r.exact) for r in other.records
    ]
    assert (one.notes, before.changed, before.facts) == (other.notes, after.changed, after.facts)


def test_a_graph_without_work_is_not_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links between nodes are made only where something may come of it: each kind of work is seen."""

    def refuse(_: object) -> None:
        raise AssertionError("linked")

    plain = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])]
    stored = {"w": normal(4, 4), "b": normal(4)}

    def graph(*nodes: onnx.NodeProto, names: str = "w") -> onnx.GraphProto:
        tensors = {name: stored[name] for name in names}
        return model([*nodes], [value("x", "n", 4)], [value("y", "n", 4)], tensors).graph

    assert not has_work(graph(*plain))
    assert has_work(graph(*plain, names="wb"))  # nothing uses b
    assert has_work(graph(*plain, node("Neg", ["h"], ["dead"])))
    assert has_work(graph(plain[0], node("Identity", ["h"], ["y"])))
    assert has_work(graph(node("Transpose", ["w"], ["v"]), node("MatMul", ["x", "v"], ["y"])))
    bias = node("Constant", [], ["c"], value=numpy_helper.from_array(stored["b"]))
    negative = [node("Neg", ["c"], ["d"]), node("Add", ["h", "d"], ["y"])]
    assert has_work(graph(plain[0], bias, *negative))
    normalized = node("BatchNormalization", ["h", "b", "b", "b", "b"], ["y"])
    assert has_work(graph(plain[0], normalized, names="wb"))
    monkeypatch.setattr("onnx_graphsurgeon.import_onnx", refuse)
    program, report = canonical(model(plain, [value("x", "n", 4)], [value("y", "n", 4)], {"w": stored["w"]}))
    assert (ops(program), report.changed, program.notes) == (["MatMul", "Relu"], 0, [])


def test_a_body_keeps_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that only a body takes is used; one that a body has under the same name is not."""
    inner = helper.make_graph([node("Neg", ["taken"], ["z"])], "inner", [], [value("z", "n", 4)])
    own = helper.make_graph(
        [node("Neg", ["x"], ["dead"]), node("Abs", ["dead"], ["z2"])], "own", [], [value("z2", "n", 4)]
    )
    branch = node("If", ["flag"], ["y"], then_branch=inner, else_branch=own)
    inputs = [value("x", "n", 4), value("flag", kind=TensorProto.BOOL)]
    nodes = [node("MatMul", ["x", "w"], ["taken"]), branch]
    graph = helper.make_graph(nodes, "g", inputs, [value("y", "n", 4)], [numpy_helper.from_array(normal(4, 4), "w")])
    assert not has_work(graph)
    graph.node.insert(0, node("Abs", ["x"], ["dead"]))
    assert has_work(graph)


def test_the_corpus_is_all_of_it() -> None:
    assert len(PATHS) >= 140
