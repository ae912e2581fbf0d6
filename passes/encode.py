"""encode: entropy-codes every weight into a frame (arXiv 1510.00149, section 4; codec/FORMAT.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dc_compiler import ir
from dc_compiler.codec import binding, load_time
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.nibbles import shares_bytes
from dc_compiler.pass_manager import Context, PassReport, RecordPass, Task, Update

WORTH_TELLING = 0.005  # share of the file from which on a slower coder that was passed over is told of
CHOICES = ("auto", "smallest_fast", "smallest")  # of coders, which leave the coder open


def encode_record(record: ir.WeightRecord, options: Encode, seed: int) -> Update:
    """The frame of a weight, or the reason why it gets none."""
    if record.coder is not None:
        return _structured(record, record.coder)
    if record.is_vector and record.clustered is None and options.coder != "lossless":
        return Update(reason="a vector (bias, normalization or the like)")
    if record.clustered is None and options.needs and record.exact is None:
        raise InvalidArgumentError(f"encode: coder={options.coder} needs '{record.name}' to be clustered")
    frame = options._frame(record)
    if len(frame) >= record.nbytes:
        return Update(reason=f"packing would not make it smaller ({len(frame)} against {record.nbytes} bytes)")
    frames: list[bytes] = []
    for each in (*options._faster_frames(record, frame), frame):
        if len(each) < (len(frames[-1]) if frames else record.nbytes):
            frames.append(each)
    return Update(frame=frames[0], smaller_frames=tuple(frames[1:]))


def _structured(record: ir.WeightRecord, coder: str) -> Update:
    """The frame of structured bytes, which the coder may refuse."""
    try:
        frame = binding.encode_data(record.values, coder)
    except InvalidArgumentError as e:
        return Update(reason=f"part of the graph: {e}")
    return Update(frame=frame) if len(frame) < record.nbytes else Update(reason="packing would not make it smaller")


def _choose_smaller(
    program: ir.Program, records: Sequence[ir.WeightRecord], updates: Sequence[Update]
) -> dict[str, Any]:
    """Give records smaller frames where they are worth their time; says which are not, as facts and, unless they
    would save next to nothing, as a note."""
    offers = [
        (record, frame, alternative)
        for record, update in zip(records, updates, strict=True)
        if update.frame is not None
        for frame, alternative in load_time.alternatives_of([update.frame, *update.smaller_frames])
    ]
    if not offers:
        return {}
    alternatives = [alternative for *_, alternative in offers]
    stored = sum(r.nbytes if r.frame is None else len(r.frame) for r in program.records)
    file_bytes = stored + program.proto.ByteSize()
    nodes = len(program.proto.graph.node)
    nbytes = sum(r.nbytes for r in program.records)
    before = load_time.compiled_seconds(nbytes, nodes, [r.frame for r in program.records if r.frame is not None])
    original = load_time.dense_seconds(program.original_bytes, nodes)
    taken = set(load_time.worth_their_time(alternatives, file_bytes, before, original))
    for position in sorted(taken):
        record, frame, _ = offers[position]
        record.frame = frame
    passed = [position for position in range(len(offers)) if position not in taken]
    if not passed:
        return {}
    after = before + sum(alternatives[p].seconds for p in taken)
    saved = sum(alternatives[p].saved for p in passed)
    times = (after + sum(alternatives[p].seconds for p in passed)) / after
    names = sorted({binding.frame_info(offers[p][1]).coder for p in passed})
    weights = len({id(offers[p][0]) for p in passed})
    if saved >= WORTH_TELLING * file_bytes:
        share = f"{saved / file_bytes:.1%}".replace("%", " %")
        program.notes.append(
            f"encode: passed over {', '.join(names)} for {weights} weights: the file would be {saved:,} bytes "
            f"smaller ({share}) and take about {times:.1f} times as long to load"
        )
    return {"passed over": {"coders": names, "weights": weights, "bytes": saved, "load time": round(times, 3)}}


def _is_rows(frame: bytes) -> bool:
    return binding.frame_info(frame).coder == "rows"


@dataclass(frozen=True)
class Encode(RecordPass):
    """Turn weights into frames. A weight whose frame would not be smaller than its raw bytes is left alone.

    Options:
        coder: ``auto`` keeps the smallest for each weight of those that decode fast: ``huffman``, the paper's form with
            relative positions, filler zeros and codebook indices, all Huffman-coded; ``rans``, which codes indices with
            zero as a symbol; ``fixed``, which packs bits; and ``rows``, which predicts every index from its row, its
            column and its neighbours, many rows side by side, where that makes the frame smaller by 1/256 and the file
            by 1 % for each doubling of its load time (``codec/load_time.py``).
            ``context`` does so one by one: sparse weights get up to 5 % smaller again, but only some million weights a
            second are decoded.
            ``smallest_fast`` is like ``auto`` and shortens codebooks; ``smallest`` also takes slow coders at that
            price. ``lossless`` codes the float bits by byte planes, vectors included. Clustered weights are coded by
            their indices unless ``lossless`` is asked for; others always losslessly; what is to stay exact in the
            smaller of both ways.
        position_bits: *huffman*: bits of a relative position, 1 to 16; 0 tries all and keeps the smallest. Weights
            whose codebook has no zero are coded without positions.
    """

    name: ClassVar[str] = "encode"
    establishes: ClassVar[frozenset[str]] = frozenset({"encoded"})
    forbids: ClassVar[frozenset[str]] = frozenset({"encoded"})
    positional: ClassVar[str | None] = "coder"
    per_weight: ClassVar[frozenset[str]] = frozenset({"coder", "position_bits"})

    coder: Literal[
        "auto", "huffman", "rans", "fixed", "rows", "context", "smallest_fast", "smallest", "lossless"
    ] = "auto"  # fmt: skip
    position_bits: int = 0

    def __post_init__(self) -> None:
        self.check(0 <= self.position_bits <= 16, "position_bits", "give a number from 0 to 16")

    @property
    def needs(self) -> frozenset[str]:
        """Index coders work on clustered weights only."""
        return frozenset() if self.coder in (*CHOICES, "lossless") else frozenset({"clustered"})

    work = staticmethod(encode_record)

    def plan(self, program: ir.Program, context: Context) -> list[Task[Encode]]:
        return [Task(r, self.for_record(r, context)) for r in program.eligible()]

    def run(self, program: ir.Program, context: Context) -> PassReport:
        tasks = self.plan(program, context)
        updates = context.apply(self.name, self.work, tasks)
        records = [task.record for task in tasks]
        facts = _choose_smaller(program, records, updates)
        facts["frame bytes"] = sum(len(r.frame) for r in records if r.frame is not None)
        return PassReport(self.name, sum(u.changes for u in updates), facts=facts)

    def _quantized_frame(self, record: ir.WeightRecord) -> bytes:
        """The smallest of what coders of indices and of bytes make of a table of integers or short floats; ``rows``,
        which decodes slower, where it is smaller by 1/256. Its estimate looks at the first rows alone, and the first
        rows of a table of words are unlike the others: it is tried on all of them."""
        assert record.quantized is not None
        clustered = record.clustered or ir.as_codes(record.values, record.quantized.zero)
        as_bytes = "raw" if shares_bytes(record.values.dtype) else "lossless"
        plain = binding.encode_data(record.values, as_bytes, threads=1)
        if clustered is None:
            return plain
        coder = "auto" if self.coder == "lossless" else self.coder

        def coded(name: str) -> bytes:
            values, bits = record.values, self.position_bits
            return binding.encode_clustered(
                clustered, record.shape, values.dtype, coder=name, position_bits=bits, threads=1
            )

        frames = [plain, coded(coder)]
        if coder in CHOICES and not _is_rows(frames[1]):
            frames.append(coded("rows"))
        return min(frames, key=lambda f: len(f) + (len(f) // 256 if _is_rows(f) else 0))

    def _frame(self, record: ir.WeightRecord, coder: str | None = None, *, only_quick: bool = False) -> bytes:
        clustered = record.clustered
        if record.quantized is not None:
            return self._quantized_frame(record)
        if clustered is None or self.coder == "lossless":
            return binding.encode_data(record.values, threads=1)
        frame = binding.encode_clustered(
            clustered,
            record.shape,
            record.values.dtype,
            coder=self.coder if coder is None else coder,
            position_bits=self.position_bits,
            only_quick=only_quick,
            threads=1,
        )
        return frame if record.exact is None else min(frame, binding.encode_data(record.values, threads=1), key=len)

    def _faster_frames(self, record: ir.WeightRecord, frame: bytes) -> Iterator[bytes]:
        """Frames by coders that decode faster than that of this one, the fastest first."""
        coder = binding.coders()[binding.frame_info(frame).coder]
        if (
            record.quantized is not None
            or self.coder not in CHOICES
            or coder.is_quick
            or coder.stores is not binding.Stores.INDICES
        ):
            return
        fast = "smallest_fast" if self.coder == "smallest" else self.coder
        yield self._frame(record, fast, only_quick=True)
        if coder.is_slow:
            yield self._frame(record, fast)
