"""Runs a pipeline whose step is to be found: sets the goal, searches, and confirms the answer on the check part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dc_compiler import ir
from dc_compiler.calibration.divergence import Distance
from dc_compiler.calibration.goals import DEFAULT_DROP, Targets, excess_of, most_amplified
from dc_compiler.calibration.search import START, Found, Goal, Search, SizeOf, Try
from dc_compiler.errors import ModelError
from dc_compiler.pipeline.context import Context
from dc_compiler.pipeline.step import Pass, PassReport

NEAR_LOSSLESS = 0.08  # the step of the pipeline without data, which hardly moves the outputs of any model
FINER = 2.0**-0.25  # times the step, where the check part shows that the answer misses the goal
CORRECTIONS = 8
MAGNIFIED = "the model magnifies any change on these inputs, so that they do not tell which larger step would be safe"


@dataclass
class Tuned:
    """The program that was accepted, the passes that made it, what they report, and whether the goal is met."""

    program: ir.Program
    passes: list[Pass]
    reports: list[PassReport]
    is_met: bool
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def tune(
    program: ir.Program,
    passes: Sequence[Pass],
    context: Context,
    targets: Targets,
    size_of: SizeOf,
) -> Tuned:
    """Find the step with which the pipeline reaches the targets; without any, the coarsest that is safe.

    Raises:
        InvalidArgumentError: there is no step to choose. ModelError: the model does not run on the samples, or they
            show nothing.
        DccError: what a pass raised.
    """
    search = Search(program, passes, context, size_of)
    size = targets.bytes_of(program.original_bytes)
    drop = targets.drop if targets.any else DEFAULT_DROP
    calibration = context.calibration
    if calibration is None or drop is None:
        found = search.run(Goal(size))
        return _tuned(found, found.best, found.is_met, [_answer(found.best, size)])
    near_lossless = search.at(NEAR_LOSSLESS).distance
    assert near_lossless is not None
    if targets.drop is None and search.at(START).distance == Distance(0.0):
        raise ModelError("changed weights do not change the outputs for these inputs")
    counts_flips = targets.drop is not None
    judge = calibration.judge
    if not targets.any and near_lossless.divergence > most_amplified(judge.is_bounded):
        found = Found(search.at(NEAR_LOSSLESS), is_met=True)
        return _tuned(found, found.best, True, [_answer(found.best, size), MAGNIFIED])
    excess = excess_of(drop, near_lossless, judge.before, counts_flips=counts_flips, of_scores=judge.is_bounded)
    found = search.run(Goal(size, excess))
    if not counts_flips or not found.is_met:
        return _tuned(found, found.best, found.is_met, [_answer(found.best, size)])
    return _confirmed(search, found, calibration.final_judge, drop, size)


def _confirmed(search: Search, found: Found, judge: Any, drop: float, size: int | None) -> Tuned:
    """The answer, made finer until the check part shows no larger drop than allowed, too."""
    best, corrections = found.best, 0
    while corrections <= CORRECTIONS:
        distance = judge.of(best.program)
        lost = (judge.before - distance.score) if judge.before is not None else distance.disagreement
        is_met = 100 * lost <= drop + 1e-9 and (size is None or best.size <= size)
        if is_met or 100 * lost <= drop + 1e-9:
            break
        corrections += 1
        best = search.at(best.step * FINER)
    notes = [_answer(best, size)]
    if corrections:
        notes.append(
            f"the check part showed a larger drop, so the step was made finer {corrections} times; its figures are no "
            "longer those of samples that nothing was chosen by"
        )
    return _tuned(found, best, is_met, notes)


def _answer(best: Try, size: int | None) -> str:
    text = f"the step of cluster is {best.step:.3g}"
    if best.distance is not None:
        text += f"; on the validation part the outputs moved by {best.distance.divergence:.3g}"
        if best.distance.disagreement:
            text += f", {100 * best.distance.disagreement:.2g} % of the answers changed"
    return text


def _tuned(found: Found, best: Try, is_met: bool, notes: list[str]) -> Tuned:
    tries = [
        {"step": step, "bytes": size}
        | ({} if d is None else {"divergence": d.divergence, "disagreement": d.disagreement})
        for step, size, d in found.tries
    ]
    return Tuned(best.program, best.passes, best.reports, is_met, notes, {"tries": tries})
