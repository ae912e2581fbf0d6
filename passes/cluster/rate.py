"""Entropy-constrained scalar quantization: least squared error plus price of bits (Chou, Lookabaugh & Gray 1989)."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

MAX_ROUNDS = 200  # of Lloyd's iteration; the cost falls in every round, and hardly any after some dozens


@dataclass(frozen=True)
class Quantizer:
    """Replaces a value by ``entries[j]`` when it lies above ``bounds[j - 1]`` and not above ``bounds[j]``.

    ``entries`` is ascending, float32 [k], +0.0 among them; ``bounds`` is ascending, float32 [k - 1].
    """

    entries: np.ndarray
    bounds: np.ndarray

    @property
    def zero(self) -> int:
        """Index of the entry +0.0."""
        return int(np.flatnonzero(self.entries == 0)[0])

    def indices(self, flat: np.ndarray) -> np.ndarray:
        """Index of the entry for every value, int64 [n]."""
        return np.asarray(np.searchsorted(self.bounds, flat, side="left"))

    def values(self, flat: np.ndarray) -> np.ndarray:
        """The entry for every value, float32 [n]."""
        return np.asarray(self.entries[self.indices(flat)])

    def shortened(self) -> Quantizer:
        """Entries rounded to bfloat16, which need half the room; as they are where two would become one or infinite."""
        short = self.entries.astype(ml_dtypes.bfloat16).astype(np.float32)
        is_fit = bool(np.isfinite(short).all() and (np.diff(short) > 0).all())
        return Quantizer(short, self.bounds) if is_fit else self


def spread(ordered: np.ndarray, count: int) -> np.ndarray:
    """Start entries: at most ``count`` at equal distances between the extremes, the one nearest zero at zero.

    Zero counts as one of the values. float64, ascending.
    """
    low, high = min(float(ordered[0]), 0.0), max(float(ordered[-1]), 0.0)
    entries = np.linspace(low, high, count)
    entries[np.abs(entries).argmin()] = 0.0
    return np.unique(entries)


def fit(ordered: np.ndarray, zeros: int, price: float, entries: np.ndarray) -> Quantizer:
    """Choose entries and bounds that minimise, locally, squared error + ``price`` x bits.

    The bits are those of an ideal code for the indices, ``-log2`` of their frequencies. An entry whose cell becomes
    empty is dropped, so a higher price leaves fewer entries; zero always stays.

    Args:
        ordered: values in ascending order, float32 [n].
        zeros: how many more elements are zero already; they count for the frequencies.
        price: squared error that a bit is worth, 0 or more.
        entries: where to start, ascending, zero among them.
    """
    sums = np.concatenate([[0.0], np.cumsum(ordered, dtype=np.float64)])
    entries = np.asarray(entries, np.float64)
    bits = np.zeros(len(entries))
    edges = np.empty(0, np.int64)
    bounds = np.empty(0, np.float32)
    for _ in range(MAX_ROUNDS):
        kept, limits = _cells(entries, bits * price)
        entries, bounds = entries[kept], limits.astype(np.float32)
        new_edges = np.concatenate([[0], np.searchsorted(ordered, bounds, side="right"), [len(ordered)]])
        if np.array_equal(new_edges, edges):
            break
        edges = new_edges
        members = np.diff(edges)
        is_zero = entries == 0
        filled = (members > 0) | is_zero
        if not filled.all():  # the neighbours divide an empty cell in the next round
            entries, is_zero = entries[filled], is_zero[filled]
            edges = np.append(edges[:-1][filled], len(ordered))
            members = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(members, 1)
        entries = np.where(is_zero, 0.0, means)
        bits = _code_lengths(members + is_zero * zeros)
        entries, bits = _in_order(entries, bits)
    kept, limits = _cells(entries, bits * price)
    return Quantizer(entries[kept].astype(np.float32) + np.float32(0), limits.astype(np.float32))


def _in_order(entries: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Zero does not move with its members' mean, so that a neighbour can meet or pass it: sort, and drop the equals."""
    order = np.argsort(entries, kind="stable")
    entries, bits = entries[order], bits[order]
    distinct = np.append(True, np.diff(entries.astype(np.float32)) > 0)
    if not (entries[distinct] == 0).any():
        distinct[np.searchsorted(entries, 0.0)] = True
    return entries[distinct], bits[distinct]


def _cells(entries: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which entries are the cheapest somewhere, bool [k], and the bounds between those.

    Entry j costs ``(x - e_j)**2 + costs_j`` at x, so entries i < j are equally good at
    ``(e_i + e_j) / 2 + (costs_j - costs_i) / (2 (e_j - e_i))``. The cheapest are the lower envelope of lines.
    """
    stack: list[int] = []
    limits: list[float] = []
    for j in range(len(entries)):
        while stack:
            i = stack[-1]
            limit = (entries[i] + entries[j]) / 2 + (costs[j] - costs[i]) / (2 * (entries[j] - entries[i]))
            if not limits or limit > limits[-1] or entries[i] == 0:
                limits.append(max(limit, limits[-1]) if limits else limit)
                break
            stack.pop()
            limits.pop()
        stack.append(j)
    kept = np.zeros(len(entries), bool)
    kept[stack] = True
    return kept, np.array(limits)


def _code_lengths(counts: np.ndarray) -> np.ndarray:
    """``log2(total / count)`` of each count; of an empty one as if it were one."""
    total = int(counts.sum())
    return np.asarray(log2(np.full(len(counts), total)) - log2(np.maximum(counts, 1)))


def log2(values: np.ndarray) -> np.ndarray:
    """Base-2 logarithm of positive numbers to 1e-12, by additions and multiplications only: every machine agrees."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))  # mantissa in [0.5, 1)
    z = (mantissa - 0.75) / (mantissa + 0.75)  # |z| <= 0.2, and ln(m / 0.75) = 2 artanh(z)
    square = z * z
    series = np.zeros_like(z)
    for k in range(17, 0, -2):
        series = series * square + 1.0 / k
    return np.asarray(exponent - 0.4150374992788438 + series * z * 2.885390081777927)
