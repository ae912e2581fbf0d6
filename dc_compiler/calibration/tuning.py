"""Runs a pipeline whose step is to be found: sets the goal, searches, and confirms the answer on the check part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dc_compiler import ir
from dc_compiler.calibration.divergence import Judge
from dc_compiler.calibration.goals import DEFAULT_DROP, Targets, bound_of, excess_of, most_amplified
from dc_compiler.calibration.longer import train
from dc_compiler.calibration.search import NEAR_LOSSLESS, START, Found, Goal, Search, SizeOf, Try
from dc_compiler.errors import ModelError
from dc_compiler.pipeline.context import Context
from dc_compiler.pipeline.step import Pass, PassReport

FINER = 2.0**-0.25  # times the step, where the check part shows that the answer misses the goal
CORRECTIONS = 8
TRAINED = 0.5  # share of the bound that training may use up: what is trained on looks better than it is
LEAST = 1e-6  # divergences below are taken for this one
CHOSEN_BY = "its figures are no longer those of samples that nothing was chosen by"
MAGNIFIED = "the model magnifies any change on these inputs, so that they do not tell which larger step would be safe"


@dataclass
class Tuned:
    """The program that was accepted, the passes that made it, what they report (the cluster pass: all tries), and
    whether the goal is met."""

    program: ir.Program
    passes: list[Pass]
    reports: list[PassReport]
    is_met: bool
    notes: list[str] = field(default_factory=list)


def tune(
    program: ir.Program,
    passes: Sequence[Pass],
    context: Context,
    targets: Targets,
    size_of: SizeOf,
    minutes: float | None = None,
) -> Tuned:
    """Find the step with which the pipeline reaches the targets; without any, the coarsest that is safe.

    Args:
        minutes: what training from there on may take, about.

    Raises:
        InvalidArgumentError: there is no step to choose. ModelError: the model does not run on the samples, or they
            show nothing.
        DccError: what a pass raised.
    """
    search = Search(program, passes, context, size_of)
    search.settle()
    size = targets.bytes_of(program.original_bytes)
    drop = targets.drop if targets.any else DEFAULT_DROP
    calibration = context.calibration
    if calibration is None or drop is None:
        found = search.run(Goal(size))
        better, notes = [found.best], list[str]()
        if minutes is not None and found.is_met and found.best.distance is not None:
            about = max(found.best.distance.divergence, LEAST)
            trained, notes = train(search, found.best, Goal(size), minutes, context, about)
            better = trained or better
        return _tuned(found, better[0], found.is_met, [*notes, _answer(better[0])])
    near_lossless = search.near_lossless
    counts_flips = targets.drop is not None
    judge = calibration.judge
    if not targets.any and near_lossless.divergence > most_amplified(judge.is_bounded):
        finest = search.at(NEAR_LOSSLESS)
        return _tuned(Found(finest, is_met=True), finest, True, [_answer(finest), MAGNIFIED])
    if targets.drop is None and _moves_nothing(search.at(START)):
        raise ModelError("changed weights do not change the outputs for these inputs")
    excess = excess_of(drop, near_lossless, judge.before, counts_flips=counts_flips, of_scores=judge.is_bounded)
    found = search.run(Goal(size, excess))
    if not targets.any and not found.is_met:
        raise ModelError("at no step are the outputs near enough, though they are with plain rounding")
    trained, notes = list[Try](), list[str]()
    if minutes is not None:
        within = bound_of(drop, near_lossless, of_scores=judge.is_bounded)
        if found.best.expected is not None:  # other things may have ended the search before outputs moved as far
            within = min(within, max(found.best.expected.divergence, TRAINED * within))
        trained, notes = train(search, found.best, Goal(size, excess), minutes, context, within)
    best = next((t for t in trained if not counts_flips or keeps(calibration.final_judge, t.program, drop)), None)
    if trained and best is not trained[0]:
        instead = "the result without is taken" if best is None else f"a finer one is taken; {CHOSEN_BY}"
        notes.append(f"the check part showed a larger drop after training, so {instead}")
    if best is not None:
        return _tuned(found, best, size is None or best.size <= size, [*notes, _answer(best)])
    if not counts_flips or not found.is_met:
        return _tuned(found, found.best, found.is_met, [*notes, _answer(found.best)])
    return _confirmed(search, found, calibration.final_judge, drop, size, notes)


def _moves_nothing(found: Try) -> bool:
    return found.distance is not None and found.distance.divergence == 0


def _confirmed(
    search: Search, found: Found, judge: Judge, drop: float, size: int | None, notes: Sequence[str]
) -> Tuned:
    """The answer, made finer until the check part shows no larger drop than allowed, too."""
    best, corrections = found.best, 0
    is_kept = keeps(judge, best.program, drop)
    while not is_kept and corrections < CORRECTIONS:
        corrections += 1
        best = search.at(best.step * FINER)
        is_kept = keeps(judge, best.program, drop)
    is_met = is_kept and (size is None or best.size <= size)
    told = [*notes, _answer(best)]
    if corrections:
        told.append(f"the check part showed a larger drop, so the step was made finer {corrections} times; {CHOSEN_BY}")
    return _tuned(found, best, is_met, told)


def keeps(judge: Judge, program: ir.Program, drop: float, before: float | None = None) -> bool:
    """Whether the judge sees no larger drop than allowed, from ``before`` or else from the original's score; of the
    answers where there is no metric."""
    distance = judge.of(program)
    before = judge.before if before is None else before
    if before is None or distance.score is None:
        return 100 * distance.disagreement <= drop
    return 100 * (before - distance.score) <= drop + 1e-9


def _answer(best: Try) -> str:
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
    next(r for r in best.reports if r.name == "cluster").facts["tries"] = tries
    return Tuned(best.program, best.passes, best.reports, is_met, notes)
