"""Presets that train: their settings come from the model and the samples, and what comes out is judged.

How much of a network can go depends on it and on the task, so it is found out: weights are pruned level by level, each
trained, as long as the error on samples that nothing is trained on does not rise above a limit. Then the rest of the
pipeline runs, and its result is held to the same limit: where it misses, it starts again from more weights, and at last
the data-free pipeline is taken.

The limit is the original's error on those samples, give or take a standard error. But a model is often given the
samples that it was trained on, of which it knows the answers by heart. It shows: on samples that it has not seen, a
network errs at least as often as its own probabilities say. Where it errs less often, the limit is the error of a
network with the same layers, trained from the start on the training part alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
Pruned = tuple[ir.Program, list[Pass], list[PassReport]]

# Multiply-adds of the forward pass that all training may take: about ten minutes on two cores
BUDGET = 3e12
FEWEST, MOST = 4.0, 120.0  # epochs, whatever the budget says, but more of few samples: STEPS in all
STEPS = 6000
JUDGING, PRUNING, CLUSTERING = 0.1, 0.55, 0.3  # shares of the epochs: each judge, all levels, clustering
# Kept shares, tried in turn: halves first, then steps of sqrt(2)
LEVELS = (0.25, 0.125, 0.0625, 0.044, 0.031, 0.022, 0.0156, 0.011, 0.0078)
SLACK = 1.25  # times the limit that a level may have: what follows trains on, and is held to the limit itself
RETRIES = 2  # levels to go back to where the rest of the pipeline misses the limit
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
        for state, passes, reports in self._levels() if self._searches else self._fixed():
            rest = [self._settled(p, CLUSTERING) for p in self._after]
            more = run_passes(rest, state, self._context)
            found = _last_facts([*reports, *more])
            value = self._limit.measure(found)
            if value <= self._limit.most:
                self.notes.append(f"{self._limit.text}; the result has {value:.3g}")
                return Result(state, [*self._before, *passes, *rest], [*self._reports, *reports, *more], self.notes)
            self.notes.append(f"a result with {value:.3g} was put aside")
        self.notes.append(self._limit.text)
        return None

    def _settled(self, step: Pass, share: float) -> Pass:
        """A pass with the epochs, the rate and the shift of this model, where the pipeline leaves them open."""
        if not isinstance(step, TrainingPass) or not step.needs_samples:
            return step
        if not self._searches:
            return replace(step, epochs=min(step.epochs, self._epochs))
        return replace(step, epochs=_rounded(share * self._epochs), lr=_rounded(self._rate), shift=self._shift)

    def _levels(self) -> Iterator[Pruned]:
        """Programs within the limit, the one with the fewest weights first, and what made each."""
        found: list[Pruned] = []
        program, passes, reports = self._program, list[Pass](), list[PassReport]()
        for density in LEVELS:
            program = program.copy()
            step = self._settled(self._prune, PRUNING / len(LEVELS)).with_options({"density": str(density)})
            passes, reports = [*passes, step], [*reports, *run_passes([step], program, self._context)]
            if not found:
                self._doubt(reports[0].facts)
            elif self._limit.measure(reports[-1].facts) > SLACK * self._limit.most:
                break
            found.append((program, passes, reports))
        yield from reversed(found[-1 - RETRIES :])

    def _doubt(self, first: Facts) -> None:
        """Lower a limit that does not come from the original itself, for what the first level has."""
        error = self._limit.measure(first)
        if self._limit is not self._own:
            most = min(self._limit.most, RISE * error)
            self._limit = self._own if self._limit.most > DOUBT * error else replace(self._limit, most=most)

    def _fixed(self) -> Iterator[Pruned]:
        """The program at the pipeline's own density, then with half of its weights."""
        for step in (self._prune, self._prune.with_options({"density": "0.5"})):
            program = self._program.copy()
            settled = self._settled(step, PRUNING)
            reports = run_passes([settled], program, self._context)
            self._doubt(reports[0].facts)
            yield program, [settled], reports

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
                still, moved = (self._finetuned(self._program.copy(), shift) for shift in (0, 1))
                self._shift = int(moved < still)
            return own
        error = self._finetuned(self._shuffled(), 0)
        if self._has_images() and self._searches:
            self._shift = int(self._finetuned(self._shuffled(), 1) < error)
        return replace(own, most=error, text=FRESH.format(error))

    def _has_images(self) -> bool:
        inputs = self._samples.inputs.values()
        return any(a.ndim == 4 and a.shape[1] in (1, 3) and min(a.shape[2:]) >= IMAGE for a in inputs)

    def _shuffled(self) -> ir.Program:
        return shuffled(self._program, self._weights, self._context.seed)

    def _finetuned(self, program: ir.Program, shift: int) -> float:
        """Validation error of a program after a short training."""
        options = {"epochs": _rounded(JUDGING * self._epochs), "lr": _rounded(self._rate), "shift": shift}
        step = available_passes()["finetune"].from_text({k: str(v) for k, v in options.items()})
        return float(run_passes([step], program, self._context)[0].facts["validation error after"])


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
        most = error + math.sqrt(max(error, 1 / count) * (1 - error) / count)
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
