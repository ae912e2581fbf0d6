"""compile_model: the whole way from a model to a verified, smaller model."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from dc_compiler import ir
from dc_compiler.calibration import tolerance
from dc_compiler.calibration.calibration import Calibration
from dc_compiler.calibration.goals import Targets, parse_size
from dc_compiler.calibration.tuning import Tuned, tune
from dc_compiler.codec import binding
from dc_compiler.errors import DataError, InvalidArgumentError, ModelError, QualityError
from dc_compiler.model import emit as emitter
from dc_compiler.model import files, importer, packed
from dc_compiler.model.outputs import Shape, declare_shapes
from dc_compiler.ort import memory, metrics, quality, verify
from dc_compiler.ort.samples import Samples
from dc_compiler.ort.sessions import Sessions
from dc_compiler.pass_manager import Context, Pass, PassManager, PassReport, Progress
from dc_compiler.recipe import Form, Recipe, make_recipe, parse_pipeline
from dc_compiler.report import CompileReport, packed_rows, record_row
from dc_compiler.training import presets
from dc_compiler.training.checkpoint import Checkpoint, digest
from dc_compiler.training.effort import EFFORT, effort_of

Libraries = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

UNREACHED = "the targets cannot be reached; this is the nearest that was found"
KEPT_SESSION = 1 << 28  # bytes of a model up to which its session is kept while the passes run


@dataclass(frozen=True)
class CompileResult:
    """What :func:`compile_model` gives back: the compiled model and the report about it."""

    model: onnx.ModelProto
    report: CompileReport


def compile_model(
    model_or_path: str | os.PathLike[str] | onnx.ModelProto,
    output: str | os.PathLike[str] | None = None,
    *,
    preset: str | None = None,
    pipeline: str | None = None,
    recipe: str | os.PathLike[str] | None = None,
    density: float | None = None,
    bits: int | None = None,
    data: Any = None,
    labels: str | None = None,
    set: str | Iterable[str] = (),
    skip: str | Iterable[str] = (),
    emit: str | None = None,
    min_size: int | None = None,
    seed: int | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    force: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    custom_op_libraries: Libraries = (),
    metric: str | None = None,
    target_ratio: float | None = None,
    target_size: int | str | None = None,
    max_drop: float | None = None,
    budget: float | None = None,
    progress: Progress | None = None,
) -> CompileResult:
    """Compile a model; keywords mirror the flags of ``dcc compile``.

    Args:
        model_or_path: an .onnx file or a message (which is not changed).
        output: file to write, atomically, after the result was checked; None writes nothing.
        preset: ``default``, ``lossless``, or, training when there is ``data``, ``deep-compression`` or ``smallest``; or
            give ``pipeline`` text, or a ``recipe`` file.
        density: kept share of each weight, in (0, 1]. bits: codebook bits, 1 to 16.
        data: inputs to train and to check the result on (see :func:`dc_compiler.ort.data.read`). They are read once;
            where something is trained, a part of them is kept for the check (:class:`dc_compiler.ort.samples.Samples`).
        labels: its array of labels.
        set: overrides ``GLOB:key=value,...``. skip: globs of weights to leave alone.
        emit: ``session`` (default) or ``graph``. min_size: smallest number of elements worth compressing.
        seed: for random starts and made-up inputs.
        jobs: threads; or give ``cluster``, the address of a dask scheduler whose workers do what works on each weight
            alone (passes that train do so here). The bytes written depend on neither.
        force: write even when the result misses the preset's quality, or when onnxruntime cannot load the model.
        checkpoint: directory that keeps the state of training. After the process was killed, the same call continues
            there and gives the same bytes. What is in it is deleted at the end.
        custom_op_libraries: paths of libraries with the operators that the model needs beside onnxruntime's own.
        metric: what ``labels`` are compared by: a scorer of scikit-learn (``f1_macro``, ``roc_auc``, ``r2``, ...) or
            ``module:function``, called with (labels, values of the first output). None takes accuracy for class
            numbers, else mean squared error. Without ``labels`` the original's answers stand for them.
        target_ratio: least ratio of the original's bytes to the file's. target_size: most bytes of the file, or a text
            such as ``5MB``. max_drop: with labels, most points (hundredths) that the metric may fall; without, most
            hundredths of the samples whose answer may change. Together or alone; the step of ``cluster(grid)`` is
            chosen for them, or, by presets that train, the density. Where a target cannot be reached, nothing is
            written, but with ``force`` the nearest.
        budget: minutes that training may take on two cores, by an estimate from the model alone, so that the bytes do
            not depend on the machine: the weights under the grids of ``cluster(grid)`` are trained on ``data``; presets
            that train do so for so long instead of a few minutes.
        progress: called with (step, done, total, mean loss of recent steps of training or None).

    Raises:
        InvalidArgumentError, ModelError, DataError, OutputError, ClusterError: bad options, input, data, output or
            cluster.
        QualityError: the result misses what the preset promises, or a target. Nothing is written.
    """
    start = time.perf_counter()
    targets = Targets(target_ratio, parse_size(target_size) if isinstance(target_size, str) else target_size, max_drop)
    if max_drop is not None and data is None:
        raise InvalidArgumentError("--max-drop needs --data: without inputs nothing tells what is lost")
    if budget is not None and not 0 < budget < math.inf:
        raise InvalidArgumentError(f"--budget {budget:g} is not valid; give minutes above 0")
    if budget is not None and data is None:
        raise InvalidArgumentError("--budget needs --data: without inputs there is nothing to train on")
    if jobs is not None and jobs < 1:
        raise InvalidArgumentError(f"--jobs {jobs} is not valid; give 1 or more")
    if jobs is not None and cluster is not None:
        raise InvalidArgumentError("give --jobs or --cluster, not both")
    if labels is not None and data is None:
        raise InvalidArgumentError("--labels needs --data")
    measure = measure_of(metric, data)
    chosen = make_recipe(
        preset=preset, pipeline=pipeline, recipe=None if recipe is None else Path(recipe), density=density, bits=bits,
        overrides=_texts(set), skip=_texts(skip), emit=emit, min_size=min_size, seed=seed,
        has_data=data is not None,
    )  # fmt: skip
    sessions = Sessions(custom_op_libraries, rest=True)
    source = files.read_model(model_or_path)
    target = None if output is None else Path(output)
    if target is not None:
        given = [Path(f) for f in (recipe, data) if isinstance(f, str | os.PathLike)]
        files.check_output_path(target, [*source.files(), *given, *sessions.libraries])
    context = Context(chosen.seed, jobs or 0, chosen.overrides, progress)
    named = [o.pattern for o in chosen.overrides]
    program = importer.build_program(source, min_size=chosen.min_size, skip=chosen.skip, named=named)
    original = reference_of(model_or_path, source, program)
    manager = chosen.manager()
    manager.check_overrides(program, chosen.overrides)
    shapes, obstacle = _shapes_of_outputs(original, sessions, context.threads, force and data is None)
    if data is not None:
        trains = budget is not None or any(p.needs_samples for p in manager.passes)
        by_passes = (budget is not None and chosen.fallback is None) or any(p.calibrates for p in manager.passes)
        calibrates = targets.drop is not None or by_passes
        context.samples = Samples(
            data, labels, original, trains=trains, calibrates=by_passes if trains else calibrates, seed=chosen.seed,
            threads=context.threads, sessions=sessions,
        )  # fmt: skip
        too_few = context.samples.too_few
        if chosen.uncalibrated is not None and targets.drop is None and too_few is not None:
            program.notes.append(too_few)
            chosen, calibrates, budget = chosen.without_calibration(), False, None
            manager = chosen.manager()
            context.samples.only_check()
        context.samples.read()
        if calibrates:
            is_scored = labels is not None or measure is not None
            judged = metrics.Scorer(measure, larger_is_better=True) if is_scored else None
            context.calibration = Calibration(program, context.samples, judged)
        if measure is not None:
            metrics.check(measure, sessions.original(original, context.threads), context.samples.check)
    samples = context.samples

    def verified(model: onnx.ModelProto) -> verify.Verification:
        if obstacle:
            return verify.Verification("made-up inputs", skipped=obstacle)
        return verify.verify(
            original, model, None if samples is None else samples.check,
            seed=chosen.seed, threads=context.threads, sessions=sessions, metric=measure,
        )  # fmt: skip

    if checkpoint is not None:
        context.checkpoint = _open_checkpoint(
            Path(checkpoint), target, program, manager, chosen, context, targets, budget
        )
    with ExitStack() as stack:
        if context.checkpoint is not None:
            stack.enter_context(context.checkpoint.locked())
        if cluster is not None:
            from dc_compiler.pipeline.cluster_executor import ClusterExecutor  # dask takes a moment to import

            context.executor = stack.enter_context(ClusterExecutor(cluster))
        missed = None
        tuned = None
        finer = None
        if chosen.fallback is None and (chosen.uncalibrated is not None or targets.any or budget is not None):
            tuned, refusal = _tuned(program, manager, context, targets, chosen, shapes, budget)
            if tuned is None:
                program.notes.append(f"not calibrated: {refusal}")
                chosen = chosen.without_calibration()
                manager = chosen.manager()
        if tuned is not None:
            program, manager, passes = tuned.program, PassManager(tuned.passes), tuned.reports
            program.notes += tuned.notes
            missed = None if tuned.is_met else UNREACHED
        elif chosen.finds_step and obstacle is None:
            blind = tolerance.run(program, manager.passes, context, original, sessions)
            program, manager, passes, finer = blind.program, PassManager(blind.passes), blind.reports, blind.finer
            del blind
        elif chosen.fallback is None:
            passes = manager.run(program, context)
        else:
            size_of = partial(bytes_of, recipe=chosen, shapes=shapes)
            fallback = parse_pipeline(chosen.fallback)
            work = EFFORT if budget is None else effort_of(budget)
            found = presets.run(program, manager.passes, fallback, context, targets, size_of, work)
            program, manager, passes = found.program, PassManager(found.passes), found.reports
            program.notes += found.notes
            missed = None if found.is_met else UNREACHED
        report, model, exact = _emitted(program, chosen, manager, passes, shapes, samples)
        del program
        report.verification = verified(model)
        if finer is not None and quality.catastrophe(report.verification):
            del model
            blind = finer()
            report, model, exact = _emitted(
                blind.program, chosen, PassManager(blind.passes), blind.reports, shapes, samples
            )
            del blind
            report.verification = verified(model)
    del finer
    if missed is not None:
        report.notes.append(missed)
        if not force:
            raise QualityError(_shortfall(report, targets, measure))
    _check_quality(report, chosen, exact, force)
    if target is not None:
        report.output_bytes = files.write_model(model, target)
        report.output = str(target)
    if context.checkpoint is not None:
        context.checkpoint.remove()
    report.seconds = time.perf_counter() - start
    report.peak_memory = memory.peak()
    return CompileResult(model, report)


def _emitted(
    program: ir.Program, recipe: Recipe, manager: PassManager, passes: list[PassReport], shapes: dict[str, Shape],
    samples: Samples | None,
) -> tuple[CompileReport, onnx.ModelProto, bool]:  # fmt: skip
    """What is known about the compiled model, the model, and whether onnxruntime runs the very same graph."""
    form, notes = _choose_form(program, recipe.emit)
    provenance = _provenance(program, recipe, manager.text())
    report = _report(program, recipe, manager.text(), form, passes)
    report.notes += notes
    if samples is not None:
        report.samples = samples.sizes()
        report.notes += samples.notes()
    declare_shapes(program.proto.graph, shapes)
    model = emitter.emit(program, form, provenance)
    report.notes += program.rounding
    report.output_bytes = files.message_size(model)
    if form == "session":
        report.topology_bytes = packed.open_packed(model, "the compiled model").topology_bytes
    return report, model, form == "session" and not program.rounding


def _tuned(
    program: ir.Program,
    manager: PassManager,
    context: Context,
    targets: Targets,
    recipe: Recipe,
    shapes: dict[str, Shape],
    budget: float | None,
) -> tuple[Tuned | None, str]:
    """What is found for the targets; None and why, where the default preset cannot calibrate on the samples."""
    size_of = partial(bytes_of, recipe=recipe, shapes=shapes)
    try:
        return tune(program.copy(), manager.passes, context, targets, size_of, budget), ""
    except ModelError as e:
        if recipe.uncalibrated is None or targets.drop is not None:
            raise
        return None, str(e)


def _provenance(program: ir.Program, recipe: Recipe, pipeline: str) -> dict[str, str]:
    facts = {"version": binding.library_version(), "pipeline": pipeline, "seed": str(recipe.seed)}
    return facts | {"original_bytes": str(program.original_bytes)}


def bytes_of(program: ir.Program, passes: Sequence[Pass], *, recipe: Recipe, shapes: dict[str, Shape]) -> int:
    """Bytes of the file that a program makes."""
    copy = program.copy()
    form, _ = _choose_form(copy, recipe.emit)
    declare_shapes(copy.proto.graph, shapes)
    return files.message_size(emitter.emit(copy, form, _provenance(program, recipe, PassManager(passes).text())))


def _shortfall(report: CompileReport, targets: Targets, measure: metrics.Metric | None) -> str:
    """What was reached of the targets, as a sentence."""
    found = f"the nearest has {report.output_bytes:,} bytes ({report.ratio:.2f}x)"
    result = report.verification
    if result is not None and result.scores is not None:
        found += f" and a {result.scores.metric} of {result.scores.after:.4f}, the original {result.scores.before:.4f}"
    elif result is not None and targets.drop is not None:
        shares = [o.top1_agreement for o in result.outputs if o.top1_agreement is not None]
        found += f" and changes {100 - 100 * min(shares):.2f} % of the answers" if shares else ""
    return f"the targets cannot be reached: {found}; nothing was written (--force writes it)"


def _open_checkpoint(
    directory: Path, output: Path | None, program: ir.Program, manager: PassManager, recipe: Recipe, context: Context,
    targets: Targets, budget: float | None,
) -> Checkpoint | None:  # fmt: skip
    """The checkpoint of a pipeline that trains, after a check that it is this one's; None for others."""
    if directory.exists() and not directory.is_dir():
        raise InvalidArgumentError(f"--checkpoint {directory} is a file; give a directory")
    if output is not None and directory.absolute() == output.absolute():
        raise InvalidArgumentError(f"--checkpoint and the output are both {directory}; give another directory")
    import onnxruntime  # imported late: commands that run nothing start faster

    samples = context.samples
    if samples is None or not (budget is not None or any(p.needs_samples for p in manager.passes)):
        return None
    records = [part for r in program.records for part in (r.name.encode(), r.values)]
    overrides = [[o.pattern, dict(o.options)] for o in recipe.overrides]
    options = [manager.text(), overrides, recipe.skip, recipe.min_size, recipe.seed, astuple(targets), budget]
    arrays = [part for name, array in sorted(samples.inputs.items()) for part in (name.encode(), array)]
    labels = [] if samples.labels is None else [samples.labels]
    identity = {
        "model": digest([program.proto.SerializeToString(deterministic=True), *records]),
        "options": digest([json.dumps(options).encode()]),
        "data": digest([*arrays, *labels]),
        "versions": f"dcc {binding.library_version()}, onnxruntime {onnxruntime.__version__}",
    }
    return Checkpoint(directory, identity)


def reference_of(
    given: str | os.PathLike[str] | onnx.ModelProto, source: files.SourceModel, program: ir.Program
) -> files.SourceModel:
    """The original to verify against; a model on disk is not read into memory again."""
    proto = onnx.ModelProto()
    proto.CopyFrom(given if isinstance(given, onnx.ModelProto) else program.proto)
    return files.SourceModel(proto, source.path, source.base_dir, source.size)


def _shapes_of_outputs(
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


def _texts(value: str | Iterable[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else list(value)


def _choose_form(program: ir.Program, wanted: Form) -> tuple[Form, list[str]]:
    obstacle = emitter.session_obstacle(program) if wanted == "session" else None
    if obstacle is None:
        return wanted, []
    return "graph", [f"graph form instead of session form: {obstacle}"]


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


def _check_quality(report: CompileReport, recipe: Recipe, exact: bool, force: bool) -> None:
    """Refuse what breaks the preset's promise, and say when that is not known; explicit pipelines only report.

    ``exact`` tells that onnxruntime runs the very same graph, so that a lossless result must keep every bit.

    Raises:
        QualityError
    """
    result = report.verification
    if recipe.explicit or result is None:
        return
    if not result.compared and not result.weights_unchanged:
        report.notes.append("nothing was compared, so whether the preset keeps its promise is not known; give --data")
    problem = quality.catastrophe(result)
    if recipe.preset == "lossless" and exact and not result.same_bits:
        problem = "the outputs are not identical to the original's"
    if problem is None:
        return
    report.notes.append(problem)
    if not force:
        raise QualityError(
            f"{problem}; nothing was written (--force writes anyway, --preset lossless changes no weight)"
        )


def inspect_model(
    path: str | os.PathLike[str], *, min_size: int = 1024, max_decoded_bytes: int | None = None
) -> CompileReport:
    """Per-tensor facts of a compiled model, or of a model that could be compiled.

    Args:
        min_size: element floor shown as reason. max_decoded_bytes: as for :func:`unpack_model`.

    Raises:
        ModelError, CorruptFrameError
    """
    source = files.read_model(path)
    if not packed.is_written(source.proto):
        program = importer.build_program(source, min_size=min_size)
        rows = [record_row(r) for r in program.records]
        return CompileReport(source.label, "", 0, "not compiled", source.size, source.size, 0, rows)
    files.embed_external_data(source)
    opened = packed.open_packed(source.proto, source.label, max_decoded_bytes)
    facts = {p.key: p.value for p in source.proto.metadata_props}
    original = _number(facts, "dcc.original_bytes") or source.size
    return CompileReport(
        source.label,
        facts.get("dcc.pipeline", ""),
        _number(facts, "dcc.seed"),
        opened.form,
        original,
        source.size,
        opened.topology_bytes,
        packed_rows(opened),
    )


def _number(facts: Mapping[str, str], key: str) -> int:
    """A number of the metadata, which anyone may have edited; 0 when it is none."""
    text = facts.get(key, "")
    return int(text) if text.isdecimal() else 0


def verify_models(
    original: str | os.PathLike[str],
    compiled: str | os.PathLike[str],
    *,
    data: Any = None,
    labels: str | None = None,
    seed: int = 0,
    custom_op_libraries: Libraries = (),
    metric: str | None = None,
    min_cosine: float | None = None,
    max_error: float | None = None,
    min_agreement: float | None = None,
) -> verify.Verification:
    """Compare a compiled model file with its original; keywords mirror the flags of ``dcc verify``.

    Args:
        min_cosine, max_error, min_agreement: thresholds (:class:`dc_compiler.ort.quality.Thresholds`); those that are
            not met are in the result's ``missed``. Its ``compared`` says whether anything was compared.

    Raises:
        InvalidArgumentError, ModelError, DataError, CorruptFrameError
    """
    wanted = quality.Thresholds(min_cosine, max_error, min_agreement)
    sessions = Sessions(custom_op_libraries, rest=True)
    if labels is not None and data is None:
        raise DataError("--labels needs --data")
    measure = measure_of(metric, data)
    second = files.read_model(compiled)
    files.embed_external_data(second)
    first = files.read_model(original)
    samples = None if data is None else Samples(data, labels, first, trains=False, seed=seed)
    given = None if samples is None else samples.check
    result = verify.verify(first, second.proto, given, seed=seed, sessions=sessions, metric=measure)
    result.notes += [] if samples is None else samples.notes()
    result.missed = quality.missed(result, wanted)
    return result


def unpack_model(
    compiled: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    max_decoded_bytes: int | None = None,
) -> onnx.ModelProto:
    """The plain ONNX model behind a compiled one; written to ``output`` when given.

    Args:
        max_decoded_bytes: what the file may decode to; by default what onnxruntime may (SECURITY.md).

    Raises:
        ModelError, CorruptFrameError, OutputError
    """
    source = files.read_model(compiled)
    target = None if output is None else Path(output)
    if target is not None:
        files.check_output_path(target, source.files())
    files.embed_external_data(source)
    model = packed.unpack(source.proto, source.label, max_decoded_bytes)
    if target is not None:
        files.write_model(model, target)
    return model
