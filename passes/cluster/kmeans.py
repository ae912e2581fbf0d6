"""One-dimensional k-means with the starts of arXiv 1510.00149, section 3.2."""

from __future__ import annotations

import numpy as np

from dc_compiler import ir

# Far above what is ever needed (about 2,000 for 256 clusters); rounding could make assignments swing forever
MAX_ITERATIONS = 1_000_000
MAX_RELOCATIONS = 1_000  # half a dozen rounds are enough where most clusters of a linear start are empty
HALVING = 100  # iterations in which the two halves of a cluster settle


def kmeans(ordered: np.ndarray, start: np.ndarray, count: int | None = None) -> np.ndarray:
    """Lloyd's algorithm in one dimension, run until assignments stop changing, with ``count`` clusters.

    Clusters of sorted values are ranges, so an iteration is k binary searches and k differences of prefix sums.

    Where clusters end without members, as most of a linear start do where a few values are large, those left have
    settled far from the best: clusters are cut in two until there are ``count``, and as long as two neighbours cost
    less together than a cut elsewhere gains, they are joined.

    Args:
        ordered: values in ascending order, [n].
        start: centroids to start from, ascending, float64 [k].
        count: clusters wanted; by default as many as ``start`` has.

    Returns:
        Centroids, ascending, float64 [<= count]: fewer only where there are fewer distinct values, or no cut gains
        anything that float64 can tell.
    """
    wanted = len(start) if count is None else count
    sums = _prefix_sums(ordered)
    edges = _settle(ordered, sums, start)
    if len(edges) > wanted:
        return _means(sums, edges)
    scale = max(abs(float(ordered[0])), abs(float(ordered[-1]))) or 1.0  # squares of large float64 values overflow
    most = wanted
    for _ in range(MAX_RELOCATIONS):
        better = _relocated(ordered, sums, edges, wanted, most, scale)
        if better is None:
            break
        settled = _settle(ordered, sums, _means(sums, better))
        if _explained(sums, settled, scale) > _explained(sums, edges, scale):
            edges = settled
        elif most > 1:  # several at a time can be in each other's way
            most = 1
        else:
            break
    return _means(sums, edges)


def _prefix_sums(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, ..., n values, float64 [n + 1]; in order, so that every machine agrees."""
    sums = np.empty(len(values) + 1, np.float64)
    sums[0] = 0
    np.cumsum(values, dtype=np.float64, out=sums[1:])
    return sums


def _means(sums: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean of each range, float64 [k]."""
    return np.asarray(np.diff(sums[edges]) / np.diff(edges))


def _explained(sums: np.ndarray, edges: np.ndarray, scale: float) -> float:
    """What the clusters take off the sum of squares, in squares of ``scale``; never more with a better clustering."""
    return float(np.cumsum(np.square(_means(sums, edges) / scale) * np.diff(edges))[-1])


def _settle(ordered: np.ndarray, sums: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The edges between the ranges of the clusters' members when assignments stop changing, int64 [k + 1].

    Empty clusters are dropped: they never get members again.
    """
    edges = np.empty(0, np.int64)
    for _ in range(MAX_ITERATIONS):
        inner = np.searchsorted(ordered, ((centroids[1:] + centroids[:-1]) / 2).astype(ordered.dtype), side="right")
        new_edges = np.concatenate([[0], inner, [len(ordered)]])
        filled = np.diff(new_edges) > 0
        if not filled.all():
            new_edges = np.append(new_edges[:-1][filled], len(ordered))
        if np.array_equal(new_edges, edges):
            break
        edges = new_edges
        centroids = _means(sums, edges)
    return edges


def _relocated(
    ordered: np.ndarray, sums: np.ndarray, edges: np.ndarray, wanted: int, most: int, scale: float
) -> np.ndarray | None:
    """Edges with more cuts while there are fewer than ``wanted`` clusters, then with up to ``most`` moved to where they
    gain more; None where nothing is to be gained."""
    cuts, gains = _halves(ordered, sums, edges, scale)
    spare = wanted - (len(edges) - 1)
    useful = np.argsort(-gains, kind="stable")[: np.count_nonzero(gains)]
    if spare > 0:
        chosen = cuts[useful[:spare]]
        return np.sort(np.concatenate([edges, chosen])) if len(chosen) else None
    first, second = np.diff(edges)[:-1], np.diff(edges)[1:]
    costs = first * (second / (first + second)) * np.square(np.diff(_means(sums, edges)) / scale)
    touched = np.zeros(len(edges) - 1, bool)
    gone: list[int] = []
    new: list[int] = []
    halved = iter(useful)
    for left in np.argsort(costs, kind="stable"):
        if len(gone) == most:
            break
        if touched[left] or touched[left + 1]:
            continue
        best = next((j for j in halved if not touched[j] and j not in (left, left + 1)), None)
        if best is None or gains[best] <= costs[left]:
            break
        touched[[left, left + 1, best]] = True
        gone.append(int(left) + 1)
        new.append(int(cuts[best]))
    return np.sort(np.concatenate([np.delete(edges, gone), new])) if gone else None


def _halves(ordered: np.ndarray, sums: np.ndarray, edges: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Where to cut each cluster in two, int64 [k], and how much the squared error falls then, [k]: 0 for equal values.

    It is Lloyd's algorithm for two clusters in every one, which start on either side of its mean.
    """
    start, end = edges[:-1], edges[1:]
    several = ordered[start] < ordered[end - 1]
    # No cut behind the largest value's first element, so that each side has one however bounds are rounded
    limit = np.where(several, np.searchsorted(ordered, ordered[end - 1], side="left"), end)
    bounds, cuts = _means(sums, edges), start
    for _ in range(HALVING):
        found = np.searchsorted(ordered, bounds.astype(ordered.dtype), side="right")
        new = np.clip(found, start + 1, limit)
        if np.array_equal(new, cuts):
            break
        cuts = new
        left = (sums[cuts] - sums[start]) / (cuts - start)
        right = (sums[end] - sums[cuts]) / np.maximum(end - cuts, 1)
        bounds = (left + right) / 2
    gains = (cuts - start) * ((end - cuts) / (end - start)) * np.square((right - left) / scale)
    return cuts, np.where(several, gains, 0.0)


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
