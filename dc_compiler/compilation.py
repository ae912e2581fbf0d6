"""One compilation, from the program of a model to the model that is emitted and verified."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from dc_compiler import ir
from dc_compiler.calibration import tolerance
from dc_compiler.calibration.calibration import Calibration
from dc_compiler.calibration.goals import Targets
from dc_compiler.calibration.tuning import Tuned, keeps, tune
from dc_compiler.codec import binding
from dc_compiler.errors import InvalidArgumentError, ModelError
from dc_compiler.model import emit as emitter
from dc_compiler.model import files, int8, packed, sparse
from dc_compiler.model.outputs import Shape, declare_shapes
from dc_compiler.ort import metrics, verify
from dc_compiler.ort.ranges import Ranges
from dc_compiler.ort.samples import Samples
from dc_compiler.ort.sessions import Sessions
from dc_compiler.pass_manager import Context, Pass, PassManager, PassReport
from dc_compiler.recipe import Form, Recipe, parse_pipeline
from dc_compiler.report import CompileReport, record_row, spread
from dc_compiler.training import presets
from dc_compiler.training.checkpoint import Checkpoint, digest
from dc_compiler.training.effort import EFFORT, effort_of

KEPT_SESSION = 1 << 28  # bytes of a model up to which its session is kept while the passes run
UNREACHED = "the targets cannot be reached; this is the nearest that was found"


@dataclass
class Made:
    """A program that passes changed, these passes and what they report; why it misses what was asked for, or None; and
    what makes a finer one where this one turns out to be ruined, or None."""

    program: ir.Program
    passes: Sequence[Pass]
    reports: list[PassReport]
    missed: str | None = None
    finer: Callable[[], Made] | None = None


@dataclass
class Compilation:
    """What was asked for, and what it takes to do it.

    Attributes:
        recipe: it may become the one without calibration on the way.
        original: what results are compared with. shapes: of its outputs. obstacle: why it cannot be run, or None.
        ranges: of values, where samples tell them and layers may run in int8.
        tree_drop: points that the metric may fall where trees are pruned; ``targets`` have no drop then.
        before: excerpts of the original's weights (:mod:`dc_compiler.ir.excerpts`).
    """

    recipe: Recipe
    targets: Targets
    budget: float | None
    measure: metrics.Metric | None
    context: Context
    sessions: Sessions
    original: files.SourceModel
    shapes: dict[str, Shape]
    obstacle: str | None
    ranges: Ranges | None = None
    before: Mapping[str, np.ndarray] = field(default_factory=dict)
    tree_drop: float | None = None

    def share_out(self, program: ir.Program, data: Any, labels: str | None) -> None:
        """Read the samples, share them out for what the recipe does, and get ready to judge on them.

        Raises:
            DataError, InvalidArgumentError, ModelError: they do not fit the model or the metric, or are too few.
        """
        passes, drop = self.recipe.manager().passes, self.targets.drop
        trains = self.budget is not None or any(p.needs_samples for p in passes)
        by_passes = any(p.calibrates for p in passes) or self.recipe.execution == "int8"
        by_passes |= self.budget is not None and self.recipe.fallback is None
        calibrates = by_passes or drop is not None
        samples = Samples(
            data, labels, self.original, trains=trains, calibrates=by_passes if trains else calibrates,
            seed=self.recipe.seed, threads=self.context.threads, sessions=self.sessions,
        )  # fmt: skip
        if self.recipe.uncalibrated is not None and drop is None and samples.too_few is not None:
            program.notes.append(samples.too_few)
            self.recipe, calibrates, self.budget = self.recipe.without_calibration(), False, None
            samples.only_check()
        samples.read()
        self.context.samples = samples
        may_run_int8 = self.recipe.execution == "int8" or (self.recipe.execution == "auto" and drop is not None)
        if may_run_int8 and samples.sizes()["train"]:
            self.ranges = Ranges(samples)
        if calibrates:
            is_scored = labels is not None or self.measure is not None
            judged = metrics.Scorer(self.measure, larger_is_better=True) if is_scored else None
            self.context.calibration = Calibration(program, samples, judged)
        if self.measure is not None:
            metrics.check(self.measure, self.sessions.original(self.original, self.context.threads), samples.check)

    def open_checkpoint(self, directory: Path, output: Path | None, program: ir.Program, stack: ExitStack) -> None:
        """Continue from the state of training in ``directory``, and keep it there, where something is trained.

        Raises:
            InvalidArgumentError: it is no directory, in use, or another compilation's.
        """
        if directory.exists() and not directory.is_dir():
            raise InvalidArgumentError(f"--checkpoint {directory} is a file; give a directory")
        if output is not None and directory.absolute() == output.absolute():
            raise InvalidArgumentError(f"--checkpoint and the output are both {directory}; give another directory")
        identity = self._identity(program)
        if identity is not None:
            self.context.checkpoint = Checkpoint(directory, identity)
            stack.enter_context(self.context.checkpoint.locked())

    def transformed(self, program: ir.Program) -> Made:
        """Run the recipe's passes, with what is to be found out found out; the program may change.

        Raises:
            DccError: what a pass raised.
        """
        if self.recipe.fallback is not None:
            return self._trained(program, self.recipe.fallback)
        if self.recipe.uncalibrated is not None or self.targets.any or self.budget is not None:
            tuned, refusal = self._tuned(program)
            if tuned is not None:
                tuned.program.notes += tuned.notes
                return Made(tuned.program, tuned.passes, tuned.reports, None if tuned.is_met else UNREACHED)
            program.notes.append(f"not calibrated: {refusal}")
            self.recipe = self.recipe.without_calibration()
        passes = self.recipe.manager().passes
        if self.recipe.finds_step and self.obstacle is None:
            return _made(tolerance.run(program, passes, self.context, self.original, self.sessions))
        reports = PassManager(passes).run(program, self.context)
        drop, calibration = self.tree_drop, self.context.calibration
        is_kept = drop is None or calibration is None or keeps(calibration.final_judge, program, drop)
        return Made(program, passes, reports, None if is_kept else UNREACHED)

    def emitted(self, made: Made) -> tuple[CompileReport, onnx.ModelProto, bool]:
        """What is known about the compiled model, the model, and whether onnxruntime runs the very same graph."""
        program, text = made.program, PassManager(made.passes).text()
        form = _choose_form(program, self.recipe, self.ranges)
        all_decoded = all(r.execution in (ir.DECODE, ir.ATTRIBUTES) for r in program.records)
        provenance = _provenance(program, self.recipe, text)
        report = _report(program, self.recipe, text, form, made.reports)
        weights = (r for r in program.records if r.frame is not None and r.coder is None)
        report.spreads = spread.compared(self.before, program.pruned, ir.excerpts(weights))
        report.recipe = self.recipe.to_toml(text)
        if self.context.samples is not None:
            report.samples = self.context.samples.sizes()
            report.notes += self.context.samples.notes()
        declare_shapes(program.proto.graph, self.shapes)
        model = emitter.emit(program, form, provenance)
        report.notes += program.rounding
        report.output_bytes = files.message_size(model)
        if form == "session":
            report.topology_bytes = packed.open_packed(model, "the compiled model").topology_bytes
        return report, model, form == "session" and not program.rounding and all_decoded

    def verified(self, model: onnx.ModelProto) -> verify.Verification:
        """The compiled model compared with the original, on the check part or made-up inputs."""
        if self.obstacle:
            return verify.Verification("made-up inputs", skipped=self.obstacle)
        samples = self.context.samples
        return verify.verify(
            self.original, model, None if samples is None else samples.check, seed=self.recipe.seed,
            threads=self.context.threads, sessions=self.sessions, metric=self.measure,
        )  # fmt: skip

    def _tuned(self, program: ir.Program) -> tuple[Tuned | None, str]:
        """What is found for the targets; None and why, where the default preset cannot calibrate on the samples.

        A drop that is allowed holds for the model as it runs. Where int8 is asked for, all results are judged in int8;
        where it is only allowed, the smallest in floats is found, and runs in int8 if it keeps within the drop so, too.
        """
        drop, calibration, wanted = self.targets.drop, self.context.calibration, self.recipe.execution
        in_session = self.recipe.emit == "session" and emitter.session_obstacle(program) is None
        may_run = wanted == "int8" or (wanted != "dense" and in_session)
        if drop is None or calibration is None or not may_run:
            return self._searched(program)

        def in_int8(result: ir.Program) -> onnx.ModelProto | None:
            return int8_model(result, self.ranges if in_session else None)

        if wanted == "int8":
            calibration.run_as(in_int8)
            return self._searched(program)
        tuned, refusal = self._searched(program)
        model = in_int8(tuned.program) if tuned is not None and tuned.is_met else None
        if tuned is None or model is None:
            return tuned, refusal
        calibration.run_as(lambda _: model)
        if all(keeps(judge, tuned.program, drop) for judge in (calibration.judge, calibration.final_judge)):
            self.recipe = replace(self.recipe, execution="int8")
        else:
            tuned.notes.append(f"in int8, the samples show a larger drop than {drop:g}, so numbers stay exact")
        return tuned, refusal

    def _searched(self, program: ir.Program) -> tuple[Tuned | None, str]:
        """As :meth:`_tuned`, judged as they are."""
        try:
            passes, size_of = self.recipe.manager().passes, self._size_of()
            return tune(program.copy(), passes, self.context, self.targets, size_of, self.budget), ""
        except ModelError as e:
            if self.recipe.uncalibrated is None or self.targets.drop is not None:
                raise
            return None, str(e)

    def _trained(self, program: ir.Program, fallback: str) -> Made:
        """What a preset that trains finds."""
        effort = EFFORT if self.budget is None else effort_of(self.budget)
        found = presets.run(
            program, self.recipe.manager().passes, parse_pipeline(fallback), self.context, self.targets,
            self._size_of(), effort,
        )  # fmt: skip
        found.program.notes += found.notes
        return Made(found.program, found.passes, found.reports, None if found.is_met else UNREACHED)

    def _size_of(self) -> Callable[[ir.Program, Sequence[Pass]], int]:
        return partial(bytes_of, recipe=self.recipe, shapes=self.shapes, ranges=self.ranges)

    def _identity(self, program: ir.Program) -> dict[str, str] | None:
        """What a checkpoint must agree with; None where nothing is trained."""
        import onnxruntime  # imported late: commands that run nothing start faster

        samples, recipe, manager = self.context.samples, self.recipe, self.recipe.manager()
        if samples is None or not (self.budget is not None or any(p.needs_samples for p in manager.passes)):
            return None
        records = [part for r in program.records for part in (r.name.encode(), r.values)]
        overrides = [[o.pattern, dict(o.options)] for o in recipe.overrides]
        options = [
            manager.text(), overrides, recipe.skip, recipe.min_size, recipe.seed, astuple(self.targets), self.budget,
        ]  # fmt: skip
        arrays = [part for name, array in sorted(samples.inputs.items()) for part in (name.encode(), array)]
        labels = [] if samples.labels is None else [samples.labels]
        return {
            "model": digest([program.proto.SerializeToString(deterministic=True), *records]),
            "options": digest([json.dumps(options).encode()]),
            "data": digest([*arrays, *labels]),
            "versions": f"dcc {binding.library_version()}, onnxruntime {onnxruntime.__version__}",
        }


def _made(blind: tolerance.Blind) -> Made:
    finer = blind.finer
    return Made(blind.program, blind.passes, blind.reports, finer=None if finer is None else lambda: _made(finer()))


def _provenance(program: ir.Program, recipe: Recipe, pipeline: str) -> dict[str, str]:
    facts = {"version": binding.library_version(), "pipeline": pipeline, "seed": str(recipe.seed)}
    return facts | {"original_bytes": str(program.original_bytes)}


def bytes_of(
    program: ir.Program, passes: Sequence[Pass], *, recipe: Recipe, shapes: dict[str, Shape],
    ranges: Ranges | None = None,
) -> int:  # fmt: skip
    """Bytes of the file that a program makes."""
    copy = program.copy()
    form = _choose_form(copy, recipe, ranges)
    declare_shapes(copy.proto.graph, shapes)
    return files.message_size(emitter.emit(copy, form, _provenance(program, recipe, PassManager(passes).text())))


def reference_of(
    given: str | os.PathLike[str] | onnx.ModelProto, source: files.SourceModel, program: ir.Program
) -> files.SourceModel:
    """The original to verify against; a model on disk is not read into memory again."""
    proto = onnx.ModelProto()
    proto.CopyFrom(given if isinstance(given, onnx.ModelProto) else program.proto)
    return files.SourceModel(proto, source.path, source.base_dir, source.size)


def shapes_of_outputs(
    original: files.SourceModel, sessions: Sessions, threads: int, force: bool
) -> tuple[dict[str, Shape], str | None]:
    """Shapes of the outputs as onnxruntime infers them; with ``force`` none, and why it cannot load the model.

    It is asked before the passes run: a model that nobody can run is refused at once.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    try:
        session = sessions.original(original, threads)
    except ModelError as e:
        if force:
            return {}, str(e)
        raise ModelError(f"{e}; nothing could be compared, so nothing was written (--force writes anyway)") from None
    shapes = {o.name: o.shape for o in session.get_outputs()}
    if original.size > KEPT_SESSION:
        sessions.forget_originals()
    return shapes, None


def measure_of(metric: str | None, data: Any) -> metrics.Metric | None:
    """The metric called so; None where none is named.

    Raises:
        InvalidArgumentError: there is none, or there is no data for it.
    """
    if metric is not None and data is None:
        raise InvalidArgumentError("--metric needs --data")
    return None if metric is None else metrics.make_metric(metric)


def int8_model(program: ir.Program, ranges: Ranges | None) -> onnx.ModelProto | None:
    """The standard model that a program is when it runs in int8; None where nothing can."""
    copy = program.copy()
    int8.choose_int8(copy, None if ranges is None else ranges.of)
    if all(r.execution not in (ir.INT8, ir.SPARSE_INT8) for r in copy.records):
        return None
    return packed.unpack(emitter.emit(copy, "session", {}), program.label)


def _choose_form(program: ir.Program, recipe: Recipe, ranges: Ranges | None) -> Form:
    """The form that the model can have, and how its weights are executed; notes of the program tell."""
    obstacle = emitter.session_obstacle(program) if recipe.emit == "session" else None
    if obstacle is not None:
        lost = ", in which no layer runs from what is kept" if recipe.execution == "sparse" else ""
        program.notes.append(f"graph form instead of session form{lost}: {obstacle}")
    form: Form = recipe.emit if obstacle is None else "graph"
    if recipe.execution == "int8":
        in_session = form == "session"
        with_ranges = None if ranges is None or not in_session else ranges.of
        int8.choose_int8(program, with_ranges, session_form=in_session)
    wants_sparse = recipe.execution == "sparse" or (recipe.execution == "auto" and recipe.preset != "lossless")
    if wants_sparse and form == "session":
        sparse.choose_sparse(program, all_of_them=recipe.execution == "sparse")
    if form == "graph":
        emitter.keep_constants(program)
    return form


def _report(program: ir.Program, recipe: Recipe, pipeline: str, form: Form, passes: list[PassReport]) -> CompileReport:
    return CompileReport(
        source=program.label,
        pipeline=pipeline,
        seed=recipe.seed,
        form=form,
        original_bytes=program.original_bytes,
        output_bytes=0,
        topology_bytes=0,
        tensors=[record_row(r) for r in program.records],
        notes=list(program.notes),
        passes=passes,
    )
