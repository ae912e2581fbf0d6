"""The ``dcc`` command: the only module that prints or exits."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

# NumPy, onnx and the rest are imported inside functions, where an interrupt or a failure ends in a sentence
from dc_compiler import schemas
from dc_compiler.errors import DccError, InvalidArgumentError, OutputError, QualityError
from dc_compiler.nearest import nearest
from dc_compiler.printable import printable

if TYPE_CHECKING:
    from dc_compiler.batch import Plan, Work
    from dc_compiler.report import CompileReport

OK, MISSED_QUALITY, BAD_INPUT, STOPPED = 0, 1, 2, 130
DIFFERENT = 1  # as of diff(1)
PRESETS = ("default", "lossless", "deep-compression", "smallest")
JOBS_HELP = "threads (default: all processors)"
TRACEBACK = "DCC_TRACEBACK"  # environment variable: show where an error arose


class _Parser(argparse.ArgumentParser):
    """Reports bad usage as one sentence and exit code 2, with what may have been meant."""

    is_command = False

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice is not None:
            message += nearest(choice[1], re.findall(r"[\w-]+", choice[2]))
        _complain(self.prog, message)
        raise SystemExit(BAD_INPUT)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; commands refuse what they do not know, since they know what is like it."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and self.is_command:
            options = [o for action in self._actions for o in action.option_strings]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{nearest(unknown[0].partition('=')[0], options)}")
        return found, unknown


class _Version(argparse.Action):
    """Prints the version and exits."""

    def __call__(self, *_: object) -> NoReturn:
        from importlib import metadata

        _print(f"dcc {metadata.version('dc-compiler')}\n", None)
        raise SystemExit(OK)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 quality missed, 2 bad usage or input, 130 stopped."""
    _prepare_streams()
    interrupts = _Interrupts()
    warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of figures that overflow
    arguments = argparse.Namespace()
    try:
        parser = _parser()
        _complete(parser)
        arguments = parser.parse_args(argv, argparse.Namespace(interrupts=interrupts))
        return int(arguments.run(arguments))
    except (Exception, KeyboardInterrupt) as e:
        _trace()
        sentence, code = _stopped(arguments) if interrupts.came or isinstance(e, KeyboardInterrupt) else _sentence(e)
        _complain("dcc", sentence)
        return code
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks what may come next (argcomplete), and exit."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def _offer(action: argparse.Action, words: Sequence[str]) -> None:
    """Words that a shell may complete the option's value to; it takes others, which are refused with a sentence."""
    action.completer = lambda **_: words  # type: ignore[attr-defined]  # argcomplete's name


class _Interrupts:
    """Turns the signals of Ctrl-C and of ``kill`` into KeyboardInterrupt, once: the second one ends the process.

    ``came`` tells an interrupt even where a library turned it into an error of its own.
    """

    def __init__(self) -> None:
        self.came = False
        signal.signal(signal.SIGTERM, self._hear)
        if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):  # ignored by jobs in the background
            signal.signal(signal.SIGINT, self._hear)

    def _hear(self, number: int, frame: object) -> NoReturn:
        self.came = True
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt


def _stopped(arguments: argparse.Namespace) -> tuple[str, int]:
    written = getattr(arguments, "written", [])
    if written:
        return f"stopped; {', '.join(written)} {'was' if len(written) == 1 else 'were'} written", STOPPED
    directory = getattr(arguments, "checkpoint", None)
    go_on = f"; the same command continues from {directory}" if directory is not None and directory.is_dir() else ""
    return f"stopped; nothing was written{go_on}", STOPPED


def _trace() -> None:
    """Show where the error arose that is being handled, to those who ask."""
    if os.environ.get(TRACEBACK):
        import traceback

        traceback.print_exc()


def _sentence(error: BaseException) -> tuple[str, int]:
    """What to say about an error, and the exit code."""
    if isinstance(error, QualityError):
        return str(error), MISSED_QUALITY
    if isinstance(error, DccError):
        return str(error), BAD_INPUT
    if isinstance(error, MemoryError):
        return "not enough memory; nothing was written", BAD_INPUT
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}", BAD_INPUT
    where = "" if os.environ.get(TRACEBACK) else f" with what {TRACEBACK}=1 in the environment shows"
    return f"unexpected {type(error).__name__}: {error}; this is a fault of dcc, please report it{where}", BAD_INPUT


def _complain(program: str, message: str) -> None:
    """One line on standard error, if that can take it."""
    try:
        sys.stderr.write(f"{program}: {printable(' '.join(message.split()))}\n")
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def _prepare_streams() -> None:
    """Make the standard streams usable: closed ones lead to the null device, so that no model gets their numbers, and
    names that the terminal's encoding lacks are escaped."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard(stream: Any) -> None:
    """Send a stream that takes nothing more to the null device: what is in its buffer goes there too."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except OSError:
        _discard(stream)


def _compile(a: argparse.Namespace) -> int:
    from dc_compiler import batch

    if a.dry_run and a.checkpoint is not None:
        raise InvalidArgumentError("give --dry-run or --checkpoint, not both: a checkpoint is deleted at the end")
    if a.frontier is not None and a.report is None:
        raise InvalidArgumentError("--frontier needs --report, whose page it is drawn on")
    plan = batch.plan(a.input, a.output, a.report, a.json)
    if not plan.is_several:
        _compile_one(a, plan.works[0])
        return OK
    for option in ("checkpoint", "frontier"):
        if getattr(a, option) is not None:
            raise InvalidArgumentError(f"--{option} is for one model at a time")
    return _compile_all(a, plan)


def _compile_all(a: argparse.Namespace, plan: Plan) -> int:
    """Several models, one after the other; one that fails does not keep the others from being compiled."""
    from dc_compiler import console
    from dc_compiler.model import files
    from dc_compiler.report import joint

    for folder in [*([] if a.dry_run else [a.output]), *plan.folders()]:
        folder.mkdir(parents=True, exist_ok=True)
    for path in filter(None, (plan.report, plan.json)):
        files.check_output_path(path, [work.model for work in plan.works])
    outcomes, worst = [], OK
    for work in plan.works:
        try:
            outcomes.append(joint.compiled(work.model, _compile_one(a, work)))
        except Exception as e:
            if a.interrupts.came:
                raise
            _trace()
            sentence, code = _sentence(e)
            outcomes.append(joint.failed(work.model, sentence))
            _complain("dcc", str(outcomes[-1].failure))
            worst = max(worst, code)
    result = joint.JointReport(outcomes)
    if plan.report is not None:
        files.write_atomically(plan.report, [result.to_html(holds=plan.report_holds).encode()])
    if plan.json is not None:
        files.write_atomically(plan.json, [result.to_json(holds=plan.json_holds).encode()])
    if not a.quiet:
        _show(console.joint_summary(result), written=None if a.dry_run else a.output)
    return worst


def _compile_one(a: argparse.Namespace, work: Work) -> CompileReport:
    from dc_compiler import console
    from dc_compiler.compiler import compile_model
    from dc_compiler.model import files
    from dc_compiler.report import measured

    written = [path for path in (work.output, work.report, work.json) if path is not None]
    if len({path.absolute() for path in written}) < len(written):
        raise OutputError("--output, --report and --json must name different files")
    # compile_model checks what it writes; folders for several models are made when it is
    is_checked = a.dry_run and (work.model == a.input[0] or work.output.parent.is_dir())
    for path in written if is_checked else written[1:]:
        files.check_output_path(path, [work.model])
    frontier = None if a.frontier is None else measured.read(a.frontier)
    output = None if a.dry_run else work.output
    with nullcontext() if a.quiet else console.progress_shown(console.standard_error()) as progress:
        result = compile_model(
            work.model, output, preset=a.preset, pipeline=a.pipeline, recipe=a.recipe, density=a.density, bits=a.bits,
            data=a.data, labels=a.labels, set=a.set, skip=a.skip, emit=a.emit, execution=a.execution,
            min_size=a.min_size, seed=a.seed,
            jobs=a.jobs, cluster=a.cluster, force=a.force, checkpoint=a.checkpoint,
            custom_op_libraries=a.custom_op_library, metric=a.metric, target_ratio=a.target_ratio,
            target_size=a.target_size, max_drop=a.max_drop, budget=a.budget, progress=progress,
        )  # fmt: skip
    if not a.dry_run:
        a.written.append(str(work.output))
    if work.report is not None:
        files.write_atomically(work.report, [result.report.to_html(frontier).encode()])
    if work.json is not None:
        files.write_atomically(work.json, [result.report.to_json().encode()])
    lines = [] if a.quiet else console.compile_summary(result.report, every=a.all)
    if a.dry_run and lines:
        _show([*lines, f"{work.output} was not written (--dry-run)"])
    elif lines:
        _show(lines, written=work.output)
    return result.report


def _inspect(a: argparse.Namespace) -> int:
    from dc_compiler import console
    from dc_compiler.compiler import inspect_model
    from dc_compiler.model import files

    if a.report is not None:
        files.check_output_path(a.report, files.read_model(a.file).files())
    report = inspect_model(
        a.file, min_size=a.min_size, max_decoded_bytes=a.max_decoded_bytes, spreads=a.report is not None
    )
    if a.report is not None:
        files.write_atomically(a.report, [report.to_html().encode()])
    if a.json:
        _print_json(report.to_dict("inspect"))
        return OK
    made = f", pipeline {report.pipeline}, from {report.original_bytes:,} bytes" if report.pipeline else ""
    total = f"{report.source}: {report.form}{made}, {report.output_bytes:,} bytes"
    _show([console.TensorTable(report.tensors, every=a.all), total])
    return OK


def _verify(a: argparse.Namespace) -> int:
    from dc_compiler.compiler import verify_models
    from dc_compiler.report import verification_lines

    result = verify_models(
        a.original, a.compiled, data=a.data, labels=a.labels, seed=a.seed, custom_op_libraries=a.custom_op_library,
        metric=a.metric, min_cosine=a.min_cosine, max_error=a.max_error, min_agreement=a.min_agreement,
    )  # fmt: skip
    if a.json:
        _print_json(schemas.stamped("verify", dataclasses.asdict(result) | {"compared": result.compared}))
    else:
        _show(verification_lines(result))
    return OK if result.compared and not result.missed else MISSED_QUALITY


def _unpack(a: argparse.Namespace) -> int:
    from dc_compiler.compiler import unpack_model
    from dc_compiler.model import files

    unpack_model(a.compiled, a.output, max_decoded_bytes=a.max_decoded_bytes)
    a.written.append(str(a.output))
    _show([f"{a.compiled} -> {a.output}: {files.file_size(a.output):,} bytes"], written=a.output)
    return OK


def _bench(a: argparse.Namespace) -> int:
    from dc_compiler import console
    from dc_compiler.ort import bench

    result = bench.bench(
        a.original, a.compiled, threads=a.threads, seed=a.seed, custom_op_libraries=a.custom_op_library
    )
    if a.json:
        _print_json(schemas.stamped("bench", dataclasses.asdict(result)))
    else:
        _show([console.bench_table(result)])
    return OK


def _diff(a: argparse.Namespace) -> int:
    from dc_compiler import console
    from dc_compiler.diff import diff_models

    result = diff_models(a.before, a.after, max_decoded_bytes=a.max_decoded_bytes)
    if a.json:
        _print_json(result.to_dict())
    else:
        _show(console.diff_summary(result, every=a.all))
    return OK if result.same else DIFFERENT


def _sensitivity(a: argparse.Namespace) -> int:
    from dc_compiler import console
    from dc_compiler.exploration.sensitivity import sensitivity

    return _explored(a, lambda progress: sensitivity(a.model, **_exploring(a), progress=progress), console.sensitivity)


def _frontier(a: argparse.Namespace) -> int:
    from dc_compiler import console
    from dc_compiler.exploration.frontier import frontier

    options = _exploring(a) | {"pipeline": a.pipeline, "cluster": a.cluster}
    return _explored(a, lambda progress: frontier(a.model, **options, progress=progress), console.frontier)


def _exploring(a: argparse.Namespace) -> dict[str, Any]:
    """Keywords that the explorations share."""
    names = ("data", "labels", "metric", "steps", "skip", "min_size", "seed", "jobs")
    return {n: getattr(a, n) for n in names} | {"custom_op_libraries": a.custom_op_library}


def _explored(a: argparse.Namespace, explore: Any, summary: Any) -> int:
    """Run an exploration, write its files and show its table."""
    from dc_compiler import console
    from dc_compiler.model import files

    written = [path for path in (a.report, a.json) if path is not None]
    if len({path.absolute() for path in written}) < len(written):
        raise OutputError("--report and --json must name different files")
    given = [a.model, *([Path(a.data)] if a.data is not None else [])]
    for path in written:
        files.check_output_path(path, given)
    with console.progress_shown(console.standard_error()) as progress:
        report = explore(progress)
    if a.report is not None:
        files.write_atomically(a.report, [report.to_html().encode()])
    if a.json is not None:
        files.write_atomically(a.json, [report.to_json().encode()])
    _show(summary(report))
    return OK


def _show(items: Sequence[Any], *, written: Path | None = None) -> None:
    """Tables and lines on standard output; ``written`` is the file that was the command's work, if it had one."""
    from dc_compiler import console

    _print(console.rendered(items), written)


def _print_json(value: Any) -> None:
    from dc_compiler.report import plain

    _print(json.dumps(plain(value), indent=1) + "\n", None)


def _print(text: str, written: Path | None) -> None:
    """Write to standard output. A reader that went away (``| head``) is no failure; neither is a full device when the
    command's work lies in a file.

    Raises:
        OutputError: standard output cannot take what the command was run for.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)
    except OSError as e:
        _discard(sys.stdout)
        if written is None:
            raise OutputError(f"standard output cannot be written: {e.strerror}") from None
        _complain("dcc", f"{written} was written; the summary was not, to standard output: {e.strerror}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dcc", description="Compile ONNX models into much smaller ONNX models.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add_compile(commands)
    p = _command(commands, "inspect", _inspect, "show every weight of a compiled model, or of one to be compiled")
    p.add_argument("file", metavar="FILE", type=Path)
    p.add_argument(
        "--min-size", metavar="N", type=int, default=1024, help="element floor shown as reason (default 1024)"
    )
    p.add_argument("--all", action="store_true", help="show every weight (default: the 50 largest)")
    _add_bound(p)
    p.add_argument("--report", metavar="FILE.html", type=Path)
    p.add_argument("--json", action="store_true")
    p = _command(commands, "verify", _verify, "compare a compiled model with its original by running both")
    p.add_argument("original", metavar="ORIGINAL", type=Path)
    p.add_argument("compiled", metavar="COMPILED", type=Path)
    _add_data(p)
    _add_libraries(p)
    p.add_argument("--min-cosine", metavar="C", type=float, help="exit 1 when an output's cosine is lower on any run")
    p.add_argument("--max-error", metavar="E", type=float, help="exit 1 when an output differs by more anywhere")
    p.add_argument(
        "--min-agreement", metavar="A", type=float, help="exit 1 when top-1 or equal elements are fewer (0-1)"
    )
    p.add_argument("--seed", metavar="N", type=int, default=0)
    p.add_argument("--json", action="store_true")
    p = _command(commands, "unpack", _unpack, "turn a compiled model back into a plain ONNX model")
    p.add_argument("compiled", metavar="COMPILED", type=Path)
    p.add_argument("-o", "--output", metavar="DENSE", type=Path, required=True)
    _add_bound(p)
    p = _command(commands, "bench", _bench, "size, load time, latency and peak memory side by side")
    p.add_argument("original", metavar="ORIGINAL", type=Path)
    p.add_argument("compiled", metavar="COMPILED", type=Path)
    p.add_argument("--threads", metavar="N", type=int, default=1, help="threads of each session (default 1)")
    _add_libraries(p)
    p.add_argument("--seed", metavar="N", type=int, default=0)
    p.add_argument("--json", action="store_true")
    p = _command(commands, "diff", _diff, "what changed between two models, weight by weight; exit 1 when anything did")
    p.add_argument("before", metavar="A", type=Path)
    p.add_argument("after", metavar="B", type=Path)
    p.add_argument("--all", action="store_true", help="show weights that are the same, too")
    _add_bound(p)
    p.add_argument("--json", action="store_true")
    p = _command(commands, "sensitivity", _sensitivity, "how far the outputs move when a weight alone is rounded")
    _add_exploration(p)
    p.add_argument("--jobs", metavar="N", type=int, help=JOBS_HELP)
    p = _command(commands, "frontier", _frontier, "quality against size, from near-lossless to coarse")
    _add_exploration(p)
    p.add_argument("--pipeline", metavar="TEXT", help="with a cluster(grid) whose step is varied (default preset's)")
    _add_executor(p)
    return parser


def _add_compile(commands: Any) -> None:
    p = _command(commands, "compile", _compile, "write a smaller model")
    p.add_argument(
        "input", metavar="IN", type=Path, nargs="+", help="a model; of several, or a folder, all are compiled"
    )
    p.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="the file; a folder for several")
    preset = p.add_argument("--preset", metavar="P", help=", ".join(PRESETS[:-1]) + f" or {PRESETS[-1]}")
    _offer(preset, PRESETS)
    p.add_argument("--pipeline", metavar="TEXT", help="such as 'prune(density=0.1),cluster(bits=5),encode(huffman)'")
    p.add_argument("--recipe", metavar="FILE", type=Path, help="a TOML file with a pipeline and per-layer options")
    p.add_argument("--density", metavar="D", type=float, help="kept share of each weight, in (0, 1]")
    p.add_argument("--bits", metavar="B", type=int, help="codebook bits, 1 to 16")
    p.add_argument("--target-ratio", metavar="R", type=float, help="make the file at least so many times smaller")
    p.add_argument("--target-size", metavar="SIZE", help="make the best file of at most so many bytes, as in 5MB")
    drop_help = "most points that the metric of --labels may fall; without labels, most percent of changed answers"
    p.add_argument("--max-drop", metavar="D", type=float, help=drop_help)
    budget_help = "train on --data for about so long on two cores, an estimate that depends on the model alone"
    p.add_argument("--budget", metavar="MINUTES", type=float, help=budget_help)
    _add_data(p)
    _add_libraries(p)
    p.add_argument("--set", metavar="GLOB:key=value,...", action="append", default=[], help="options for some weights")
    p.add_argument("--skip", metavar="GLOB", action="append", default=[], help="weights to leave alone")
    _offer(p.add_argument("--emit", metavar="FORM", help="session (default) or graph"), ("session", "graph"))
    execution_help = "auto (default), dense, sparse: from what is kept of weights, or int8: in integers"
    execution = p.add_argument("--execution", metavar="MODE", help=execution_help)
    _offer(execution, ("auto", "dense", "sparse", "int8"))
    p.add_argument("--min-size", metavar="N", type=int, help="element floor (default: 16 for default, 0 for smallest)")
    p.add_argument("--seed", metavar="N", type=int)
    _add_executor(p)
    p.add_argument("--checkpoint", metavar="DIR", type=Path, help="keep the state of training here, to continue later")
    p.add_argument(
        "--report",
        metavar="FILE.html",
        type=Path,
        help="a page that tells all; of several, FILE.html or a folder",
    )
    p.add_argument("--json", metavar="FILE", type=Path, help="the same as data; of several, FILE.json or a folder")
    p.add_argument("--frontier", metavar="FILE", type=Path, help="what dcc frontier --json wrote, drawn in the report")
    p.add_argument("--all", action="store_true", help="show every weight (default: small ones left alone in one line)")
    p.add_argument("--dry-run", action="store_true", help="do everything and tell, but write no model")
    p.add_argument("--quiet", action="store_true", help="show neither progress nor a summary")
    p.add_argument(
        "--force",
        action="store_true",
        help="write even when the preset's quality is missed or onnxruntime cannot load the model",
    )


def _add_exploration(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", metavar="MODEL", type=Path)
    _add_data(p)
    _add_libraries(p)
    p.add_argument("--steps", metavar="S,S,...", help="steps of cluster(grid) to try, such as 0.125,0.25,0.5")
    p.add_argument("--skip", metavar="GLOB", action="append", default=[], help="weights to leave alone")
    p.add_argument("--min-size", metavar="N", type=int, help="element floor (default 1024, less with samples)")
    p.add_argument("--seed", metavar="N", type=int)
    p.add_argument("--report", metavar="FILE.html", type=Path)
    p.add_argument("--json", metavar="FILE", type=Path)


def _add_data(p: argparse.ArgumentParser) -> None:
    metric_help = (
        "what the labels, or without them the original's answers, say: a scorer of scikit-learn, or module:function "
        "called with (labels, outputs)"
    )
    p.add_argument("--metric", metavar="NAME", help=metric_help)
    p.add_argument("--data", metavar="FILE", help=".npz, a folder of .npy, or module:function yielding input dicts")
    p.add_argument("--labels", metavar="NAME", help="array of the data that holds the labels: class numbers, or floats")


def _add_executor(p: argparse.ArgumentParser) -> None:
    where = p.add_mutually_exclusive_group()
    where.add_argument("--jobs", metavar="N", type=int, help=JOBS_HELP)
    where.add_argument("--cluster", metavar="ADDRESS", help="a dask scheduler whose workers do the work on weights")


def _add_bound(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--max-decoded-bytes", metavar="N", type=int, help="what a compiled file may decode to (SECURITY.md)"
    )


def _add_libraries(p: argparse.ArgumentParser) -> None:
    help_text = "a library with operators that the model needs; may be given again"
    p.add_argument("--custom-op-library", metavar="PATH", type=Path, action="append", default=[], help=help_text)


def _command(commands: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    parser: _Parser = commands.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
    parser.set_defaults(run=run, written=[])
    parser.is_command = True
    return parser
