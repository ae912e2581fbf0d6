"""How coarse each weight may be: steps at which a bit more would help every weight alike.

A weight of ``n`` elements rounded with a step ``s`` moves the outputs by ``c s**2`` and takes ``-n log2(s)`` bits more
or less. With the sum of the moves given, the bits are fewest where every weight's slope is the same, ``s**2 ~ n / c``
(Shoham & Gersho 1988). ``c`` is measured: each weight is rounded alone, and the outputs are compared with the
original's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.divergence import Judge
from dc_compiler.pipeline.threads import map_on_threads

Array = np.ndarray
MOST_MEASURED = 128  # weights, the largest first; the others keep their step
# Bounds of the factors. Samples show what they need, not what others will: a classifier's weights for classes that no
# sample is of seem to do nothing, so that finer steps are trusted further than coarser ones
FINER, COARSER = 0.5, 1.25
LEAST = 1e-12  # divergences below are rounding errors


@dataclass(frozen=True)
class Sensitivity:
    """How far the outputs move when a weight alone is rounded: ``divergence`` with the step that was tried."""

    name: str
    size: int
    divergence: float


def measure(
    judge: Judge,
    program: ir.Program,
    records: Sequence[ir.WeightRecord],
    rounded: Callable[[ir.WeightRecord], Array],
    threads: int,
) -> list[Sensitivity]:
    """Round the largest of the records, each alone, and see how far the outputs move.

    Args:
        rounded: other values for a record, of the same shape and dtype.

    Raises:
        ModelError: the program does not run.
    """
    chosen = sorted(records, key=lambda r: (-r.size, r.name))[:MOST_MEASURED]
    reach = judge.changes(program, chosen)
    chosen = [r for r in chosen if r.name in reach.names]
    return [
        Sensitivity(record.name, record.size, reach.of({record.name: values}).divergence)
        for record, values in zip(chosen, map_on_threads(threads, rounded, chosen), strict=True)
    ]


def relative_steps(found: Sequence[Sensitivity]) -> dict[str, float]:
    """Factors for the steps that were tried, by the weight's name, with which a bit more would help every weight alike,
    between ``FINER`` and ``COARSER``; before they are held there, their geometric mean over the elements is 1."""
    if not found:
        return {}
    sizes = np.array([s.size for s in found], np.float64)
    moved = np.array([max(s.divergence, LEAST) for s in found])
    logs = 0.5 * np.log(sizes / moved)
    logs -= np.average(logs, weights=sizes)
    factors = np.clip(np.exp(logs), FINER, COARSER)
    return {s.name: float(f) for s, f in zip(found, factors, strict=True)}
