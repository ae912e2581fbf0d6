"""Trains a Program's weights: training graphs, packed parameters, optimizers and the loop."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dc_compiler import data, gradients, importer, ir, model_io, verify
from dc_compiler.errors import DataError, InvalidArgumentError, ModelError
from dc_compiler.pass_manager import Context, Pass

Array = np.ndarray
Loss = Literal["auto", "labels", "distill", "mse"]
Optimizer = Literal["adam", "sgd"]

EVALUATION_BATCH = 256
LOSS = "dcc.loss"  # names of what is added to a training graph
TARGET = "dcc.target"
# Element types whose gradients onnxruntime computes as they are; the other floats are trained as f32 and cast
_NATIVE = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})


@dataclass(frozen=True)
class Options:
    """How to train.

    ``epochs`` passes over the training part of the data (may be a fraction), ``rate`` the learning rate at the start
    of a cosine that ends at zero, ``batch`` samples a step, ``validation`` the share of samples that chooses the best
    epoch and is never trained on.
    """

    epochs: float
    rate: float
    batch: int = 64
    loss: Loss = "auto"
    optimizer: Optimizer = "adam"
    validation: float = 0.1


class TrainingData:
    """The samples given with ``--data`` and the answers to them: labels, or the outputs of the original model.

    Args:
        source, labels: as for :func:`dc_compiler.data.load_dataset`; every sample is used.
        original: the model before compilation.
        threads: of onnxruntime sessions.

    Reading happens on first use.
    """

    def __init__(self, source: Any, labels: str | None, original: model_io.SourceModel, threads: int) -> None:
        self._source, self._label_name, self._original, self.threads = source, labels, original, threads
        self._outputs: dict[str, Array] = {}

    @cached_property
    def _dataset(self) -> data.Dataset:
        session = verify.make_session(self._original.path or self._original.proto, self.threads)
        return data.load_dataset(self._source, data.input_specs(session), self._label_name, limit=2**62, batch=2**62)

    @cached_property
    def inputs(self) -> data.Feed:
        """All samples: one array an input, first axis = samples.

        Raises:
            DataError: the data cannot be read, or its feeds have different shapes.
        """
        feeds = self._dataset.feeds
        try:
            return {k: v if len(feeds) == 1 else np.concatenate([f[k] for f in feeds]) for k, v in feeds[0].items()}
        except ValueError:
            raise DataError("training needs samples of one shape, but the feeds differ") from None

    @property
    def labels(self) -> Array | None:
        """One integer a sample, or None."""
        return self._dataset.labels

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.inputs.values())))

    @property
    def fixed_batch(self) -> int | None:
        """Samples a run where the model fixes its first extent, else None."""
        extents = {_first_extent(i) for i in _real_inputs(self._original.proto.graph)} - {None}
        return max(extents, key=lambda e: e or 0, default=None)

    def original_output(self, value: str) -> Array:
        """What the original computes for a value of its main graph, over all samples: [n, ...]."""
        if value not in self._outputs:
            given = self._original
            source = model_io.read_model(given.path if given.path is not None else given.proto)
            model_io.embed_external_data(source)
            model = source.proto
            _expose(model, value)
            session = verify.make_session(model, self.threads)
            batch = self.fixed_batch or EVALUATION_BATCH
            parts = [session.run([value], self.take(rows))[0] for rows in _runs(self.count, batch)]
            self._outputs[value] = np.concatenate(parts)
        return self._outputs[value]

    def take(self, rows: Array | slice) -> data.Feed:
        """The samples of these rows."""
        return {k: np.ascontiguousarray(v[rows]) for k, v in self.inputs.items()}


def _runs(count: int, batch: int) -> Iterator[slice]:
    for start in range(0, count, batch):
        yield slice(start, min(count, start + batch))


def _real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    stored = {t.name for t in graph.initializer}
    return [i for i in graph.input if i.name not in stored]


def _first_extent(value: onnx.ValueInfoProto) -> int | None:
    dims = value.type.tensor_type.shape.dim
    return int(dims[0].dim_value) or None if dims else None


def _expose(model: onnx.ModelProto, value: str) -> None:
    """Make a value of the main graph an output."""
    if all(o.name != value for o in model.graph.output):
        model.graph.output.append(onnx.ValueInfoProto(name=value))


# --- training graphs -------------------------------------------------------------------------------------------------


def trainable(program: ir.Program) -> list[ir.WeightRecord]:
    """Records that training may change: float tensors of the main graph, small ones included."""
    main = program.proto.graph
    return [r for r, s in zip(program.records, program.sites, strict=True) if r.trainable and s.graph is main]


def open_weights(program: ir.Program, names: Collection[str]) -> onnx.ModelProto:
    """The program's model with the tensors called ``names`` as inputs, and all others with their current values.

    An input has the record's name and is float32, or float64 for a float64 tensor.
    """
    model = onnx.ModelProto()
    model.CopyFrom(program.proto)
    pending = deque(zip(program.records, program.sites, strict=True))
    opened: list[tuple[ir.WeightRecord, ir.Site]] = []
    for before, after in zip(ir.weight_sites(program.proto.graph), ir.weight_sites(model.graph), strict=True):
        assert before.tensor is not None
        assert after.tensor is not None
        if not pending or pending[0][1].value_name != before.value_name:
            continue
        if pending[0][0].elem_type != before.tensor.data_type:
            continue
        record, _ = pending.popleft()
        if record.name in names:
            opened.append((record, after))
        elif record.elem_type in ir.float_elem_types():
            importer.restore_data(record, after.tensor)
    _replace_by_inputs(model.graph, opened)
    return model


def _replace_by_inputs(graph: onnx.GraphProto, opened: Sequence[tuple[ir.WeightRecord, ir.Site]]) -> None:
    gone = {site.value_name for _, site in opened}
    stored = [t for t in graph.initializer if t.name not in gone]
    nodes = [n for n in graph.node if not (n.op_type == "Constant" and n.output[0] in gone)]
    inputs = [i for i in graph.input if i.name not in gone]
    casts = []
    for record, site in opened:
        value = site.value_name
        if record.elem_type in _NATIVE:
            inputs.append(helper.make_tensor_value_info(value, record.elem_type, record.shape))
        else:
            master = f"{value}.f32"
            inputs.append(helper.make_tensor_value_info(master, TensorProto.FLOAT, record.shape))
            casts.append(helper.make_node("Cast", [master], [value], to=record.elem_type))
    for field, items in ((graph.initializer, stored), (graph.node, [*casts, *nodes]), (graph.input, inputs)):
        del field[:]
        field.extend(items)


def _input_name(record: ir.WeightRecord, value_name: str) -> str:
    return value_name if record.elem_type in _NATIVE else f"{value_name}.f32"


@dataclass(frozen=True)
class Objective:
    """What is compared with the targets: a value of the main graph, by cross-entropy or by mean squared error.

    ``targets`` is [n, ...], float32: probabilities for cross-entropy, else the values wanted.
    """

    value: str
    kind: Literal["cross-entropy", "mse"]
    targets: Array
    labels: Array | None

    def loss(self, outputs: Array, rows: Array) -> float:
        """Sum over samples of the loss, of outputs [m, ...] for the samples ``rows``."""
        wanted = self.targets[rows].astype(np.float64)
        got = outputs.astype(np.float64)
        if self.kind == "cross-entropy":
            return float(-(wanted * log_softmax(got)).sum())
        return float(np.square(got - wanted).reshape(len(rows), -1).mean(axis=1).sum())


def log_softmax(logits: Array) -> Array:
    """Logarithm of the softmax over the last axis, computed without overflow."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def make_objective(program: ir.Program, samples: TrainingData, loss: Loss) -> Objective:
    """Choose the value to train on: the first output, or what is below its softmax.

    ``labels`` is cross-entropy with the labels; ``distill`` learns the original's outputs: cross-entropy between
    softmaxes (which differs from KL by a constant) where the output is [n, classes], mean squared error elsewhere;
    ``mse`` is the latter always; ``auto`` is ``labels`` where there are labels, else ``distill``.

    Raises:
        InvalidArgumentError: ``labels`` without labels. DataError: labels do not fit the output.
    """
    graph = program.proto.graph
    value = graph.output[0].name
    below = next((n for n in graph.node if value in n.output and n.op_type in ("Softmax", "LogSoftmax")), None)
    if loss == "labels" and samples.labels is None:
        raise InvalidArgumentError("loss=labels needs labels; name their array with --labels")
    with_labels = loss == "labels" or (loss == "auto" and samples.labels is not None)
    if below is not None and loss != "mse":
        value = below.input[0]
    original = samples.original_output(value)
    if original.dtype.kind != "f" and original.dtype.name != "bfloat16":
        raise ModelError(f"the model cannot be trained: its first output is {original.dtype}, not float")
    is_logits = original.ndim == 2 and original.shape[1] > 1
    if with_labels:
        labels = samples.labels
        assert labels is not None
        if not is_logits or labels.min() < 0 or labels.max() >= original.shape[1]:
            raise DataError(f"labels up to {labels.max()} do not fit outputs of shape {list(original.shape)}")
        return Objective(value, "cross-entropy", np.eye(original.shape[1], dtype=np.float32)[labels], labels)
    if is_logits and loss != "mse":
        return Objective(value, "cross-entropy", np.exp(log_softmax(original.astype(np.float32))), None)
    return Objective(value, "mse", original.astype(np.float32), None)


def _append_loss(graph: onnx.GraphProto, objective: Objective, batch: int, elem_type: int) -> None:
    """Add the input ``TARGET`` and the scalar output ``LOSS``, the mean over the batch."""
    shape = [batch, *objective.targets.shape[1:]]
    graph.input.append(helper.make_tensor_value_info(TARGET, elem_type, shape))
    count = batch if objective.kind == "cross-entropy" else math.prod(shape)
    sign = -1 if objective.kind == "cross-entropy" else 1
    scale = np.array(sign / count, helper.tensor_dtype_to_np_dtype(elem_type))
    graph.initializer.append(numpy_helper.from_array(scale, f"{LOSS}.scale"))
    if objective.kind == "cross-entropy":
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
        records: the tensors to train; ``self.shapes`` are theirs.
        batch: samples of a training step.

    Raises:
        ModelError: an operator has no gradient, or onnxruntime cannot run the graph.
    """

    def __init__(
        self, program: ir.Program, records: Sequence[ir.WeightRecord], samples: TrainingData, objective: Objective,
        batch: int,
    ) -> None:  # fmt: skip
        chosen = {id(r) for r in records}
        sites = {id(r): s for r, s in zip(program.records, program.sites, strict=True)}
        self.records = [r for r in program.records if id(r) in chosen]
        self.names = [_input_name(r, sites[id(r)].value_name) for r in self.records]
        self.objective, self.samples, self.batch = objective, samples, batch
        forward = open_weights(program, {r.name for r in self.records})
        _expose(forward, objective.value)
        backward = onnx.ModelProto()
        backward.CopyFrom(forward)
        shapes = {k: (batch, *v.shape[1:]) for k, v in samples.inputs.items()}
        _fix_extents(backward.graph, shapes)
        self._target_type = _element_type(backward, objective.value)
        _append_loss(backward.graph, objective, batch, self._target_type)
        backward = gradients.add_gradients(backward, self.names, LOSS)
        self._forward = verify.make_session(forward, samples.threads)
        self._backward = verify.make_session(backward, samples.threads)
        self._wanted = [LOSS, *(gradients.GRADIENT + n for n in self.names)]

    def step(self, weights: Sequence[Array], rows: Array) -> tuple[float, list[Array]]:
        """Mean loss over the samples ``rows`` (``batch`` of them), and its gradient for each weight."""
        feed = dict(zip(self.names, weights, strict=True)) | self.samples.take(rows)
        feed[TARGET] = self.objective.targets[rows].astype(helper.tensor_dtype_to_np_dtype(self._target_type))
        loss, *found = self._backward.run(self._wanted, feed)
        return float(loss), found

    def evaluate(self, weights: Sequence[Array], rows: Array) -> Score:
        """Mean loss, and with labels the error rate, over the samples ``rows``."""
        fixed = dict(zip(self.names, weights, strict=True))
        loss, wrong, labels = 0.0, 0, self.objective.labels
        for run in _runs(len(rows), self.samples.fixed_batch or EVALUATION_BATCH):
            part = rows[run]
            outputs = self._forward.run([self.objective.value], fixed | self.samples.take(part))[0]
            loss += self.objective.loss(outputs, part)
            if labels is not None:
                wrong += int(np.count_nonzero(outputs.argmax(-1) != labels[part]))
        return Score(None if labels is None else wrong / len(rows), loss / len(rows))


@dataclass(frozen=True, order=True)
class Score:
    """How far from the targets: less is better; the error rate counts first where there are labels."""

    error: float | None
    loss: float


def _element_type(model: onnx.ModelProto, value: str) -> int:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    for info in (*inferred.value_info, *inferred.output):
        if info.name == value and info.type.tensor_type.elem_type:
            return int(info.type.tensor_type.elem_type)
    return int(TensorProto.FLOAT)


# --- parameters ------------------------------------------------------------------------------------------------------


class Parameters:
    """Tensors as one packed vector of the numbers that training may move.

    A tensor's kept elements are its parameters; of a clustered tensor it is the codebook's entries, each with the sum
    of its members' gradients (arXiv 1510.00149, section 3.3). Pruned elements and the zero entry are no parameters, so
    they stay exactly +0.0.

    Attributes:
        theta: float32 [p], the parameters; change it in place, then call :meth:`expand`.
        weights: the tensors themselves, views of one float32 vector (copies for float64).
        transform: what the tensors hold instead of the parameters, a function of ``theta``; None for the same.
            Gradients pass through it unchanged.
    """

    def __init__(self, records: Sequence[ir.WeightRecord]) -> None:
        self.records = list(records)
        self._ends = np.cumsum([r.size for r in records])
        self._dense = np.zeros(int(self._ends[-1]), np.float32)
        self._flat = np.split(self._dense, self._ends[:-1])
        parts, members, owners, factors, first = [], [], [], [], 0
        for record, start in zip(records, self._ends - [r.size for r in records], strict=True):
            values, kept, owner, factor = _parameters_of(record)
            parts.append(values)
            members.append(kept + start)
            owners.append(owner + first)
            factors.append(factor)
            first += len(values)
        self.theta = np.concatenate(parts)
        self._starts = np.cumsum([0, *(len(p) for p in parts)])
        self._members = np.concatenate(members)
        self._owner = np.concatenate(owners)
        self._factor = np.concatenate(factors) if any((f != 1).any() for f in factors) else None
        self._shared = any(r.clustered is not None for r in records)
        self.transform: Callable[[Array], Array] | None = None
        self.expand()

    @property
    def weights(self) -> list[Array]:
        """Every tensor in its own shape, float32 or float64."""
        return [
            f.reshape(r.shape).astype(ir.compute_dtype(r.values.dtype), copy=False)
            for f, r in zip(self._flat, self.records, strict=True)
        ]

    def expand(self) -> None:
        """Write the parameters into the tensors."""
        values = self.theta if self.transform is None else self.transform(self.theta)
        if self._shared:
            values = values[self._owner]
        self._dense[self._members] = values if self._factor is None else values * self._factor

    def reduce(self, gradients: Sequence[Array]) -> Array:
        """Gradient of every parameter, float32 [p], from that of every tensor."""
        flat = np.concatenate([g.reshape(-1) for g in gradients]).astype(np.float32, copy=False)[self._members]
        if self._factor is not None:
            flat *= self._factor
        if not self._shared:
            return flat
        return np.asarray(np.bincount(self._owner, flat, len(self.theta)), np.float32)

    def prune(self, masks: Sequence[Array | None]) -> Array:
        """Drop parameters whose element is masked (None keeps all of a tensor); returns bool [p], the ones kept.

        Only for tensors that are not clustered.
        """
        kept = np.ones(len(self.theta), bool)
        for number, mask in enumerate(masks):
            if mask is not None:
                start, end, offset = self._starts[number], self._starts[number + 1], self._offset(number)
                kept[start:end] = mask.reshape(-1)[self._members[start:end] - offset]
                self.records[number].mask = None if mask.all() else mask.reshape(self.records[number].shape)
        self._dense[self._members[~kept]] = 0
        self.theta, self._members = self.theta[kept], self._members[kept]
        self._starts = np.concatenate([[0], np.cumsum(kept)])[self._starts]
        self._owner = np.arange(len(self.theta))
        return kept

    def span(self, record: ir.WeightRecord) -> slice:
        """Where the parameters of a record lie."""
        number = next(i for i, r in enumerate(self.records) if r is record)
        return slice(int(self._starts[number]), int(self._starts[number + 1]))

    def _offset(self, number: int) -> int:
        return int(self._ends[number]) - self.records[number].size

    def scores(self, records: Sequence[ir.WeightRecord], values: Array) -> list[Array]:
        """Spread one number a parameter over the elements of ``records``, float32 [n] each; pruned elements get 0."""
        dense = np.zeros_like(self._dense)
        dense[self._members] = values[self._owner]
        parts = {id(r): f for r, f in zip(self.records, np.split(dense, self._ends[:-1]), strict=True)}
        return [parts[id(r)] for r in records]

    def store(self) -> None:
        """Give the records their new values. What was measured against older values starts anew."""
        for record, flat, values in zip(self.records, self._flat, self._per_record(), strict=True):
            if record.clustered is not None and record.clustered.codebook is not None:
                record.clustered = _with_entries(record.clustered, values)
                new = ir.rebuild(record.clustered, record)
            else:
                new = flat.reshape(record.shape).astype(record.values.dtype)
            record.values = new
            record.signal, record.noise, record.original = None, 0.0, None

    def _per_record(self) -> list[Array]:
        return [self.theta[a:b] for a, b in zip(self._starts[:-1], self._starts[1:], strict=True)]


def _parameters_of(record: ir.WeightRecord) -> tuple[Array, Array, Array, Array]:
    """A record's parameters [p], where its kept elements are [m], which parameter each takes [m], times what [m]."""
    clustered = record.clustered
    if clustered is None:
        kept = np.arange(record.size) if record.mask is None else np.flatnonzero(record.mask)
        values = record.values.reshape(-1)[kept].astype(np.float32)
        return values, kept, np.arange(len(kept)), np.ones(len(kept), np.float32)
    assert clustered.codebook is not None
    kept = np.arange(record.size) if clustered.zero is None else np.flatnonzero(clustered.indices != clustered.zero)
    index = clustered.indices[kept].astype(np.int64)
    values = clustered.codebook.astype(np.float32)
    if clustered.zero is not None:
        values = np.delete(values, clustered.zero)
        index -= index > clustered.zero
    factor = np.ones(len(kept), np.float32)
    if clustered.scales is not None:
        channel = (kept // clustered.scales.inner) % clustered.scales.channels
        factor = clustered.scales.factors(np.dtype(np.float32))[channel]
    return values, kept, index, factor


def _with_entries(clustered: ir.Clustered, values: Array) -> ir.Clustered:
    """The same indices with new codebook entries; the zero entry stays."""
    assert clustered.codebook is not None
    codebook = np.array(clustered.codebook)
    codebook[np.arange(clustered.size) != clustered.zero] = values.astype(codebook.dtype)
    return ir.Clustered(clustered.indices, clustered.size, codebook, zero=clustered.zero, scales=clustered.scales)


# --- optimizers ------------------------------------------------------------------------------------------------------


class Stepper(Protocol):
    """Moves parameters, float32 [p], along a gradient."""

    def step(self, theta: Array, gradient: Array, rate: float) -> None:
        """Change ``theta`` in place."""

    def keep(self, kept: Array) -> None:
        """Forget the state of parameters that are gone; ``kept`` is bool [p]."""


class Adam:
    """Kingma & Ba, arXiv 1412.6980, algorithm 1."""

    def __init__(self, size: int, first: float = 0.9, second: float = 0.999, epsilon: float = 1e-8) -> None:
        self.mean, self.square, self.steps = np.zeros(size, np.float32), np.zeros(size, np.float32), 0
        self._first, self._second, self._epsilon = first, second, epsilon

    def step(self, theta: Array, gradient: Array, rate: float) -> None:
        self.steps += 1
        self.mean += np.float32(1 - self._first) * (gradient - self.mean)
        self.square += np.float32(1 - self._second) * (gradient * gradient - self.square)
        scale = np.sqrt(self.square)
        scale *= np.float32(1 / math.sqrt(1 - self._second**self.steps))
        scale += np.float32(self._epsilon)
        theta -= np.float32(rate / (1 - self._first**self.steps)) * self.mean / scale

    def keep(self, kept: Array) -> None:
        self.mean, self.square = self.mean[kept], self.square[kept]


class Sgd:
    """Gradient descent with momentum: v = momentum v + g, theta = theta - rate v."""

    def __init__(self, size: int, momentum: float = 0.9) -> None:
        self.velocity, self._momentum = np.zeros(size, np.float32), np.float32(momentum)

    def step(self, theta: Array, gradient: Array, rate: float) -> None:
        self.velocity *= self._momentum
        self.velocity += gradient
        theta -= np.float32(rate) * self.velocity

    def keep(self, kept: Array) -> None:
        self.velocity = self.velocity[kept]


def cosine_rate(rate: float, step: int, steps: int) -> float:
    """Half a cosine from ``rate`` at step 0 to zero at ``steps``."""
    return rate * 0.5 * (1 + math.cos(math.pi * step / steps))


# --- the loop --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Rows of the training part and of the validation part, disjoint."""

    training: Array
    validation: Array


def split(count: int, share: float, seed: int) -> Split:
    """Draw ``share`` of ``count`` samples, at least one, for validation.

    Depends on the seed and the count alone, so every pass of a pipeline keeps the same samples aside.
    """
    order = np.random.Generator(np.random.PCG64([seed, count])).permutation(count)
    held = max(1, round(count * share))
    return Split(np.sort(order[held:]), np.sort(order[:held]))


def batches(rows: Array, batch: int, generator: np.random.Generator) -> Iterator[Array]:
    """Shuffled batches without end; a rest that fills no batch waits for the next shuffle."""
    while True:
        order = generator.permutation(rows)
        for start in range(0, len(order) - batch + 1, batch):
            yield order[start : start + batch]


@dataclass
class Outcome:
    """Scores on the validation part before and after (of the epoch kept), which epoch that is, and steps taken."""

    before: Score
    after: Score
    best_epoch: int
    steps: int

    def facts(self) -> dict[str, Any]:
        """What a report says about it."""
        facts: dict[str, Any] = {"steps": self.steps, "best epoch": self.best_epoch}
        for label, score in (("before", self.before), ("after", self.after)):
            facts[f"validation loss {label}"] = score.loss
            if score.error is not None:
                facts[f"validation error {label}"] = score.error
        return facts


class Trainer:
    """Trains ``records`` of a program on the run's samples, for the pass ``step``.

    Raises:
        InvalidArgumentError: there are no samples, or nothing to train. DataError: too few samples.
        ModelError: the model has no gradients.
    """

    def __init__(
        self, step: Pass, program: ir.Program, records: Sequence[ir.WeightRecord], context: Context, options: Options
    ) -> None:
        samples = context.samples
        if samples is None:
            raise InvalidArgumentError(f"{step.text()} trains, so it needs samples; give --data FILE")
        if not records:
            raise InvalidArgumentError(f"{step.text()} finds no weight that it could train")
        self.options, self.seed = options, context.seed
        self._report = context.progress or (lambda name, done, total: None)
        self._name = step.name
        seed = context.seed
        self.split = split(samples.count, options.validation, seed)
        batch = samples.fixed_batch or min(options.batch, len(self.split.training))
        if len(self.split.training) < max(batch, 1):
            raise DataError(f"training needs at least {batch + 1} samples, the data has {samples.count}")
        objective = make_objective(program, samples, options.loss)
        self.graph = TrainingGraph(program, records, samples, objective, batch)
        self.parameters = Parameters(self.graph.records)
        self.steps_per_epoch = max(1, len(self.split.training) // batch)
        self.steps = max(1, round(options.epochs * self.steps_per_epoch))
        self.optimizer: Stepper = (Adam if options.optimizer == "adam" else Sgd)(len(self.parameters.theta))

    def run(self, *, before_step: Callable[[int], None] | None = None, settled: int = 0) -> Outcome:
        """Train and leave the best parameters in place.

        Args:
            before_step: called with the number of the step about to be taken.
            settled: the first step whose parameters may be chosen as the best.
        """
        generator = np.random.Generator(np.random.PCG64([self.seed, self.steps]))
        draw = batches(self.split.training, self.graph.batch, generator)
        before = self.validate()
        best, best_theta, best_epoch = before if settled == 0 else None, self.parameters.theta.copy(), 0
        for step in range(self.steps):
            if before_step is not None:
                before_step(step)
            self._step(next(draw), cosine_rate(self.options.rate, step, self.steps))
            self._report(self._name, step + 1, self.steps)
            is_end = (step + 1) % self.steps_per_epoch == 0 or step + 1 == self.steps
            if is_end and step >= settled:
                score = self.validate()
                if best is None or score < best:
                    best, best_theta = score, self.parameters.theta.copy()
                    best_epoch = math.ceil((step + 1) / self.steps_per_epoch)
        self.parameters.theta[:] = best_theta
        self.parameters.expand()
        assert best is not None
        return Outcome(before, best, best_epoch, self.steps)

    def prune(self, masks: Mapping[str, Array]) -> None:
        """Drop the parameters of masked elements; ``masks`` has bool arrays by record name."""
        self.optimizer.keep(self.parameters.prune([masks.get(r.name) for r in self.parameters.records]))

    def validate(self) -> Score:
        """Score of the current parameters on the validation part."""
        return self.graph.evaluate(self.parameters.weights, self.split.validation)

    def _step(self, rows: Array, rate: float) -> None:
        _, found = self.graph.step(self.parameters.weights, rows)
        self.optimizer.step(self.parameters.theta, self.parameters.reduce(found), rate)
        self.parameters.expand()
