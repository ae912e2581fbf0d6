"""Ends of blocks: where they are found, and what holding blocks to the original's does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from small_models import context, program

from dc_compiler import ir
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.pipeline.manager import run_passes
from dc_compiler.recipe import parse_pipeline
from dc_compiler.training.blocks import MOST, ends
from dc_compiler.training.graph import TrainingGraph, make_objective, trainable
from dc_compiler.training.parameters import Parameters

Array = NDArray[Any]
WIDTH = 8


def residual(blocks: int, seed: int = 0) -> onnx.ModelProto:
    """y = the last of a_0 = x, a_(i+1) = relu(a_i + relu(a_i U_i) V_i)."""
    generator = np.random.default_rng(seed)
    nodes, weights, value = [], [], "x"
    for i in range(blocks):
        for name in "uv":
            w = 0.5 * generator.standard_normal((WIDTH, WIDTH))
            weights.append(numpy_helper.from_array(w.astype(np.float32), f"{name}{i}"))
        nodes += [
            helper.make_node("MatMul", [value, f"u{i}"], [f"p{i}"]),
            helper.make_node("Relu", [f"p{i}"], [f"q{i}"]),
            helper.make_node("MatMul", [f"q{i}", f"v{i}"], [f"r{i}"]),
            helper.make_node("Add", [value, f"r{i}"], [f"s{i}"]),
            helper.make_node("Relu", [f"s{i}"], [f"a{i}"]),
        ]
        value = f"a{i}"
    ends_with = [helper.make_tensor_value_info(value, 1, ["n", WIDTH])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, ["n", WIDTH])], ends_with, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def found(model: onnx.ModelProto, original: onnx.ModelProto | None = None) -> list[str]:
    names = {t.name for t in model.graph.initializer}
    return ends(model.graph, (original or model).graph, names, model.graph.output[0].name)


def inputs() -> dict[str, Array]:
    return {"x": np.random.default_rng(1).standard_normal((200, WIDTH)).astype(np.float32)}


def test_blocks_end_where_all_passes_through() -> None:
    """What is inside of a residual block ends none, as errors go round it; the first one's input has none."""
    assert found(residual(3)) == ["q0", "a0", "a1"]


def test_there_are_not_too_many() -> None:
    chosen = found(residual(20))
    assert len(chosen) == MOST
    numbers = [int(name[1:]) for name in chosen]
    assert np.diff(numbers).min() >= 2
    assert set("".join(name[0] for name in chosen)) <= {"a", "s"}


def test_what_a_pass_made_differently_is_not_compared() -> None:
    original = residual(3)
    original.graph.node[4].op_type = "LeakyRelu"
    assert "a0" not in found(residual(3), original)


def test_what_is_behind_the_last_weight_ends_no_block() -> None:
    assert found(residual(1)) == ["q0"]


def graph_of(net: ir.Program, model: onnx.ModelProto, blocks: list[str]) -> tuple[TrainingGraph, Parameters]:
    run = context(model, inputs(), labels=None)
    assert run.samples is not None
    records = trainable(net)
    graph = TrainingGraph(net, records, run.samples, make_objective(net, run.samples, "mse"), 16, blocks)
    return graph, Parameters(graph.records)


def test_errors_of_blocks_count_in_their_variance() -> None:
    model = residual(3)
    net = program(model)
    graph, parameters = graph_of(net, model, ["a0", "a1"])
    rows = np.arange(16)
    feed, samples = graph.samples.take(rows), graph.samples
    answer, *given = samples.original_values(["a2", "a0", "a1"], feed)
    loss, gradients = graph.step(parameters.weights, feed, answer, given, 1.0)
    assert loss == pytest.approx(0, abs=1e-9)
    off = [given[0] + 1.0, given[1] - 2.0]
    loss, gradients = graph.step(parameters.weights, feed, answer, off, 0.5)
    assert loss == pytest.approx(0.25 * (1 / graph.blocks[0].variance + 4 / graph.blocks[1].variance), rel=1e-4)
    by_name = dict(zip([r.name for r in graph.records], gradients, strict=True))
    assert np.abs(by_name["v1"]).max() > 0
    assert not by_name["v2"].any()  # nothing after it is off
    assert graph.step(parameters.weights, feed, answer, off, 0.0)[0] == pytest.approx(0, abs=1e-9)


def test_a_pass_trains_with_blocks_and_without_labels_alone() -> None:
    model = residual(3)
    run = context(model, inputs(), labels=None)
    net = program(model)
    report = run_passes(parse_pipeline("finetune(epochs=2,loss=mse,blocks=0.5)"), net, run)[0]
    assert report.facts["steps"] > 0


@pytest.mark.parametrize("text", ["finetune(blocks=-1)"])
def test_bad_options(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="blocks"):
        parse_pipeline(text)
