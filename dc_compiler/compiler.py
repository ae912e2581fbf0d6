"""compile_model: the whole way from a model to a verified, smaller model."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from dc_compiler import ir
from dc_compiler.calibration.goals import Targets, parse_size
from dc_compiler.codec import binding
from dc_compiler.compilation import Compilation, measure_of, reference_of, shapes_of_outputs
from dc_compiler.errors import DataError, InvalidArgumentError, QualityError
from dc_compiler.model import files, importer, packed
from dc_compiler.ort import memory, metrics, quality, verify
from dc_compiler.ort.samples import Samples
from dc_compiler.ort.sessions import Sessions
from dc_compiler.pass_manager import Context, Progress
from dc_compiler.recipe import Recipe, make_recipe
from dc_compiler.report import CompileReport, TensorRow, packed_rows, record_row, spread

Libraries = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True, repr=False)
class CompileResult:
    """What :func:`compile_model` gives back: the compiled model and the report about it, which it is shown as."""

    model: onnx.ModelProto
    report: CompileReport

    def __repr__(self) -> str:
        return repr(self.report)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


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
    execution: str | None = None,
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
        execution: ``dense`` runs layers as they were; ``int8`` lets those that multiply by a weight on a grid do so in
            integers (:mod:`dc_compiler.model.integer`), which changes numbers; ``auto`` (default) does that only where
            ``max_drop`` allows it.
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
        QualityError: the result misses what the preset promises, or a target, or the file would be no smaller than the
            original. Nothing is written.
    """
    start = time.perf_counter()
    targets = Targets(target_ratio, parse_size(target_size) if isinstance(target_size, str) else target_size, max_drop)
    _check_options(data=data, labels=labels, max_drop=max_drop, budget=budget, jobs=jobs, cluster=cluster)
    measure = measure_of(metric, data)
    chosen = make_recipe(
        preset=preset, pipeline=pipeline, recipe=None if recipe is None else Path(recipe), density=density, bits=bits,
        overrides=_texts(set), skip=_texts(skip), emit=emit, execution=execution,
        min_size=min_size, seed=seed,
        has_data=data is not None,
    )  # fmt: skip
    tree_drop = targets.drop if chosen.prunes_trees else None
    if tree_drop is not None:
        chosen, targets = chosen.with_tree_drop(tree_drop), replace(targets, drop=None)
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
    chosen.manager().check_overrides(program, chosen.overrides)
    shapes, obstacle = shapes_of_outputs(original, sessions, context.threads, force and data is None)
    before = ir.excerpts(program.weights())
    job = Compilation(
        chosen, targets, budget, measure, context, sessions, original, shapes, obstacle, before=before,
        tree_drop=tree_drop,
    )  # fmt: skip
    if data is not None:
        job.share_out(program, data, labels)
    with ExitStack() as stack:
        if checkpoint is not None:
            job.open_checkpoint(Path(checkpoint), target, program, stack)
        if cluster is not None:
            from dc_compiler.pipeline.cluster_executor import ClusterExecutor  # dask takes a moment to import

            context.executor = stack.enter_context(ClusterExecutor(cluster))
        made = job.transformed(program)
        del program  # programs and models are large: none stays in memory that is not needed any more
        missed, finer = made.missed, made.finer
        report, model, exact = job.emitted(made)
        del made
        report.verification = job.verified(model)
        if finer is not None and quality.catastrophe(report.verification):
            del model
            report, model, exact = job.emitted(finer())
            report.verification = job.verified(model)
    del finer
    if missed is not None:
        report.notes.append(missed)
        if not force:
            raise QualityError(_shortfall(report, targets, measure))
    _check_quality(report, job.recipe, exact, force)
    if target is not None:
        _check_size(report, force)
        report.output_bytes = files.write_model(model, target)
        report.output = str(target)
    if context.checkpoint is not None:
        context.checkpoint.remove()
    report.seconds = time.perf_counter() - start
    report.peak_memory = memory.peak()
    return CompileResult(model, report)


def _check_options(
    *, data: Any, labels: str | None, max_drop: float | None, budget: float | None, jobs: int | None,
    cluster: str | None,
) -> None:  # fmt: skip
    """Refuse what cannot be done whatever the model is.

    Raises:
        InvalidArgumentError
    """
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


def _texts(value: str | Iterable[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else list(value)


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


def _check_size(report: CompileReport, force: bool) -> None:
    """Refuse to write a file that is no smaller than the original; with ``force`` a note tells.

    Raises:
        QualityError
    """
    if report.output_bytes < report.original_bytes:
        return
    problem = f"the file has {report.output_bytes:,} bytes, the original {report.original_bytes:,}"
    report.notes.append(problem)
    if not force:
        raise QualityError(f"{problem}; nothing was written (--force writes it)")


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
    path: str | os.PathLike[str], *, min_size: int = 1024, max_decoded_bytes: int | None = None, spreads: bool = False
) -> CompileReport:
    """Per-tensor facts of a compiled model, or of a model that could be compiled.

    Args:
        min_size: element floor shown as reason. max_decoded_bytes: as for :func:`unpack_model`.
        spreads: also tell how the values of the largest weights are spread, for which these are decoded.

    Raises:
        ModelError, CorruptFrameError
    """
    source = files.read_model(path)
    if not packed.is_written(source.proto):
        program = importer.build_program(source, min_size=min_size)
        rows = [record_row(r) for r in program.records]
        known = spread.compared(ir.excerpts(program.weights()), {}, {}) if spreads else []
        return CompileReport(source.label, "", 0, "not compiled", source.size, source.size, 0, rows, spreads=known)
    files.embed_external_data(source)
    opened = packed.open_packed(source.proto, source.label, max_decoded_bytes)
    facts = {p.key: p.value for p in source.proto.metadata_props}
    original = _number(facts, "dcc.original_bytes") or source.size
    rows = packed_rows(opened)
    known = _spreads(rows, opened.payloads) if spreads else []
    return CompileReport(
        source.label,
        facts.get("dcc.pipeline", ""),
        _number(facts, "dcc.seed"),
        opened.form,
        original,
        source.size,
        opened.topology_bytes,
        rows,
        spreads=known,
    )


def _spreads(rows: Sequence[TensorRow], payloads: Sequence[packed.Payload]) -> list[spread.Spread]:
    floats = [(r, p) for r, p in zip(rows, payloads, strict=True) if "float" in r.dtype and len(r.shape) > 1]
    sizes = [(r.name, math.prod(r.shape)) for r, _ in floats]
    return spread.of_frames(sizes, lambda i: binding.decode(floats[i][1].frame))


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
