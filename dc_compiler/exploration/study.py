"""What both explorations start from: the model, inputs to judge on, and a pipeline whose step is varied."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from dc_compiler import ir
from dc_compiler.calibration.calibration import Calibration
from dc_compiler.calibration.divergence import Judge
from dc_compiler.calibration.search import around_grid
from dc_compiler.compilation import measure_of, reference_of
from dc_compiler.compiler import Libraries
from dc_compiler.errors import InvalidArgumentError, ModelError
from dc_compiler.model import files, importer
from dc_compiler.model.outputs import Shape
from dc_compiler.ort import made_up, metrics
from dc_compiler.ort.data import input_specs
from dc_compiler.ort.samples import Samples
from dc_compiler.ort.sessions import Sessions
from dc_compiler.pass_manager import Context, Pass, Progress
from dc_compiler.pipeline.manager import run_passes
from dc_compiler.recipe import Recipe, make_recipe

Array = np.ndarray
Model = str | os.PathLike[str] | onnx.ModelProto
MADE_UP = 8  # feeds that are made up where there is no data
COARSEST = 16.0  # the largest step that cluster takes
NOTHING_NOTE = "the model has no weight that can be rounded"
MADE_UP_NOTE = "judged on made-up inputs, which tell little about real ones; give --data"


@dataclass
class Study:
    """A model and what it is explored with.

    Attributes:
        program: the model after the passes before the clustering. raw: as it was read.
        cluster: the pass whose step is varied; ``before`` and ``after`` are the pipeline's others.
        samples: of the data, or of made-up inputs. has_data: which of them.
        shapes: of the outputs, as onnxruntime infers them.
    """

    program: ir.Program
    raw: ir.Program
    recipe: Recipe
    before: list[Pass]
    cluster: Pass
    after: list[Pass]
    context: Context
    samples: Samples
    has_data: bool
    measure: metrics.Metric | None
    shapes: dict[str, Shape]
    notes: list[str]

    def at(self, step: float) -> tuple[Pass, ir.Program]:
        """The clustering at a step, and a copy of the program after it."""
        cluster = self.cluster.with_options({"step": repr(step)})
        program = self.program.copy()
        run_passes([cluster], program, self.context)
        return cluster, program

    def judge(self, rows: Array, metric: metrics.Scorer | None) -> Judge:
        """Compares programs with the original on these rows.

        Raises:
            ModelError: the original does not run on them, or has no output of floats, or one that is not finite.
        """
        judge = Judge(self.raw, self.samples, rows, metric)
        if not math.isfinite(judge.of(self.raw).divergence):
            source = "samples" if self.has_data else "made-up inputs"
            raise ModelError(
                f"{self.raw.label}: an output is not finite for {source}, so nothing tells how far a change moves it"
            )
        return judge

    @functools.cached_property
    def scorer(self) -> metrics.Scorer | None:
        """The metric of the labels, or one that was named; None without either."""
        is_scored = self.samples.labels is not None or self.measure is not None
        return metrics.Scorer(self.measure) if is_scored else None

    def progress(self, name: str, done: int, total: int) -> None:
        """Tell whoever waits."""
        if self.context.progress is not None:
            self.context.progress(name, done, total, None)


def open_study(
    model_or_path: Model, *, pipeline: str | None, data: Any, labels: str | None, metric: str | None,
    skip: str | Iterable[str], min_size: int | None, seed: int | None, jobs: int | None, libraries: Libraries,
    progress: Progress | None,
) -> Study:  # fmt: skip
    """Read a model and its data, and run the pipeline up to the clustering; None as pipeline is the default preset's.

    Raises:
        InvalidArgumentError, ModelError, DataError: bad options, model or data.
        DccError: what a pass raised.
    """
    if jobs is not None and jobs < 1:
        raise InvalidArgumentError(f"--jobs {jobs} is not valid; give 1 or more")
    if labels is not None and data is None:
        raise InvalidArgumentError("--labels needs --data")
    measure = measure_of(metric, data)
    recipe = make_recipe(
        pipeline=pipeline, skip=[skip] if isinstance(skip, str) else skip, min_size=min_size, seed=seed,
        has_data=data is not None,
    )  # fmt: skip
    _split(recipe.manager().passes)  # refused before anything is read
    sessions = Sessions(libraries)
    source = files.read_model(model_or_path)
    context = Context(recipe.seed, jobs or 0, progress=progress)
    raw = importer.build_program(source, min_size=recipe.min_size, skip=recipe.skip)
    original = reference_of(model_or_path, source, raw)
    session = sessions.original(original, context.threads)
    shapes: dict[str, Shape] = {o.name: o.shape for o in session.get_outputs()}
    notes = list(raw.notes)
    if data is None:
        if any(p.calibrates or p.needs_samples for p in recipe.manager().passes):
            raise InvalidArgumentError("the pipeline needs --data")
        found = made_up.feeds(session, input_specs(original.proto), original.proto, recipe.seed, MADE_UP)
        if found.reason is not None:
            raise ModelError(f"{source.label}: {found.reason}")
        samples = Samples(
            found.feeds, None, original, trains=False, seed=recipe.seed, threads=context.threads, sessions=sessions
        )
        notes.append(MADE_UP_NOTE)
    else:
        trains = any(p.needs_samples for p in recipe.manager().passes)
        calibrates = any(p.calibrates for p in recipe.manager().passes)
        samples = Samples(
            data, labels, original, trains=trains, calibrates=calibrates, seed=recipe.seed, threads=context.threads,
            sessions=sessions,
        )  # fmt: skip
        too_few = samples.too_few
        if recipe.uncalibrated is not None and too_few is not None:
            notes.append(too_few)
            recipe = recipe.without_calibration()
            calibrates = False
            samples.only_check()
        samples.read()
        context.samples = samples
        if calibrates:
            context.calibration = Calibration(raw, samples)
        if measure is not None:
            metrics.check(measure, session, samples.check)
    del session
    sessions.forget_originals()
    before, cluster, after = _split(recipe.manager().passes)
    if recipe.finds_step:  # as where the step is found
        cluster = cluster.with_options({"shorten": "true"})
    program = raw.copy()
    run_passes(before, program, context)
    return Study(
        program, raw, recipe, before, cluster, after, context, samples, data is not None, measure, shapes, notes
    )


def _split(passes: Sequence[Pass]) -> tuple[list[Pass], Pass, list[Pass]]:
    """The passes before the one whose step is varied, this one, and those after it."""
    parts = around_grid(passes)
    if parts is None:
        raise InvalidArgumentError("the step of cluster(grid) is what is varied, and the pipeline lacks it")
    return parts


def chosen_steps(steps: str | Iterable[float] | None, default: Sequence[float], least: int) -> list[float]:
    """Steps in ascending order, from numbers or a text such as ``0.1,0.2``.

    Raises:
        InvalidArgumentError: fewer than ``least``, or one that cluster does not take.
    """
    if steps is None:
        return list(default)
    try:
        found = sorted({float(s) for s in (steps.split(",") if isinstance(steps, str) else steps)})
    except ValueError:
        raise InvalidArgumentError(f"--steps {steps} is not valid; give numbers, as in 0.1,0.2,0.4") from None
    bad = next((s for s in found if not (math.isfinite(s) and 0 < s <= COARSEST)), None)
    if bad is not None:
        raise InvalidArgumentError(f"--steps: {bad:g} is not valid; give numbers above 0, at most {COARSEST:g}")
    if len(found) < least:
        raise InvalidArgumentError(f"--steps {steps if isinstance(steps, str) else found}: give at least {least}")
    return found
