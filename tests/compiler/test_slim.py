"""slim: the smaller graph computes the same and still says who its inputs, outputs and weights are."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dc_compiler.codec import binding
from dc_compiler.compiler import compile_model
from dc_compiler.model import files, importer, packed
from dc_compiler.pass_manager import Context
from dc_compiler.passes.slim import Slim, _names

LENET5 = Path(__file__).parents[2] / "samples" / "lenet5.onnx"


def model() -> onnx.ModelProto:
    random = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "bias"], ["a_long_name"], name="first", alpha=1.0, beta=1.0, transB=0),
            helper.make_node("LeakyRelu", ["a_long_name"], ["another_name"], name="second", alpha=0.25),
            helper.make_node("Clip", ["another_name", "", "top"], ["y"], name="third", doc_string="clips"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [
            numpy_helper.from_array(random.standard_normal((8, 64)).astype(np.float32), "w"),
            numpy_helper.from_array(random.standard_normal(64).astype(np.float32), "bias"),
            numpy_helper.from_array(np.array(1.5, np.float32), "top"),
        ],
        value_info=[helper.make_tensor_value_info("a_long_name", TensorProto.FLOAT, ["n", 64])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name="me")


def test_what_goes_and_what_stays() -> None:
    net = importer.build_program(files.read_model(model()), min_size=16)
    report = Slim().run(net, Context(jobs=1))
    first, second, third = net.proto.graph.node
    assert [a.name for a in first.attribute] == []
    assert [a.name for a in second.attribute] == ["alpha"]
    assert list(third.input) == [second.output[0], "", "top"]
    assert (first.output[0], second.output[0], third.output[0]) == ("a", "b", "y")
    assert not any(n.name or n.doc_string for n in net.proto.graph.node)
    assert not net.proto.graph.value_info
    assert not net.proto.producer_name
    assert report.facts["bytes saved"] > 100
    assert [r.name for r in net.records] == ["w", "bias", "top"]


@pytest.mark.parametrize("emit", ["session", "graph"])
def test_the_result_computes_the_same(emit: str) -> None:
    plain, slim = (compile_model(model(), pipeline=p, emit=emit, min_size=16) for p in ("encode", "slim,encode"))
    assert slim.report.verification == plain.report.verification
    assert slim.report.output_bytes < plain.report.output_bytes


def test_bodies_still_find_outer_values() -> None:
    body = helper.make_graph(
        [helper.make_node("Neg", ["outer"], ["inside"])],
        "b",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
    )
    net = model()
    net.graph.node.insert(0, helper.make_node("Identity", ["x"], ["outer"], name="n"))
    net.graph.node[1].input[0] = "chosen"
    net.graph.node.insert(1, helper.make_node("If", ["flag"], ["chosen"], then_branch=body, else_branch=body))
    net.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    program = importer.build_program(files.read_model(net), min_size=10**6)
    Slim().run(program, Context(jobs=1))
    x = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
    before, after = (np.asarray(ReferenceEvaluator(m).run(None, {"x": x})) for m in (net, program.proto))
    assert np.array_equal(before, after)


@pytest.mark.parametrize("emit", ["session", "graph"])
def test_constants_keep_their_data(emit: str) -> None:
    """Tensors in attributes of the main graph and of bodies, too small to be packed."""
    net = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
g (float[n, 8] x, bool flag) => (float[n, 8] y) {
    one = Constant<value = float[1] {2.5}>()
    some = Constant<value = float[8] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}>()
    a = Mul(x, one)
    b = Add(a, some)
    y = If(flag) <
        then_branch = t () => (float[n, 8] r) { f = Constant<value = float[1] {0.5}>() r = Mul(b, f) },
        else_branch = e () => (float[n, 8] s) { s = Identity(b) }
    >
}""")
    result = compile_model(net, pipeline="cluster(grid),slim,encode(smallest)", min_size=0, emit=emit)
    plain = packed.unpack(result.model, "the result") if packed.is_compiled(result.model) else result.model
    x = np.random.default_rng(3).standard_normal((2, 8)).astype(np.float32)
    for flag in (True, False):
        feed = {"x": x, "flag": np.array(flag)}
        before, after = (np.asarray(ReferenceEvaluator(m).run(None, feed)) for m in (net, plain))
        np.testing.assert_allclose(after, before, rtol=0.02, atol=0.05)


def test_names_never_end() -> None:
    names = list(itertools.islice(_names(), 1000))
    assert len(set(names)) == 1000
    assert names[25:28] == ["z", "aa", "ab"]


def test_lists_that_say_what_their_absence_says_go() -> None:
    net = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
g (float[n, 2, 9, 9] x) => (float[n, 3, 2, 2] y) {
    a = Conv<kernel_shape = [2, 2], pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1]>(x, w)
    y = MaxPool<kernel_shape = [3, 3], pads = [0, 0, 0, 0], strides = [3, 3]>(a)
}""")
    weight = np.random.default_rng(2).standard_normal((3, 2, 2, 2)).astype(np.float32)
    net.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    program = importer.build_program(files.read_model(net), min_size=0)
    Slim().run(program, Context(jobs=1))
    assert [[a.name for a in n.attribute] for n in program.proto.graph.node] == [[], ["kernel_shape", "strides"]]
    result = compile_model(net, pipeline="slim,encode(lossless)", min_size=0)
    assert result.report.verification is not None
    assert result.report.verification.identical
    assert {p.key for p in result.model.metadata_props} == {"dcc.version", "dcc.original_bytes"}


def test_the_topology_of_a_slim_model_is_coded_for_size() -> None:
    """Where the file is small enough that its bytes are worth the time."""
    coders = {}
    for end in ("encode", "slim,encode"):
        compiled = compile_model(
            LENET5, pipeline=f"prune(density=0.01),cluster(rd,bits=4,vectors=true),{end}", min_size=0
        ).model
        (node,) = compiled.graph.node
        topology = next(t.raw_data for t in compiled.graph.initializer if t.name == node.input[1])
        coders[end] = binding.frame_info(topology).coder, len(topology)
    assert coders["encode"][0] == "lz"
    assert coders["slim,encode"][0] == "text"
    assert coders["slim,encode"][1] < 0.7 * coders["encode"][1]
