"""Thresholds moved within the gaps that data leave, to few and short numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dc_compiler.passes.trees.ensemble import ABOVE, BELOW, WITH_SMALLER, Ensemble

Array = np.ndarray
# Where data reach one side of a branch alone, its threshold moves by at most this share of the feature's values
NEAR = 1 / 128
COARSEST = 60  # the largest power of two that is tried as a step


def shortened(trees: Ensemble, x: Array) -> Ensemble:
    """The trees with thresholds that send every row of x [n, features] where it went.

    For each feature these are as few numbers as can be: of the thresholds whose gaps have a number in common, all take
    the shortest that lies in each of them.
    """
    lower, upper = _gaps(trees, x)
    threshold = trees.threshold.copy()
    branches = np.flatnonzero(~trees.is_leaf)
    plain = np.isin(trees.mode[branches], (*BELOW, *ABOVE))
    branches = branches[plain & np.isfinite(trees.threshold[branches])]
    for feature in np.unique(trees.feature[branches]):
        own = branches[trees.feature[branches] == feature]
        threshold[own] = _pierced(lower[own], upper[own], threshold.dtype)
    return replace(trees, threshold=threshold)


def _gaps(trees: Ensemble, x: Array) -> tuple[Array, Array]:
    """The least and the largest threshold of each branch that sends all rows where they went."""
    kind = trees.threshold.dtype
    below = np.full(len(trees.mode), -np.inf, kind)  # the largest value on the side of smaller ones
    above = np.full(len(trees.mode), np.inf, kind)
    goes_below = np.isin(trees.mode, BELOW)

    def seen(nodes: Array, values: Array, is_true: Array) -> None:
        real = ~np.isnan(values)
        small = (is_true == goes_below[nodes]) & real
        large = (is_true != goes_below[nodes]) & real
        np.maximum.at(below, nodes[small], values[small].astype(kind))
        np.minimum.at(above, nodes[large], values[large].astype(kind))

    for _ in trees.leaves_of(x, seen):
        pass
    _fill(trees, x, below, above)
    takes = np.isin(trees.mode, WITH_SMALLER)
    least = np.where(takes, below, np.nextafter(below, kind.type(np.inf)))
    most = np.where(takes, np.nextafter(above, kind.type(-np.inf)), above)
    return np.minimum(least, trees.threshold), np.maximum(most, trees.threshold)


def _fill(trees: Ensemble, x: Array, below: Array, above: Array) -> None:
    """Bounds on the sides that no row reaches: values of the feature not far from the threshold."""
    for feature in np.unique(trees.feature[~trees.is_leaf]):
        values = np.unique(x[:, feature][np.isfinite(x[:, feature])]).astype(below.dtype)
        if not len(values):
            values = np.zeros(1, below.dtype)
        reach = max(1, int(len(values) * NEAR))
        own = np.flatnonzero(~trees.is_leaf & (trees.feature == feature))
        at = np.searchsorted(values, trees.threshold[own])
        low = values[np.clip(at - reach, 0, len(values) - 1)]
        high = values[np.clip(at + reach, 0, len(values) - 1)]
        below[own] = np.where(np.isinf(below[own]), low, below[own])
        above[own] = np.where(np.isinf(above[own]), high, above[own])


def _pierced(lower: Array, upper: Array, kind: np.dtype[np.floating]) -> Array:
    """For intervals, each with its ends, a number in each, of as few as there need be."""
    found = np.empty(len(lower), kind)
    order = np.argsort(upper, kind="stable")
    start = 0
    low, high = lower[order], upper[order]
    while start < len(order):
        end = start
        least = low[start]
        while end < len(order) and low[end] <= high[start]:
            least = max(least, low[end])
            end += 1
        found[order[start:end]] = _shortest(float(least), float(high[start]))
        start = end
    return found


def _shortest(least: float, most: float) -> float:
    """The multiple of the largest power of two between these two."""
    if least <= 0 <= most:
        return 0.0
    width = most - least
    power = COARSEST if width <= 0 else min(COARSEST, math.frexp(max(abs(least), abs(most)))[1])
    while power > -1074:
        step = math.ldexp(1.0, power)
        multiple = math.ceil(least / step) * step
        if multiple <= most:
            return multiple
        power -= 1
    return least
