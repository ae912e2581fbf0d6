"""Compares a compiled model with its original by running both in onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from dc_compiler.errors import DataError, ModelError
from dc_compiler.model import files
from dc_compiler.ort import data, metrics
from dc_compiler.ort.sessions import Sessions, short

# Results of the presets that promise quality are refused when an output is further from the original than this: the
# bounds catch catastrophes. Made-up inputs are unlike anything a model has seen, and feedback (decoders that consume
# their own output) magnifies differences even on good data.
MIN_COSINE = {"data": 0.8, "made-up inputs": 0.5}


@dataclass
class OutputComparison:
    """One output over all samples: largest absolute difference, signal-to-noise ratio in dB (None when exact),
    cosine similarity, and the share of samples whose largest element (last axis) is the same."""

    name: str
    identical: bool = True
    max_abs_error: float = 0.0
    sqnr_db: float | None = None
    cosine: float | None = None
    top1_agreement: float | None = None


@dataclass
class Verification:
    """Result of a comparison. ``source`` is ``data`` or ``made-up inputs``; ``skipped`` says why nothing was run.

    With labels ``scores`` has a metric of the first output for the original and for the compiled model; ``accuracy``
    (class numbers) and ``squared_error`` (values; its mean) repeat it where it is one of them.
    """

    source: str
    feeds: int = 0
    outputs: list[OutputComparison] = field(default_factory=list)
    skipped: str | None = None
    scores: metrics.Scores | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    squared_error_before: float | None = None
    squared_error_after: float | None = None

    def add_scores(self, scores: metrics.Scores) -> None:
        """Set what labels say."""
        self.scores = scores
        if scores.metric == "accuracy":
            self.accuracy_before, self.accuracy_after = scores.before, scores.after
        if scores.metric == "mean squared error":
            self.squared_error_before, self.squared_error_after = scores.before, scores.after

    @property
    def identical(self) -> bool:
        """Every output has the same bits."""
        return all(o.identical for o in self.outputs)

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
        metric: what labels are compared by; None takes accuracy or mean squared error, as they are.

    Raises:
        ModelError: onnxruntime cannot load one of the models, or the compiled one does not run where the original does.
        DataError: the data does not fit the model.
    """
    sessions = sessions or Sessions()
    try:
        session = sessions.original(original, threads)
    except ModelError as e:
        if given is not None or not _is_valid(original):
            raise
        return Verification("made-up inputs", skipped=str(e))
    dataset: Sequence[data.Feed]
    try:
        specs = data.input_specs(original.proto)
    except DataError as e:
        _open_compiled(sessions, compiled, threads)
        return Verification("made-up inputs", skipped=str(e))
    if given is not None:
        dataset = given.feeds
        before = _run(session, dataset, original.label)
    else:
        found = _first_that_runs(session, specs, original.proto, seed)
        if found is None:
            _open_compiled(sessions, compiled, threads)
            return Verification(
                "made-up inputs", skipped="the original runs on none of the made-up inputs; give --data"
            )
        dataset, before = found
    again = _run(session, dataset[:1], original.label)
    names = [o.name for o in session.get_outputs()]
    del session
    sessions.forget_originals()
    session = _open_compiled(sessions, compiled, threads)
    if [o.name for o in session.get_outputs()] != names:
        raise ModelError(f"the compiled model does not have the outputs of {original.label}: {', '.join(names)}")
    after = _run(session, dataset, "the compiled model")
    result = Verification("data" if given is not None else "made-up inputs", len(dataset))
    result.outputs = [compare(name, [b[i] for b in before], [a[i] for a in after]) for i, name in enumerate(names)]
    if not result.identical and not all(
        compare("", [x], [y]).identical for x, y in zip(before[0], again[0], strict=True)
    ):
        return Verification(result.source, skipped="the original gives other outputs each time it runs")
    if given is not None and given.labels is not None:
        result.add_scores(metrics.compare(metric, given.labels, [b[0] for b in before], [a[0] for a in after]))
    return result


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


def _run(session: Any, feeds: Iterable[data.Feed], label: str) -> list[list[Any]]:
    results = []
    for feed in feeds:
        try:
            results.append(session.run(None, feed))
        except Exception as e:
            raise ModelError(f"{label} does not run on the inputs: {short(e)}") from None
    return results


def _first_that_runs(
    session: Any, specs: Sequence[data.InputSpec], model: onnx.ModelProto, seed: int
) -> tuple[list[data.Feed], list[list[Any]]] | None:
    for feeds in data.made_up_feeds(specs, model, seed):
        try:
            return feeds, _run(session, feeds, "")
        except ModelError:
            continue
    return None


@np.errstate(over="ignore", invalid="ignore")
def compare(name: str, before: Sequence[Any], after: Sequence[Any]) -> OutputComparison:
    """Compare one output over all feeds; values that are not number arrays compare by equality."""
    result = OutputComparison(name)
    signal = noise = dot = other = 0.0
    same = total = 0
    for old, new in zip(before, after, strict=True):
        if not isinstance(old, np.ndarray) or old.dtype.kind not in "fiubV":
            result.identical &= _equal(old, new)
            continue
        if not isinstance(new, np.ndarray) or old.dtype != new.dtype or old.shape != new.shape:
            return OutputComparison(name, False, float("inf"), float("-inf"), 0.0, 0.0)
        result.identical &= old.tobytes() == new.tobytes()
        x, y = old.astype(np.float64).ravel(), new.astype(np.float64).ravel()
        finite = np.isfinite(x) & np.isfinite(y)
        if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
            return OutputComparison(name, False, float("inf"), float("-inf"), 0.0, 0.0)
        x, y = x[finite], y[finite]
        difference = x - y
        result.max_abs_error = max(result.max_abs_error, float(np.abs(difference).max(initial=0.0)))
        if old.dtype.kind in "iub":
            continue  # class numbers and the like: angles mean nothing
        signal += float(x @ x)
        noise += float(difference @ difference)
        dot += float(x @ y)
        other += float(y @ y)
        if old.ndim >= 2 and old.shape[-1] > 1 and old.size:
            hits = old.argmax(-1) == new.argmax(-1)
            same += int(hits.sum())
            total += hits.size
    if noise > 0:
        result.sqnr_db = float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")
    if signal > 0 or other > 0:
        cosine = float(dot / (np.sqrt(signal) * np.sqrt(other))) if signal > 0 and other > 0 else 0.0
        unknown = 1.0 if result.identical else 0.0  # values whose squares overflow
        result.cosine = cosine if np.isfinite(cosine) else unknown
    result.top1_agreement = same / total if total else None
    return result


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        return old.dtype == new.dtype and np.array_equal(old, new)
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) == len(new) and all(_equal(x, y) for x, y in zip(old, new, strict=True))
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_equal(v, new[k]) for k, v in old.items())
    return bool(old == new)
