"""Excerpts of a model's largest weights: enough elements of each to see how its values are spread."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

import numpy as np

from dc_compiler.ir.record import WeightRecord

Array = np.ndarray
MOST_EXCERPTS = 24  # weights: the largest of a model
EXCERPT = 1 << 16  # elements that are looked at of each


def excerpt(values: Array) -> Array:
    """At most ``EXCERPT`` elements at equal distances, float32; an odd distance, so that no channel is missed."""
    stride = values.size // EXCERPT | 1 if values.size > EXCERPT else 1
    found = values.reshape(-1)[::stride][:EXCERPT].astype(np.float32)
    return np.asarray(found[np.isfinite(found)])


def excerpts(records: Iterable[WeightRecord]) -> dict[str, Array]:
    """Those of the largest weights, by name."""
    largest = sorted((r for r in records if not r.is_vector), key=attrgetter("size"), reverse=True)
    return {r.name: excerpt(r.values) for r in largest[:MOST_EXCERPTS]}
