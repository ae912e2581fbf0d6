"""Weights rounded in the order of their use, each on its inputs as those before have left them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from classifier import classifier, data
from onnx import helper
from single_layers import network, normal, numbers, opened

import dc_compiler
from dc_compiler import ir
from dc_compiler.calibration import grams, pieces
from dc_compiler.calibration.calibration import Calibration
from dc_compiler.calibration.grams import Moments, collect
from dc_compiler.calibration.order import Order
from dc_compiler.calibration.products import find_products
from dc_compiler.errors import InvalidArgumentError, ModelError
from dc_compiler.model import files, importer
from dc_compiler.ort.samples import Samples
from dc_compiler.pass_manager import Context
from dc_compiler.passes.cluster import Cluster
from dc_compiler.passes.cluster.compensate import DAMPING_OF_LAG, caught_up
from dc_compiler.recipe import parse_pipeline

Array = np.ndarray


def chain() -> onnx.ModelProto:
    """Three layers one behind the other."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["xa"]),
        helper.make_node("Relu", ["xa"], ["ra"]),
        helper.make_node("MatMul", ["ra", "b"], ["rb"]),
        helper.make_node("Tanh", ["rb"], ["tb"]),
        helper.make_node("MatMul", ["tb", "c"], ["y"]),
    ]
    return network(nodes, (6,), a=normal(6, 8, seed=1), b=normal(8, 5, seed=2), c=normal(5, 4, seed=3))


def branches() -> onnx.ModelProto:
    """Queries, keys and values of one input, of which the keys' weight is turned before use; then one layer behind."""
    nodes = [
        helper.make_node("Transpose", ["k"], ["kt"]),
        helper.make_node("MatMul", ["x", "q"], ["xq"]),
        helper.make_node("MatMul", ["x", "kt"], ["xk"]),
        helper.make_node("Add", ["xq", "xk"], ["qk"]),
        helper.make_node("MatMul", ["x", "v"], ["xv"]),
        helper.make_node("Mul", ["qk", "xv"], ["m"]),
        helper.make_node("MatMul", ["m", "o"], ["y"]),
    ]
    weights = {name: normal(6, 6, seed=i) for i, name in enumerate("qkvo")}
    return network(nodes, (6,), **weights)


def shared() -> onnx.ModelProto:
    """A weight used twice, once before and once behind another one."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("MatMul", ["h", "b"], ["i"]),
        helper.make_node("MatMul", ["i", "a"], ["y"]),
    ]
    return network(nodes, (6,), a=normal(6, 6, seed=1), b=normal(6, 6, seed=2))


def halves() -> onnx.ModelProto:
    """A Split of which only a part is used at once, and the other behind the first layer."""
    nodes = [
        helper.make_node("Split", ["x"], ["l", "r"], axis=1),
        helper.make_node("MatMul", ["l", "a"], ["h"]),
        helper.make_node("Mul", ["h", "r"], ["m"]),
        helper.make_node("MatMul", ["m", "b"], ["y"]),
    ]
    return network(nodes, (6,), a=normal(3, 3, seed=1), b=normal(3, 4, seed=2))


def ordered(model: onnx.ModelProto, x: Array, *, threads: int = 1) -> tuple[ir.Program, Order]:
    """The program, whose weights may be changed, and its weights in order."""
    samples = Samples({"x": x}, None, files.read_model(model), trains=False, threads=threads)
    program = importer.build_program(files.read_model(model), min_size=1)
    return program, Order(program, samples, np.arange(len(x)), {r.name for r in program.weights()})


@pytest.mark.parametrize(
    ("model", "stages"),
    [(chain, "a b c"), (branches, "kqv o"), (shared, "a b"), (halves, "a b")],
)
def test_stages(model: Any, stages: str) -> None:
    _, order = ordered(model(), normal(4, 6))
    assert ["".join(sorted(s.names)) for s in order.stages] == stages.split()


def activated(name: str, values: Array) -> Array:
    """What :func:`chain` makes of the products of a weight."""
    return np.asarray(np.maximum(values, 0) if name == "a" else np.tanh(values))


def test_inputs_are_those_of_changed_weights_and_lag_is_what_the_originals_have_beyond() -> None:
    """Against the layers in NumPy, whatever was changed before."""
    x = normal(70, 6)
    program, order = ordered(chain(), x)
    weights = {r.name: r for r in program.weights()}
    a, b, c = (weights[n].values.astype(np.float64) for n in "abc")
    before = now = x.astype(np.float64)
    for stage, layer, new in zip(order.stages, (a, b, c), (a + 0.05, b - 0.02, c), strict=True):
        found = order.grams(stage)[stage.names[0]][0].moments
        assert found.lag is not None
        np.testing.assert_allclose(found.products[0], now.T @ now / len(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.means[0], now.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.lag.products[0], (before - now).T @ now / len(x), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found.lag.means[0], (before - now).mean(axis=0), rtol=1e-3, atol=1e-5)
        weights[stage.names[0]].values = new.astype(np.float32)
        before, now = (activated(stage.names[0], rows @ w) for rows, w in ((before, layer), (now, new)))


def mixed() -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Convolutions, one of them grouped and one transposed, and a recurrent layer behind them."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h1"], pads=[1, 1], strides=[2]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Conv", ["h2", "b"], ["h3"], group=2),
        helper.make_node("ConvTranspose", ["h3", "c"], ["h4"], strides=[2]),
        helper.make_node("Transpose", ["h4"], ["h5"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["h5", "w", "r"], ["", "h6"], hidden_size=5),
        helper.make_node("Squeeze", ["h6", "first"], ["h7"]),
        helper.make_node("MatMul", ["h7", "d"], ["y"]),
    ]
    shapes = {"a": (4, 3, 3), "b": (6, 2, 3), "c": (6, 4, 2), "w": (1, 20, 4), "r": (1, 20, 5), "d": (5, 3)}
    weights = {name: normal(*shape, seed=i) / 2 for i, (name, shape) in enumerate(shapes.items())}
    return network(nodes, (3, 15), first=numbers(0), **weights), (3, 15)


def test_without_changes_statistics_are_those_of_the_whole_program() -> None:
    model, shape = mixed()
    x = normal(40, *shape)
    program, samples = opened(model, x)
    known = collect(program, samples)
    order = Order(program, samples, np.arange(40), known.keys())
    assert [s.names for s in order.stages] == [("a",), ("b",), ("c",), ("r", "w"), ("d",)]
    for stage in order.stages:
        for name, found in order.grams(stage).items():
            assert found[0].place == known[name][0].place
            now, wanted = found[0].moments, known[name][0].moments
            assert now.lag is not None
            np.testing.assert_allclose(now.products, wanted.products, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(now.means, wanted.means, rtol=1e-4, atol=1e-5)
            assert not now.lag.products.any()
            assert not now.lag.means.any()


def test_graphs_of_too_many_pieces_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dc_compiler.calibration.order.MOST_WORK", 5 * 3 - 1)
    with pytest.raises(ModelError, match="3 pieces of a graph of 5 nodes would take too long; leave"):
        ordered(chain(), normal(4, 6))


def test_every_use_of_a_weight_counts() -> None:
    x = normal(40, 6)
    program, order = ordered(shared(), x)
    a, b = (r.values.astype(np.float64) for r in program.weights())
    found = order.grams(order.stages[0])["a"][0].moments
    rows = np.concatenate([x, x @ a @ b])
    np.testing.assert_allclose(found.products[0], rows.T @ rows / len(rows), rtol=1e-3, atol=1e-4)


def test_each_node_runs_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the nodes before a stage, only those behind the stage before."""
    run: list[list[str]] = []
    cut = pieces._cut

    def seen(graph: onnx.GraphProto, *rest: Any) -> None:
        cut(graph, *rest)
        run.append([n.op_type for n in graph.node])

    monkeypatch.setattr(pieces, "_cut", seen)
    _, order = ordered(chain(), normal(4, 6))
    for stage in order.stages:
        order.grams(stage)
    assert run == [["MatMul", "Relu"]] * 2 + [["MatMul", "Tanh"]] * 2  # of the original and the program


def test_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last batches, from where their values take too much memory on."""
    x = normal(70, 6)
    monkeypatch.setattr(pieces, "MOST_BYTES", 2 * 64 * 8 * 4)  # two batches of 32 samples with 8 values in two programs
    program, order = ordered(chain(), x)
    a = next(r for r in program.weights() if r.name == "a").values
    first, second = (order.grams(s)[n][0].moments for s, n in zip(order.stages, "ab", strict=False))
    np.testing.assert_allclose(first.products[0], x.T @ x / 70, rtol=1e-4, atol=1e-5)
    rows = np.maximum(x @ a, 0)[:64]
    np.testing.assert_allclose(second.products[0], rows.T @ rows / 64, rtol=1e-4, atol=1e-5)


def test_rows_that_went_another_way_tell_nothing_of_errors() -> None:
    """But they are inputs all the same."""
    layer = network([helper.make_node("MatMul", ["x", "w"], ["y"])], (3,), w=normal(3, 2))
    program, _ = opened(layer, normal(2, 3))
    before = np.array([[1, 1, 0], [1, 0, 1]], np.float32)
    now = np.array([[1.2, 1, 0], [0, 1, 1]], np.float32)
    sources = next(iter(grams.sources_of(find_products(program)).values()))
    total = grams.added(None, sources, 0.5, now, before)[0].sums
    assert total.lag is not None
    np.testing.assert_allclose(total.products[0], now.T @ now, rtol=1e-6)
    np.testing.assert_allclose(total.lag.means[0], [-0.2, 0, 0], atol=1e-6)
    np.testing.assert_allclose(
        total.lag.products[0], np.diag([-0.24, 0, 0]) + np.outer([1, 0, 0], [0, -0.2, 0]), atol=1e-6
    )


def test_catching_up_is_damped_least_squares() -> None:
    """The obvious way: rows of the damping below the samples."""
    x, w = normal(50, 6).astype(np.float64), normal(2, 3, 6, seed=1).astype(np.float64)
    now = x + 0.3 * normal(50, 6, seed=2) + 0.1
    lag = Moments(((x - now).T @ now / 50)[None], (x - now).mean(axis=0)[None])
    moments = Moments((now.T @ now / 50)[None], now.mean(axis=0)[None], lag)
    damping = np.sqrt(DAMPING_OF_LAG * np.square(now).mean()) * np.eye(6)
    for matrix, found in zip(w, caught_up(w, moments), strict=True):
        rows = np.concatenate([now / np.sqrt(50), damping])
        wanted = np.concatenate([x / np.sqrt(50), damping]) @ matrix.T
        np.testing.assert_allclose(found.T, np.linalg.lstsq(rows, wanted, rcond=None)[0], rtol=1e-6)
    np.testing.assert_array_equal(caught_up(w, Moments(moments.products, moments.means)), w)


def test_centred_moments_are_those_of_centred_rows() -> None:
    x = normal(80, 4).astype(np.float64) + 2
    now = x + 0.2 * normal(80, 4, seed=1) - 0.1
    lag = Moments(((x - now).T @ now / 80)[None], (x - now).mean(axis=0)[None])
    found = Moments((now.T @ now / 80)[None], now.mean(axis=0)[None], lag).centred().lag
    assert found is not None
    beyond = (x - now) - (x - now).mean(axis=0)
    np.testing.assert_allclose(found.products[0], beyond.T @ (now - now.mean(axis=0)) / 80, rtol=1e-6, atol=1e-9)


def rounded(sequential: bool, step: float, threads: int = 1, seed: int = 0) -> tuple[Calibration, ir.Program]:
    """The classifier with its weights on coarse grids."""
    source = files.read_model(classifier())
    samples = Samples({"x": data()["x"]}, None, source, trains=False, calibrates=True, threads=threads, seed=seed)
    program = importer.build_program(files.read_model(classifier()), min_size=1)
    calibration = Calibration(program, samples)
    text = f"cluster(grid,step={step},calibrate=true,rate=0.3,sequential={str(sequential).lower()})"
    context = Context(calibration=calibration, samples=samples, jobs=threads)
    cluster = parse_pipeline(text)[0]
    assert isinstance(cluster, Cluster)
    cluster.run(program, context)
    return calibration, program


@pytest.mark.parametrize("step", [0.4, 0.8])
def test_outputs_are_nearer_to_the_originals(step: float) -> None:
    """On samples that no statistics were taken of."""
    found = []
    for sequential in (False, True):
        calibration, program = rounded(sequential, step)
        assert all(r.clustered is not None for r in program.weights())
        found.append(calibration.judge.of(program))
    assert found[1].typical < 0.9 * found[0].typical
    assert found[1].divergence < 0.95 * found[0].divergence


def test_threads_do_not_matter() -> None:
    one, two = (rounded(True, 0.5, threads)[1] for threads in (1, 2))
    for a, b in zip(one.records, two.records, strict=True):
        np.testing.assert_array_equal(a.values, b.values)


def test_biases_make_up_for_what_was_changed_before() -> None:
    """Mean outputs of a layer behind another one are the original's, on the samples of the statistics."""
    nodes = [
        helper.make_node("Gemm", ["x", "a", "p"], ["g"]),
        helper.make_node("Relu", ["g"], ["r"]),
        helper.make_node("Gemm", ["r", "b", "q"], ["y"]),
    ]
    shapes = {"a": (8, 60), "p": (60,), "b": (60, 12), "q": (12,)}
    stored = {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    model = network(nodes, (8,), **stored)
    samples = Samples({"x": np.abs(normal(200, 8)) + 1}, None, files.read_model(model), trains=False, calibrates=True)
    drift = []
    for sequential in (False, True):
        program = importer.build_program(files.read_model(model), min_size=1)
        context = Context(calibration=Calibration(program, samples))
        Cluster(mode="grid", step=1.0, calibrate=True, sequential=sequential).run(program, context)
        x = samples.take(samples.parts().train)["x"].astype(np.float64)
        now = {r.name: r.values.astype(np.float64) for r in program.records}

        def outputs(w: dict[str, Array], x: Array = x) -> Array:
            return np.asarray(np.maximum(x @ w["a"] + w["p"], 0) @ w["b"] + w["q"])

        drift.append(
            np.abs((outputs(now) - outputs({n: v.astype(np.float64) for n, v in stored.items()})).mean(axis=0))
        )
    assert drift[1].max() < 0.01 < drift[0].max()


def test_weights_of_bodies_are_rounded_on_the_originals_inputs() -> None:
    """They cannot be run in pieces."""
    body = helper.make_graph(
        [helper.make_node("MatMul", ["h", "a"], ["t"])], "body", [],
        [helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Identity", ["h"], ["u"])], "other", [],
        [helper.make_tensor_value_info("u", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "b"], ["h"]),
        helper.make_node("If", ["yes"], ["i"], then_branch=body, else_branch=other),
        helper.make_node("MatMul", ["i", "c"], ["y"]),
    ]
    weights = {name: normal(6, 6, seed=i) for i, name in enumerate("abc")}
    model = network(nodes, (6,), yes=np.array(True), **weights)
    _, order = ordered(model, normal(9, 6))
    assert [s.names for s in order.stages] == [("b",), ("c",)]
    assert [list(order.grams(s)) for s in order.stages] == [["b"], ["c"]]


def test_values_that_are_no_tensors_cannot_be_kept() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("SequenceConstruct", ["h", "x"], ["s"]),
        helper.make_node("MatMul", ["h", "b"], ["i"]),
        helper.make_node("SequenceAt", ["s", "zero"], ["t"]),
        helper.make_node("Add", ["i", "t"], ["y"]),
    ]
    model = network(nodes, (6,), a=normal(6, 6), b=normal(6, 6, seed=1), zero=numbers(0)[0])
    _, order = ordered(model, normal(9, 6))
    order.grams(order.stages[0])
    with pytest.raises(ModelError, match="in pieces"):
        order.grams(order.stages[1])
    pipeline = "cluster(grid,step=0.5,calibrate=true,sequential=true),encode"
    result = dc_compiler.compile_model(model, pipeline=pipeline, data={"x": normal(64, 6)}, max_drop=50, min_size=1)
    assert "sequential" not in result.report.pipeline


def test_it_needs_statistics() -> None:
    with pytest.raises(InvalidArgumentError, match="calibrate=true"):
        parse_pipeline("cluster(grid,sequential=true)")
