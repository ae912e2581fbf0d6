"""How far a program's outputs are from the original's on samples, in one number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from dc_compiler import ir
from dc_compiler.errors import ModelError
from dc_compiler.model.opened import input_name, open_weights, weights_apart
from dc_compiler.ort import data
from dc_compiler.ort.metrics import Scorer
from dc_compiler.ort.samples import Samples
from dc_compiler.ort.sessions import short
from dc_compiler.training.graph import is_softmax, log_softmax

Array = np.ndarray
SHARE = 32  # samples a run, several of which are done at a time
MOST_KINDS = 1024  # extent of an axis up to which every place of it counts alike
RUINED = 4.0  # variances: more counts as this, so that nothing drowns all others
NOTHING = 1e-9  # divergence of one sample that is told from 0
SMALLEST = 1e-12  # probability that is told from 0
CONSTANT = 1e-6  # of a constant's square: what counts as its variance
SURE = 0.3  # median of the largest probability, above which logits are taken for scores of classes


@dataclass(frozen=True)
class Distance:
    """How far outputs are from the original's: smaller is better, 0 the same.

    ``divergence`` is that of the output where it is largest: where it holds scores of classes, four times the mean
    squared Hellinger distance of the probabilities, ``2 sum (sqrt p - sqrt q)**2``, else the squared error in variances
    of the original's output, of each place along an axis by itself where that is more: the boxes of a detector would
    hide its scores; of logits the larger of the first and half of the second. Small Hellinger distances are the
    Kullback-Leibler divergence in nats; but a single vector cannot count for more than 4, so that a few that are sure
    and wrong do not drown all others. ``disagreement`` is the
    share of vectors of scores whose largest element is another one; 0 where nothing holds scores. ``score`` is the
    metric of the labels, larger is better, None without them; ``uncertainty`` the standard error that so many changed
    answers leave. ``typical`` is the geometric mean over vectors of scores, or over samples of other values, of what
    ``divergence`` is the mean of: few that moved far do not decide it, so that it tells more surely which of two
    results is nearer, though not whether one is near enough.
    """

    divergence: float
    disagreement: float = 0.0
    score: float | None = None
    uncertainty: float = 0.0
    typical: float = 0.0


AsRun = Callable[[ir.Program], onnx.ModelProto | None]


class Judge:
    """Runs programs on some of the samples and compares what they give with the original's outputs.

    Args:
        rows: the samples to compare.
        original: the program before it was changed.
        metric: of the labels and the first output, larger is better; without labels the original's answers stand for
            them. None where nothing is to be scored.

    Attributes:
        outputs: what the original gives for each output that is compared, by its number.
        before: the original's score, or None.
        as_run: makes the model that a program is when it runs in another way than in floats, or None for one that does
            not; None where all run in floats.

    Raises:
        ModelError: the original does not run, or none of its outputs can be compared.
    """

    def __init__(
        self,
        original: ir.Program,
        samples: Samples,
        rows: Array,
        metric: Scorer | None = None,
    ) -> None:
        self._samples, self._metric = samples, metric
        self._labels = None if samples.labels is None or not samples.is_table else samples.labels[rows]
        self._feeds = samples.batches(rows, samples.fixed_batch or SHARE)
        outputs = self._run(original)
        self.outputs = {i: Output([o[i] for o in outputs]) for i, first in enumerate(outputs[0]) if _is_float(first)}
        if metric is not None and samples.labels is None:
            self._labels = metric.answers([o[0] for o in outputs])
        self.before = self._score(outputs)
        self.as_run: AsRun | None = None
        if not self.outputs:
            raise ModelError(f"{original.label} has no output of floats, so nothing tells how far a change moves it")

    @property
    def is_bounded(self) -> bool:
        """Whether every output holds scores of classes, so that no divergence is above 4."""
        return all(output.is_scores for output in self.outputs.values())

    def of(self, program: ir.Program) -> Distance:
        """How far a program with these weights is from the original.

        Raises:
            ModelError: it does not run.
        """
        model = None if self.as_run is None else self.as_run(program)
        if model is None:
            return self._distance(self._run(program))
        return self._distance(self._outputs(self._samples.sessions.open(model, 1), {}))

    def changes(self, program: ir.Program, records: Sequence[ir.WeightRecord]) -> Changes:
        """Compares the program with other values for some of ``records``, in a single session."""
        main = {id(r) for r, s in zip(program.records, program.sites, strict=True) if s.graph is program.proto.graph}
        model = open_weights(program, {r.name for r in records if id(r) in main})
        session = self._samples.sessions.open(model, 1)
        by_input = {input_name(r, s.value_name): r for r, s in zip(program.records, program.sites, strict=True)}
        opened = {i.name: by_input[i.name] for i in session.get_inputs() if i.name in by_input}
        return Changes(opened, lambda weights: self._distance(self._outputs(session, weights)))

    def _run(self, program: ir.Program) -> list[list[Any]]:
        model, weights = weights_apart(program)
        return self._outputs(self._samples.sessions.open(model, 1, apart=weights), {})

    def _outputs(self, session: Any, weights: Mapping[str, Array]) -> list[list[Any]]:
        names = [o.name for o in session.get_outputs()]

        def run(feed: data.Feed) -> list[Any]:
            try:
                return list(session.run(names, {**feed, **weights}))
            except Exception as e:  # onnxruntime's exceptions share no base class
                raise ModelError(f"the model does not run on the samples: {short(e)}") from None

        return list(self._samples.pool.map(run, self._feeds))

    def _distance(self, outputs: Sequence[Sequence[Any]]) -> Distance:
        found = [known.distance([o[i] for o in outputs]) for i, known in self.outputs.items()]
        flips = max(f.disagreement for f in found)
        score = self._score(outputs)
        uncertainty = 0.0 if score is None or self._labels is None else math.sqrt(flips / len(self._labels))
        typical = max(f.typical for f in found)
        return Distance(max(f.divergence for f in found), flips, score, uncertainty, typical)

    def _score(self, outputs: Sequence[Sequence[Any]]) -> float | None:
        if self._metric is None or self._labels is None:
            return None
        return self._metric(self._labels, [o[0] for o in outputs])


class Changes:
    """One session of a program whose weights are inputs.

    Attributes:
        names: the records that can be given other values; those inside bodies cannot.
    """

    def __init__(
        self, opened: Mapping[str, ir.WeightRecord], distance: Callable[[Mapping[str, Array]], Distance]
    ) -> None:
        self._opened, self._distance = opened, distance
        self._values = {name: _as_input(record, record.values) for name, record in opened.items()}
        self.names = frozenset(r.name for r in opened.values())

    def of(self, changed: Mapping[str, Array]) -> Distance:
        """How far the program is from the original with these values, by the record's name, instead of its own.

        Raises:
            ModelError: it does not run.
        """
        new = {name: _as_input(r, changed[r.name]) for name, r in self._opened.items() if r.name in changed}
        return self._distance(self._values | new)


def _as_input(record: ir.WeightRecord, values: Array) -> Array:
    kind = ir.element_type(record.elem_type)
    return values if kind.trains == kind.dtype else values.astype(kind.trains)


class Output:
    """What the original gives for one output, batch by batch."""

    def __init__(self, batches: Sequence[Array]) -> None:
        self._batches = [np.asarray(b, np.float64) for b in batches]
        self.is_scores, self._is_softmax = _kind(self._batches)
        self._axes = [] if self._is_softmax else _axes(self._batches)
        self._variances = {axis: _variances(self._batches, axis) for axis in self._axes}
        self._variance = float(np.var(np.concatenate([b.ravel() for b in self._batches]))) or 1.0

    def distance(self, batches: Sequence[Array]) -> Distance:
        """Of what another model gives."""
        found = [np.asarray(b, np.float64) for b in batches]
        if any(f.shape != b.shape or not np.isfinite(f).all() for f, b in zip(found, self._batches, strict=True)):
            return Distance(float("inf"), 1.0, typical=float("inf"))
        if self._is_softmax:
            return self._of_scores(found)
        of_values = self._of_values(found)
        if not self.is_scores:
            return of_values
        # What was taken for logits may be numbers of another kind, which a softmax hides
        of_scores = self._of_scores(found)
        return replace(of_scores, divergence=max(of_scores.divergence, of_values.divergence / 2))

    def directions(self, values: Array, generator: np.random.Generator) -> Array:
        """Random vectors ``v`` of independent means 0, for which ``(v . d)**2`` is on average as many times what small
        errors ``d`` in these values of the original do to the divergence as for any output.

        For classes ``v . d`` is what the errors do to the logarithm of the probability of a class drawn by chance.
        """
        if not self.is_scores:
            return self._signs(values, generator)
        scores = values.astype(np.float64)
        p = np.maximum(scores, 0) if self._is_softmax else np.exp(log_softmax(scores))
        ends = p.cumsum(axis=-1)
        drawn = (ends <= generator.random((*p.shape[:-1], 1)) * ends[..., -1:]).sum(axis=-1, keepdims=True)
        drawn = np.minimum(drawn, p.shape[-1] - 1)
        hot = np.zeros_like(p)
        np.put_along_axis(hot, drawn, 1.0, -1)
        found = hot - p
        if self._is_softmax:  # a change of a probability is that of its logarithm times itself
            found /= np.maximum(scores, SMALLEST)
        return np.asarray(found / math.sqrt(2 * max(1, math.prod(p.shape[1:-1]))))

    def _signs(self, values: Array, generator: np.random.Generator) -> Array:
        variances: Array = np.full(values.shape, self._variance)
        for axis in self._axes:  # of several kinds of places the stricter counts
            shape = [-1 if a == axis else 1 for a in range(values.ndim)]
            variances = np.minimum(variances, self._variances[axis].reshape(shape))
        signs = generator.integers(0, 2, values.shape) * 2.0 - 1.0
        return np.asarray(signs / np.sqrt(variances * max(1, math.prod(values.shape[1:]))))

    def _of_scores(self, found: Sequence[Array]) -> Distance:
        apart, other = [], 0
        for wanted, got in zip(self._batches, found, strict=True):
            p, q = self._roots(wanted), self._roots(got)
            apart.append(2 * np.square(p - q).sum(axis=-1).ravel())
            other += int((p.argmax(-1) != q.argmax(-1)).sum())
        each = np.concatenate(apart)
        count = max(each.size, 1)
        return Distance(float(each.sum()) / count, other / count, typical=_geometric_mean(each))

    def _of_values(self, found: Sequence[Array]) -> Distance:
        errors = [np.square(got - wanted) for wanted, got in zip(self._batches, found, strict=True)]
        count = sum(e.size for e in errors)
        values = [sum(float(e.sum()) for e in errors) / max(count, 1) / self._variance]
        for axis in self._axes:
            sums = np.sum([_over_others(e, axis) for e in errors], axis=0)
            shares = sums * (len(sums) / count) / self._variances[axis]
            values.append(float(np.minimum(shares, RUINED).mean()))
        each = [e.reshape(len(e), -1).mean(axis=1) if e.ndim else e.ravel() for e in errors]
        return Distance(max(values), typical=_geometric_mean(np.concatenate(each) / self._variance))

    def _roots(self, scores: Array) -> Array:
        """Square roots of the probabilities."""
        if self._is_softmax:
            return np.asarray(np.sqrt(np.maximum(scores, 0)))
        return np.asarray(np.exp(0.5 * log_softmax(scores)))


def _geometric_mean(values: Array) -> float:
    """Of numbers of which some may be 0, or all but 0."""
    return float(np.exp(np.log(values + NOTHING).mean())) - NOTHING if values.size else 0.0


def _axes(batches: Sequence[Array]) -> list[int]:
    """Axes but the first along which values may be of different kinds: coordinates beside scores, say."""
    ranks = {b.ndim for b in batches}
    if len(ranks) > 1:
        return []
    extents = ((axis, {b.shape[axis] for b in batches}) for axis in range(1, ranks.pop()))
    return [axis for axis, found in extents if len(found) == 1 and 1 < min(found) <= MOST_KINDS]


def _variances(batches: Sequence[Array], axis: int) -> Array:
    """Variance of all values at each place of an axis, over all batches and other axes; of constant ones a little."""
    count = sum(b.size // b.shape[axis] for b in batches)
    means = np.sum([_over_others(b, axis) for b in batches], axis=0) / count
    shape = [-1 if a == axis else 1 for a in range(batches[0].ndim)]
    squares = np.sum([_over_others(np.square(b - means.reshape(shape)), axis) for b in batches], axis=0) / count
    return np.asarray(np.maximum(squares, CONSTANT * (np.square(means) + 1e-30)))


def _over_others(values: Array, axis: int) -> Array:
    return np.asarray(values.sum(axis=tuple(a for a in range(values.ndim) if a != axis)))


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size > 0


def _kind(batches: Sequence[Array]) -> tuple[bool, bool]:
    """Whether an output holds scores of classes along its last axis, and whether these are probabilities.

    What is no softmax holds scores where, taken as logits, most vectors say what class they mean: embeddings do not.
    """
    if batches[0].ndim < 2 or batches[0].shape[-1] < 2:
        return False, False
    if all(is_softmax(b) for b in batches):
        return True, True
    largest = np.concatenate([np.exp(log_softmax(b)).max(axis=-1).ravel() for b in batches])
    return float(np.median(largest)) > SURE, False
