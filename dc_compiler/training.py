"""Trains weights of a Program: options of passes that train, batches, and the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dc_compiler import data, ir, runtime
from dc_compiler.errors import DataError, InvalidArgumentError
from dc_compiler.optimizers import Adam, Sgd, Stepper, cosine_rate
from dc_compiler.parameters import Parameters
from dc_compiler.pass_manager import Context, Pass
from dc_compiler.training_graph import Loss, Score, TrainingGraph, make_objective

Array = np.ndarray


@dataclass(frozen=True)
class TrainingPass(Pass):
    """A pass that trains on the samples of ``--data``.

    Options:
        epochs: passes over the training part of the data, or a fraction of one.
        lr: learning rate at the start; it falls to zero along half a cosine.
        loss: ``labels`` (cross-entropy), ``distill`` (the original model's outputs, no labels needed), ``mse`` (the
            same by squared error), ``auto`` (labels where there are any, else distill).
        optimizer: ``adam``, or ``sgd`` with momentum 0.9.
        batch: samples a step.
        validation: share of the samples that chooses the best epoch and is never trained on.
        shift: move images (inputs of shape [n, channels, height, width]) by up to so many pixels in each direction, at
            random, so that a small network cannot learn them by heart.
    """

    trains: ClassVar[bool] = True

    epochs: float = 8.0
    lr: float = 1e-3
    loss: Loss = "auto"
    optimizer: Literal["adam", "sgd"] = "adam"
    batch: int = 64
    validation: float = 0.1
    shift: int = 0

    def __post_init__(self) -> None:
        self.check(0 <= self.epochs <= 10_000, "epochs", "give 0 or more")
        self.check(0 < self.lr < float("inf"), "lr", "give a number above 0")
        self.check(self.batch >= 1, "batch", "give 1 or more")
        self.check(0 < self.validation < 1, "validation", "give a share between 0 and 1")
        self.check(self.shift >= 0, "shift", "give 0 or more")


@dataclass(frozen=True)
class Split:
    """Rows of the training part and of the validation part, disjoint."""

    training: Array
    validation: Array


def split(count: int, share: float, seed: int, multiple: int = 1) -> Split:
    """Draw about ``share`` of ``count`` samples for validation: a multiple of ``multiple``, not zero.

    Depends on the seed and the count alone, so every pass of a pipeline keeps the same samples aside.
    """
    order = np.random.Generator(np.random.PCG64([seed, count])).permutation(count)
    held = max(1, round(count * share / multiple)) * multiple
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


def shifted(inputs: data.Feed, most: int, generator: np.random.Generator) -> data.Feed:
    """Every image of [n, channels, height, width] inputs moved by -most..most pixels; its edge pixels fill the gap."""
    result = dict(inputs)
    for name, images in inputs.items():
        if images.ndim == 4:
            n, _, height, width = images.shape
            padded = np.pad(images, ((0, 0), (0, 0), (most, most), (most, most)), mode="edge")
            windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
            down, right = generator.integers(0, 2 * most + 1, (2, n))
            result[name] = np.ascontiguousarray(windows[np.arange(n), :, down, right])
    return result


class Trainer:
    """Trains ``records`` of a program on the run's samples, for the pass ``step``.

    Raises:
        InvalidArgumentError: there is nothing to train. DataError: too few samples. ModelError: the model has no
            gradients.
    """

    def __init__(
        self, step: TrainingPass, program: ir.Program, records: Sequence[ir.WeightRecord], context: Context
    ) -> None:
        samples = context.samples
        assert samples is not None  # the manager sees to it
        if not records:
            raise InvalidArgumentError(f"{step.text()} finds no weight that it could train")
        self._options, self._seed = step, context.seed
        self._report = context.progress or (lambda name, done, total: None)
        self.split = split(samples.count, step.validation, context.seed, samples.fixed_batch or 1)
        batch = samples.fixed_batch or min(step.batch, len(self.split.training))
        if len(self.split.training) < max(batch, 1):
            raise DataError(f"training needs at least {batch + 1} samples, the data has {samples.count}")
        objective = make_objective(program, samples, step.loss)
        self.graph = TrainingGraph(program, records, samples, objective, batch)
        self.parameters = Parameters(self.graph.records)
        self.steps_per_epoch = max(1, len(self.split.training) // batch)
        self.steps = round(step.epochs * self.steps_per_epoch)
        self._generator = np.random.Generator(np.random.PCG64([context.seed, self.steps]))
        self.optimizer: Stepper = (Adam if step.optimizer == "adam" else Sgd)(len(self.parameters.theta))

    def run(
        self, *, before_step: Callable[[int], None] | None = None, settled: int = 0, still: bool = False
    ) -> Outcome:
        """Train and leave the best parameters in place.

        Args:
            before_step: called with the number of the step about to be taken.
            still: gather gradients in the optimizer, but move nothing.
            settled: the first step whose parameters may be chosen as the best.
        """
        draw = batches(self.split.training, self.graph.batch, self._generator)
        before = self.validate()
        best, best_theta, best_epoch = before if settled == 0 else None, self.parameters.theta.copy(), 0
        for step in range(self.steps):
            if before_step is not None:
                before_step(step)
            self._step(next(draw), 0.0 if still else cosine_rate(self._options.lr, step, self.steps))
            self._report(self._options.name, step + 1, self.steps)
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

    @runtime.flushed_denormals()
    def _step(self, rows: Array, rate: float) -> None:
        inputs = self.graph.samples.take(rows)
        if self._options.shift:
            inputs = shifted(inputs, self._options.shift, self._generator)
        _, found = self.graph.step(self.parameters.weights, rows, inputs)
        self.optimizer.step(self.parameters.theta, self.parameters.reduce(found), rate)
        self.parameters.expand()
