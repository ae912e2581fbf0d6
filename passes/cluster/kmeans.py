"""One-dimensional k-means with the starts of arXiv 1510.00149, section 3.2."""

from __future__ import annotations

import numpy as np

from dc_compiler import ir

# Far above what is ever needed (about 2,000 for 256 clusters); rounding could make assignments swing forever
MAX_ITERATIONS = 1_000_000


def kmeans(ordered: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Lloyd's algorithm in one dimension, run until assignments stop changing.

    Clusters of sorted values are ranges, so an iteration is k binary searches and k differences of prefix sums.

    Args:
        ordered: values in ascending order, [n].
        centroids: start, ascending, float64 [k].

    Returns:
        Centroids of the non-empty clusters, ascending, float64.
    """
    sums = np.empty(len(ordered) + 1, np.float64)
    sums[0] = 0
    np.cumsum(ordered, dtype=np.float64, out=sums[1:])
    edges = np.empty(0, np.int64)
    for _ in range(MAX_ITERATIONS):
        inner = np.searchsorted(ordered, ((centroids[1:] + centroids[:-1]) / 2).astype(ordered.dtype), side="right")
        new_edges = np.concatenate([[0], inner, [len(ordered)]])
        filled = np.diff(new_edges) > 0
        if not filled.all():  # an empty cluster never gets members again
            new_edges = np.append(new_edges[:-1][filled], len(ordered))
        if np.array_equal(new_edges, edges):
            return centroids
        edges = new_edges
        centroids = np.diff(sums[edges]) / np.diff(edges)
    return centroids


def initial(ordered: np.ndarray, count: int, init: str, seed: int, name: str) -> np.ndarray:
    """Start centroids, ascending, float64 [<= count] (the paper's section 3.2)."""
    if init == "linear":
        return np.linspace(float(ordered[0]), float(ordered[-1]), count)
    if init == "density":
        positions = ((np.arange(count) + 0.5) * (len(ordered) / count)).astype(np.int64)
    else:
        generator = np.random.Generator(np.random.PCG64([seed, *name.encode()]))
        positions = generator.integers(0, len(ordered), count)
    return np.unique(ordered[positions]).astype(np.float64)


def nearest(flat: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Index of the nearest entry of an ascending codebook, uint16 [n]; the lower of equals."""
    entries = codebook.astype(np.float64)
    bounds = (entries[1:] + entries[:-1]) / 2
    if flat.dtype != np.float64:  # the largest f32 not above a bound decides alike, and searches twice as fast
        low = bounds.astype(np.float32)
        bounds = np.where(low > bounds, np.nextafter(low, np.float32(-np.inf)), low).astype(np.float32)
    indices = np.empty(flat.size, np.uint16)
    for s in ir.blocks(flat.size):
        part = flat[s].astype(bounds.dtype, copy=False)
        indices[s] = np.searchsorted(bounds, part, side="left")
    return indices
