"""How the values of weights are spread, before and after: the pictures that pruning and clustering are explained by
(arXiv 1510.00149, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from dc_compiler import ir

Array = np.ndarray
MOST = 24  # weights: the largest of a model
SAMPLE = 1 << 16  # elements that are looked at of each
BINS = 61  # an odd number: values around zero have one of their own
OUTLIERS = 1e-3  # share of the values that may lie beyond the ends, in the outermost bins


@dataclass(frozen=True)
class Spread:
    """Counts of one weight's values.

    Attributes:
        end: the bins reach from ``-end`` to ``end``, all as wide.
        before, after: elements of each bin in a sample, values that are exactly zero left out; None where unknown.
        zeros_before, zeros_after: share of those.
        values: how many different ones there are afterwards in the sample, zero included; None where unknown.
    """

    name: str
    end: float
    before: tuple[int, ...] | None
    after: tuple[int, ...] | None
    zeros_before: float = 0.0
    zeros_after: float = 0.0
    values: int | None = None


def sample(values: Array) -> Array:
    """At most ``SAMPLE`` elements at equal distances, float32; an odd distance, so that no channel is missed."""
    stride = values.size // SAMPLE | 1 if values.size > SAMPLE else 1
    found = values.reshape(-1)[::stride][:SAMPLE].astype(np.float32)
    return np.asarray(found[np.isfinite(found)])


def largest(records: Iterable[ir.WeightRecord]) -> list[ir.WeightRecord]:
    """The weights that are worth a picture."""
    return sorted((r for r in records if not r.is_vector), key=attrgetter("size"), reverse=True)[:MOST]


def samples_of(records: Iterable[ir.WeightRecord]) -> dict[str, Array]:
    """Samples of the largest weights, by name."""
    return {r.name: sample(r.values) for r in largest(records)}


def compared(before: Mapping[str, Array], after: Mapping[str, Array]) -> list[Spread]:
    """One picture a weight that there are samples of, of one of both."""
    return [spread(name, before.get(name), after.get(name)) for name in {**before, **after}]


def spread(name: str, before: Array | None, after: Array | None) -> Spread:
    """The counts of two samples, either of which may be missing."""
    given = [s for s in (before, after) if s is not None]
    end = float(np.quantile(np.abs(np.concatenate(given)), 1 - OUTLIERS)) if any(map(len, given)) else 0.0
    end = end or 1.0
    counts, zeros = zip(*(_counted(s, end) for s in (before, after)), strict=True)
    values = None if after is None else len(np.unique(after))
    return Spread(name, end, counts[0], counts[1], zeros[0], zeros[1], values)


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
    order = sorted(range(len(frames)), key=lambda i: -frames[i][1])[:MOST]
    return [spread(frames[i][0], None, sample(decode(i))) for i in sorted(order)]
