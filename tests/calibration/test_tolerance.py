"""Without data: the step that a model bears is found on made-up inputs; where nothing tells, the near-lossless one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifier import classifier, data
from onnx import TensorProto, helper, numpy_helper

from dc_compiler import compile_model, ir, unpack_model
from dc_compiler.calibration import tolerance
from dc_compiler.calibration.tolerance import LADDER, SAFE, Probe
from dc_compiler.compiler import CompileResult
from dc_compiler.model import files, importer
from dc_compiler.ort import made_up, quality, verify, witnesses
from dc_compiler.ort.data import input_specs
from dc_compiler.ort.sessions import Sessions
from dc_compiler.pass_manager import Context
from dc_compiler.passes.cluster import Cluster
from dc_compiler.pipeline.manager import run_passes

Array = np.ndarray
NEAR_LOSSLESS = LADDER[0]


def model(nodes: list[onnx.NodeProto], weights: dict[str, Array], **outputs: int) -> onnx.ModelProto:
    """With an input x, float32 [n, 32], and outputs of so many columns."""
    x, *ys = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n, k in {"x": 32, **outputs}.items())
    stored = [numpy_helper.from_array(w, k) for k, w in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], ys, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weight(*shape: int, gain: float = 1.0, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    return np.asarray(random.standard_normal(shape) * gain / shape[-2] ** 0.5, np.float32)


@functools.cache
def magnifier(depth: int = 8) -> onnx.ModelProto:
    """Layers that turn a small change into a large one: each stretches it by much and folds it by a sine."""
    nodes, weights, value = [], {}, "x"
    for i in range(depth):
        weights[f"w{i}"] = weight(32 if i == 0 else 64, 64, gain=1.7, seed=i)
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Sin", [f"m{i}"], [value := f"s{i}"]))
    nodes[-1].output[0] = "y"
    return model(nodes, weights, y=64)


@functools.cache
def decoder() -> onnx.ModelProto:
    """Six steps that take the largest of 32 scores, which are close together, as the next token."""
    weights = {"w": weight(32, 64), "e": weight(32, 64, gain=6.0, seed=1), "s": weight(64, 32, seed=2)}
    nodes, state = [helper.make_node("MatMul", ["x", "w"], ["h0"])], "h0"
    for i in range(6):
        nodes += [
            helper.make_node("MatMul", [state, "s"], [f"y{i}"]),
            helper.make_node("ArgMax", [f"y{i}"], [f"t{i}"], axis=1, keepdims=0),
            helper.make_node("Gather", ["e", f"t{i}"], [f"g{i}"]),
            helper.make_node("Add", [state, f"g{i}"], [f"a{i}"]),
            helper.make_node("Tanh", [f"a{i}"], [state := f"h{i + 1}"]),
        ]
    nodes.append(helper.make_node("Concat", [f"y{i}" for i in range(6)], ["y"], axis=1))
    return model(nodes, weights, y=192)


def with_body() -> onnx.ModelProto:
    """A weight in each branch of an If."""
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [1])
    y = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    branches = [
        helper.make_graph(
            [helper.make_node("MatMul", ["x", name], ["b"])],
            name,
            [],
            [y],
            [numpy_helper.from_array(weight(32, 64), name)],
        )
        for name in ("p", "q")
    ]
    net = model([helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])], {}, y=64)
    net.graph.input.append(c)
    return net


def compiled(net: onnx.ModelProto, **options: Any) -> CompileResult:
    return compile_model(net, **options)


def step_of(result: CompileResult) -> float:
    found = [n for n in result.report.notes if n.startswith("no data: the step of cluster is ")]
    assert len(found) == 1
    return float(found[0].removeprefix("no data: the step of cluster is ").split(";")[0])


def probe(net: onnx.ModelProto, held: bool = True) -> tuple[Probe, ir.Program]:
    source = files.read_model(net)
    program = importer.build_program(source, min_size=1024)
    session = Sessions().open(net)
    feeds = made_up.rich_feeds(session, input_specs(net), net, 0)
    return Probe(program, feeds, Context(), Sessions()), program


def rounded(program: ir.Program, step: float) -> ir.Program:
    result = program.copy()
    run_passes([Cluster(mode="grid", step=step)], result, Context())
    return result


def error(net: onnx.ModelProto, other: onnx.ModelProto, x: Array) -> float:
    one, two = (Sessions().open(m).run(None, {"x": x})[0] for m in (net, other))
    return float(np.square(one - two).mean() / one.var())


def test_what_a_model_bears() -> None:
    robust, fragile = compiled(classifier()), compiled(magnifier())
    assert step_of(robust) >= 0.27
    assert f"cluster(mode=grid,step={step_of(robust)},shorten=true)" in robust.report.pipeline
    assert step_of(fragile) == NEAR_LOSSLESS
    assert "even that moves the outputs by" in "".join(fragile.report.notes)
    assert "step=" not in fragile.report.pipeline
    assert robust.report.ratio > 1.3 * fragile.report.ratio


def test_real_inputs_move_as_little() -> None:
    """On inputs of another distribution than the made-up ones."""
    x = np.abs(data(256)["x"]) * 2
    assert error(classifier(), compiled(classifier()).model, x) < 1.5 * SAFE


def test_what_is_tried_is_what_rounding_does() -> None:
    judge, program = probe(classifier())
    for step in (0.08, 0.32):
        wanted = judge.error_of(rounded(program, step))
        for offset in (0.0, 0.37):
            assert 0.5 < judge.error(Cluster(mode="grid"), step, offset) / wanted < 2


def test_errors_keep_the_mean_of_each_channel() -> None:
    _, program = probe(classifier())
    tried = Cluster(mode="grid", step=0.3).tried(program, Context(), 0.37)
    exactly = rounded(program, 0.3)
    for before, after, other in zip(program.weights(), tried.weights(), exactly.weights(), strict=True):
        errors = after.values.astype(np.float64) - before.values
        assert 0.95 < errors.std() / (other.values - before.values).std() < 1.05
        assert np.abs(errors.sum(axis=0)).max() < 1e-3 * np.abs(errors).sum(axis=0).min()


def test_models_are_held_to_the_same_choices() -> None:
    """Another token is no measure of how far a step moves the scores that it was chosen by."""
    net = decoder()
    found = witnesses.find(net)
    assert found.outputs == (tuple(f"y{i}" for i in range(6)),)
    assert found.thresholds == frozenset()
    assert found.choices == tuple(f"t{i}" for i in range(6))
    judge, program = probe(net)
    x = np.random.default_rng(3).standard_normal((64, 32)).astype(np.float32)
    compiled_model = compiled(net, pipeline="canonicalize,cluster(grid,step=0.32),encode").model
    held, free = judge.error_of(rounded(program, 0.32)), error(net, compiled_model, x)
    assert 0.001 < held < 0.1
    assert free > 3 * held


def test_witnesses_of_probabilities() -> None:
    weights = {"a": weight(32, 64), "b": weight(64, 40)}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Sigmoid", ["h"], ["p"]),
        helper.make_node("MatMul", ["p", "b"], ["l"]),
        helper.make_node("Softmax", ["l"], ["q"]),
        helper.make_node("Concat", ["p", "q"], ["y"], axis=1),
        helper.make_node("Identity", ["l"], ["z"]),
    ]
    found = witnesses.find(model(nodes, weights, y=104, z=40))
    assert found.outputs == (("h", "l"), ("l",))
    assert found.values == ["h", "l"]
    assert found.thresholds == {"h"}
    assert found.choices == ()


@pytest.mark.parametrize(("last", "share"), [("Sigmoid", 0.25), ("Tanh", 1.0)])
def test_scores_of_places_bear_less(last: str, share: float) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "a"], ["h"]),
        helper.make_node(last, ["h"], ["y"]),
    ]
    net = model(nodes, {"a": weight(32, 64), "shape": np.array([-1, 1, 32], np.int64)}, y=64)
    net.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 64]))
    judge, _ = probe(net)
    assert judge.safe == share * SAFE
    wanted = 0.08 * (judge.safe / judge.error(Cluster(mode="grid"), 0.08)) ** 0.5
    assert 0.6 < step_of(compiled(net)) / min(wanted, LADDER[-1]) < 1.1


def test_models_that_keep_few_places_bear_less() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("TopK", ["h", "k"], ["y", "places"], axis=1),
    ]
    judge, _ = probe(model(nodes, {"a": weight(32, 64), "k": np.array([4], np.int64)}, y=4))
    assert judge.safe == SAFE / 4


def test_nothing_is_said_where_there_is_no_weight() -> None:
    report = compiled(model([helper.make_node("Relu", ["x"], ["y"])], {}, y=32)).report
    assert not any("no data" in n for n in report.notes)


def test_the_result_is_a_plain_pipeline() -> None:
    found = compiled(classifier())
    again = compiled(classifier(), pipeline=found.report.pipeline)
    assert again.model.SerializeToString() == found.model.SerializeToString()


def test_threads_change_nothing() -> None:
    one, two = (compiled(classifier(), jobs=n).model.SerializeToString() for n in (1, 2))
    assert one == two


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"pipeline": "canonicalize,cluster(grid),encode"}, "cluster(mode=grid)"),
        ({"bits": 4}, "cluster(mode=kmeans,bits=4)"),
        ({"density": 0.5}, "cluster(mode=grid)"),
    ],
)
def test_what_is_spelled_out_stays(options: dict[str, Any], step: str) -> None:
    report = compiled(classifier(), **options).report
    assert step.replace("mode=kmeans,", "") in report.pipeline.replace("mode=kmeans,", "")
    assert not any(n.startswith("no data") for n in report.notes)


@pytest.mark.parametrize(("safe", "taken"), [(0.08, 0.15), (0.27, 0.27)])
def test_the_step_of_a_preset_is_the_least(safe: float, taken: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tolerance, "tolerance", lambda *_: tolerance.Tolerance(safe, "so it is"))
    report = compiled(classifier(), preset="smallest").report
    assert f"step={taken:g}" in report.pipeline
    assert any(n.startswith(f"no data: the step of cluster is {taken:g}; ") for n in report.notes)


def test_smallest_is_no_larger_than_the_default() -> None:
    smallest, default = (compiled(classifier(), preset=name).report for name in ("smallest", "default"))
    assert smallest.output_bytes <= default.output_bytes


def test_small_weights_count_and_vectors_are_short(tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(classifier())
    random = np.random.default_rng(1)
    added = {"bias": random.standard_normal(128), "small": random.standard_normal((8, 64))}
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in added.items())
    model.graph.node[1].input[0] = "biased"
    model.graph.node.insert(1, helper.make_node("Add", ["ma", "bias"], ["biased"]))
    model.graph.node[-1].input[0] = "turned"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 64
    model.graph.node.insert(6, helper.make_node("MatMul", ["mc", "small"], ["turned"]))
    report = compile_model(model, tmp_path / "out.onnx").report
    assert next(t for t in report.tensors if t.name == "small").codebook is not None
    stored = {t.name: numpy_helper.to_array(t) for t in unpack_model(tmp_path / "out.onnx").graph.initializer}
    assert not (stored["bias"].view(np.uint32) & 0xFFFF).any()
    assert stored["bias"] == pytest.approx(added["bias"], rel=2**-8)
    again = compile_model(model, pipeline=report.pipeline, min_size=16)
    assert again.model.SerializeToString() == (tmp_path / "out.onnx").read_bytes()


def test_filters_by_themselves_stay() -> None:
    """A resampler, say; its taps are no weights that somebody trained."""
    taps = np.random.default_rng(0).standard_normal((4, 1, 200)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "taps"], ["y"])], "filter",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 801])], [numpy_helper.from_array(taps, "taps")],
    )  # fmt: skip
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    report = compiled(net).report
    assert report.tensors[0].codebook is None
    assert report.verification is not None
    assert report.verification.weights_unchanged or report.verification.outputs[0].same_bits


def scaled_scores() -> onnx.ModelProto:
    """The classifier's sigmoids, times four and plus one: opinion scores, say; on noise they are all sure."""
    net = onnx.ModelProto()
    net.CopyFrom(classifier())
    nodes, graph = net.graph.node, net.graph
    nodes[-1].output[0] = "logits"
    more = [("loud", 50.0), ("four", 4.0), ("one", 1.0)]
    graph.initializer.extend(numpy_helper.from_array(np.array(v, np.float32), k) for k, v in more)
    nodes.append(helper.make_node("Mul", ["logits", "loud"], ["louder"]))
    nodes.append(helper.make_node("Sigmoid", ["louder"], ["score"]))
    nodes.append(helper.make_node("Mul", ["score", "four"], ["fourfold"]))
    nodes.append(helper.make_node("Add", ["one", "fourfold"], ["y"]))
    return net


def test_scores_that_are_scaled_are_seen_before_their_sigmoid() -> None:
    assert witnesses.find(scaled_scores()).outputs == (("mc",),)


def test_few_numbers_tell_nothing() -> None:
    """Two scores of a model that takes one sample at a time: their spread is that between two opinions."""
    net = onnx.ModelProto()
    net.CopyFrom(classifier())
    net.graph.node.append(helper.make_node("ReduceMean", ["y"], ["mean"], axes=[1]))
    net.graph.output[0].name = "mean"
    net.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    for value in (net.graph.input[0], net.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    result = compiled(net)
    assert step_of(result) == NEAR_LOSSLESS
    assert "gives no more than 2 numbers on made-up inputs" in "".join(result.report.notes)


def test_weights_with_steps_of_their_own() -> None:
    result = compiled(classifier(), set="b:step=0.02")
    assert f"cluster(mode=grid,step={step_of(result)},shorten=true)" in result.report.pipeline
    entries = {t.name: t.codebook for t in result.report.tensors}
    assert (entries["b"] or 0) > 4 * (entries["a"] or 0)


def test_weights_in_bodies_stay_near_lossless() -> None:
    result = compiled(with_body())
    assert step_of(result) == NEAR_LOSSLESS
    assert "bodies of If, Loop or Scan use weights" in "".join(result.report.notes)


def test_outputs_that_no_weight_moves() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Mul", ["h", "zero"], ["n"]),
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("ReduceSum", ["n"], ["s"], keepdims=1),
        helper.make_node("Add", ["y", "s"], ["z"]),
    ]
    net = model(nodes, {"a": weight(32, 64), "zero": np.zeros(1, np.float32)}, z=32)
    result = compiled(net)
    assert step_of(result) == NEAR_LOSSLESS
    assert "changed weights do not move the outputs" in "".join(result.report.notes)


@pytest.mark.parametrize("kind", ["Relu", "Sqrt"])
def test_outputs_that_say_nothing(kind: str) -> None:
    """A weight may move nothing but an output that is constant, or not finite, for whatever is made up."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["y"]),
        helper.make_node("MatMul", ["x", "b"], ["h"]),
        helper.make_node("Abs", ["h"], ["p"]),
        helper.make_node("Neg", ["p"], ["n"]),
        helper.make_node(kind, ["n"], ["z"]),
    ]
    result = compiled(model(nodes, {"a": weight(32, 64), "b": weight(32, 64, seed=1)}, y=64, z=64), force=True)
    assert step_of(result) == NEAR_LOSSLESS
    assert "an output is constant or not finite on made-up inputs" in "".join(result.report.notes)


@pytest.mark.parametrize(("limit", "reason"), [("MOST_BYTES", "too much memory"), ("MOST_NODES", "too long")])
def test_too_large_to_try(limit: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tolerance, limit, 3)
    result = compiled(classifier())
    assert step_of(result) == NEAR_LOSSLESS
    assert f"to try would take {reason}" in "".join(result.report.notes)


def test_what_looks_ruined_is_made_near_lossless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model that compiled before does so still: here the first result is called ruined."""
    plain = compiled(classifier(), pipeline="canonicalize,cluster(grid),encode", min_size=16).model
    seen: list[verify.Verification] = []

    def catastrophe(result: verify.Verification) -> str | None:
        seen.append(result)
        return "ruined" if len(seen) == 1 else None

    monkeypatch.setattr(quality, "catastrophe", catastrophe)
    result = compile_model(classifier(), tmp_path / "out.onnx")
    assert step_of(result) == NEAR_LOSSLESS
    assert result.model.SerializeToString() == plain.SerializeToString()
    assert (tmp_path / "out.onnx").read_bytes() == plain.SerializeToString()


def test_rich_feeds() -> None:
    """Batches, no masks, and codes where there is nothing but integers."""
    table = numpy_helper.from_array(weight(50, 16), "table")
    ids, mask = (helper.make_tensor_value_info(n, TensorProto.INT64, ["n", "t"]) for n in ("ids", "mask"))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "last"], ["u"]),
        helper.make_node("Mul", ["e", "u"], ["y"]),
    ]
    last = numpy_helper.from_array(np.array([2], np.int64), "last")
    net = helper.make_model(
        helper.make_graph(nodes, "g", [ids, mask], [y], [table, last]), opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )  # fmt: skip
    feeds = made_up.rich_feeds(Sessions().open(net), input_specs(net), net, 0)
    assert [f["ids"].shape for f in feeds] == [(8, 64), (8, 64)]
    assert all((f["mask"] == 1).all() and f["ids"].min() >= 0 and f["ids"].max() == 49 for f in feeds)
    assert not np.array_equal(feeds[0]["ids"], feeds[1]["ids"])
    del net.graph.node[1:], net.graph.input[1]
    net.graph.node[0].CopyFrom(helper.make_node("Cast", ["ids"], ["y"], to=TensorProto.FLOAT))
    (feed, _) = made_up.rich_feeds(Sessions().open(net), input_specs(net), net, 0)
    assert 100 < feed["ids"].max() < 128
