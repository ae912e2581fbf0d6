"""Finds how coarse a pipeline may be for what is wanted: a size, or outputs that are near enough.

One knob is turned: the step of ``cluster(grid)``, which moves all weights together. Every try runs the pipeline from
the clustering on and is judged on the validation part; the check part is left for the figures shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, cast

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.divergence import Distance
from dc_compiler.errors import InvalidArgumentError, ModelError
from dc_compiler.pipeline.context import Context
from dc_compiler.pipeline.manager import run_passes
from dc_compiler.pipeline.step import Pass, PassReport

FINEST, COARSEST = 0.001, 4.0  # steps that are tried
COARSEST_SAFE = 2.0  # where nearness decides: what is left beyond is signs, and no samples are enough to trust that
START = 0.5
NEAR_LOSSLESS = 0.08  # the step of the pipeline without data, which hardly moves the outputs of any model
SHARE_OF_VECTORS = 0.1  # of what the near-lossless step does, that rounding vectors may do
FURTHEST = 4.0  # times the step before, while one end is not known
STEPS, SIZE_STEPS = 1.045, 1.002  # ratio of steps that are not told apart, likewise where a size is to be met
UNUSED = 0.005  # share of the size wanted that may be left unused
TRIES = 12
HELPERS = ("allocate", "sequential")  # options that help most models but not all
LEAST_OF_A_LINE, STEEPEST = 3, 2.0  # points, and a slope that is not exceeded


class _Cluster(Protocol):
    """What the pass that clusters by grid can do."""

    def with_vectors_changed(self, program: ir.Program, context: Context) -> ir.Program: ...


SizeOf = Callable[[ir.Program, Sequence[Pass]], int]


@dataclass(frozen=True)
class Goal:
    """What the result shall be: no larger than ``size`` bytes, and near enough to the original; None asks for nothing.

    With ``excess`` the smallest such file is taken; with a size alone the best, which is the largest that fits.

    Args:
        excess: how far outputs are, in what is allowed: above 1 is too far.
    """

    size: int | None = None
    excess: Callable[[Distance], float] | None = None

    def is_met(self, found: Try) -> bool:
        """By a result of the pipeline."""
        return self.fits(found) and self.is_near(found)

    def fits(self, found: Try) -> bool:
        """Whether the file is small enough."""
        return self.size is None or found.size <= self.size

    def is_near(self, found: Try) -> bool:
        """Whether the outputs are near enough."""
        return self.excess is None or found.expected is None or self.excess(found.expected) <= 1


@dataclass
class Try:
    """The pipeline's result at one step; ``distance`` is None where there are no samples to judge on, ``expected`` is
    what decides of it (:func:`expected`)."""

    step: float
    program: ir.Program
    passes: list[Pass]
    reports: list[PassReport]
    distance: Distance | None
    size: int
    expected: Distance | None = None


@dataclass
class Found:
    """What was taken, whether it is what was wanted, and all that was tried: (step, bytes, distance) each."""

    best: Try
    is_met: bool
    tries: list[tuple[float, int, Distance | None]] = field(default_factory=list)


def around_grid(passes: Sequence[Pass]) -> tuple[list[Pass], Pass, list[Pass]] | None:
    """The passes before the one whose step can be varied, this one, and those after it; None where there is none."""
    for i, step in enumerate(passes):
        if step.name == "cluster" and getattr(step, "mode", "") == "grid":
            return list(passes[:i]), step, list(passes[i + 1 :])
    return None


class Search:
    """One search over the step of a pipeline that clusters by grid.

    Args:
        program: the program before the pipeline.
        size_of: bytes of the file that a program makes, given the passes that made it.

    Attributes:
        cluster: the pass whose step is varied.

    Raises:
        InvalidArgumentError: the pipeline has no cluster(grid), so there is no step to choose.
        DccError: what a pass raised.
    """

    def __init__(self, program: ir.Program, passes: Sequence[Pass], context: Context, size_of: SizeOf) -> None:
        parts = around_grid(passes)
        if parts is None:
            raise InvalidArgumentError(
                "a size, a ratio, a drop or a budget asks for the step of cluster(grid), which the pipeline lacks"
            )
        self._context, self._size_of = context, size_of
        self._before, self.cluster, self._after = parts
        self._reports = run_passes(self._before, program, context)
        self._program = program
        self._tries: list[tuple[float, int, Distance | None]] = []
        self._last: Try | None = None
        self._settled: Try | None = None  # made to settle something, and not yet asked for

    @cached_property
    def near_lossless(self) -> Distance:
        """How far outputs are with plain rounding of the weights at a step that hardly moves those of any model."""
        options = dict.fromkeys(("calibrate", *HELPERS, "shorten"), "false") | {"rate": "0"}
        program = self._program.copy()
        run_passes([self.cluster.with_options(options | {"step": repr(NEAR_LOSSLESS)})], program, self._context)
        return self._context.calibrated().judge.of(program)

    def settle(self) -> None:
        """Find out what helps this model, of what the pipeline's cluster may do on samples."""
        if self._context.calibration is not None:
            self._settle_vectors()
            self._settle_rounding()

    def _settle_vectors(self) -> None:
        """Whether vectors bear to be rounded (``shorten``): they are few, so they may hardly move the outputs."""
        if not getattr(self.cluster, "shorten", False):
            return
        program = cast(_Cluster, self.cluster).with_vectors_changed(self._program, self._context)
        moved = self._context.calibrated().judge.of(program).divergence
        if moved > SHARE_OF_VECTORS * self.near_lossless.divergence:
            self.cluster = self.cluster.with_options({"shorten": "false"})

    def _settle_rounding(self) -> None:
        """Whether steps from gradients (``allocate``) help, and then whether to round in the order of use
        (``sequential``) does: whether outputs are nearer for the bytes, at a middling step."""
        wanted = [name for name in HELPERS if getattr(self.cluster, name, False)]
        if not wanted:
            return
        self.cluster = self.cluster.with_options(dict.fromkeys(wanted, "false"))
        best = self._made(START, self.cluster)
        for name in wanted:
            helped = self.cluster.with_options({name: "true"})
            try:
                found = self._made(START, helped)
            except ModelError:  # the model cannot be run in pieces, say
                continue
            if self._cost(found) <= self._cost(best):
                self.cluster, best = helped, found
        self._settled = best

    def _cost(self, found: Try) -> float:
        """Logarithm of how far outputs are, had the file no bytes; a bit less an element is taken to double errors."""
        assert found.distance is not None
        integers = self._program.eligible() if self.cluster.changes_integers else []
        elements = sum(r.size for r in [*self._program.weights(), *(r for r in integers if r.quantized is not None)])
        return math.log(max(found.distance.typical, 1e-12)) + 16 * math.log(2) * found.size / max(elements, 1)

    def run(self, goal: Goal) -> Found:
        """The best result that keeps to the goal, or that comes nearest to it."""
        bracket = _Bracket(goal)
        found = best = self.at(START)
        for _ in range(TRIES):
            step = bracket.next_step(found)
            if step is None:
                break
            found = self.at(step)
            best = min(best, found, key=lambda t: _rank(t, goal))
        return Found(best, goal.is_met(best), list(self._tries))

    def at(self, step: float, **options: str) -> Try:
        """The pipeline's result at a step, which is taken to four digits, and with other options of its cluster."""
        step = float(f"{step:.4g}")
        if self._last is not None and self._last.step == step and not options:  # programs are large: one is kept
            return self._last
        if options:
            return self._tried(self._made(step, self.cluster.with_options(options)))
        settled, self._settled = self._settled, None
        found = settled if settled is not None and settled.step == step else self._made(step, self.cluster)
        self._last = self._tried(found)
        self._last.expected = expected([d for _, _, d in self._tries if d is not None])
        return self._last

    def _tried(self, found: Try) -> Try:
        self._tries.append((found.step, found.size, found.distance))
        return found

    def _made(self, step: float, cluster: Pass) -> Try:
        cluster = cluster.with_options({"step": repr(step)})
        program = self._program.copy()
        reports = run_passes([cluster, *self._after], program, self._context)
        calibration = self._context.calibration
        distance = None if calibration is None else calibration.judge.of(program)
        passes = [*self._before, cluster, *self._after]
        size = self._size_of(program, passes)
        return Try(step, program, passes, [*self._reports, *reports], distance, size, distance)


def expected(distances: Sequence[Distance]) -> Distance | None:
    """The last of the distances with the divergence that results as far off as it typically have.

    A divergence is a mean over samples of which few move far, now these and now those, so that one result's is mostly
    chance; typical ones hardly vary. The line through both, in logarithms, over all tries tells one by the other.
    """
    if not distances:
        return None
    last = distances[-1]
    pairs = [(d.typical, d.divergence) for d in distances if 0 < d.typical < math.inf and 0 < d.divergence < math.inf]
    if len(pairs) < LEAST_OF_A_LINE or not (0 < last.typical < math.inf and last.divergence > 0):
        return last
    x, y = np.log(np.array(pairs)).T
    spread = float(np.square(x - x.mean()).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 0 else 1.0
    line = y.mean() + min(max(slope, 0.0), STEEPEST) * (math.log(last.typical) - x.mean())
    return replace(last, divergence=math.exp(line))


class _Bracket:
    """Steps between the coarsest that is too fine or just right and the finest that is too coarse, as (logarithm of the
    step, height of its result)."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._fine: tuple[float, float] | None = None
        self._coarse: tuple[float, float] | None = None

    def next_step(self, found: Try) -> float | None:
        """What to try after this; None where it is not worth it."""
        here = math.log(found.step), _height(found, self._goal)
        if here[1] <= 0:
            self._fine = here if self._fine is None else max(self._fine, here)
        else:
            self._coarse = here if self._coarse is None else min(self._coarse, here)
        if self._goal.excess is not None:  # a divergence grows with the square of the step
            return _between(self._fine, self._coarse, here, 2.0, STEPS, COARSEST_SAFE)
        if 0 <= _unused(found, self._goal) < UNUSED:
            return None
        # a size falls with about the root of the step where a weight has 3 bits
        return _between(self._fine, self._coarse, here, 0.5, SIZE_STEPS, COARSEST)


def _height(found: Try, goal: Goal) -> float:
    """Logarithm of how much coarser than wanted a result is: of its excess, or of the size wanted over its own."""
    if goal.excess is not None and found.expected is not None:
        return math.log(max(goal.excess(found.expected), 1e-9))
    assert goal.size is not None
    return math.log(goal.size / found.size)


def _unused(found: Try, goal: Goal) -> float:
    return 1.0 if goal.size is None else 1 - found.size / goal.size


def _rank(found: Try, goal: Goal) -> tuple[int, float]:
    """Smaller is better: what meets the goal, then the smallest file, or with a size alone the largest; what is near
    enough, though too large, comes before what is not."""
    if goal.is_met(found):
        return 0, found.size if goal.excess is not None else -found.size
    if goal.excess is None or found.expected is None or goal.is_near(found):
        return 1, found.size
    return 2, goal.excess(found.expected)


def _between(
    fine: tuple[float, float] | None, coarse: tuple[float, float] | None, here: tuple[float, float], slope: float,
    precision: float, coarsest: float,
) -> float | None:  # fmt: skip
    """The next step, or None where the two ends are near enough or no further steps are tried.

    Args:
        slope: of the height over the logarithm of the step, about.
        precision: ratio of the ends that is near enough. coarsest: the largest step that is tried.
    """
    least, most = math.log(FINEST), math.log(coarsest)
    if fine is None or coarse is None:
        at, height = here
        wanted = at - height / slope
        wanted = min(max(wanted, at - math.log(FURTHEST)), at + math.log(FURTHEST))
        wanted += 0.1 if fine is not None else -0.1
        wanted = min(max(wanted, least), most)
        return None if abs(wanted - at) < 1e-9 else math.exp(wanted)
    width = coarse[0] - fine[0]
    if width <= math.log(precision):
        return None
    share = -fine[1] / max(coarse[1] - fine[1], 1e-9) if math.isfinite(coarse[1]) else 0.5
    return math.exp(fine[0] + width * min(max(share, 0.1), 0.9))
