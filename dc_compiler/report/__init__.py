"""What a compile did, as data: per-tensor rows, totals, JSON and a self-contained HTML page."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dc_compiler import ir, schemas
from dc_compiler.codec import binding
from dc_compiler.codec.layer_gain import layer_gain
from dc_compiler.model import packed
from dc_compiler.ort.compare import OutputComparison
from dc_compiler.ort.metrics import Scores
from dc_compiler.ort.stability import NOISE
from dc_compiler.ort.verify import Verification
from dc_compiler.pass_manager import PassReport
from dc_compiler.report.spread import Spread

if TYPE_CHECKING:
    from dc_compiler.report.measured import MeasuredFrontier

# What the bytes of a weight hold: codes of its values, positions of those that are kept, what the codes stand for, and
# tables of code lengths, headers and checksums. A weight that is not packed has values alone
PARTS = ("values", "positions", "codebook, scales", "tables, headers")


@dataclass(frozen=True)
class TensorRow:
    """One weight, in the form of the paper's Tables 2 to 5.

    ``kept`` is the share of non-zero elements. ``bits`` is the width of a codebook index and ``position_bits`` that of
    a relative position; ``coded_index_bits`` and ``coded_position_bits`` are what each takes per kept weight after
    entropy coding (position columns are None where positions are not stored apart). ``bytes`` is the whole frame.
    ``execution`` is ``decode``, ``kept`` for what is not packed, or the kernel that runs from the packed form; of one
    that runs from what is kept where it gains, ``runs_sparse`` tells whether it does on this processor, and ``gain``
    how many times as fast as dense it is expected to be (0: not known).
    ``parts`` are its bytes by what they hold (``PARTS``). ``reason`` is why a weight is left alone, ``exact`` why its
    values had to stay as they are.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    raw_bytes: int
    bytes: int
    coder: str | None = None
    kept: float | None = None
    codebook: int | None = None
    bits: int | None = None
    coded_index_bits: float | None = None
    position_bits: int | None = None
    coded_position_bits: float | None = None
    sqnr_db: float | None = None
    tied: int = 1
    execution: str = "kept"
    runs_sparse: bool | None = None
    gain: float | None = None
    reason: str | None = None
    exact: str | None = None
    parts: tuple[int, ...] = ()

    @property
    def ratio(self) -> float:
        """Raw bytes over stored bytes."""
        return self.raw_bytes / self.bytes if self.bytes else 1.0


@dataclass(repr=False)
class CompileReport:
    """The whole story of one compile; sizes in bytes, times in seconds. ``topology_bytes`` is the packed graph of the
    session form, 0 otherwise. ``samples`` tells how many of ``--data`` are in each part: train, validation, check.
    ``spreads`` show how values of the largest weights are spread; ``recipe`` is a file for ``--recipe`` that makes the
    same bytes again."""

    source: str
    pipeline: str
    seed: int
    form: str
    original_bytes: int
    output_bytes: int
    topology_bytes: int
    tensors: list[TensorRow]
    notes: list[str] = field(default_factory=list)
    passes: list[PassReport] = field(default_factory=list)
    samples: dict[str, int] | None = None
    verification: Verification | None = None
    seconds: float = 0.0
    peak_memory: int = 0
    output: str | None = None
    spreads: list[Spread] = field(default_factory=list)
    recipe: str = ""

    @property
    def ratio(self) -> float:
        """Original file bytes over output file bytes, everything included."""
        return self.original_bytes / self.output_bytes

    def to_dict(self, command: str = "compile") -> dict[str, Any]:
        """Plain data for JSON (schemas/compile.json, or of another command); infinite values become None."""
        result = dataclasses.asdict(self)
        result["ratio"] = self.ratio
        if self.verification is not None:
            result["verification"]["compared"] = self.verification.compared
        for row, tensor in zip(result["tensors"], self.tensors, strict=True):
            row["ratio"] = tensor.ratio
        return schemas.stamped(command, plain(result))

    def to_json(self) -> str:
        """``to_dict`` as text."""
        return json.dumps(self.to_dict(), indent=1)

    def __repr__(self) -> str:
        from dc_compiler.report import notebook  # it is made of what is here

        return f"<{notebook.summary(self)}>"

    def _repr_html_(self) -> str:
        from dc_compiler.report import notebook

        return notebook.table(self)

    def to_html(self, frontier: MeasuredFrontier | None = None) -> str:
        """A page that needs nothing else, with the frontier of the model if it has been measured."""
        from dc_compiler.report.page import page  # it is made of what is here

        return page(self, frontier)


def plain(value: Any) -> Any:
    """Data that JSON can hold: tuples become lists, non-finite floats become None."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def frame_row(
    name: str,
    frame: bytes,
    *,
    sqnr_db: float | None = None,
    tied: int = 1,
    exact: str | None = None,
    execution: str = ir.DECODE,
) -> TensorRow:
    """Row of a packed weight, read from its frame.

    Raises:
        CorruptFrameError: the frame is damaged.
    """
    info = binding.frame_info(frame)
    kept = info.nonzero
    kind = ir.element_type(info.elem_type)
    clustered = info.codebook_entries > 0
    sparse = info.position_bits > 0
    may_run_sparse = execution in (ir.SPARSE, ir.SPARSE_INT8)
    expected = layer_gain(frame, in_int8=execution == ir.SPARSE_INT8) if may_run_sparse else None
    return TensorRow(
        name=name,
        shape=tuple(info.dims),
        dtype=str(info.dtype),
        raw_bytes=kind.nbytes(info.elements),
        bytes=len(frame),
        coder=info.coder,
        kept=kept / info.elements if info.elements else 1.0,
        codebook=info.codebook_entries or None,
        bits=max(1, math.ceil(math.log2(info.codebook_entries))) if clustered else kind.bits,
        coded_index_bits=info.index_bits_total / kept if kept else 0.0,
        position_bits=info.position_bits if sparse else None,
        coded_position_bits=info.position_bits_total / kept if sparse and kept else None,
        sqnr_db=sqnr_db,
        tied=tied,
        execution=execution,
        runs_sparse=None if expected is None else expected.runs,
        gain=None if expected is None else expected.gain,
        exact=exact,
        parts=_parts(info, len(frame)),
    )


def _parts(info: binding.FrameInfo, size: int) -> tuple[int, ...]:
    """Bytes of a frame in the order of ``PARTS``."""
    positions = -(-info.position_bits_total // 8)
    known = (info.data_bytes - positions, positions, info.codebook_bytes + info.scales_bytes)
    return (*known, size - sum(known))


def record_row(record: ir.WeightRecord) -> TensorRow:
    """Row of a record after the pipeline ran."""
    if record.frame is None:
        return TensorRow(
            record.name,
            record.shape,
            record.dtype_name,
            record.nbytes,
            record.nbytes,
            tied=record.tied,
            reason=record.reason,
            exact=record.exact,
        )
    sqnr = 10 * math.log10(record.signal / record.noise) if record.signal and record.noise else None
    exact = None if record.quantized is not None and record.noise else record.exact
    return frame_row(record.name, record.frame, sqnr_db=sqnr, tied=record.tied, exact=exact, execution=record.execution)


def packed_rows(model: packed.PackedModel) -> list[TensorRow]:
    """Rows of every payload of a compiled model."""
    return [frame_row(p.label, p.frame, execution=p.weights[0].execution) for p in model.payloads]


def samples_lines(samples: Mapping[str, int] | None) -> list[str]:
    """How many samples of ``--data`` did what."""
    if samples is None:
        return []
    used = {"to train on": "train", "to choose the best state": "validation", "to check the result": "check"}
    counts = [f"{samples[part]:,} {use}" for use, part in used.items() if samples[part]]
    return ["samples: " + ", ".join(counts)]


def quality_text(result: Verification | None) -> str | None:
    """In a few words, how near the outputs are; None where nobody looked."""
    if result is None:
        return None
    if result.scores is not None:
        return f"{result.scores.metric} {result.scores.before:.4g} -> {result.scores.after:.4g}"
    if not result.compared:
        return "not compared"
    if result.same_bits:
        return "identical"
    if result.worst_cosine is not None:
        return f"cosine {result.worst_cosine:.5f}"
    shares = [o.equal_share for o in result.outputs if o.equal_share is not None]
    return f"{100 * min(shares):.2f} % equal" if shares else None


def score_lines(scores: Scores | None) -> list[str]:
    """What labels, or the original's answers in their place, say of the original and of the compiled model."""
    if scores is None:
        return []
    form = ".4f" if scores.metric == "accuracy" else ".6g"
    against = "" if scores.has_labels else " against the original's answers"
    return [f"{scores.metric}{against}: {scores.before:{form}} -> {scores.after:{form}}"]


def verification_lines(result: Verification) -> list[str]:
    """What was compared and what was not: a line for the inputs, one an output, and what outputs do not say."""
    if result.skipped is not None:
        return [f"outputs not compared: {result.skipped}", *_missed_lines(result)]
    lines = [f"compared on {result.source}, {result.feeds} {'run' if result.feeds == 1 else 'runs'}:"]
    for o in result.outputs:
        lines.append(f"output {o.name}: {_comparison_text(o)}")
        lines += _deciding_lines(o, result, "  ")
        lines += _steady_lines(o, result)
    if result.unreached:
        lines.append(f"changed weights that no run reached: {some(result.unreached)}; give --data that reaches them")
    if result.maybe_unreached:
        lines.append(f"changed weights that runs may not have reached: {some(result.maybe_unreached)}")
    if result.weights_unchanged:
        lines.append("no weight was changed: all have the original's bits")
    return [*lines, *result.notes, *score_lines(result.scores), *_missed_lines(result)]


def _steady_lines(value: OutputComparison, result: Verification) -> Iterator[str]:
    steady = result.steady.get(value.name)
    if steady is not None:
        noise = f"noise of {100 * NOISE:g} % of the weights' standard deviation"
        yield (
            f"  {steady.thrown} of {result.feeds} runs not counted, which {noise} throws over, too; "
            f"the others: {_comparison_text(steady.comparison)}"
        )


def _deciding_lines(value: OutputComparison, result: Verification, indent: str) -> Iterator[str]:
    for judge in result.deciding.get(value.name, []):
        yield f"{indent}decided by {judge.name}: {_comparison_text(judge)}"
        yield from _deciding_lines(judge, result, indent + "  ")


def _missed_lines(result: Verification) -> list[str]:
    return [f"missed: {m}" for m in result.missed]


def _comparison_text(o: OutputComparison) -> str:
    if o.not_compared is not None:
        same = " (the same bits)" if o.same_bits else ""
        return f"not compared: {o.not_compared}{same}{_shapes_text(o, ', ')}"
    if o.identical:
        return ", ".join(["identical", *_share_texts(o)])
    facts = [f"max error {o.max_abs_error:.3g}"]
    if o.sqnr_db is not None:
        facts.append(f"SQNR {o.sqnr_db:.1f} dB")
    if o.cosine is not None:
        facts.append(f"cosine {o.cosine:.6f}")
        if o.worst_cosine is not None and o.cosine - o.worst_cosine > 1e-3:
            facts[-1] += f" (worst run {o.worst_cosine:.6f})"
    return _shapes_text(o, "") + ", ".join([*facts, *_share_texts(o)])


def _shapes_text(o: OutputComparison, before: str) -> str:
    if o.shapes is None:
        return ""
    return before + f"{o.shapes[0]} against {o.shapes[1]}" + ("" if before else "; in what both have: ")


def _share_texts(o: OutputComparison) -> list[str]:
    shares = (("top-1 agreement", o.top1_agreement), ("equal elements", o.equal_share))
    return [f"{title} {100 * share:.2f} %" for title, share in shares if share is not None]


def some(names: Sequence[str], most: int = 8) -> str:
    """The names, or of many the first and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def training_lines(passes: Sequence[PassReport]) -> list[str]:
    """One line a pass that trained: loss, and error where there are labels, on the parts of the data."""
    return [_training_line(p) for p in passes if "training loss" in p.facts]


def _training_line(step: PassReport) -> str:
    facts = step.facts
    texts = [f"{step.name}: {facts['steps']:,} steps in {step.seconds:.1f} s, epoch {facts['best epoch']} kept"]
    texts.append(f"training loss {facts['training loss']:.4g}")
    texts.append(f"validation loss {facts['validation loss before']:.4g} -> {facts['validation loss after']:.4g}")
    if "training error" in facts:
        before, after = facts["validation error before"], facts["validation error after"]
        texts[1] += f", error {facts['training error']:.2%}"
        texts[2] += f", error {before:.2%} -> {after:.2%}"
    return "; ".join(texts).replace("%", " %")


COLUMNS: tuple[tuple[str, str], ...] = (
    ("weight", "name"), ("shape", "shape"), ("kept %", "kept"), ("bits", "bits"), ("coded", "coded_index_bits"),
    ("pos. bits", "position_bits"), ("coded", "coded_position_bits"), ("bytes", "bytes"), ("ratio", "ratio"),
    ("SQNR dB", "sqnr_db"), ("coder", "coder"),
)  # fmt: skip


def cells(row: TensorRow) -> list[str]:
    """The row's texts in the order of ``COLUMNS``; a weight left alone, or kept exactly, tells why beside the coder."""
    return [
        row.name + (f" (x{row.tied})" if row.tied > 1 else ""),
        "x".join(map(str, row.shape)) or "scalar",
        _number(None if row.kept is None else 100 * row.kept, 1),
        _number(row.bits, 0),
        _number(row.coded_index_bits, 2),
        _number(row.position_bits, 0),
        _number(row.coded_position_bits, 2),
        f"{row.bytes:,}",
        f"{row.ratio:.2f}x",
        _number(row.sqnr_db, 1),
        _treatment(row),
    ]


def _treatment(row: TensorRow) -> str:
    exact = "" if row.exact is None else f"kept exactly: {row.exact}"
    if row.reason is None:
        return ", ".join(filter(None, [row.coder, _kernel(row), exact]))
    return f"{exact}; {row.reason}" if exact else f"left alone: {row.reason}"


def _kernel(row: TensorRow) -> str:
    """How a layer runs, and where it may run from what is kept, what this processor gains by it."""
    if row.execution in (ir.DECODE, ir.ATTRIBUTES, "kept"):
        return ""
    if row.runs_sparse is None:
        return f"run by {row.execution}"
    gain = f"{row.gain:.1f}x" if row.gain else "no gain known"
    return f"run by {row.execution}, {gain}" if row.runs_sparse else f"run dense here (by {row.execution}: {gain})"


def total_cells(rows: Sequence[TensorRow], title: str = "all weights") -> list[str]:
    """Texts of a line that stands for all these rows."""
    raw, stored = sum(r.raw_bytes for r in rows), sum(r.bytes for r in rows)
    elements = sum(math.prod(r.shape) for r in rows if r.kept is not None)
    kept = sum(math.prod(r.shape) * r.kept for r in rows if r.kept is not None)
    share = _number(100 * kept / elements, 1) if elements else ""
    ratio = f"{raw / stored:.2f}x" if stored else ""
    return [
        title,
        f"{sum(math.prod(r.shape) for r in rows):,}",
        share,
        "",
        "",
        "",
        "",
        f"{stored:,}",
        ratio,
        "",
        "",
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
