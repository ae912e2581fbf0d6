"""Presets that train: their settings come from the model and the samples, and what comes out is judged.

How much of a network can go depends on it and on the task, so it is found out. Short trainings, one after the other at
fewer and fewer weights, show how the error on samples that nothing is trained on grows (the shape of the curve). Then
the pipeline runs from the original on, with most of the time, at the density where the curve meets the limit. What
comes out tells how high the curve really lies, and where the next try should be. The smallest result within the limit
is taken; where there is none, the data-free pipeline is.

The limit is the original's error on those samples, give or take a standard error. But a model is often given the
samples that it was trained on, of which it knows the answers by heart. It shows: on samples that it has not seen, a
network errs at least as often as its own probabilities say. Where it errs less often, the limit is the error of a
network with the same layers, trained from the start on the training part alone, less a part of a standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from dc_compiler import ir
from dc_compiler.pipeline.context import Context
from dc_compiler.pipeline.manager import run_passes
from dc_compiler.pipeline.step import Pass, PassReport, available_passes
from dc_compiler.training.graph import Objective, log_softmax, make_objective, trainable
from dc_compiler.training.loop import TrainingPass

Array = np.ndarray
Facts = dict[str, Any]

# Multiply-adds of the forward pass that judging and one try may take: a few minutes on two cores
BUDGET = 3e12
FEWEST, MOST = 4.0, 120.0  # epochs, whatever the budget says, but more of few samples: STEPS in all
STEPS = 6000
# Shares of the epochs: each judge, all levels, and of every try its pruning and its clustering
JUDGING, SCOUTING, PRUNING, CLUSTERING = 0.1, 0.2, 0.4, 0.45
LEVELS = (0.25, 0.0625, 0.031, 0.0156, 0.0078)  # kept shares, trained in turn for a short time
TRIES, ENOUGH = 3, 2  # runs of the pipeline: at most, and where one of them holds the limit
LONGER = 0.65  # times the value of a level is what a whole run comes out with, before there was any
AIM = 0.93  # of the limit: what a try comes out with scatters
FARTHEST, NEAREST = 4.0, 1.2  # ratios of densities from one try to the next, and where there is nothing to gain
# Larger networks bear smaller steps: RATE at REFERENCE weights, less with their cube root
RATE, REFERENCE, LEAST_RATE = 0.003, 300_000, 1e-4
BATCH = 64
DIVERGENCE = 0.05  # nats from the original's answers that distilling may end at
RELATIVE_ERROR = 0.02  # of the variance of the original's answers, likewise
# Times the error at the first level: more than RISE nothing may have, and a network trained from the start that has
# more than DOUBT has not learned what there is to learn
RISE, DOUBT = 2.5, 4.0
FRESH = (
    "the original knows the samples given by heart (it errs less often than its own probabilities say), so its error "
    "on them tells nothing; a network like it, trained from the start, has a validation error of {:.3g}"
)
LEAST, SLOPE = 1e-6, 1e-3  # of a curve's values, and of their logarithms from one point to the next
CHANCE = 0.1  # of a result's value, that one with fewer weights may have more
MARGIN = 0.5  # standard errors that the limit lies below what it comes from, if that is not the original
PATIENCE = 1.1  # times the loss without: what moving images may have after a short training, as it pays in a long one
IMAGE = 8  # least extents of what may be moved by a pixel


@dataclass(frozen=True)
class Limit:
    """What the validation part must show after training: ``measure`` of a training's facts is at most ``most``."""

    most: float
    measure: Callable[[Facts], float]
    text: str


@dataclass
class Result:
    """The program that was accepted, the passes that made it and what they report, and sentences for the report."""

    program: ir.Program
    passes: list[Pass]
    reports: list[PassReport]
    notes: list[str]


def run(program: ir.Program, passes: Sequence[Pass], fallback: Sequence[Pass], context: Context) -> Result:
    """Run a preset's pipeline with settings found for this model.

    Args:
        passes: the pipeline; its options where nothing is found out. A ``prune`` over all weights together gets its
            density, passes that train their epochs, rate and shift.
        fallback: the data-free pipeline.

    Raises:
        DccError: what a pass raised.
    """
    search = _Search(program, passes, context)
    result = search.run()
    if result is not None:
        return result
    reports = run_passes(fallback, program, context)
    return Result(program, list(fallback), reports, [f"compiled without training: {'; '.join(search.notes)}"])


class Curve:
    """What validation shows by kept share: the shape from ``values`` at some ``densities``, densest first; the height
    by ``learn``.

    More weights never do worse, so a value counts at least as much as those before it.
    """

    def __init__(self, densities: Sequence[float], values: Array) -> None:
        self._densities = np.log(densities)
        self._values = np.maximum.accumulate(np.log(np.maximum(values, LEAST))) + SLOPE * np.arange(len(values))
        self._height = math.log(LONGER)

    def learn(self, density: float, value: float) -> None:
        """Put the curve where a whole run came out."""
        shape = np.interp(-math.log(density), -self._densities, self._values)
        self._height = math.log(max(value, LEAST)) - float(shape)

    def density(self, value: float) -> float:
        """Where the curve has ``value``; within its points."""
        return math.exp(float(np.interp(math.log(max(value, LEAST)) - self._height, self._values, self._densities)))


def search(curve: Curve, most: float, value_at: Callable[[float], float]) -> None:
    """Try a few densities for the least whose value is at most ``most``; those that hold it fall."""
    missed, least = 0.0, math.inf  # the largest density that misses the limit, the least that holds it
    density = curve.density(AIM * most)
    for tries in range(1, TRIES + 1):
        density = _rounded(density)
        value = value_at(density)
        curve.learn(density, value)
        wanted = curve.density(AIM * most)
        if value <= most:
            least = density
            density = max(wanted, density / FARTHEST, math.sqrt(missed * density))
        else:
            missed = density
            density = min(max(wanted, density * NEAREST), density * FARTHEST, math.sqrt(density * least))
        if density * NEAREST > min(least, 1.0) or (tries >= ENOUGH and least < math.inf):
            break


class _Search:
    """One search for settings; ``notes`` says what was found."""

    def __init__(self, program: ir.Program, passes: Sequence[Pass], context: Context) -> None:
        assert context.samples is not None
        first = next(i for i, p in enumerate(passes) if p.needs_samples)
        self._before, self._prune, self._after = list(passes[:first]), passes[first], list(passes[first + 1 :])
        assert isinstance(self._prune, TrainingPass)
        self._program, self._context, self._samples = program, context, context.samples
        self.notes: list[str] = []
        self._shift = 0  # what else is found out follows in run
        self._searches = getattr(self._prune, "scope", "layer") == "global"

    def run(self) -> Result | None:
        """The accepted result, or None."""
        self._reports = run_passes(self._before, self._program, self._context)
        movable = {id(r) for r in trainable(self._program)}
        self._weights = [r for r in self._program.weights() if id(r) in movable]
        if not self._weights:
            self.notes.append("no weight can be trained (they are integers, or no gradient reaches them)")
            return None
        train = len(self._samples.parts().train)
        work = cost(self._program, self._samples.inputs) * train
        most = max(MOST, STEPS * BATCH / train)
        self._epochs = min(max(BUDGET / max(work, 1), FEWEST), most)
        size = sum(r.size for r in self._weights)
        self._rate = min(RATE, max(LEAST_RATE, RATE * (REFERENCE / max(size, 1)) ** (1 / 3)))
        self._limit = self._found_limit()
        found = self._sought() if self._searches else self._fixed()
        if found is None:
            self.notes.append(self._limit.text)
            return None
        return replace(found, notes=[*self.notes, *found.notes])

    def _settled(self, step: Pass, share: float) -> Pass:
        """A pass with the epochs, the rate and the shift of this model, where the pipeline leaves them open."""
        if not isinstance(step, TrainingPass) or not step.needs_samples:
            return step
        if not self._searches:
            return replace(step, epochs=min(step.epochs, self._epochs))
        return replace(step, epochs=_rounded(share * self._epochs), lr=_rounded(self._rate), shift=self._shift)

    def _tried(self, step: Pass) -> Result:
        """What the pipeline makes of the original with ``step`` for its pruning."""
        program = self._program.copy()
        passes = [self._settled(step, PRUNING), *(self._settled(p, CLUSTERING) for p in self._after)]
        reports = run_passes(passes, program, self._context)
        return Result(program, [*self._before, *passes], [*self._reports, *reports], [])

    def _value(self, result: Result) -> float:
        return self._limit.measure(_last_facts(result.reports))

    def _holds(self, result: Result) -> bool:
        """Whether a result may be handed out; ``notes`` says why not."""
        value = self._value(result)
        if value > self._limit.most:
            self.notes.append(f"a result with {value:.3g} was put aside")
            return False
        result.notes.append(f"{self._limit.text}; the result has {value:.3g}")
        return True

    def _sought(self) -> Result | None:
        """The result with the fewest weights that holds the limit.

        What is chosen by samples looks better on them than it is, so a second result with fewer weights must do about
        as well as the first: where it does not, the limit was met by chance.
        """
        best: Result | None = None

        def value_at(density: float) -> float:
            nonlocal best
            result = self._tried(self._prune.with_options({"density": str(density)}))
            if self._holds(result):
                best = result
                most = self._value(result) * (1 + CHANCE)
                self._limit = replace(self._limit, most=min(self._limit.most, most))
            return self._value(result)

        search(self._curve(), self._limit.most, value_at)
        return best

    def _fixed(self) -> Result | None:
        """What holds the limit: the pipeline at its own density, or with half of the weights."""
        for step in (self._prune, self._prune.with_options({"density": "0.5"})):
            result = self._tried(step)
            self._doubt(result.reports[len(self._before)].facts)
            if self._holds(result):
                return result
        return None

    def _curve(self) -> Curve:
        """The curve of short trainings, as far as it may be of use."""
        found: list[Facts] = []
        program = self._program.copy()
        for density in LEVELS:
            step = self._settled(self._prune, SCOUTING / len(LEVELS)).with_options({"density": str(density)})
            found.append(run_passes([step], program, self._context)[0].facts)
            if len(found) == 1:
                self._doubt(found[0])
            if LONGER**2 * self._limit.measure(found[-1]) > self._limit.most:
                break
        values = np.array([self._limit.measure(f) for f in found])
        if "validation error after" in found[0]:  # few samples are wrong, so their number is noisy: losses are less so
            losses = np.array([f["validation loss after"] for f in found])
            values = losses * (values.sum() / losses.sum())
        return Curve(LEVELS[: len(found)], values)

    def _doubt(self, first: Facts) -> None:
        """Lower a limit that does not come from the original itself, for what the first level has."""
        error = self._limit.measure(first)
        if self._limit is not self._own:
            most = min(self._limit.most, RISE * error)
            self._limit = self._own if self._limit.most > DOUBT * error else replace(self._limit, most=most)

    def _found_limit(self) -> Limit:
        """The limit to hold to; the original's own is kept, too. On the way: whether moving images helps."""
        samples = self._samples
        objective = make_objective(self._program, samples, "auto")
        rows = samples.parts().validation
        outputs = samples.original_output(objective.value).astype(np.float64)
        own = self._own = _limit_of(objective, rows, outputs)
        if objective.labels is None:
            return own
        seen = np.concatenate([samples.parts().train, rows])
        if not _knows_by_heart(outputs[seen], objective, seen):
            if self._has_images() and self._searches:
                self._find_shift(self._program.copy, self._finetuned(self._program.copy(), 0))
            return own
        fresh = self._finetuned(self._shuffled(), 0)
        if self._has_images() and self._searches:
            self._find_shift(self._shuffled, fresh)
        error = float(fresh["validation error after"])
        # An estimate for a promise, and what is chosen by the samples looks better on them than it is
        most = error - MARGIN * _standard_error(error, objective.labels[rows].size)
        return replace(own, most=max(most, 0.0), text=FRESH.format(error))

    def _find_shift(self, start: Callable[[], ir.Program], still: Facts) -> None:
        """Move images where that is no worse than the training of ``start`` on ``still`` ones."""
        loss, moved = (f["validation loss after"] for f in (still, self._finetuned(start(), 1)))
        self._shift = int(moved < PATIENCE * loss)

    def _has_images(self) -> bool:
        inputs = self._samples.inputs.values()
        return any(a.ndim == 4 and a.shape[1] in (1, 3) and min(a.shape[2:]) >= IMAGE for a in inputs)

    def _shuffled(self) -> ir.Program:
        return shuffled(self._program, self._weights, self._context.seed)

    def _finetuned(self, program: ir.Program, shift: int) -> Facts:
        """What is known of a program after a short training."""
        options = {"epochs": _rounded(JUDGING * self._epochs), "lr": _rounded(self._rate), "shift": shift}
        step = available_passes()["finetune"].from_text({k: str(v) for k, v in options.items()})
        return run_passes([step], program, self._context)[0].facts


def cost(program: ir.Program, inputs: dict[str, Array]) -> float:
    """Multiply-adds of one sample in the layers with weights, as far as shapes are known."""
    model = onnx.ModelProto()
    model.CopyFrom(program.proto)
    for value in model.graph.input:
        if value.name in inputs:
            shape = [1, *inputs[value.name].shape[1:]]
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, shape))
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.output)}
    stored = {s.value_name: r for r, s in zip(program.records, program.sites, strict=True) if len(r.shape) > 1}
    total = 0.0
    for node in graph.node:
        output = math.prod(max(1, d) for d in shapes.get(node.output[0], [])[1:])
        for name in node.input:
            if name in stored:
                record = stored[name]
                channels, _ = ir.channel_layout(record.shape, record.uses)
                total += record.size * max(1.0, output / channels)
    return total


def shuffled(program: ir.Program, weights: Sequence[ir.WeightRecord], seed: int) -> ir.Program:
    """A copy whose ``weights`` have their values in random places: layers of the same scale that know nothing."""
    chosen = {r.name for r in weights}
    result = program.copy()
    for record in result.records:
        if record.name in chosen:
            generator = np.random.Generator(np.random.PCG64([seed, *record.name.encode()]))
            record.values = generator.permutation(record.values.reshape(-1)).reshape(record.shape)
    return result


def _error(outputs: Array, labels: Array) -> float:
    return float((outputs.argmax(-1) != labels).mean())


def _standard_error(error: float, count: int) -> float:
    return math.sqrt(max(error, 1 / count) * (1 - error) / count)


def _knows_by_heart(outputs: Array, objective: Objective, rows: Array) -> bool:
    """Whether the errors on samples are, by two standard errors, fewer than the probabilities of the outputs say."""
    assert objective.labels is not None
    labels = objective.labels[rows]
    probabilities = outputs if objective.is_softmax else np.exp(log_softmax(outputs))
    error = _error(outputs, labels)
    return bool(error + 2 * math.sqrt(error * (1 - error) / labels.size) < float((1 - probabilities.max(-1)).mean()))


def _limit_of(objective: Objective, rows: Array, outputs: Array) -> Limit:
    """What the original itself gives: its error where there are classes, else its distance from the targets."""
    if objective.labels is not None:
        labels = objective.labels[rows]
        error, count = _error(outputs[rows], labels), labels.size
        most = error + _standard_error(error, count)
        text = f"the original's validation error is {error:.3g}"
        return Limit(most, lambda facts: float(facts["validation error after"]), text)
    own = objective.loss(outputs[rows], rows) / len(rows)
    if objective.kind == "cross-entropy":
        text = f"the answers may be {DIVERGENCE} nats from the original's"
        return Limit(DIVERGENCE, lambda facts: float(facts["validation loss after"]) - own, text)
    scale = float(np.var(objective.targets[rows].astype(np.float64))) or 1.0
    most = 1.05 * own / scale + (RELATIVE_ERROR if own == 0 else 0.0)
    text = f"the original's squared error is {own / scale:.3g} of the variance, the result's may be {most:.3g}"
    return Limit(most, lambda facts: float(facts["validation loss after"]) / scale, text)


def _last_facts(reports: Sequence[PassReport]) -> Facts:
    return next(r.facts for r in reversed(reports) if "validation loss after" in r.facts)


def _rounded(value: float) -> float:
    """Three digits, so that the pipeline's text is short and the same settings can be given again."""
    return float(f"{value:.3g}")
