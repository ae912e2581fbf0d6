"""Training of a tiny network: what moves, what must not, and that it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_models import context, perceptron, program, samples, weight

import dc_compiler
from dc_compiler.errors import DataError, InvalidArgumentError, ModelError
from dc_compiler.ir import Clustered, Program
from dc_compiler.pass_manager import Context, PassManager, PassReport
from dc_compiler.passes.finetune import Finetune
from dc_compiler.recipe import parse_pipeline
from dc_compiler.training.loop import batches
from dc_compiler.training.parameters import Parameters


def run(pipeline: str, dtype: Any = np.float32, labels: str | None = "labels", **options: Any) -> Any:
    """Run a pipeline (the invariants are checked after each pass); gives the program and the passes' reports."""
    model = perceptron(dtype, **options)
    net = program(model)
    manager = PassManager([*parse_pipeline(pipeline), *parse_pipeline("encode(lossless)")])
    return net, manager.run(net, context(model, samples(dtype=dtype), labels))


def last_facts(reports: list[PassReport]) -> dict[str, Any]:
    return reports[-2].facts


def kept(net: Program, name: str) -> Any:
    """The mask of a pruned weight."""
    mask = weight(net, name).mask
    assert mask is not None
    return mask


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_it_learns(dtype: Any, optimizer: str) -> None:
    net, reports = run(f"finetune(epochs=5,lr=0.01,batch=16,optimizer={optimizer})", dtype)
    facts = last_facts(reports)
    assert facts["validation error before"] > 0.3
    assert facts["validation error after"] < 0.05
    assert all(r.values.dtype == dtype for r in net.records)


@pytest.mark.parametrize("softmax", [False, True])
def test_distillation_needs_no_labels(softmax: bool) -> None:
    """Retraining brings a pruned network back to the original's outputs, which are found below a softmax."""
    _, reports = run("prune(density=0.3),finetune(epochs=20,lr=0.01,batch=16)", labels=None, softmax=softmax)
    facts = last_facts(reports)
    assert "validation error after" not in facts
    assert facts["validation loss after"] < facts["validation loss before"] - 0.01


def test_a_softmax_in_many_nodes_is_one_too() -> None:
    """Exp, ReduceSum and Div give probabilities; the loss is that of a Softmax node."""
    scores = []
    for spelled in (False, True):
        model = perceptron(softmax=True)
        if spelled:
            del model.graph.node[-1]
            model.graph.node.append(helper.make_node("Exp", ["logits"], ["e"]))
            model.graph.node.append(helper.make_node("ReduceSum", ["e", "axis"], ["s"]))
            model.graph.node.append(helper.make_node("Div", ["e", "s"], ["y"]))
            model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "axis"))
        report = Finetune(epochs=2, lr=0.01, batch=16).run(program(model), context(model, samples()))
        scores.append(report.facts["validation loss after"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)
    assert scores[0] < 0.3


def test_mean_squared_error() -> None:
    _, reports = run("prune(density=0.3),finetune(epochs=20,lr=0.01,batch=16,loss=mse)")
    facts = last_facts(reports)
    assert facts["validation loss after"] < 0.5 * facts["validation loss before"]


def test_masks_hold_and_small_tensors_move() -> None:
    net, _ = run("prune(density=0.2),finetune(epochs=1,lr=0.01)")
    w1, b2, before = weight(net, "w1"), weight(net, "b2"), program(perceptron())
    assert w1.mask is not None
    assert np.count_nonzero(w1.values) == np.count_nonzero(w1.mask) == round(0.2 * w1.size)
    assert not np.signbit(w1.values[~w1.mask]).any()
    assert b2.reason is not None
    assert not np.array_equal(b2.values, weight(before, "b2").values)


def test_weights_are_found_wherever_they_are_stored() -> None:
    """In Constant nodes, and as inputs that may be overridden."""
    model = perceptron()
    stored = {t.name: t for t in model.graph.initializer}
    constant = helper.make_node("Constant", [], ["w1"], value=stored["w1"])
    model.graph.initializer.remove(stored["w1"])
    model.graph.node.insert(0, constant)
    model.graph.input.append(helper.make_tensor_value_info("w2", stored["w2"].data_type, stored["w2"].dims))
    net = program(model)
    before = {r.name: r.values for r in net.records}
    report = Finetune(epochs=2, lr=0.01, batch=16).run(net, context(model, samples()))
    assert report.facts["validation error after"] < 0.05
    assert not any(np.array_equal(r.values, before[r.name]) for r in net.records)


def test_a_model_with_a_fixed_batch() -> None:
    model = perceptron()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 8
    arrays = samples(600)
    report = Finetune(epochs=2, lr=0.01, validation=0.1).run(program(model), context(model, arrays))
    assert report.facts["steps"] == 2 * ((600 - 64 - 56) // 8)  # less 8 batches to check, 7 to choose by
    assert report.facts["validation error after"] < 0.05


@pytest.mark.parametrize("labels", [None, "labels"])
def test_samples_that_fill_no_batch_are_left_out(labels: str | None) -> None:
    model = perceptron()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 8
    pipeline = "prune(density=0.5),finetune(epochs=2,lr=0.01),encode"
    report = dc_compiler.compile_model(
        model, pipeline=pipeline, min_size=16, data=samples(605), labels=labels
    ).report  # fmt: skip
    assert report.samples == {"train": 600 - 64 - 56, "validation": 56, "check": 64}
    assert "5 samples that fill no batch of 8 were left out" in report.notes


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("Transpose", ["y"], ["z"], perm=[1, 0]), r"'z' has no row for each sample .* is \[3, 120\]"),
        (helper.make_node("SplitToSequence", ["y"], ["z"], axis=0), "'z' is no tensor"),
    ],
)
def test_outputs_without_a_row_for_each_sample(node: onnx.NodeProto, said: str) -> None:
    """Time before the batch, say: rows cannot be told apart, so nothing is trained on them."""
    model = perceptron()
    model.graph.node.append(node)
    make = helper.make_tensor_sequence_value_info if "Seq" in node.op_type else helper.make_tensor_value_info
    model.graph.output[0].CopyFrom(make("z", TensorProto.FLOAT, None))
    arrays = {"x": samples(120)["x"]}
    with pytest.raises(ModelError, match=said):
        dc_compiler.compile_model(model, preset="deep-compression", data=arrays, min_size=16)


@pytest.mark.parametrize(("preset", "pipeline"), [("deep-compression", None), (None, "finetune(epochs=1),encode")])
def test_an_original_that_does_not_run_on_the_samples(preset: str | None, pipeline: str | None) -> None:
    """It takes one sample at a time, but does not say so."""
    model = perceptron()
    model.graph.node.append(helper.make_node("Reshape", ["y", "one"], ["z"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 3]), "one"))
    model.graph.output[0].name = "z"
    with pytest.raises(ModelError, match=r"the original does not run on 120 samples of the data: .*Reshape"):
        dc_compiler.compile_model(
            model, preset=preset, pipeline=pipeline, data={"x": samples(120)["x"]}, min_size=16
        )  # fmt: skip


def test_constants_of_formulas_stay() -> None:
    """An exponent, an epsilon and bounds have gradients (or NaN for one), but they are no weights."""
    model = perceptron()
    nodes = [
        helper.make_node("Pow", ["y", "two"], ["p"]),
        helper.make_node("Add", ["p", "epsilon"], ["q"]),
        helper.make_node("Clip", ["q", "low", "high"], ["z"]),
    ]
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "z"
    numbers = {"two": 2.0, "epsilon": 1e-5, "low": -9.0, "high": 50.0}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v, np.float32), k) for k, v in numbers.items())
    net = program(model)
    report = Finetune(epochs=2, lr=0.01, batch=16).run(net, context(model, samples()))
    assert np.isfinite(report.facts["validation loss after"])
    assert {k: weight(net, k).values for k in numbers} == {k: np.float32(v) for k, v in numbers.items()}
    assert not np.array_equal(weight(net, "w1").values, weight(program(model), "w1").values)


def test_skipped_weights_stay() -> None:
    model = perceptron()
    net = program(model)
    frozen = weight(net, "w1")
    frozen.reason, frozen.trainable = "skipped", False
    before = frozen.values.copy()
    Finetune(epochs=1).run(net, context(model, samples()))
    assert np.array_equal(frozen.values, before)


def test_centroids_take_the_sum_of_their_members_gradients() -> None:
    net = program(perceptron())
    record = weight(net, "w1")
    indices = np.random.default_rng(0).integers(0, 5, record.size).astype(np.uint16)
    record.clustered = Clustered(indices, 5, np.array([-1, 0, 0.5, 1, 2], np.float32), zero=1)
    gradient = np.random.default_rng(1).standard_normal(record.shape).astype(np.float32)
    parameters = Parameters([record])
    sums = [gradient.reshape(-1)[indices == j].sum() for j in (0, 2, 3, 4)]
    assert parameters.reduce([gradient]) == pytest.approx(sums, rel=1e-5)
    parameters.theta[:] = [-3, 1, 2, 4]
    parameters.expand()
    assert np.array_equal(parameters.weights[0].reshape(-1), np.array([-3, 0, 1, 2, 4], np.float32)[indices])


@pytest.mark.parametrize("scales", ["none", "channel"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_clustered_weights_stay_on_their_centroids(dtype: Any, scales: str) -> None:
    net, reports = run(
        f"prune(density=0.5),cluster(bits=3,scales={scales}),finetune(centroids,epochs=5,lr=0.01,batch=16)", dtype
    )
    facts = last_facts(reports)
    assert facts["validation loss after"] < facts["validation loss before"]
    w1 = weight(net, "w1")
    assert w1.clustered is not None
    assert np.array_equal(w1.clustered.values(w1.values.dtype), w1.values.reshape(-1))
    assert np.array_equal(w1.values != 0, kept(net, "w1"))


def test_gradual_pruning_reaches_its_density() -> None:
    net, reports = run("prune(density=0.1,schedule=gradual,steps=5,epochs=10,lr=0.01,batch=16)")
    for name in ("w1", "w2"):
        assert np.count_nonzero(kept(net, name)) == max(1, round(0.1 * weight(net, name).size))
    once = run("prune(density=0.1)")[0]
    assert last_facts(reports)["validation error after"] < 0.1
    assert not np.array_equal(kept(once, "w1"), kept(net, "w1"))


@pytest.mark.parametrize("step", ["prune(density=0.1,schedule=gradual,", "cluster(rd,", "finetune("])
def test_a_sliver_of_an_epoch_is_two_steps(step: str) -> None:
    """Enough for each pass to do what it is asked to."""
    net, reports = run(f"{step}epochs=0.0001)")
    assert last_facts(reports)["steps"] == 2
    for record in (weight(net, "w1"), weight(net, "w2")):
        if step.startswith("prune"):
            assert record.mask is not None
            assert np.count_nonzero(record.mask) == max(1, round(0.1 * record.size))
        assert (record.clustered is not None) == step.startswith("cluster")


def test_optimal_brain_damage_spares_what_matters() -> None:
    """Weights of an input that is always zero have no effect, so they go first however large they are."""
    model, arrays = perceptron(), samples()
    arrays["x"][:, :8] = 0
    net = program(model)
    values = weight(net, "w1").values.copy()
    values[:8] *= 100
    weight(net, "w1").values = values
    manager = PassManager(parse_pipeline("prune(density=0.5,criterion=obd,epochs=1),encode(lossless)"))
    manager.run(net, context(model, arrays))
    mask = weight(net, "w1").mask
    assert mask is not None
    assert not mask[:8].any()
    assert mask[8:].all()
    assert np.array_equal(weight(net, "w1").values[8:], values[8:])


def test_priced_clustering_trains_through() -> None:
    net, reports = run(
        "finetune(epochs=3,lr=0.01),cluster(rd,bits=3,price=0.1,epochs=10,lr=0.01,batch=16,vectors=true)"
    )
    assert last_facts(reports)["validation error after"] < 0.1
    for name in ("w1", "w2"):
        record = weight(net, name)
        assert record.clustered is not None
        assert record.clustered.size <= 8
        assert np.array_equal(record.values != 0, kept(net, name))


def test_a_higher_price_keeps_less() -> None:
    kept = [np.count_nonzero(weight(run(f"cluster(rd,bits=4,price={p})")[0], "w1").values) for p in (0.001, 0.05, 0.5)]
    assert kept == sorted(kept, reverse=True)
    assert kept[2] < kept[0] / 2


def test_same_seed_same_weights() -> None:
    pipeline = "prune(density=0.3,schedule=gradual,epochs=2),cluster(rd,bits=3,epochs=2),finetune(centroids,epochs=1)"
    nets: list[Program] = [run(pipeline)[0] for _ in range(2)]
    for one, two in zip(nets[0].records, nets[1].records, strict=True):
        assert one.values.tobytes() == two.values.tobytes()


def test_training_without_data_says_what_to_do() -> None:
    """And it says so before any other pass has run."""
    net = program(perceptron())
    for step in ("finetune", "cluster(rd,epochs=1)", "prune(density=0.1,criterion=obd)", "prune(schedule=gradual)"):
        with pytest.raises(InvalidArgumentError, match="give --data"):
            PassManager(parse_pipeline(f"prune(density=0.9),{step},encode(lossless)")).run(net, Context(jobs=1))
    assert all(r.mask is None for r in net.records)


def test_labels_must_fit() -> None:
    model, arrays = perceptron(), samples()
    arrays["labels"] = arrays["labels"] + 1
    with pytest.raises(DataError, match="labels up to 3"):
        Finetune(epochs=1).run(program(model), context(model, arrays))
    with pytest.raises(InvalidArgumentError, match="--labels"):
        Finetune(epochs=1, loss="labels").run(program(model), context(model, arrays, None))


@pytest.mark.parametrize("kind", ["values", "one value"])
def test_values_as_labels(kind: str) -> None:
    """Floats are learned by squared error, and verification reports it."""
    model, arrays = perceptron(), samples()
    arrays["wanted"] = np.eye(3)[arrays["labels"]]
    if kind == "one value":
        arrays["wanted"] = arrays["labels"].astype(np.float32)
        model.graph.node.append(helper.make_node("ReduceMean", ["y", "axis"], ["mean"]))
        model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
        model.graph.output[0].name = "mean"
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    result = dc_compiler.compile_model(
        model, pipeline="finetune(epochs=10,lr=0.01,batch=16),encode", data=arrays, labels="wanted", min_size=0, jobs=1
    )
    facts, check = result.report.passes[0].facts, result.report.verification
    assert check is not None
    assert check.accuracy_before is None
    assert "validation error after" not in facts
    assert facts["validation loss after"] < 0.1 * facts["validation loss before"]
    assert check.squared_error_before is not None
    assert check.squared_error_after is not None
    assert check.squared_error_after < 0.1 * check.squared_error_before


def test_class_numbers_for_every_position() -> None:
    """Outputs [n, t, classes] and labels [n, t]; the loss is a mean over positions, the error their share."""
    model, flat = perceptron(), samples()
    model.graph.node.insert(0, helper.make_node("Reshape", ["sequences", "rows"], ["x"]))
    model.graph.node.append(helper.make_node("Reshape", ["y", "positions"], ["z"]))
    for name, shape in (("rows", [-1, 16]), ("positions", [-1, 5, 3])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("sequences", TensorProto.FLOAT, ["n", 5, 16]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 5, 3]))
    arrays = {"sequences": flat["x"].reshape(-1, 5, 16), "labels": flat["labels"].reshape(-1, 5)}
    report = Finetune(epochs=10, lr=0.01, batch=8).run(program(model), context(model, arrays))
    once = Finetune(epochs=0).run(program(perceptron()), context(perceptron(), flat))
    assert report.facts["validation loss before"] == pytest.approx(once.facts["validation loss before"], rel=0.2)
    assert report.facts["validation error before"] > 0.3
    assert report.facts["validation error after"] < 0.05
    arrays["labels"] = arrays["labels"][:, :4]
    with pytest.raises(DataError, match=r"labels of shape \[120, 4\] do not fit outputs of shape \[120, 5, 3\]"):
        Finetune(epochs=1).run(program(model), context(model, arrays))


def test_validation_samples_are_never_trained_on() -> None:
    given = context(perceptron(), samples(100)).samples
    assert given is not None
    parts = given.parts(0.2)
    assert [len(p) for p in (parts.train, parts.validation, parts.check)] == [72, 18, 10]
    draw = batches(parts.train, 8, [0])
    epochs = [np.concatenate([next(draw) for _ in range(9)]) for _ in range(2)]
    assert not np.array_equal(epochs[0], epochs[1])
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), parts.train)


@pytest.mark.parametrize("start", [0, 1, 9, 10, 11, 25])
def test_batches_go_on_anywhere(start: int) -> None:
    rows = np.arange(83)  # ten batches of 8, and a rest
    whole, later = batches(rows, 8, [5]), batches(rows, 8, [5], start)
    drawn = [next(whole) for _ in range(40)]
    for batch in drawn[start:]:
        assert np.array_equal(batch, next(later))


def test_scores_are_told_for_training_and_validation() -> None:
    """Those of the epoch kept; on the training part they are those of the weights that are left."""
    model, arrays = perceptron(), samples()
    net = program(model)
    given = context(model, arrays)
    facts = Finetune(epochs=3, lr=0.01, batch=16).run(net, given).facts
    assert given.samples is not None
    rows = given.samples.parts().train
    w1, b1, w2, b2 = (weight(net, n).values for n in ("w1", "b1", "w2", "b2"))
    outputs = np.maximum(arrays["x"] @ w1 + b1, 0) @ w2 + b2
    assert facts["training error"] == np.mean(outputs[rows].argmax(1) != arrays["labels"][rows])
    chosen = np.exp(outputs[rows])[np.arange(len(rows)), arrays["labels"][rows]] / np.exp(outputs[rows]).sum(1)
    assert facts["training loss"] == pytest.approx(-np.log(chosen).mean(), rel=1e-4)
    assert facts["validation loss after"] < facts["validation loss before"]


def test_progress_carries_the_loss() -> None:
    model = perceptron()
    seen: list[tuple[str, int, int, float | None]] = []
    run_context = context(model, samples())
    run_context.progress = lambda *report: seen.append(report)
    PassManager(parse_pipeline("prune(density=0.5,schedule=gradual,steps=3,epochs=2,lr=0.01),encode")).run(
        program(model), run_context
    )
    training = [s for s in seen if s[0] == "prune"]
    assert [s[1] for s in training] == list(range(1, training[0][2] + 1))
    losses = [s[3] for s in training if s[3] is not None]
    assert len(losses) == len(training)
    assert losses[-1] < losses[0]
    assert all(s[3] is None for s in seen if s[0] == "encode")


def test_compile_model_end_to_end() -> None:
    result = dc_compiler.compile_model(
        perceptron(hidden=256),
        pipeline="prune(density=0.1,schedule=gradual,epochs=4,lr=0.01),cluster(rd,bits=3,epochs=4,vectors=true),encode",
        data=samples(),
        labels="labels",
        min_size=0,
        jobs=1,
    )
    verification = result.report.verification
    assert verification is not None
    assert verification.accuracy_after is not None
    assert verification.accuracy_after > 0.95
    assert result.report.output_bytes < result.report.original_bytes / 5
