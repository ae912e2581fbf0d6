"""encode: entropy-codes every weight into a frame (arXiv 1510.00149, section 4; codec/FORMAT.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dc_compiler import ir
from dc_compiler.codec import binding
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.pass_manager import Context, RecordPass, Task, Update


def encode_record(record: ir.WeightRecord, options: Encode, seed: int) -> Update:
    """The frame of a weight, or the reason why it gets none."""
    if record.is_vector and record.clustered is None and options.coder != "lossless":
        return Update(reason="a vector (bias, normalization or the like)")
    if record.clustered is None and options.needs:
        raise InvalidArgumentError(f"encode: coder={options.coder} needs '{record.name}' to be clustered")
    frame = options._frame(record)
    if len(frame) >= record.nbytes:
        return Update(reason=f"packing would not make it smaller ({len(frame)} against {record.nbytes} bytes)")
    return Update(frame=frame)


@dataclass(frozen=True)
class Encode(RecordPass):
    """Turn weights into frames. A weight whose frame would not be smaller than its raw bytes is left alone.

    Options:
        coder: ``auto`` keeps the smallest for each weight of those that decode fast: ``huffman``, the paper's form with
            relative positions, filler zeros and codebook indices, all Huffman-coded; ``rans``, which codes indices with
            zero as a symbol; and ``fixed``, which packs bits. ``context`` predicts every index from those around it:
            sparse weights get 5 to 20 % smaller, but only some million weights a second are decoded. ``smallest``
            chooses among all of them. ``lossless`` codes the float bits by byte planes, vectors included. Clustered
            weights are coded by their indices unless ``lossless`` is asked for; others always losslessly.
        position_bits: *huffman*: bits of a relative position, 1 to 16; 0 tries all and keeps the smallest. Weights
            whose codebook has no zero are coded without positions.
    """

    name: ClassVar[str] = "encode"
    establishes: ClassVar[frozenset[str]] = frozenset({"encoded"})
    forbids: ClassVar[frozenset[str]] = frozenset({"encoded"})
    positional: ClassVar[str | None] = "coder"
    per_weight: ClassVar[frozenset[str]] = frozenset({"coder", "position_bits"})

    coder: Literal["auto", "huffman", "rans", "fixed", "context", "smallest", "lossless"] = "auto"
    position_bits: int = 0

    def __post_init__(self) -> None:
        self.check(0 <= self.position_bits <= 16, "position_bits", "give a number from 0 to 16")

    @property
    def needs(self) -> frozenset[str]:
        """Index coders work on clustered weights only."""
        return frozenset() if self.coder in ("auto", "smallest", "lossless") else frozenset({"clustered"})

    work = staticmethod(encode_record)

    def plan(self, program: ir.Program, context: Context) -> list[Task[Encode]]:
        return [Task(r, self.for_record(r, context)) for r in program.eligible()]

    def facts(self, program: ir.Program, updates: Sequence[Update]) -> dict[str, Any]:
        return {"frame bytes": sum(len(u.frame) for u in updates if u.frame is not None)}

    def _frame(self, record: ir.WeightRecord) -> bytes:
        clustered = record.clustered
        if clustered is None or self.coder == "lossless":
            return binding.encode_data(record.values, threads=1)
        scales = clustered.scales
        return binding.encode_codebook(
            clustered.indices,
            record.shape,
            record.values.dtype,
            codebook=clustered.codebook,
            grid_lo=clustered.grid_lo,
            k=clustered.size,
            zero=0 if clustered.zero is None else clustered.zero + 1,
            log_scales=None if scales is None else scales.log_steps,
            channels=0 if scales is None else scales.channels,
            inner=0 if scales is None else scales.inner,
            coder=self.coder,
            position_bits=0 if clustered.zero is None else self.position_bits,
            threads=1,
        )
