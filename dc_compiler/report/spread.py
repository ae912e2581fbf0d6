"""How the values of weights are spread, before and after: the pictures that pruning and clustering are explained by
(arXiv 1510.00149, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dc_compiler import ir

Array = np.ndarray
BINS = 61  # an odd number: values around zero have one of their own
OUTLIERS = 1e-3  # share of the values that may lie beyond the ends, in the outermost bins


@dataclass(frozen=True)
class Spread:
    """Counts of one weight's values.

    Attributes:
        end: the bins reach from ``-end`` to ``end``, all as wide.
        before, after: elements of each bin in an excerpt, values that are exactly zero left out; None where unknown.
        zeros_before, zeros_after: share of those.
        values: how many different ones there are afterwards in the excerpt, zero included; None where unknown.
        pruned: as ``before``, of what pruning and training left before it was clustered; None where nothing was pruned.
    """

    name: str
    end: float
    before: tuple[int, ...] | None
    after: tuple[int, ...] | None
    zeros_before: float = 0.0
    zeros_after: float = 0.0
    values: int | None = None
    pruned: tuple[int, ...] | None = None


def compared(before: Mapping[str, Array], pruned: Mapping[str, Array], after: Mapping[str, Array]) -> list[Spread]:
    """One picture a weight that there are excerpts of, of the original or what it became."""
    return [spread(name, before.get(name), after.get(name), pruned.get(name)) for name in {**before, **after}]


def spread(name: str, before: Array | None, after: Array | None, pruned: Array | None = None) -> Spread:
    """The counts of excerpts, any of which may be missing."""
    given = [s for s in (before, after) if s is not None]
    end = float(np.quantile(np.abs(np.concatenate(given)), 1 - OUTLIERS)) if any(map(len, given)) else 0.0
    end = end or 1.0
    counts, zeros = zip(*(_counted(s, end) for s in (before, after)), strict=True)
    values = None if after is None else len(np.unique(after))
    return Spread(name, end, counts[0], counts[1], zeros[0], zeros[1], values, _counted(pruned, end)[0])


def _counted(found: Array | None, end: float) -> tuple[tuple[int, ...] | None, float]:
    if found is None:
        return None, 0.0
    kept = found[found != 0]
    counts, _ = np.histogram(np.clip(kept, -end, end), BINS, (-end, end))
    return tuple(counts.tolist()), 1 - len(kept) / max(len(found), 1)


def of_frames(frames: Sequence[tuple[str, int]], decode: Callable[[int], Array]) -> list[Spread]:
    """Pictures of what compiled weights hold.

    Args:
        frames: name and elements of each. decode: gives the values of the one at a place.
    """
    order = sorted(range(len(frames)), key=lambda i: -frames[i][1])[: ir.MOST_EXCERPTS]
    return [spread(frames[i][0], None, ir.excerpt(decode(i))) for i in sorted(order)]
