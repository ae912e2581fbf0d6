"""How far a model's outputs move when a weight alone is rounded, coarser and coarser: rate-distortion curves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dc_compiler import html_page, ir, schemas
from dc_compiler.calibration.divergence import Changes, Distance, Judge
from dc_compiler.compiler import Libraries
from dc_compiler.exploration.study import NOTHING_NOTE, Model, Study, chosen_steps, open_study
from dc_compiler.pass_manager import Progress
from dc_compiler.plot import Axis, Series, chart
from dc_compiler.report import plain, some

Array = np.ndarray
STEPS = (0.125, 0.25, 0.5, 1.0, 2.0)
JUDGED = 256  # most samples that a rounding is judged on
DRAWN = 8  # weights whose curves have colours


@dataclass(frozen=True)
class CurvePoint:
    """One rounding: ``bits`` a weight (the entropy of the grid's indices), how far the outputs moved
    (:class:`dc_compiler.calibration.divergence.Distance`), the share of changed answers, and the metric of the labels,
    None without them."""

    step: float
    bits: float
    divergence: float
    disagreement: float
    score: float | None


@dataclass(frozen=True)
class Curve:
    """A weight's roundings, finest first."""

    name: str
    shape: tuple[int, ...]
    elements: int
    points: list[CurvePoint]

    @property
    def per_bit(self) -> float:
        """What a bit less costs: by how much the divergence grows from the step before the middle one to the middle
        one, over the bits of the whole weight that this saves; 0 where it saves none."""
        middle = len(self.points) // 2
        fine, coarse = self.points[middle - 1], self.points[middle]
        saved = self.elements * (fine.bits - coarse.bits)
        return (coarse.divergence - fine.divergence) / saved if saved > 0 else 0.0

    @property
    def per_kb(self) -> float:
        """What 1,000 bytes less cost."""
        return 8000 * self.per_bit


@dataclass(repr=False)
class SensitivityReport:
    """Curves of all weights that can be rounded, what costs most for a bit first.

    ``is_calibrated`` tells whether the rounding knew the inputs of weights; ``inputs`` is ``samples`` or ``made-up
    inputs``, and ``samples`` their number. ``together`` has the same figures with all weights rounded at once, ``bits``
    being their mean. ``metric`` and ``before`` are the name of the labels' metric and the original's value of it.
    """

    source: str
    is_calibrated: bool
    inputs: str
    samples: int
    steps: list[float]
    curves: list[Curve]
    together: list[CurvePoint]
    metric: str | None
    before: float | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON (schemas/sensitivity.json); infinite values become None."""
        result = dataclasses.asdict(self)
        for row, curve in zip(result["curves"], self.curves, strict=True):
            row["divergence_per_bit"] = curve.per_bit
        return schemas.stamped("sensitivity", plain(result))

    def to_json(self) -> str:
        """``to_dict`` as text."""
        return json.dumps(self.to_dict(), indent=1)

    def to_html(self) -> str:
        """A page that needs nothing else, with the curves drawn."""
        return _html_page(self)

    def __repr__(self) -> str:
        return f"<sensitivity of {self.source}: {len(self.curves)} weights>"

    def _repr_html_(self) -> str:
        return _table(self)

    def facts(self) -> list[str]:
        """What a reader of the figures should know, as sentences."""
        middle = len(self.steps) // 2
        pair = f"{self.steps[middle - 1]:g} to {self.steps[middle]:g}"
        calibrated = ", calibrated" if self.is_calibrated else ""
        found = [
            f"every weight rounded alone{calibrated}; divergence of the outputs on {self.samples} {self.inputs}",
            f"a kB: the divergence that saving 1,000 bytes costs, from step {pair}",
        ]
        if self.metric is not None:
            found.append(f"{self.metric} of the original: {self.before:.6g}")
        return found + [f"note: {n}" for n in self.notes]


def sensitivity(
    model_or_path: Model,
    *,
    data: Any = None,
    labels: str | None = None,
    metric: str | None = None,
    steps: str | Iterable[float] | None = None,
    skip: str | Iterable[str] = (),
    min_size: int | None = None,
    seed: int | None = None,
    jobs: int | None = None,
    custom_op_libraries: Libraries = (),
    progress: Progress | None = None,
) -> SensitivityReport:
    """Round every weight alone, as the default preset would, and see how far the outputs move.

    Args:
        model_or_path: an .onnx file or a message (which is not changed).
        data: inputs (see :func:`dc_compiler.ort.data.read`); None makes inputs up. With 32 samples or more
            rounding is calibrated on a part of them, and judged on another one.
        labels: its array of labels, and ``metric`` what they are compared by, as for
            :func:`dc_compiler.compiler.compile_model`.
        steps: of ``cluster(grid)``, before its size rule; numbers, or a text such as ``0.1,0.2``; two or more.
        skip, min_size, seed, jobs, custom_op_libraries, progress: as for ``compile_model``.

    Raises:
        InvalidArgumentError, ModelError, DataError: bad options, model or data.
    """
    ladder = chosen_steps(steps, STEPS, 2)
    study = open_study(
        model_or_path, pipeline=None, data=data, labels=labels, metric=metric, skip=skip, min_size=min_size, seed=seed,
        jobs=jobs, libraries=custom_op_libraries, progress=progress,
    )  # fmt: skip
    # at the step of its size, so that curves can be compared
    study = dataclasses.replace(study, cluster=study.cluster.with_options({"allocate": "false", "sequential": "false"}))
    rows = _judged(study)
    scorer = study.scorer
    judge = study.judge(rows, scorer)
    records = [r for r in study.program.weights() if r.size > 0]
    probe = _Probe(judge, study.program, records)
    points: dict[str, list[CurvePoint]] = {r.name: [] for r in records}
    together: list[CurvePoint] = []
    reasons: dict[str, str] = {}
    for number, step in enumerate(ladder):
        _, rounded = study.at(step)
        new = {r.name: r for r in rounded.records}
        reasons |= {r.name: new[r.name].reason or "" for r in records if new[r.name].clustered is None}
        left = [r for r in records if r.name not in reasons]
        bits = {r.name: _entropy(new[r.name]) for r in left}
        for done, record in enumerate(left, 1):
            found = probe.of(record, new[record.name].values)
            points[record.name].append(_point(step, bits[record.name], found))
            study.progress("sensitivity", number * len(left) + done, len(ladder) * len(left))
        elements = sum(r.size for r in left)
        mean = sum(r.size * bits[r.name] for r in left) / elements if elements else 0.0
        together.append(_point(step, mean, judge.of(rounded)))
    curves = [Curve(r.name, r.shape, r.size, points[r.name]) for r in records if r.name not in reasons]
    curves.sort(key=lambda c: -c.per_bit)
    study.notes += [f"{name} is not rounded: {reason}" for name, reason in reasons.items()]
    exact = [f"{r.name} ({r.exact})" for r in study.program.eligible() if r.exact is not None and not r.is_vector]
    if exact:
        verb = "tensor stays" if len(exact) == 1 else "tensors stay"
        study.notes.append(f"{len(exact):,} {verb} exact: {some(exact)}")
    if not curves:
        study.notes.append(NOTHING_NOTE)
    return SensitivityReport(
        study.raw.label, study.cluster.calibrates, "samples" if study.has_data else "made-up inputs", len(rows), ladder,
        curves, together, None if scorer is None else scorer.name, judge.before, study.notes,
    )  # fmt: skip


class _Probe:
    """Judges a program with other values for one weight."""

    def __init__(self, judge: Judge, program: ir.Program, records: Sequence[ir.WeightRecord]) -> None:
        self._judge, self._program = judge, program
        self._changes: Changes = judge.changes(program, records)

    def of(self, record: ir.WeightRecord, values: Array) -> Distance:
        if record.name in self._changes.names:
            return self._changes.of({record.name: values})
        program = self._program.copy()  # weights of bodies cannot be inputs
        next(r for r in program.records if r.name == record.name).values = values
        return self._judge.of(program)


def _point(step: float, bits: float, found: Distance) -> CurvePoint:
    return CurvePoint(step, bits, found.divergence, found.disagreement, found.score)


def _entropy(record: ir.WeightRecord) -> float:
    """Bits a weight of an ideal code for the indices that knows how often each occurs."""
    assert record.clustered is not None
    counts = np.bincount(record.clustered.indices)
    shares = counts[counts > 0] / record.size
    return abs(float(np.sum(shares * np.log2(shares))))


def _judged(study: Study) -> Array:
    """Rows of held-out samples, evenly spread; whole batches where the model fixes these."""
    parts = study.samples.parts()
    rows = parts.validation if len(parts.validation) else parts.check
    if len(rows) <= JUDGED:
        return rows
    unit = (study.samples.fixed_batch or 1) if study.samples.is_table else 1
    count = max(1, JUDGED // unit) * unit
    return rows[np.arange(count) * len(rows) // count]


def _html_page(report: SensitivityReport) -> str:
    bits, moved = Axis("bits a weight"), Axis("divergence of the outputs", is_log=True)
    all_at_once = Series("all weights", [(p.bits, p.divergence) for p in report.together])
    charts = [
        chart("Weights, the most sensitive in colour", bits, moved, list(_series(report))),
        chart("All weights at once", bits, moved, [all_at_once]),
    ]
    parts = [*charts, _table(report)] if report.curves else []
    return html_page.page(f"dcc sensitivity: {report.source}", report.facts(), parts)


def _table(report: SensitivityReport) -> str:
    steps = [f"{s:g}" for s in report.steps]
    titles = ["weight", "shape", "elements", *(f"bits at {s}" for s in steps), *(f"at {s}" for s in steps), "a kB"]
    lines = [
        [c.name, "x".join(map(str, c.shape)), f"{c.elements:,}", *_figures(c.points), f"{c.per_kb:.2e}"]
        for c in report.curves
    ]
    total = ["all at once", "", f"{sum(c.elements for c in report.curves):,}", *_figures(report.together), ""]
    return html_page.table(titles, lines, total)


def _figures(points: Sequence[CurvePoint]) -> list[str]:
    return [f"{p.bits:.2f}" for p in points] + [f"{p.divergence:.2e}" for p in points]


def _series(report: SensitivityReport) -> Iterator[Series]:
    for i, curve in enumerate(report.curves):
        yield Series(curve.name, [(p.bits, p.divergence) for p in curve.points], is_pale=i >= DRAWN)
