"""Without data: how coarse a grid a model bears, by how far rounding moves its outputs on made-up inputs.

Scores on made-up inputs say little about real ones: a model is not sure of what it has never seen, or all too sure. The
relative error of what scores are made of says more: rounding is noise in the weights, which adds up on its way through
the layers and is damped or magnified by them, much alike whatever the inputs are. docs/no_data.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.search import SHARE_OF_VECTORS, around_grid
from dc_compiler.errors import CancelledError, DccError, ModelError
from dc_compiler.model.files import SourceModel
from dc_compiler.model.opened import weights_apart
from dc_compiler.ort import data, made_up, witnesses
from dc_compiler.ort.sessions import Sessions, short
from dc_compiler.pipeline.context import Context
from dc_compiler.pipeline.manager import run_passes
from dc_compiler.pipeline.step import Pass, PassReport
from dc_compiler.pipeline.threads import map_on_threads
from dc_compiler.training.graph import is_softmax

Array = np.ndarray
# Steps that are chosen from, a quarter of an octave apart: results of onnxruntime differ in the last bits between
# machines, and the choice must not. The first is near-lossless on all models known, and what is taken where nothing
# can be told; beyond the last, made-up inputs are not to be trusted with more
LADDER = (0.08, 0.095, 0.113, 0.135, 0.16, 0.19, 0.226, 0.27, 0.32, 0.38, 0.45, 0.54)
FIRST_TRIED = 0.19
OFFSETS = (0.0, 0.37)  # of the grids that are tried first and then
# Squared error of the outputs that is safe, in their variance (19 dB below). Set by what classifiers of files and of
# images, a translator of letters, a reader of text, a text detector and a sentence encoder bear on real inputs
SAFE = 0.0125
# Detectors: scores of many places, few of which are near the bound that decides, while the others make the variance
SAFE_OF_PLACES = SAFE / 4
# Times the variance among samples that the variance of an output counts at most: outputs of the models named have up to
# 21 times as much
OFFSETS_COUNT = 16
LEAST_SAMPLES = 4  # that tell of their variance
LEAST_LEARNED = 1024  # elements of a kernel that was surely learned
LEAST_NUMBERS = 16  # of an output on all made-up inputs: fewer have no spread that an error could be compared with
MOST_BYTES = 1 << 28  # of the weights; trying takes four times as much memory
MOST_NODES = 20_000  # whose shapes are inferred several times
TINY = 1e-30


class _Grid(Protocol):
    """What the pass of the pipeline that clusters by grid can do."""

    step: float

    def tried(self, program: ir.Program, context: Context, offset: float) -> ir.Program: ...

    def with_vectors_changed(self, program: ir.Program, context: Context) -> ir.Program: ...


@dataclass(frozen=True)
class Tolerance:
    """The coarsest step that is taken for safe, why, and what was tried: (step, relative squared error) each; and
    whether biases bear to be rounded as well."""

    step: float
    reason: str
    tries: tuple[tuple[float, float], ...] = ()
    shortens: bool = False


@dataclass
class Blind:
    """A program made with a step that was found without data, the passes that made it and what they report. ``finer``
    makes another one with the near-lossless step; None where that was taken."""

    program: ir.Program
    passes: list[Pass]
    reports: list[PassReport]
    finer: Callable[[], Blind] | None = None


def run(
    program: ir.Program, passes: Sequence[Pass], context: Context, original: SourceModel, sessions: Sessions
) -> Blind:
    """Run a pipeline that clusters by grid with the step that the model bears, or its own where that is coarser, and
    short vectors where the model bears them.

    Raises:
        DccError: what a pass raised.
    """
    parts = around_grid(passes)
    assert parts is not None  # whoever asks for a step has one
    before, cluster, after = parts
    reports = run_passes(before, program, context)
    _leave_designed(program)
    if not program.weights():
        return Blind(program, list(passes), [*reports, *run_passes([cluster, *after], program, context)])

    def made(program: ir.Program, found: Tolerance) -> Blind:
        step = cluster.with_options({"step": repr(found.step), "shorten": str(found.shortens).lower()})
        more = run_passes([step, *after], program, context)
        tries = [(step, error if math.isfinite(error) else None) for step, error in found.tries]
        more[0].facts["tries"] = [{"step": step, "error": error} for step, error in tries]
        program.notes.append(f"no data: the step of cluster is {found.step:g}; {found.reason}")
        return Blind(program, [*before, step, *after], [*reports, *more])

    found = tolerance(program, cluster, context, original, sessions)
    asked = cast(_Grid, cluster).step
    if asked > found.step:
        found = replace(found, step=asked, reason=f"asked for, where {found.step:g} is what is known to be safe")
    if found.step == max(LADDER[0], asked):
        return made(program, found)
    kept = program.copy()
    ruined = "with a coarser one, outputs on made-up inputs were ruined"
    near_lossless = replace(found, step=LADDER[0], reason=ruined, shortens=False)
    return replace(made(program, found), finer=lambda: made(kept, near_lossless))


def _leave_designed(program: ir.Program) -> None:
    """Leave small kernels alone where nothing else is a weight: such a model is a filter that someone designed."""
    weights = program.weights()
    if all(r.size < LEAST_LEARNED and all(u.op_type == "Conv" for u in r.uses) for r in weights):
        for record in weights:
            record.leave_alone(f"a kernel of {record.size} elements in a model without other weights, as of a filter")


def tolerance(
    program: ir.Program, cluster: Pass, context: Context, original: SourceModel, sessions: Sessions
) -> Tolerance:
    """The coarsest step of the ladder that is safe for a program; the first where nothing tells that more is.

    Two steps are tried, the second where the first says that the error is what is safe. Rounding errors grow with the
    square of the step, so each says which step is safe, and the smaller one is believed.

    Args:
        original: the model that the program comes from; made-up inputs must fit it.
    """
    try:
        _check(program)
        feeds = made_up.rich_feeds(
            sessions.original(original, context.threads), data.input_specs(original.proto), original.proto, context.seed
        )
        probe = Probe(program, feeds, context, sessions)
        probe.check_evidence()
        tries = [(FIRST_TRIED, probe.error(cluster, FIRST_TRIED, OFFSETS[0]))]
        second = min(max(_safe_step(tries, probe.safe), LADDER[0]), LADDER[-1])
        tries.append((second, probe.error(cluster, second, OFFSETS[1])))
        by_vectors = probe.error_of_vectors(cluster)
    except CancelledError:
        raise
    except DccError as e:
        return Tolerance(LADDER[0], f"whether more is safe is not known: {e}")
    most = _safe_step(tries, probe.safe)
    step = max((s for s in LADDER if s <= most), default=LADDER[0])
    moved = tries[1][1] * (step / second) ** 2
    if most < LADDER[0]:
        reason = f"even that moves the outputs by {_percent(moved)} on made-up inputs"
    else:
        reason = f"on made-up inputs it moves the outputs by {_percent(moved)}"
    near_lossless = min(tries[0][1] * (LADDER[0] / FIRST_TRIED) ** 2, probe.safe)
    return Tolerance(step, reason, tuple(tries), shortens=by_vectors <= SHARE_OF_VECTORS * near_lossless)


def _safe_step(tries: Sequence[tuple[float, float]], safe: float) -> float:
    return min(step * math.sqrt(safe / error) for step, error in tries)


def _percent(error: float) -> str:
    return f"{100 * math.sqrt(error):.2g} % of their spread"


def _check(program: ir.Program) -> None:
    """Raise ModelError where trying steps would tell nothing about some weights, or would take too much memory."""
    if sum(r.nbytes for r in program.records) > MOST_BYTES:
        raise ModelError(f"to try would take too much memory with more than {MOST_BYTES >> 20} MiB of weights")
    main = program.proto.graph
    if sum(len(g.node) for g in ir.walk_graphs(main)) > MOST_NODES:
        raise ModelError(f"to try would take too long with more than {MOST_NODES:,} nodes")
    read = {name for g in ir.walk_graphs(main) if g is not main for node in g.node for name in node.input}
    chosen = {id(r) for r in program.weights()}
    places = zip(program.records, program.sites, strict=True)
    if any(id(r) in chosen and (s.graph is not main or s.value_name in read) for r, s in places):
        raise ModelError("bodies of If, Loop or Scan use weights, and made-up inputs may not enter all")


class Probe:
    """A program's outputs on some feeds, to compare with those of others that are held to the same choices.

    Attributes:
        safe: error that such outputs bear.

    Raises:
        ModelError: the program does not run on the feeds, or has no output of floats.
    """

    def __init__(self, program: ir.Program, feeds: Sequence[data.Feed], context: Context, sessions: Sessions) -> None:
        self._program, self._context, self._sessions = program, context, sessions
        self._found = witnesses.find(program.proto)
        if not self._found.values:
            raise ModelError("no output is made of floats")
        if not feeds:
            raise ModelError("the model runs on no made-up inputs, or takes too long")
        outputs = self._outputs(program, feeds, held=False)
        count = len(self._found.values)
        self._wanted = [o[:count] for o in outputs]
        first = dict(zip(self._found.values, self._wanted[0], strict=True))
        has_places = any(first[name].ndim > 2 and first[name][0].size > 1 for name in self._found.thresholds)
        self.safe = SAFE_OF_PLACES if has_places or self._found.keeps_few else SAFE
        choices = [dict(zip(self._found.choices, o[count:], strict=True)) for o in outputs]
        self._feeds = [f | c for f, c in zip(feeds, choices, strict=True)]

    def error(self, cluster: Pass, step: float, offset: float = 0.0) -> float:
        """What errors like those of a grid of this step do (see :meth:`error_of`).

        Args:
            offset: of the grids, in steps: other errors of the same size.
        """
        grid = cast(_Grid, cluster.with_options({"step": repr(step)}))
        moved = self.error_of(grid.tried(self._program, self._context, offset))
        if not moved > TINY:
            raise ModelError("changed weights do not move the outputs on made-up inputs")
        return moved

    def error_of_vectors(self, cluster: Pass) -> float:
        """What rounding the vectors alone does."""
        grid = cast(_Grid, cluster.with_options({"shorten": "true"}))
        return self.error_of(grid.with_vectors_changed(self._program, self._context))

    def error_of(self, program: ir.Program) -> float:
        """How far the outputs of a program with other weights are: the squared error in the variance, of the output
        where it is largest.

        Raises:
            ModelError: the program does not run on the feeds, or an output is constant or not finite.
        """
        outputs = self._outputs(program, self._feeds, held=True)
        errors = {}
        for i, name in enumerate(self._found.values):
            error = _relative_error([o[i] for o in self._wanted], [o[i] for o in outputs])
            if error is not None:
                errors[name] = error
        # an output that is made of parts of many kinds or from many steps of a decoder counts as a whole
        groups = [[errors[n] for n in names if n in errors] for names in self._found.outputs]
        if not all(groups):
            raise ModelError("an output is constant or not finite on made-up inputs")
        return max(math.sqrt(sum(e * e for e in g) / len(g)) for g in groups)

    def check_evidence(self) -> None:
        """Raise ModelError where an output has too few numbers to speak of their spread."""
        place = {name: i for i, name in enumerate(self._found.values)}
        for names in self._found.outputs:
            numbers = sum(outputs[place[n]].size for outputs in self._wanted for n in names)
            if numbers < LEAST_NUMBERS:
                raise ModelError(f"an output gives no more than {numbers} numbers on made-up inputs")

    def _outputs(self, program: ir.Program, feeds: Sequence[data.Feed], *, held: bool) -> list[list[Array]]:
        model, weights = weights_apart(program)
        self._found.shown(model, held=held)
        session = self._sessions.open(model, 1, apart=weights)  # sums must not depend on the number of threads

        def run(feed: data.Feed) -> list[Array]:
            try:
                return list(session.run(None, feed))
            except Exception as e:  # onnxruntime's exceptions share no base class
                raise ModelError(f"the model does not run on made-up inputs: {short(e)}") from None

        return list(map_on_threads(self._context.threads, run, feeds))


def _relative_error(wanted: Sequence[Array], got: Sequence[Array]) -> float | None:
    """Mean squared error of a value over all feeds, in its variance; None where the value is constant or not finite.

    Where the places of an output differ much more from each other than samples do, offsets make nearly all of the
    variance, and the error is told by the other, too.
    """
    x, y = ([_before_softmax(a) for a in arrays] for arrays in (wanted, got))
    if any(one.shape != other.shape for one, other in zip(x, y, strict=True)):
        return math.inf
    if not all(np.isfinite(a).all() for a in x):
        return None
    if not all(np.isfinite(a).all() for a in y):
        return math.inf
    values, others = (np.concatenate([a.ravel() for a in arrays]) for arrays in (x, y))
    variance = float(np.var(values)) if values.size > 1 else 0.0
    if not variance > TINY:
        return None
    among_samples = _variance_among_samples(x)
    if among_samples is not None:
        variance = min(variance, max(OFFSETS_COUNT * among_samples, TINY))
    return float(np.mean(np.square(others - values))) / variance


def _variance_among_samples(values: Sequence[Array]) -> float | None:
    """Mean variance of each place, [n, ...] in every feed; None where there are no places or few samples."""
    if any(v.ndim < 2 or v.shape[1:] != values[0].shape[1:] for v in values) or sum(map(len, values)) < LEAST_SAMPLES:
        return None
    return float(np.var(np.concatenate(values), axis=0).mean())


def _before_softmax(value: Array) -> Array:
    """Values as float64; of probabilities, where an exporter spelled the softmax out, the logits."""
    numbers = value.astype(np.float64)
    if numbers.ndim < 2 or numbers.shape[-1] < 2 or not is_softmax(numbers):
        return numbers
    logs = np.log(np.maximum(numbers, TINY))
    return np.asarray(logs - logs.mean(axis=-1, keepdims=True))
