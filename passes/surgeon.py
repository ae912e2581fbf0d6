"""Removes weights so that those kept make up for them (Optimal Brain Surgeon; Hassibi & Stork 1993).

In the order and form of SparseGPT (Frantar & Alistarh, arXiv 2301.00774): column after column, the least important
weights go, and what they gave to the outputs is passed on to the columns behind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.grams import Gram
from dc_compiler.pass_manager import Update
from dc_compiler.passes.cluster.compensate import factor, sweep
from dc_compiler.pipeline.threads import one_blas_thread

Array = np.ndarray
CHOICES = 64  # times at which is chosen which weights of the next columns go, as those before them have changed them


@dataclass(frozen=True)
class Removal:
    """How many elements of a weight stay, and what its elements are multiplied with: all in one place."""

    keep: int
    gram: Gram


def remove(record: ir.WeightRecord, removal: Removal, seed: int) -> Update:
    """The mask of a weight, and what the elements that stay become."""
    place = removal.gram.place
    with one_blas_thread():
        found, kept = pruned(place.apply(record.values), removal.gram.matrices, removal.keep)
    values, mask = np.empty(record.size, record.values.dtype), np.empty(record.size, bool)
    place.put(values, found.astype(values.dtype))
    place.put(mask, kept)
    if mask.all() or not np.isfinite(values).all():
        return Update()
    return Update(mask=mask.reshape(record.shape), values=values.reshape(record.shape))


def pruned(weights: Array, gram: Array, keep: int) -> tuple[Array, Array]:
    """Weights of which ``keep`` stay, changed so that the outputs change little.

    A weight matters by ``w**2 / [H^-1]_jj``: what the outputs lose without it, when those behind it make up for it.

    Args:
        weights: matrices [g, o, k], in any float type. gram: mean outer products of the inputs, H [g or 1, k, k].

    Returns:
        Values, float64 [g, o, k], +0.0 where nothing stays, and the mask, bool [g, o, k].
    """
    order, upper = factor(gram.astype(np.float64), len(weights))
    rest = np.take_along_axis(weights.astype(np.float64), order[:, None, :], 2)
    diagonal = np.diagonal(upper, axis1=1, axis2=2)
    kept = np.zeros(rest.shape, bool)
    block = -(-rest.shape[2] // CHOICES)

    def choose(start: int) -> None:
        left = keep - int(np.count_nonzero(kept))
        scores = rest[:, :, start:] / diagonal[:, None, start:]
        chosen = ir.largest(scores.reshape(-1), left).reshape(scores.shape)
        kept[:, :, start : start + block] = chosen[:, :, :block]

    def become(j: int, wanted: Array) -> Array:
        if j % block == 0:
            choose(j)
        return np.where(kept[:, :, j], wanted, 0.0)

    sweep(rest, upper, block, become)
    values, mask = np.empty(rest.shape), np.empty(rest.shape, bool)
    places = np.broadcast_to(order[:, None, :], rest.shape)
    np.put_along_axis(values, places, np.where(kept, rest, 0.0), 2)
    np.put_along_axis(mask, places, kept, 2)
    return values, mask
