"""Presets that train: their settings come from the model and the samples, and what comes out is judged.

How much of a network can go depends on it and on the task, so it is found out. Short trainings, one after the other at
fewer and fewer weights, show how the error on samples that nothing is trained on grows (the shape of the curve). Then
the pipeline runs from the original on, with most of the time, at the density where the curve meets the limit. What
comes out tells how high the curve really lies, and where the next try should be. The smallest result within the limit
is taken; where there is none, the data-free pipeline is.

What the user wants decides instead where it is given: a drop is the limit, and the answer is confirmed on the check
part; for a size alone densities are tried until the file has it. Where training does not get there, the pipeline
without training looks for a step that does.

The limit is the original's error on those samples, give or take a standard error. But a model is often given the
samples that it was trained on, of which it knows the answers by heart. It shows: on samples that it has not seen, a
network errs at least as often as its own probabilities say. Where it errs less often, the limit is the error of a
network with the same layers, trained from the start on the training part alone, less a part of a standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.goals import MARGIN, Targets
from dc_compiler.calibration.search import SizeOf
from dc_compiler.calibration.tuning import tune
from dc_compiler.pipeline.context import Context
from dc_compiler.pipeline.manager import run_passes
from dc_compiler.pipeline.step import Pass, PassReport, available_passes
from dc_compiler.training.augment import is_image
from dc_compiler.training.effort import EFFORT, cost
from dc_compiler.training.graph import make_objective, trainable
from dc_compiler.training.limits import Facts, Limit, knows_by_heart, of_drop, of_original, standard_error
from dc_compiler.training.loop import TrainingPass

Array = np.ndarray

FEWEST, MOST = 4.0, 120.0  # epochs, whatever the effort says, but more of few samples: STEPS in all
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
# Times the error at the first level: more than RISE nothing may have, and a network trained from the start that has
# more than DOUBT has not learned what there is to learn
RISE, DOUBT = 2.5, 4.0
BY_HEART = (
    "the original knows the samples given by heart (it errs less often than its own probabilities say), so its error "
    "on them tells nothing"
)
FRESH = BY_HEART + "; a network like it, trained from the start, has a validation error of {:.3g}"
LEAST, SLOPE = 1e-6, 1e-3  # of a curve's values, and of their logarithms from one point to the next
DENSEST = 0.5  # level before the others where the user says how much may be lost
# What curves look like where no level is tried: the loss allowed goes with this power of the density
PRIOR = -0.3
KEEPING_BITS = 6.5  # of a file for each weight that is kept, about: where the search for a size starts
SIZE_TRIES, SIZE_AIM, UNUSED = 5, 0.99, 0.02  # the last: share of the size wanted that may be left unused
STEEP, FARTHEST_SIZE = 6.0, 8.0  # how much faster than the size the density falls while files are too large; at once
CORRECTIONS, DENSER = 2, 1.6  # tries, and ratio of their densities, where the check part disagrees
CHANCE = 0.1  # of a result's value, that one with fewer weights may have more
PATIENCE = 1.1  # times the loss without: what moving images may have after a short training, as it pays in a long one


@dataclass
class Result:
    """The program that was accepted, the passes that made it and what they report, sentences for the report, and
    whether it is what the user wants."""

    program: ir.Program
    passes: list[Pass]
    reports: list[PassReport]
    notes: list[str]
    is_met: bool = True


def run(
    program: ir.Program, passes: Sequence[Pass], fallback: Sequence[Pass], context: Context, targets: Targets,
    size_of: SizeOf, effort: float = EFFORT,
) -> Result:  # fmt: skip
    """Run a preset's pipeline with settings found for this model.

    Args:
        passes: the pipeline; its options where nothing is found out. A ``prune`` over all weights together gets its
            density, passes that train their epochs, rate and shift. With targets any ``prune`` gets its density.
        fallback: the data-free pipeline.
        size_of: bytes of the file that a program makes, given the passes that made it.
        effort: multiply-adds of the forward pass that one try may take.

    Raises:
        DccError: what a pass raised.
    """
    search = _Search(program, passes, context, targets, size_of, effort)
    result = search.run()
    if result is not None:
        return result
    note = f"compiled without training: {'; '.join(search.notes)}"
    if targets.any:
        tuned = tune(program, fallback, context, targets, size_of)
        return Result(tuned.program, tuned.passes, tuned.reports, [note, *tuned.notes], tuned.is_met)
    reports = run_passes(fallback, program, context)
    return Result(program, list(fallback), reports, [note])


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


def search_size(first: float, most: int, bytes_at: Callable[[float], int]) -> None:
    """Try a few densities, from ``first`` on, for a file of almost ``most`` bytes."""
    density, fits, large = first, None, None
    wanted = math.log(SIZE_AIM * most)
    for _ in range(SIZE_TRIES):
        density = _rounded(min(density, 1.0))
        size = bytes_at(density)
        if (1 - UNUSED) * most <= size <= most or (density == 1 and size <= most):
            break
        here = math.log(density), math.log(size)
        fits, large = (here, large) if size <= most else (fits, here)
        if fits is None or large is None:  # much of a small file does not depend on the density
            change = math.exp((wanted - here[1]) * (1 if fits is not None else STEEP))
            density *= max(change, 1 / FARTHEST_SIZE)
        else:
            share = (wanted - fits[1]) / max(large[1] - fits[1], 1e-9)
            density = math.exp(fits[0] + min(max(share, 0.1), 0.9) * (large[0] - fits[0]))


class _Search:
    """One search for settings; ``notes`` says what was found."""

    def __init__(
        self, program: ir.Program, passes: Sequence[Pass], context: Context, targets: Targets, size_of: SizeOf,
        effort: float,
    ) -> None:  # fmt: skip
        assert context.samples is not None
        self._targets, self._size_of, self._effort = targets, size_of, effort
        self._most_bytes = targets.bytes_of(program.original_bytes)
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
        self._epochs = min(max(self._effort / max(work, 1), FEWEST), most)
        size = sum(r.size for r in self._weights)
        self._rate = min(RATE, max(LEAST_RATE, RATE * (REFERENCE / max(size, 1)) ** (1 / 3)))
        self._limit = self._found_limit()
        if self._targets.any and self._targets.drop is None:
            found = self._of_size()
        else:
            found = self._sought() if self._searches or self._targets.any else self._fixed()
            if found is None:
                self.notes.append(self._limit.text)
        return None if found is None else replace(found, notes=[*self.notes, *found.notes])

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
        return self._limit.measure(result.program, _last_facts(result.reports))

    def _at(self, density: float) -> Result:
        """What the pipeline makes of the original at a density."""
        return self._tried(self._prune.with_options({"density": str(density)}))

    def _holds(self, result: Result) -> bool:
        """Whether a result may be handed out; ``notes`` says why not."""
        value = self._value(result)
        if value > self._limit.most:
            self.notes.append(f"a result with {self._limit.told(value)} was put aside")
            return False
        result.notes.append(f"{self._limit.text}; the result has {self._limit.told(value)}")
        return True

    def _sought(self) -> Result | None:
        """The result with the fewest weights that holds the limit, and that the check part confirms.

        What is chosen by samples looks better on them than it is, so where nothing confirms it a second result with
        fewer weights must do about as well as the first: where it does not, the limit was met by chance.
        """
        held: list[tuple[float, Result]] = []

        def value_at(density: float) -> float:
            result = self._at(density)
            if self._holds(result):
                held.append((density, result))
                if self._targets.drop is None:
                    most = self._value(result) * (1 + CHANCE)
                    self._limit = replace(self._limit, most=min(self._limit.most, most))
            return self._value(result)

        search(self._curve(), self._limit.most, value_at)
        return self._confirmed(held)

    def _confirmed(self, held: list[tuple[float, Result]]) -> Result | None:
        """The last result that the check part confirms; more weights are tried where it confirms none."""
        corrections = 0
        while held:
            density, result = held.pop()
            if self._limit.confirm(result.program):
                size = self._size_of(result.program, result.passes)
                return replace(result, is_met=self._most_bytes is None or size <= self._most_bytes)
            self.notes.append(
                f"the check part showed a larger drop at a density of {density:.3g}, so more weights were kept; its "
                "figures are no longer those of samples that nothing was chosen by"
            )
            while not held and corrections < CORRECTIONS and density < 1:
                corrections, density = corrections + 1, _rounded(min(density * DENSER, 1.0))
                denser = self._at(density)
                if self._holds(denser):
                    held.append((density, denser))
        return None

    def _of_size(self) -> Result | None:
        """The largest result that fits into the size; None where none does."""
        assert self._most_bytes is not None
        most, best = self._most_bytes, None
        largest = 0

        def bytes_at(density: float) -> int:
            nonlocal best, largest
            result = self._at(density)
            size = self._size_of(result.program, result.passes)
            if largest < size <= most:
                best, largest = result, size
            return size

        weights = sum(r.size for r in self._weights)
        search_size(min(8 * most / (KEEPING_BITS * weights), 1.0), most, bytes_at)
        if best is None:
            self.notes.append(f"no density gave a file of {most:,} bytes")
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
        """The curve of short trainings, as far as it may be of use; a usual one where trainings have their length."""
        levels = LEVELS if self._targets.drop is None else (DENSEST, *LEVELS)
        if not self._searches:
            return Curve(levels, AIM * self._limit.most / LONGER * (np.array(levels) / levels[1]) ** PRIOR)
        found: list[Facts] = []
        values_found: list[float] = []
        program = self._program.copy()
        for density in levels:
            step = self._settled(self._prune, SCOUTING / len(levels)).with_options({"density": str(density)})
            found.append(run_passes([step], program, self._context)[0].facts)
            if len(found) == 1:
                self._doubt(found[0])
            values_found.append(self._limit.measure(program, found[-1]))
            if LONGER**2 * values_found[-1] > self._limit.most:
                break
        values = np.array(values_found)
        if "validation error after" in found[0]:  # few samples are wrong, so their number is noisy: losses are less so
            losses = np.array([f["validation loss after"] for f in found])
            values = losses * (values.sum() / losses.sum())
        return Curve(levels[: len(found)], values)

    def _doubt(self, first: Facts) -> None:
        """Lower a limit that does not come from the original itself, for what the first level has."""
        if self._limit is not self._own and self._targets.drop is None:
            error = self._limit.measure(self._program, first)
            most = min(self._limit.most, RISE * error)
            self._limit = self._own if self._limit.most > DOUBT * error else replace(self._limit, most=most)

    def _found_limit(self) -> Limit:
        """The limit to hold to; the original's own is kept, too. On the way: whether moving images helps."""
        samples = self._samples
        objective = make_objective(self._program, samples, "auto")
        rows = samples.parts().validation
        outputs = samples.original_output(objective.value).astype(np.float64)
        limit = self._own = of_original(objective, rows, outputs)
        if objective.labels is None:
            return self._allowed(None) or limit
        moves = self._has_images() and self._searches
        seen = np.concatenate([samples.parts().train, rows])
        if not knows_by_heart(outputs[seen], objective, seen):
            if moves:
                self._find_shift(self._program.copy, self._finetuned(self._program.copy(), 0))
            return self._allowed(None) or limit
        fresh = self._shuffled()
        still = self._finetuned(fresh, 0)
        if moves:
            self._find_shift(self._shuffled, still)
        error = float(still["validation error after"])
        # An estimate for a promise, and what is chosen by the samples looks better on them than it is
        most = error - MARGIN * standard_error(error, objective.labels[rows].size)
        return self._allowed(fresh) or replace(limit, most=max(most, 0.0), text=FRESH.format(error))

    def _allowed(self, fresh: ir.Program | None) -> Limit | None:
        """The limit of a drop that the user allows, if any, from ``fresh`` where the original's score tells nothing."""
        if self._targets.drop is None:
            return None
        assert self._context.calibration is not None
        near = self._program.copy()
        run_passes([available_passes()["cluster"].from_text({"mode": "grid"})], near, self._context)
        limit = of_drop(self._targets.drop, self._context.calibration, near, fresh)
        by_heart = "" if fresh is None else f"{BY_HEART}; "
        return replace(limit, text=by_heart + limit.text)

    def _find_shift(self, start: Callable[[], ir.Program], still: Facts) -> None:
        """Move images where that is no worse than the training of ``start`` on ``still`` ones."""
        loss, moved = (f["validation loss after"] for f in (still, self._finetuned(start(), 1)))
        self._shift = int(moved < PATIENCE * loss)

    def _has_images(self) -> bool:
        return any(is_image(a) for a in self._samples.inputs.values())

    def _shuffled(self) -> ir.Program:
        return shuffled(self._program, self._weights, self._context.seed)

    def _finetuned(self, program: ir.Program, shift: int) -> Facts:
        """What is known of a program after a short training."""
        options = {"epochs": _rounded(JUDGING * self._epochs), "lr": _rounded(self._rate), "shift": shift}
        step = available_passes()["finetune"].from_text({k: str(v) for k, v in options.items()})
        return run_passes([step], program, self._context)[0].facts


def shuffled(program: ir.Program, weights: Sequence[ir.WeightRecord], seed: int) -> ir.Program:
    """A copy whose ``weights`` have their values in random places: layers of the same scale that know nothing."""
    chosen = {r.name for r in weights}
    result = program.copy()
    for record in result.records:
        if record.name in chosen:
            generator = np.random.Generator(np.random.PCG64([seed, *record.name.encode()]))
            record.values = generator.permutation(record.values.reshape(-1)).reshape(record.shape)
    return result


def _last_facts(reports: Sequence[PassReport]) -> Facts:
    return next(r.facts for r in reversed(reports) if "validation loss after" in r.facts)


def _rounded(value: float) -> float:
    """Three digits, so that the pipeline's text is short and the same settings can be given again."""
    return float(f"{value:.3g}")
