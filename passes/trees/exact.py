"""What can go from trees without changing what they say of any input."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dc_compiler import ir
from dc_compiler.passes.trees.ensemble import (
    ABOVE,
    BELOW,
    LEAF,
    WITH_SMALLER,
    Ensemble,
    ensembles,
    reachable,
    store,
)

# The values that reach a node: a lower and an upper bound, each with whether it is one of them; whether NaN is
Values = tuple[float, bool, float, bool, bool]
ALL: Values = (-math.inf, True, math.inf, True, True)


def simplify(program: ir.Program) -> int:
    """Merge leaves of equal outcome and remove branches that no value can reach, in all ensembles; nodes removed."""
    removed = 0
    for record, site, trees in ensembles(program):
        simpler = simplified(trees)
        if len(simpler.mode) < len(trees.mode):
            removed += len(trees.mode) - len(simpler.mode)
            store(record, site, simpler)
    return removed


def simplified(trees: Ensemble) -> Ensemble:
    """The trees without branches that make no difference. Values of NaN count: they go where comparisons send them."""
    true, false = trees.true.copy(), trees.false.copy()
    mode = trees.mode.copy()
    stands_for = _passed(trees)
    has_outcome = _outcomes(trees)
    for node in range(len(mode) - 1, -1, -1):  # children first
        if mode[node] == LEAF:
            continue
        yes, no = stands_for[true[node]], stands_for[false[node]]
        true[node], false[node] = yes, no
        if stands_for[node] != node:
            stands_for[node] = stands_for[stands_for[node]]
        elif has_outcome[yes] >= 0 and has_outcome[yes] == has_outcome[no]:
            stands_for[node] = yes
    roots = np.array([stands_for[r] for r in trees.roots])
    if np.array_equal(roots, trees.roots) and all(stands_for[n] == n for n in range(len(mode))):
        return trees
    changed = replace(trees, true=true, false=false)
    return changed.taken(reachable(changed, roots))


def _outcomes(trees: Ensemble) -> list[int]:
    """A number for each leaf, equal for those with the same weights; -1 of branches."""
    numbers: dict[bytes, int] = {}
    found = [-1] * len(trees.mode)
    for node in np.flatnonzero(trees.is_leaf).tolist():
        targets, weights = trees.leaf_weights(node)
        found[node] = numbers.setdefault(targets.tobytes() + b"|" + weights.tobytes(), len(numbers))
    return found


def _passed(trees: Ensemble) -> list[int]:
    """The child that takes the place of each branch of which nothing reaches the other; else the node itself."""
    stands_for = list(range(len(trees.mode)))
    features, thresholds = trees.feature.tolist(), trees.threshold.tolist()
    modes, tracks = trees.mode.tolist(), trees.tracks.tolist()
    true, false = trees.true.tolist(), trees.false.tolist()
    for root in trees.roots.tolist():
        waiting: list[tuple[int, dict[int, Values]]] = [(root, {})]
        while waiting:
            node, values = waiting.pop()
            if modes[node] == LEAF:
                continue
            feature = features[node]
            here = values.get(feature, ALL)
            yes, no = _split(here, modes[node], thresholds[node], tracks[node])
            if not _is_possible(yes):
                stands_for[node] = false[node]
            elif not _is_possible(no):
                stands_for[node] = true[node]
            for child, left in ((false[node], no), (true[node], yes)):
                if _is_possible(left):
                    waiting.append((child, values if left == here else {**values, feature: left}))
    return stands_for


def _split(values: Values, mode: str, threshold: float, tracks: bool) -> tuple[Values, Values]:
    """What reaches the true and the false child. Values of NaN go to both where it is not sure to which."""
    low, has_low, high, has_high, has_nan = values
    if math.isnan(threshold) or mode not in (*BELOW, *ABOVE):
        return values, values
    takes = mode in WITH_SMALLER
    most, has_most = min((high, has_high), (threshold, takes))
    least, lacks_least = max((low, not has_low), (threshold, takes))
    smaller, larger = (low, has_low, most, has_most, has_nan), (least, not lacks_least, high, has_high, has_nan)
    yes, no = (smaller, larger) if mode in BELOW else (larger, smaller)
    return yes if tracks else (*yes[:4], False), no


def _is_possible(values: Values) -> bool:
    low, has_low, high, has_high, has_nan = values
    return has_nan or low < high or (low == high and has_low and has_high)
