"""Quality against size over the whole range of steps: the frontier that a user chooses a point of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dc_compiler import html_page, schemas
from dc_compiler.calibration.divergence import Judge
from dc_compiler.calibration.search import Search
from dc_compiler.compilation import bytes_of
from dc_compiler.compiler import Libraries
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.exploration.study import NOTHING_NOTE, Model, Study, chosen_steps, open_study
from dc_compiler.pass_manager import Pass, PassManager, Progress
from dc_compiler.pipeline.manager import run_passes
from dc_compiler.pipeline.threads import map_on_threads
from dc_compiler.plot import Axis, Series, chart
from dc_compiler.report import plain

STEPS = (0.08, 0.125, 0.2, 0.32, 0.5, 0.8, 1.25, 2.0)  # from near-lossless to ruin, each about 1.6 times the one before
ORIGINAL = "original"
MEMORY = 1 << 31  # bytes of models that are changed at a time


@dataclass(frozen=True)
class FrontierPoint:
    """A file that could be written: ``bytes`` is its size, ``ratio`` the original's over it, ``divergence`` and
    ``disagreement`` how far its outputs are from the original's (:class:`dc_compiler.calibration.divergence.Distance`),
    ``score`` the metric of the labels, None without them. The original itself has no step and no pipeline."""

    step: float | None
    pipeline: str
    bytes: int
    ratio: float
    divergence: float
    disagreement: float
    score: float | None

    @property
    def name(self) -> str:
        """How tables and plots call it."""
        return ORIGINAL if self.step is None else f"step {self.step:g}"


@dataclass(repr=False)
class FrontierReport:
    """The original and the points of a frontier, finest step first. ``inputs`` is ``samples`` or ``made-up inputs``,
    and ``samples`` the number of those that figures are of; nothing was chosen by them. ``metric`` names the score."""

    source: str
    inputs: str
    samples: int
    metric: str | None
    min_size: int
    points: list[FrontierPoint]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON (schemas/frontier.json); infinite values become None."""
        return schemas.stamped("frontier", plain(dataclasses.asdict(self)))

    def to_json(self) -> str:
        """``to_dict`` as text."""
        return json.dumps(self.to_dict(), indent=1)

    def to_html(self) -> str:
        """A page that needs nothing else, with the frontier drawn."""
        points = html_page.section("Points", html_page.table(self.titles(), self.lines()))
        return html_page.page(f"dcc frontier: {self.source}", self.facts(), [*_charts(self), points])

    def __repr__(self) -> str:
        return f"<frontier of {self.source}: {len(self.points) - 1} points>"

    def _repr_html_(self) -> str:
        return html_page.table(self.titles(), self.lines())

    def facts(self) -> list[str]:
        """What a reader of the figures should know, as sentences."""
        # pipeline texts leave out what is the default, so one that shows where the step goes
        shown = next((p for p in self.points[1:] if "step=" in p.pipeline), self.points[1])
        return [
            f"what is lost, on {self.samples:,} {self.inputs} that nothing was chosen by: divergence of the outputs, "
            "and changed answers",
            f"{shown.name}: --pipeline '{shown.pipeline}' --min-size {self.min_size}; the others with their steps",
            *(f"note: {n}" for n in self.notes),
        ]

    def titles(self) -> list[str]:
        """Of the columns of :meth:`lines`."""
        return ["", "bytes", "ratio", "divergence", "changed %", *([self.metric] if self.metric is not None else [])]

    def lines(self) -> list[list[str]]:
        """One line of texts a point."""
        return [
            [p.name, f"{p.bytes:,}", f"{p.ratio:.2f}x", f"{p.divergence:.2e}", f"{100 * p.disagreement:.2f}"]
            + ([] if p.score is None else [f"{p.score:.4f}"])
            for p in self.points
        ]


def frontier(
    model_or_path: Model,
    *,
    data: Any = None,
    labels: str | None = None,
    metric: str | None = None,
    pipeline: str | None = None,
    steps: str | Iterable[float] | None = None,
    skip: str | Iterable[str] = (),
    min_size: int | None = None,
    seed: int | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    custom_op_libraries: Libraries = (),
    progress: Progress | None = None,
) -> FrontierReport:
    """Compile a model at every step of a range, write nothing, and tell sizes and what is lost.

    Args:
        model_or_path: an .onnx file or a message (which is not changed).
        data: inputs (see :func:`dc_compiler.ort.data.read`). With 32 samples or more, a part of them
            calibrates, and what is lost is measured on another one; None measures it on made-up inputs.
        labels: its array of labels, and ``metric`` what they are compared by, as for
            :func:`dc_compiler.compiler.compile_model`.
        pipeline: text with a ``cluster(grid)``, whose step is varied; None is the default preset's.
        steps: numbers, or a text such as ``0.1,0.2``.
        skip, min_size, seed, jobs, cluster, custom_op_libraries, progress: as for ``compile_model``. Points are made
            side by side on the threads; on a cluster one after the other, the work of each on all workers.

    Raises:
        InvalidArgumentError, ModelError, DataError, ClusterError: bad options, model, data or cluster.
        DccError: what a pass raised.
    """
    ladder = chosen_steps(steps, STEPS, 1)
    if jobs is not None and cluster is not None:
        raise InvalidArgumentError("give --jobs or --cluster, not both")
    study = open_study(
        model_or_path, pipeline=pipeline, data=data, labels=labels, metric=metric, skip=skip, min_size=min_size,
        seed=seed, jobs=jobs, libraries=custom_op_libraries, progress=progress,
    )  # fmt: skip
    rows = study.samples.parts().check
    scorer = study.scorer
    judge = study.judge(rows, scorer)
    points = [FrontierPoint(None, "", study.raw.original_bytes, 1.0, 0.0, 0.0, judge.before)]
    has_rounded = False
    study = replace(study, cluster=_settled(study))
    with ExitStack() as stack:
        if cluster is not None:
            from dc_compiler.pipeline.cluster_executor import ClusterExecutor  # dask takes a moment to import

            study.context.executor = stack.enter_context(ClusterExecutor(cluster))
        for point, rounded in _points(study, judge, ladder):
            points.append(point)
            has_rounded |= rounded
            study.progress("frontier", len(points) - 1, len(ladder))
    if not has_rounded:
        study.notes.append(NOTHING_NOTE)
    study.notes += study.samples.notes() if study.has_data else []
    return FrontierReport(
        study.raw.label, "samples" if study.has_data else "made-up inputs", len(rows),
        None if scorer is None else scorer.name, study.recipe.min_size, points, study.notes,
    )  # fmt: skip


def _settled(study: Study) -> Pass:
    """The clustering with the steps from gradients or without, whichever is better, as where the step is searched."""
    size_of = partial(bytes_of, recipe=study.recipe, shapes=study.shapes)
    search = Search(study.program, [study.cluster, *study.after], study.context, size_of)
    search.settle()
    return search.cluster


def _points(study: Study, judge: Judge, ladder: Sequence[float]) -> Iterator[tuple[FrontierPoint, bool]]:
    """Points, and whether a weight was rounded for them. The first alone, which leaves in reach what all others need;
    these side by side, on as many threads as there are, but with copies of the model's weights in no more than
    ``MEMORY``. Workers of a cluster get one point at a time."""
    yield _point(study, judge, ladder[0])
    threads = 1 if study.context.executor is not None else study.context.threads
    workers = max(1, min(threads, len(ladder) - 1, MEMORY // study.raw.original_bytes))
    if workers > 1:  # one progress for all, and the threads shared out
        study = replace(study, context=replace(study.context, progress=None, jobs=max(1, threads // workers)))
    yield from map_on_threads(workers, partial(_point, study, judge), ladder[1:])


def _point(study: Study, judge: Judge, step: float) -> tuple[FrontierPoint, bool]:
    clustering, program = study.at(step)
    has_rounded = any(r.clustered is not None for r in program.weights())
    run_passes(study.after, program, study.context)
    passes = [*study.before, clustering, *study.after]
    size = bytes_of(program, passes, recipe=study.recipe, shapes=study.shapes)
    found = judge.of(program)
    point = FrontierPoint(
        step, PassManager(passes).text(), size, study.raw.original_bytes / size, found.divergence, found.disagreement,
        found.score,
    )  # fmt: skip
    return point, has_rounded


def _charts(report: FrontierReport) -> list[str]:
    size = Axis("original bytes / file bytes", is_log=True)
    moved = [(p.ratio, p.divergence) for p in report.points[1:]]
    divergence = Axis("divergence of the outputs", is_log=True)
    charts = [chart("Divergence against size", size, divergence, [Series("compiled", moved)])]
    if report.metric is not None:
        scores = [(p.ratio, p.score) for p in report.points if p.score is not None]
        charts.insert(0, _chart("Quality against size", size, Axis(report.metric), scores))
    elif any(p.disagreement for p in report.points):
        kept = [(p.ratio, 100 * (1 - p.disagreement)) for p in report.points]
        charts.insert(0, _chart("Quality against size", size, Axis("answers kept, %"), kept))
    return charts


def _chart(title: str, x: Axis, y: Axis, points: Sequence[tuple[float, float]]) -> str:
    return chart(title, x, y, [Series(ORIGINAL, points[:1], is_level=True), Series("compiled", points[1:])])
