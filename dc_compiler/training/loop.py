"""Trains weights of a Program: options of passes that train, batches, and the loop."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from dc_compiler import ir
from dc_compiler.codec import binding
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.pass_manager import Context, Pass
from dc_compiler.training.augment import Changes
from dc_compiler.training.checkpoint import Resumable, State
from dc_compiler.training.graph import Loss, Score, TrainingGraph, make_objective
from dc_compiler.training.optimizers import Adam, Sgd, Stepper, cosine_rate
from dc_compiler.training.parameters import Parameters

Array = np.ndarray
RECENT = 100  # steps that the loss shown while training is the mean of
COUNTED = 10_000  # training samples that are enough to tell the loss on them
ORDER, SHIFTS = 1, 2  # streams of random numbers
CURVE = ("step", "training loss", "validation loss", "validation error")  # the training loss of the last RECENT steps


@dataclass(frozen=True)
class TrainingPass(Pass):
    """A pass that trains on the samples of ``--data``.

    Options:
        epochs: passes over the training part of the data, or a fraction of one; two steps at least, unless it is 0.
        lr: learning rate at the start; it falls to zero along half a cosine.
        loss: ``labels`` (cross-entropy with class numbers, squared error to values), ``distill`` (the original model's
            outputs, no labels needed), ``mse`` (the same by squared error), ``match`` (the one of these that keeps
            probabilities or other values near the original's), ``auto`` (labels where there are any, else distill).
        optimizer: ``adam``, or ``sgd`` with momentum 0.9.
        batch: samples a step.
        validation: share of the samples beside those that check the result; chooses the best epoch, is never trained
            on. Where a pass calibrates, it is the part that chooses the step instead.
        shift: move images (inputs of shape [n, channels, height, width]) by up to so many pixels in each direction, at
            random, so that a small network cannot learn them by heart.
        mirror: swap left and right of half of the images, likewise.
        mix: give a share of the samples a part of another one's inputs, where these are floats; without labels only.
            Where the original is distilled, it gives its answers to the changed inputs.
    """

    trains: ClassVar[bool] = True

    epochs: float = 8.0
    lr: float = 1e-3
    loss: Loss = "auto"
    optimizer: Literal["adam", "sgd"] = "adam"
    batch: int = 64
    validation: float = 0.1
    shift: int = 0
    mirror: bool = False
    mix: float = 0.0

    def __post_init__(self) -> None:
        self.check(0 <= self.epochs <= 10_000, "epochs", "give 0 or more")
        self.check(0 < self.lr < float("inf"), "lr", "give a number above 0")
        self.check(self.batch >= 1, "batch", "give 1 or more")
        self.check(0 < self.validation < 1, "validation", "give a share between 0 and 1")
        self.check(self.shift >= 0, "shift", "give 0 or more")
        self.check(0 <= self.mix <= 1, "mix", "give a share from 0 to 1")


def batches(rows: Array, batch: int, seeds: Sequence[int], start: int = 0) -> Iterator[Array]:
    """Shuffled batches without end, from step ``start`` on; a rest that fills no batch waits for the next shuffle.

    The order of an epoch depends on ``seeds`` and its number alone, so that nothing more is needed to continue.
    """
    each = len(rows) // batch
    for epoch in itertools.count(start // each):
        order = np.random.Generator(np.random.PCG64([*seeds, ORDER, epoch])).permutation(rows)
        for step in range(max(start, epoch * each), (epoch + 1) * each):
            yield order[(step - epoch * each) * batch :][:batch]


@dataclass
class Outcome:
    """Scores on the validation part before and after (of the epoch kept), on the training part after (of at most
    ``COUNTED`` samples, as they are), which epoch was kept, steps taken, and ``CURVE`` at the end of every epoch."""

    before: Score
    after: Score
    training: Score
    best_epoch: int
    steps: int
    curve: Array

    def facts(self) -> dict[str, Any]:
        """What a report says about it."""
        facts: dict[str, Any] = {"steps": self.steps, "best epoch": self.best_epoch}
        facts["curve"] = [dict(zip(CURVE, map(_known, point), strict=True)) for point in self.curve.tolist()]
        scores = {"training {}": self.training, "validation {} before": self.before, "validation {} after": self.after}
        for text, score in scores.items():
            facts[text.format("loss")] = score.loss
            if score.error is not None:
                facts[text.format("error")] = score.error
        return facts


@dataclass
class _Position:
    """Where a training is: steps taken, the score before them, and the best one that may be chosen so far."""

    before: Score | None = None
    step: int = 0
    best: Score | None = None
    best_theta: Array = field(default_factory=lambda: np.empty(0, np.float32))
    best_epoch: int = 0
    curve: Array = field(default_factory=lambda: np.empty((0, len(CURVE))))

    def draw(self, loss: float, score: Score | None) -> None:
        """Add a point to the curve; NaN is what is not known."""
        known = (
            [math.nan, math.nan] if score is None else [score.loss, math.nan if score.error is None else score.error]
        )
        self.curve = np.vstack([self.curve, [self.step, loss, *known]])

    def note(self, score: Score, theta: Array, epoch: int) -> None:
        """Remember the parameters if none were better."""
        if self.best is None or score < self.best:
            self.best, self.best_theta, self.best_epoch = score, theta.copy(), epoch

    def state(self) -> State:
        counts = np.array([self.step, self.best_epoch])
        scores = {"before": _numbers(self.before), "best": _numbers(self.best)}
        return {"counts": counts, "theta": self.best_theta, "curve": self.curve, **scores}

    def restore(self, state: State) -> None:
        self.step, self.best_epoch = (int(n) for n in state["counts"])
        self.before, self.best = _score(state["before"]), _score(state["best"])
        self.best_theta, self.curve = state["theta"], state["curve"]


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _numbers(score: Score | None) -> Array:
    """Error rate and loss, as far as there are any."""
    return np.array([] if score is None else [n for n in (score.error, score.loss) if n is not None])


def _score(numbers: Array) -> Score | None:
    if not len(numbers):
        return None
    *error, loss = numbers.tolist()
    return Score(error[0] if error else None, loss)


class Trainer:
    """Trains ``records`` of a program on the run's samples, for the pass ``step``.

    Raises:
        InvalidArgumentError: there is nothing to train. DataError: too few samples. ModelError: the model has no
            gradients.
    """

    def __init__(
        self, step: TrainingPass, program: ir.Program, records: Sequence[ir.WeightRecord], context: Context,
        units: Mapping[str, Array] | None = None,
    ) -> None:  # fmt: skip
        samples = context.samples
        assert samples is not None  # the manager sees to it
        if not records:
            raise InvalidArgumentError(f"{step.text()} finds no weight that it could train{_left_alone(program)}")
        self._options = step
        self._report = context.progress or (lambda name, done, total, loss: None)
        self._file = None if context.checkpoint is None else context.checkpoint.next()
        self._recent: deque[float] = deque(maxlen=RECENT)
        self.parts = samples.parts(step.validation)
        batch = samples.fixed_batch or min(step.batch, len(self.parts.train))
        objective = make_objective(program, samples, step.loss)
        self._changes = Changes(step.shift, step.mirror, step.mix)
        if step.mix > 0 and not objective.distils:
            raise InvalidArgumentError(f"{step.text()}: no label tells the answer to mixed samples; add loss=distill")
        self.graph = TrainingGraph(program, records, samples, objective, batch)
        self.parameters = Parameters(self.graph.records, units)
        self.steps_per_epoch = max(1, len(self.parts.train) // batch)
        self.steps = round(step.epochs * self.steps_per_epoch)
        if step.epochs > 0:
            self.steps = max(2, self.steps)  # one before weights are removed or codebooks fitted for good, one after
        self._seeds = context.seed, self.steps
        self.optimizer: Stepper = (Adam if step.optimizer == "adam" else Sgd)(len(self.parameters.theta))

    def run(
        self,
        *,
        before_step: Callable[[int], None] | None = None,
        settled: int = 0,
        still: bool = False,
        rounds: int = 1,
        own: Resumable | None = None,
        penalty: Callable[[Array], Array] | None = None,
    ) -> Outcome:
        """Train and leave the best parameters in place. With a checkpoint, continue where the last run stopped.

        Args:
            before_step: called with the number of the step about to be taken. What it changes beside parameters and
                optimizer belongs into ``own``.
            settled: the first step whose parameters may be chosen as the best.
            rounds: how many times the learning rate starts anew.
            still: gather gradients in the optimizer, but move nothing.
            own: what the pass itself keeps from step to step.
            penalty: of the parameters, the gradient of what is to be small beside the loss.

        Raises:
            InvalidArgumentError: the state on disk is damaged. OutputError: it cannot be written.
        """
        at = _Position()
        parts: dict[str, Resumable] = {"parameters": self.parameters, "optimizer": self.optimizer, "position": at}
        if own is not None:
            parts["own"] = own
        if self._file is not None and self._file.load(parts):
            with binding.flushed_denormals():  # as in the step after which the state was saved
                self.parameters.expand()
        else:
            at.before = self.validate()
            at.draw(math.nan, at.before)
            if settled == 0:
                at.note(at.before, self.parameters.theta, 0)
        draw = batches(self.parts.train, self.graph.batch, self._seeds, at.step)
        while at.step < self.steps:
            if before_step is not None:
                before_step(at.step)
            rate = 0.0 if still else cosine_rate(self._options.lr, at.step, self.steps, rounds)
            self._step(next(draw), at.step, rate, penalty)
            at.step += 1
            self._report(self._options.name, at.step, self.steps, sum(self._recent) / len(self._recent))
            is_end = at.step % self.steps_per_epoch == 0 or at.step == self.steps
            if is_end:
                score = self.validate() if at.step > settled else None
                at.draw(sum(self._recent) / len(self._recent), score)
                if score is not None:
                    at.note(score, self.parameters.theta, math.ceil(at.step / self.steps_per_epoch))
            if self._file is not None and (at.step == self.steps or self._file.is_due(is_end)):
                self._file.save(parts)
        assert at.before is not None
        assert at.best is not None
        self.parameters.theta[:] = at.best_theta
        self.parameters.expand()
        return Outcome(at.before, at.best, self._training_score(), at.best_epoch, self.steps, at.curve)

    def prune(self, masks: Mapping[str, Array]) -> None:
        """Drop the parameters of masked elements; ``masks`` has bool arrays by record name."""
        self.optimizer.keep(self.parameters.prune([masks.get(r.name) for r in self.parameters.records]))

    def validate(self) -> Score:
        """Score of the current parameters on the validation part."""
        return self.graph.evaluate(self.parameters.weights, self.parts.validation)

    def _training_score(self) -> Score:
        """Score on the training part, or on samples at equal distances in it."""
        rows, fixed = self.parts.train, self.graph.samples.fixed_batch or 1
        count = max(1, min(len(rows), COUNTED) // fixed) * fixed
        return self.graph.evaluate(self.parameters.weights, rows[np.arange(count) * len(rows) // count])

    @binding.flushed_denormals()
    def _step(self, rows: Array, step: int, rate: float, penalty: Callable[[Array], Array] | None = None) -> None:
        inputs, objective = self.graph.samples.take(rows), self.graph.objective
        targets = objective.targets[rows]
        if self._changes.any:
            generator = np.random.Generator(np.random.PCG64([*self._seeds, SHIFTS, step]))
            inputs = self._changes.apply(inputs, generator)
            if objective.distils:
                targets = objective.answers(self.graph.samples.original_answers(objective.value, inputs))
        loss, found = self.graph.step(self.parameters.weights, inputs, targets)
        self._recent.append(loss)
        gradient = self.parameters.reduce(found)
        if penalty is not None:
            gradient += penalty(self.parameters.theta)
        self.optimizer.step(self.parameters.theta, gradient, rate)
        self.parameters.expand()


def _left_alone(program: ir.Program) -> str:
    """Which weights are stored once under several names and left alone under all of them."""
    tied = [r for r in program.records if r.aliases and r.reason is not None]
    return "".join(f"; {' and '.join(r.names)} are stored once and left alone together: {r.reason}" for r in tied)
