"""prune: sets the smallest weights to +0.0 (magnitude pruning; Han et al. 2015, arXiv 1506.02626)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dc_compiler import ir
from dc_compiler.pass_manager import ELEMENT_BITS, Context, Pass, PassReport

# Kept share when none is asked for: what the paper keeps of AlexNet's middle convolutions and of its large
# fully-connected layers (arXiv 1510.00149, Table 4)
CONV_DENSITY, OTHER_DENSITY = 0.36, 0.10


@dataclass(frozen=True)
class Prune(Pass):
    """Keep the weights of largest magnitude.

    Options:
        density: kept share of a weight, in (0, 1]. By default 0.36 for convolutions and 0.10 otherwise.
        scope: ``layer`` applies the density to each weight alone, ``global`` to all of them together.
        threshold: the paper's criterion instead of a density: keep ``|w| > threshold * std(w)`` of each weight.

    Zeros of the input that are kept count as kept. Among equal magnitudes the first in memory order are kept, so the
    number kept is exactly ``round(density * n)``, at least 1.
    """

    name: ClassVar[str] = "prune"
    establishes: ClassVar[frozenset[str]] = frozenset({"pruned"})
    forbids: ClassVar[frozenset[str]] = frozenset({"clustered", "encoded"})
    positional: ClassVar[str | None] = "density"

    density: float | None = None
    scope: Literal["layer", "global"] = "layer"
    threshold: float | None = None

    def __post_init__(self) -> None:
        self.check(self.density is None or 0 < self.density <= 1, "density", "give a number in (0, 1]")
        self.check(self.threshold is None or 0 <= self.threshold < float("inf"), "threshold", "give 0 or more")
        self.check(self.density is None or self.threshold is None, "threshold", "give either density or threshold")
        self.check(self.scope == "layer" or self.density is not None, "scope", "give a density with it")

    def run(self, program: ir.Program, context: Context) -> PassReport:
        records = program.weights()
        options = {id(r): self.for_record(r, context) for r in records}
        together = [r for r in records if options[id(r)].scope == "global"]
        bounds = {id(r): b for r, b in zip(together, self._global_counts(together), strict=True)} if together else {}
        changed = context.each(self.name, records, lambda r: options[id(r)]._apply(r, bounds.get(id(r))))
        kept = sum(int(np.count_nonzero(r.mask)) for r in records if r.mask is not None)
        total = sum(r.size for r in records)
        return PassReport(self.name, sum(changed), facts={"density": kept / total if total else 1.0})

    def _global_counts(self, records: Sequence[ir.WeightRecord]) -> list[int]:
        """Weights each record keeps when ``density`` holds over all of them: [len(records)]."""
        assert self.density is not None
        magnitudes = np.concatenate([np.abs(r.values.reshape(-1).astype(np.float32)) for r in records])
        keep = max(1, round(self.density * magnitudes.size))
        cut = np.partition(magnitudes, magnitudes.size - keep)[magnitudes.size - keep]
        ends = np.cumsum([r.size for r in records])
        counts = [int(np.count_nonzero(part > cut)) for part in np.split(magnitudes, ends[:-1])]
        spare = keep - sum(counts)
        for i, part in enumerate(np.split(magnitudes, ends[:-1])):
            ties = min(spare, int(np.count_nonzero(part == cut)))
            counts[i] += ties
            spare -= ties
        return counts

    def _keep_count(self, record: ir.WeightRecord) -> int:
        if self.density is not None:
            return max(1, round(self.density * record.size))
        is_conv = any(u.op_type.startswith("Conv") for u in record.uses)
        return max(1, round((CONV_DENSITY if is_conv else OTHER_DENSITY) * record.size))

    def _apply(self, record: ir.WeightRecord, keep: int | None) -> bool:
        flat = record.values.reshape(-1)
        if self.threshold is not None:
            mask = _above_threshold(flat, self.threshold)
        else:
            mask = largest(flat, self._keep_count(record) if keep is None else keep)
        if mask.all():
            return False
        bits: Any = ELEMENT_BITS[record.dtype_name]
        new = (flat.view(bits) * mask).view(record.values.dtype).reshape(record.shape)
        ir.add_change(record, new)
        record.mask = mask.reshape(record.shape)
        return True


def largest(flat: np.ndarray, keep: int) -> np.ndarray:
    """Mask, bool [n], of the ``keep`` elements of largest magnitude; the first of equals win."""
    if keep >= flat.size:
        return np.ones(flat.size, bool)
    if keep == 0:
        return np.zeros(flat.size, bool)
    magnitude = np.abs(flat)
    if magnitude.dtype.itemsize == 2:  # sorting half floats is slow in NumPy
        magnitude = magnitude.astype(np.float32)
    work = magnitude.copy()
    work.partition(flat.size - keep)
    cut = work[flat.size - keep]
    del work
    mask = magnitude > cut
    ties = np.flatnonzero(magnitude == cut)[: keep - int(np.count_nonzero(mask))]
    mask[ties] = True
    return np.asarray(mask)


def _above_threshold(flat: np.ndarray, quality: float) -> np.ndarray:
    std = float(ir.exact_std(flat))
    return np.asarray(np.abs(flat.astype(np.float64)) > quality * std)
