"""What the result of a preset that trains is held to: the original's own error, or what the user lets it lose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.calibration import Calibration
from dc_compiler.calibration.divergence import Judge
from dc_compiler.calibration.goals import MARGIN, excess_of
from dc_compiler.calibration.tuning import keeps
from dc_compiler.training.graph import Objective, log_softmax

Array = np.ndarray
Facts = dict[str, Any]

DIVERGENCE = 0.05  # nats from the original's answers that distilling may end at
RELATIVE_ERROR = 0.02  # of the variance of the original's answers, likewise


@dataclass(frozen=True)
class Limit:
    """What samples that nothing is trained on must show: ``measure`` of a program and its training's facts is at most
    ``most``; whether those that nothing was chosen by agree; and the measure in words."""

    most: float
    measure: Callable[[ir.Program, Facts], float]
    text: str
    confirm: Callable[[ir.Program], bool] = lambda program: True
    told: Callable[[float], str] = "{:.3g}".format


def of_original(objective: Objective, rows: Array, outputs: Array) -> Limit:
    """What the original itself gives: its error where there are classes, else its distance from the targets.

    Args:
        rows: the validation part. outputs: the original's, of all samples.
    """
    if objective.labels is not None:
        labels = objective.labels[rows]
        error, count = error_of(outputs[rows], labels), labels.size
        most = error + standard_error(error, count)
        text = f"the original's validation error is {error:.3g}"
        return Limit(most, lambda program, facts: float(facts["validation error after"]), text)
    own = objective.loss(outputs[rows], rows) / len(rows)
    if objective.kind == "cross-entropy":
        text = f"the answers may be {DIVERGENCE} nats from the original's"
        return Limit(DIVERGENCE, lambda program, facts: float(facts["validation loss after"]) - own, text)
    scale = float(np.var(objective.targets[rows].astype(np.float64))) or 1.0
    most = 1.05 * own / scale + (RELATIVE_ERROR if own == 0 else 0.0)
    text = f"the original's squared error is {own / scale:.3g} of the variance, the result's may be {most:.3g}"
    return Limit(most, lambda program, facts: float(facts["validation loss after"]) / scale, text)


def of_drop(drop: float, calibration: Calibration, near_lossless: ir.Program, fresh: ir.Program | None) -> Limit:
    """What the user allows: ``drop`` points of the metric less than the original has, or so many percent of changed
    answers where there is none.

    Args:
        near_lossless: a program that hardly differs from the original.
        fresh: one trained from the start, where the original knows the samples by heart: its score takes the place of
            the original's.
    """
    judge, final = calibration.judge, calibration.final_judge
    if judge.before is None:
        excess = excess_of(drop, judge.of(near_lossless), None, counts_flips=True, of_scores=judge.is_bounded)
        text = f"{drop:g} % of the answers may change"
        return Limit(
            1.0, lambda program, facts: excess(judge.of(program)), text, lambda p: keeps(final, p, drop),
            lambda value: f"{100 * value:.0f} % of what is allowed",
        )  # fmt: skip
    before = _reference(judge, fresh)

    def measure(program: ir.Program, facts: Facts) -> float:
        """1 for no loss, 2 for all that is allowed."""
        distance = judge.of(program)
        assert distance.score is not None
        lost = before - distance.score + MARGIN * distance.uncertainty
        return 1 + max(100 * lost / drop, -0.9)

    text = f"a score of {before:.4f} on the validation part may fall by {drop:g} points"

    def told(value: float) -> str:
        return f"lost {drop * (value - 1):.2g}, counting half a standard error"

    return Limit(2.0, measure, text, lambda p: keeps(final, p, drop, _reference(final, fresh)), told)


def _reference(judge: Judge, fresh: ir.Program | None) -> float:
    """The score that a drop starts from."""
    assert judge.before is not None
    known = None if fresh is None else judge.of(fresh).score
    return judge.before if known is None else min(judge.before, known)


def error_of(outputs: Array, labels: Array) -> float:
    """Share of the vectors whose largest element is not the label's."""
    return float((outputs.argmax(-1) != labels).mean())


def standard_error(error: float, count: int) -> float:
    """Of an error rate found on so many samples."""
    return math.sqrt(max(error, 1 / count) * (1 - error) / count)


def knows_by_heart(outputs: Array, objective: Objective, rows: Array) -> bool:
    """Whether the errors on samples are, by two standard errors, fewer than the probabilities of the outputs say."""
    assert objective.labels is not None
    labels = objective.labels[rows]
    probabilities = outputs if objective.is_softmax else np.exp(log_softmax(outputs))
    error = error_of(outputs, labels)
    return bool(error + 2 * math.sqrt(error * (1 - error) / labels.size) < float((1 - probabilities.max(-1)).mean()))
