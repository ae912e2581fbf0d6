"""Training graphs: a Program's model with weights as inputs, a loss, and gradients, run in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dc_compiler import ir
from dc_compiler.errors import DataError, InvalidArgumentError, ModelError
from dc_compiler.model.opened import input_name, open_weights
from dc_compiler.ort import data
from dc_compiler.ort.samples import BATCH, Samples, element_type, expose, runs
from dc_compiler.training import contrib, gradients, shapes
from dc_compiler.training.parameters import Parameters

Array = np.ndarray
Loss = Literal["auto", "labels", "distill", "mse", "match"]

LOSS = "dcc.loss"  # names of what is added to a training graph
TARGET = "dcc.target"
SHARD = 32
LEAST = 1e-7  # probabilities below count as this, so that logarithms stay finite


# Inputs that tell an operator what to do: a stored tensor there is no weight, whatever its gradient
_SETTINGS: Mapping[str, frozenset[int]] = {
    "BatchNormalization": frozenset({3, 4}), "Clip": frozenset({1, 2}), "Dropout": frozenset({1}),
    "Pad": frozenset({2}), "Pow": frozenset({1}), "Resize": frozenset({1, 2}),
}  # fmt: skip
# Operators whose stored inputs are weights even where they have one element; elsewhere a single number is the epsilon,
# the factor or the bound of a formula
_WEIGHTED = frozenset({"BatchNormalization", "Conv", "ConvTranspose", "Gemm", "LayerNormalization", "MatMul", "PRelu"})


def trainable(program: ir.Program) -> list[ir.WeightRecord]:
    """Records that training may change: float tensors of the main graph that its first output depends on, small ones
    included, but not the constants of formulas, nor what comes before integer arithmetic."""
    main = program.proto.graph
    useful = gradients.reached(onnx.shape_inference.infer_shapes(program.proto).graph, main.output[0].name)
    found = [
        r for r, s in zip(program.records, program.sites, strict=True) if s.graph is main and s.value_name in useful
    ]
    return [r for r in found if r.trainable and not _is_setting(r)]


def _is_setting(record: ir.WeightRecord) -> bool:
    if record.size == 1 and not any(u.op_type in _WEIGHTED for u in record.uses):
        return True
    settings = [u.input_index in _SETTINGS.get(u.op_type, ()) for u in record.uses]
    return bool(settings) and all(settings)


@dataclass(frozen=True)
class Objective:
    """What is compared with the targets: a value of the main graph, by cross-entropy or by mean squared error.

    ``targets`` is [n, ...], float32: probabilities along the last axis for cross-entropy, else the values wanted.
    ``labels``, for cross-entropy, is the class of every such vector. With ``is_softmax`` the value is made of
    probabilities already, not of logits. ``distils`` tells that the targets are the original's own answers.
    """

    value: str
    kind: Literal["cross-entropy", "mse"]
    targets: Array
    labels: Array | None = None
    is_softmax: bool = False
    distils: bool = False

    def answers(self, outputs: Array) -> Array:
        """Targets from what the original gives for the value."""
        found = outputs.astype(np.float32)
        return np.exp(log_softmax(found)) if self.kind == "cross-entropy" and not self.is_softmax else found

    def loss(self, outputs: Array, rows: Array) -> float:
        """Sum over samples of the loss, of outputs [m, ...] for the samples ``rows``."""
        wanted = self.targets[rows].astype(np.float64)
        got = outputs.astype(np.float64)
        if self.kind == "cross-entropy":
            log = np.log(np.maximum(got, LEAST)) if self.is_softmax else log_softmax(got)
            return float(-(wanted * log).sum()) / self.positions
        return float(np.square(got - wanted).reshape(len(rows), -1).mean(axis=1).sum())

    @property
    def positions(self) -> int:
        """Vectors of classes in one sample's output."""
        return math.prod(self.targets.shape[1:-1])


def log_softmax(logits: Array) -> Array:
    """Logarithm of the softmax over the last axis, computed without overflow."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def make_objective(program: ir.Program, samples: Samples, loss: Loss) -> Objective:
    """Choose the value to train on: the first output, or what is below its softmax.

    ``labels`` is cross-entropy with class numbers, over the last axis ([n, classes], or [n, t, classes] with labels
    [n, t]), and mean squared error to labels that are floats or have the output's own shape; ``distill`` learns the
    original's outputs: cross-entropy between softmaxes (which differs from KL by a constant) where the output is
    [n, classes] or comes from a softmax over its last axis, mean squared error elsewhere; ``mse`` is the latter always;
    ``match`` is the latter unless the first output holds probabilities, as logits that differ count then, too;
    ``auto`` is ``labels`` where there are labels, else ``distill``.

    Raises:
        InvalidArgumentError: ``labels`` without labels. DataError: labels do not fit the output.
    """
    graph = program.proto.graph
    output = value = graph.output[0].name
    if loss == "match":
        loss = "distill" if is_softmax(samples.original_output(output)) else "mse"
    below = next((n for n in graph.node if value in n.output and n.op_type in ("Softmax", "LogSoftmax")), None)
    if loss == "labels" and samples.labels is None:
        raise InvalidArgumentError("loss=labels needs labels; name their array with --labels")
    if below is not None and loss != "mse":
        value = below.input[0]
    original = samples.original_output(value)
    if original.dtype.kind != "f" and original.dtype.name != "bfloat16":
        raise ModelError(f"the model cannot be trained: its first output is {original.dtype}, not float")
    if samples.labels is not None and loss in ("auto", "labels"):
        return _labelled(output, value, original, samples.labels)
    is_logits = original.ndim == 2 or (below is not None and _is_over_last_axis(below, original.ndim))
    if is_logits and original.shape[-1] > 1 and loss != "mse":
        form = Objective(value, "cross-entropy", original, is_softmax=is_softmax(original), distils=True)
    else:
        form = Objective(value, "mse", original, distils=True)
    return replace(form, targets=form.answers(original))


def _labelled(output: str, value: str, original: Array, labels: Array) -> Objective:
    """The objective for labels: ``original`` is what the original has for ``value``, which is ``output`` or what is
    below its softmax.

    Raises:
        DataError: the labels do not fit.
    """
    wanted = data.fit_labels(labels, original.shape)
    if wanted.dtype.kind == "f":
        return Objective(output, "mse", wanted.astype(np.float32))
    if wanted.shape != original.shape[:-1]:
        raise DataError(f"training with class numbers needs classes on the last axis, not {list(original.shape)}")
    targets = np.eye(original.shape[-1], dtype=np.float32)[wanted]
    return Objective(value, "cross-entropy", targets, wanted, is_softmax(original))


def _is_over_last_axis(softmax: onnx.NodeProto, rank: int) -> bool:
    """Whether a softmax says that it works along the last axis; the default depends on the operator set."""
    return any(a.name == "axis" and a.i in (-1, rank - 1) for a in softmax.attribute)


def is_softmax(outputs: Array) -> bool:
    """Whether outputs [..., classes] are probabilities: some exporters spell a softmax out."""
    values = outputs.astype(np.float64)
    return bool((values >= 0).all() and np.abs(values.sum(axis=-1) - 1).max(initial=0) < 1e-3)


def _append_loss(graph: onnx.GraphProto, objective: Objective, batch: int, elem_type: int) -> None:
    """Add the input ``TARGET`` and the scalar output ``LOSS``, the mean over the batch."""
    shape = [batch, *objective.targets.shape[1:]]
    graph.input.append(helper.make_tensor_value_info(TARGET, elem_type, shape))
    count = batch * objective.positions if objective.kind == "cross-entropy" else math.prod(shape)
    sign = -1 if objective.kind == "cross-entropy" else 1
    scale = np.array(sign / count, helper.tensor_dtype_to_np_dtype(elem_type))
    graph.initializer.append(numpy_helper.from_array(scale, f"{LOSS}.scale"))
    if objective.kind == "cross-entropy":
        if objective.is_softmax:
            graph.initializer.append(numpy_helper.from_array(np.array(LEAST, scale.dtype), f"{LOSS}.least"))
            graph.node.append(helper.make_node("Max", [objective.value, f"{LOSS}.least"], [f"{LOSS}.positive"]))
            graph.node.append(helper.make_node("Log", [f"{LOSS}.positive"], [f"{LOSS}.log"]))
        else:
            graph.node.append(helper.make_node("LogSoftmax", [objective.value], [f"{LOSS}.log"], axis=-1))
        graph.node.append(helper.make_node("Mul", [f"{LOSS}.log", TARGET], [f"{LOSS}.terms"]))
    else:
        graph.node.append(helper.make_node("Sub", [objective.value, TARGET], [f"{LOSS}.error"]))
        graph.node.append(helper.make_node("Mul", [f"{LOSS}.error", f"{LOSS}.error"], [f"{LOSS}.terms"]))
    graph.node.append(helper.make_node("ReduceSum", [f"{LOSS}.terms"], [f"{LOSS}.sum"], keepdims=0))
    graph.node.append(helper.make_node("Mul", [f"{LOSS}.sum", f"{LOSS}.scale"], [LOSS]))
    graph.output.append(helper.make_tensor_value_info(LOSS, elem_type, []))


def _fix_extents(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give the inputs these shapes and forget every declared shape that is not fully known."""
    for value in graph.input:
        if value.name in shapes:
            value.CopyFrom(
                helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shapes[value.name])
            )
    known = [v for v in graph.value_info if all(d.HasField("dim_value") for d in v.type.tensor_type.shape.dim)]
    del graph.value_info[:]
    graph.value_info.extend(known)
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


class TrainingGraph:
    """Sessions that compute the loss with its gradients, and the outputs, for given weights.

    Args:
        records: the tensors to train.
        batch: samples of a training step. A batch of several times ``SHARD`` is run in shards of that size, as many at
            a time as there are threads.

    Raises:
        ModelError: an operator has no gradient, or onnxruntime cannot run the graph.
    """

    def __init__(
        self, program: ir.Program, records: Sequence[ir.WeightRecord], samples: Samples, objective: Objective,
        batch: int,
    ) -> None:  # fmt: skip
        chosen = {id(r) for r in records}
        sites = {id(r): s for r, s in zip(program.records, program.sites, strict=True)}
        self.records = [r for r in program.records if id(r) in chosen]
        self.names = [input_name(r, sites[id(r)].value_name) for r in self.records]
        self.objective, self.samples, self.batch = objective, samples, batch
        self._shard = SHARD if batch % SHARD == 0 and samples.fixed_batch is None else batch
        forward = open_weights(program, {r.name for r in self.records})
        expose(forward, objective.value)
        backward = self._plain(forward)
        self._target_type = element_type(backward, objective.value)
        _append_loss(backward.graph, objective, self._shard, self._target_type)
        backward = gradients.add_gradients(backward, self.names, LOSS)
        self._forward = samples.sessions.open(forward, 1)
        self._backward = samples.sessions.open(backward, 1)
        self._wanted = [LOSS, *(gradients.GRADIENT + n for n in self.names)]

    def _plain(self, forward: onnx.ModelProto) -> onnx.ModelProto:
        """The forward model for one shard: standard operators as far as can be, every shape known."""
        model = onnx.ModelProto()
        model.CopyFrom(forward)
        model = gradients.inlined(model)
        inputs = self.samples.inputs
        _fix_extents(model.graph, {k: (self._shard, *v.shape[1:]) for k, v in inputs.items()})
        weights = dict(zip(self.names, Parameters(self.records).weights, strict=True))
        ends = slice(0, self._shard), slice(max(0, self.samples.count - self._shard), None)
        feeds = [weights | self.samples.take(rows) for rows in ends]
        known = shapes.known_values(model, feeds, lambda m: self.samples.sessions.open(m, 1))
        contrib.decompose(model, {k: s for k, (_, s) in known.items()}, {k: t for k, (t, _) in known.items()})
        shapes.declare(model.graph, known)
        return model

    def step(self, weights: Sequence[Array], inputs: data.Feed, targets: Array) -> tuple[float, list[Array]]:
        """Mean loss over a batch of samples, and its gradient for each weight."""
        fixed = dict(zip(self.names, weights, strict=True))
        batch = {**inputs, TARGET: targets.astype(helper.tensor_dtype_to_np_dtype(self._target_type))}

        def run(shard: slice) -> list[Array]:
            return list(self._backward.run(self._wanted, fixed | {k: v[shard] for k, v in batch.items()}))

        first, *others = self.samples.pool.map(run, runs(self.batch, self._shard))
        if others:  # added up in order, so that the sums do not depend on the threads
            scale = np.float32(1 / (1 + len(others)))
            for i, parts in enumerate(zip(first, *others, strict=True)):
                first[i] = sum(parts[1:], start=parts[0]) * scale
        loss, *found = first
        return float(loss), found

    def evaluate(self, weights: Sequence[Array], rows: Array) -> Score:
        """Mean loss, and with labels the error rate, over the samples ``rows``."""
        fixed = dict(zip(self.names, weights, strict=True))
        labels = self.objective.labels

        def run(part: slice) -> tuple[float, int]:
            chosen = rows[part]
            outputs = self._forward.run([self.objective.value], fixed | self.samples.take(chosen))[0]
            wrong = 0 if labels is None else int(np.count_nonzero(outputs.argmax(-1) != labels[chosen]))
            return self.objective.loss(outputs, chosen), wrong

        found = list(self.samples.pool.map(run, runs(len(rows), self.samples.fixed_batch or BATCH)))
        loss, wrong = sum(f[0] for f in found), sum(f[1] for f in found)
        return Score(None if labels is None else wrong / labels[rows].size, loss / len(rows))


@dataclass(frozen=True, order=True)
class Score:
    """How far from the targets: less is better; the error rate counts first where there are labels."""

    error: float | None
    loss: float
