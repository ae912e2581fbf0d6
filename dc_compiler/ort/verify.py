"""Compares a compiled model with its original by running both in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from dc_compiler.errors import DataError, DccError, ModelError
from dc_compiler.model import files
from dc_compiler.ort import data, deciding, made_up, metrics, reach, runs, stability
from dc_compiler.ort.compare import NOT_FINITE, OutputComparison, compare
from dc_compiler.ort.sessions import Sessions

MOST_DECIDED = 24  # outputs and values of which it is looked up what decides about them
SUSPECT = 0.9  # below it, and where shapes differ, the values are compared that decide about an output


@dataclass(repr=False)
class Verification:
    """Result of a comparison. ``source`` is ``data`` or ``made-up inputs``; ``skipped`` says why nothing was run.

    ``deciding`` has, for outputs that differ much or in shape because of choices, the float values by which the model
    chooses or from which it does (scores and boxes, say), and for these in turn. ``steady`` has, for outputs of which
    a run on made-up inputs differs as if it were ruined, what is left without the runs that noise throws over.
    ``unreached`` names the changed
    weights that no run reached (in branches not taken, loops not entered), ``maybe_unreached`` those of which that is
    not known. ``weights_unchanged`` is looked up where outputs say nothing: whether every weight keeps its bits.
    ``missed`` has the thresholds that were not met.

    With labels ``scores`` has a metric of the first output for the original and for the compiled model; ``accuracy``
    (class numbers) and ``squared_error`` (values; its mean) repeat it where it is one of them.
    """

    source: str
    feeds: int = 0
    outputs: list[OutputComparison] = field(default_factory=list)
    skipped: str | None = None
    deciding: dict[str, list[OutputComparison]] = field(default_factory=dict)
    steady: dict[str, stability.Steady] = field(default_factory=dict)
    unreached: list[str] = field(default_factory=list)
    maybe_unreached: list[str] = field(default_factory=list)
    weights_unchanged: bool | None = None
    missed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scores: metrics.Scores | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    squared_error_before: float | None = None
    squared_error_after: float | None = None

    def add_scores(self, scores: metrics.Scores) -> None:
        """Set what labels, or the original's answers in their place, say."""
        self.scores = scores
        if not scores.has_labels:
            return
        if scores.metric == "accuracy":
            self.accuracy_before, self.accuracy_after = scores.before, scores.after
        if scores.metric == "mean squared error":
            self.squared_error_before, self.squared_error_after = scores.before, scores.after

    def __repr__(self) -> str:
        from dc_compiler.report import verification_lines  # it tells of more than verification

        return "\n".join(verification_lines(self))

    @property
    def compared(self) -> bool:
        """Whether at least one output says something."""
        return self.skipped is None and any(o.not_compared is None for o in self.outputs)

    @property
    def identical(self) -> bool:
        """Every output that was compared has the same bits, and so have the others."""
        return self.compared and self.same_bits

    @property
    def same_bits(self) -> bool:
        """Every output has the same bits, whatever they say."""
        return all(o.same_bits for o in self.outputs)

    @property
    def worst_cosine(self) -> float | None:
        """Smallest cosine over the float outputs."""
        return min((o.cosine for o in self.outputs if o.cosine is not None), default=None)


def verify(
    original: files.SourceModel,
    compiled: onnx.ModelProto,
    given: data.Dataset | None = None,
    *,
    seed: int = 0,
    threads: int = 0,
    sessions: Sessions | None = None,
    metric: metrics.Metric | None = None,
) -> Verification:
    """Run both models on the same inputs and compare every output.

    A valid model that onnxruntime cannot load (custom operators, say) is not compared; the result says why.

    Args:
        given: samples to run both on; None makes inputs up.
        sessions: opens both models, with the libraries they need.
        metric: what labels are compared by; None takes accuracy or mean squared error, as they are. Without labels the
            original's answers stand for them.

    Raises:
        ModelError: onnxruntime cannot load one of the models, or the compiled one does not run where the original does.
        DataError: the data does not fit the model.
    """
    sessions = sessions or Sessions(rest=True)
    try:
        session = sessions.original(original, threads)
    except ModelError as e:
        if given is not None or not _is_valid(original):
            raise
        return Verification("made-up inputs", skipped=str(e))
    try:
        specs = data.input_specs(original.proto)
    except DataError as e:
        _open_compiled(sessions, compiled, threads)
        return Verification("made-up inputs", skipped=str(e))
    feeds: Sequence[data.Feed]
    if given is not None:
        feeds, held = given.feeds, []
    else:
        found = made_up.feeds(session, specs, original.proto, seed)
        if found.reason is not None:
            _open_compiled(sessions, compiled, threads)
            return Verification("made-up inputs", skipped=found.reason)
        feeds, held = found.feeds, found.outputs
    result = Verification("data" if given is not None else "made-up inputs", len(feeds))
    runner = runs.Runner(session, original.label)
    before = runs.Answers(runner, feeds, held)
    first, again = before.first, runner(feeds[0])
    names = [o.name for o in session.get_outputs()]
    del session, runner
    if before.complete:
        sessions.forget_originals()
    session = _open_compiled(sessions, compiled, threads)
    if [o.name for o in session.get_outputs()] != names:
        raise ModelError(f"the compiled model does not have the outputs of {original.label}: {', '.join(names)}")
    is_scored = given is not None and (given.labels is not None or metric is not None)
    kept = runs.FirstOutputs() if is_scored else None
    result.outputs = runs.compare_runs(names, before, runs.Runner(session, "the compiled model"), kept)
    del session, before
    sessions.forget_originals()
    if not result.same_bits and not all(compare("", [x], [y]).same_bits for x, y in zip(first, again, strict=True)):
        return Verification(result.source, skipped="the original gives other outputs each time it runs")
    if given is not None and kept is not None:
        result.add_scores(metrics.compare(metric, given.labels, kept.before, kept.after))
    del kept, first, again
    _Closer(result, original, compiled, feeds, sessions, threads, seed).look()
    return result


@dataclass
class _Closer:
    """Looks closer where outputs alone say too little; ordinary models need none of it."""

    result: Verification
    original: files.SourceModel
    compiled: onnx.ModelProto
    feeds: Sequence[data.Feed]
    sessions: Sessions
    threads: int
    seed: int

    def look(self) -> None:
        """Fill in what outputs do not say; what cannot be found out becomes a note."""
        suspects = [o for o in self.result.outputs if _is_suspect(o)]
        try:
            if suspects:
                self._compare_deciding_values(suspects)
            ruined = [o.name for o in suspects if o.worst_cosine is not None and o.worst_cosine < stability.THROWN]
            if ruined and self.result.source != "data":
                self.result.steady = stability.steady(
                    self.original, self.compiled, ruined, self.feeds, self.sessions, self.threads, self.seed
                )
            if reach.has_bodies(self.original.proto):
                self._find_unreached()
            if not self.result.compared or any(o.not_compared == NOT_FINITE for o in self.result.outputs):
                self.result.weights_unchanged = not reach.changed_weights(self.original, self.compiled)
        except DccError as e:
            self.result.notes.append(f"not everything could be looked at: {e}")

    def _compare_deciding_values(self, suspects: Sequence[OutputComparison]) -> None:
        """Compare the values that decide about outputs, and those that decide about these, and so on."""
        decisions = deciding.Decisions(self.original.proto)
        dense = reach.dense(self.compiled)
        made = {name for node in dense.graph.node for name in node.output}
        wanted: dict[str, list[str]] = {}
        queue = [o.name for o in suspects]
        for name in queue:
            if name not in wanted and len(wanted) < MOST_DECIDED:
                wanted[name] = [v for v in decisions.about(name).values if v in made]
                queue += wanted[name]
        values = sorted({v for found in wanted.values() for v in found})
        if not values:
            return
        model = reach.loaded(self.original)
        for either in (model, dense):
            deciding.expose(either, values, decisions.types)
        before = runs.Answers(self._runner(model, self.original.label), self.feeds)
        comparisons = runs.compare_runs(values, before, self._runner(dense, "the compiled model"))
        found = dict(zip(values, comparisons, strict=True))
        for judged in (*suspects, *found.values()):
            judges = [found[v] for v in wanted.get(judged.name, []) if found[v].not_compared is None]
            if judges and _is_suspect(judged) and _is_excused(judged, decisions.about(judged.name)):
                self.result.deciding[judged.name] = judges

    def _runner(self, model: onnx.ModelProto, label: str) -> runs.Runner:
        return runs.Runner(self.sessions.open(model, self.threads, compiled=False), label, part=True)

    def _find_unreached(self) -> None:
        found = reach.reach(self.original, self.feeds, self.sessions, self.threads)
        if found.missed or found.unknown:
            changed = reach.changed_weights(self.original, self.compiled)
            self.result.unreached = sorted(changed.intersection(found.missed))
            self.result.maybe_unreached = sorted(changed.intersection(found.unknown))


def _is_suspect(output: OutputComparison) -> bool:
    figures = (output.worst_cosine, output.equal_share)
    return output.shapes is not None or any(f is not None and f < SUSPECT for f in figures)


def _is_excused(value: OutputComparison, decision: deciding.Decision) -> bool:
    """Whether the values that decide about a value say more about the weights than the value itself: its shape differs,
    or it is made of integers, or choices ordered its elements and no weights came after them."""
    if value.shapes is not None or value.cosine is None:
        return True
    return decision.orders and not decision.weighted


def _is_valid(original: files.SourceModel) -> bool:
    """Whether the ONNX checker accepts the model."""
    try:
        onnx.checker.check_model(original.proto if original.path is None else str(original.path))
    except onnx.checker.ValidationError:
        return False
    return True


def _open_compiled(sessions: Sessions, compiled: onnx.ModelProto, threads: int) -> Any:
    try:
        return sessions.open(compiled, threads)
    except ModelError as e:
        raise ModelError(f"onnxruntime cannot load the compiled model: {e}") from None
