"""Minimal cost-complexity pruning of all trees of an ensemble, and trees that go (Breiman et al., Classification and
Regression Trees, 1984, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dc_compiler.passes.trees.ensemble import Ensemble, reachable, with_leaves

Array = np.ndarray
MOST_ROWS = 4000  # of samples by which trees are chosen
FEW = 1e-3  # of a sample: what leaves that none reaches count as


@dataclass(frozen=True)
class Risks:
    """What samples say of each node of an ensemble.

    Attributes:
        stays: squared error of a leaf's samples, float64 [nodes].
        ends: the same of a branch that becomes a leaf with the mean of the weights below it.
        means: these means [nodes, targets].
    """

    stays: Array
    ends: Array
    means: Array


def is_average(trees: Ensemble) -> bool:
    """Whether all leaves have shares of one sum: trees that vote, such as those of a random forest."""
    targets = int(trees.target.max(initial=0)) + 1
    sums = trees.values(targets)[trees.is_leaf].sum(axis=1)
    is_share = bool(len(sums)) and bool((trees.weight >= 0).all()) and sums[0] > 0
    return is_share and bool(np.allclose(sums, sums[0], rtol=1e-3))


def risks_of(trees: Ensemble, x: Array, answers: Array | None) -> Risks:
    """What the rows of x [n, features] say.

    Args:
        answers: what every tree should say of each row, float64 [n, targets], in shares of its weights; None for what
            each tree says itself, so that the risk is how far its output moves.
    """
    targets = int(trees.target.max(initial=0)) + 1
    values, leaf = trees.values(targets), trees.is_leaf
    counts = np.zeros(len(leaf))
    sums, squares = np.zeros((len(leaf), targets)), np.zeros(len(leaf))
    for places in trees.leaves_of(x):
        wanted = values[places] if answers is None else answers
        counts += np.bincount(places, minlength=len(leaf))
        for target in range(targets):
            sums[:, target] += np.bincount(places, wanted[:, target], len(leaf))
        squares += np.bincount(places, np.square(wanted).sum(axis=1), len(leaf))
    end = _ends(trees)
    weights = np.where(leaf, counts + FEW, 0)
    shares = _below(weights, end)
    means = _below(weights[:, None] * values, end) / shares[:, None]
    n, s, q = _below(counts, end), _below(sums, end), _below(squares, end)
    stays = squares - 2 * (values * sums).sum(axis=1) + counts * np.square(values).sum(axis=1)
    return Risks(stays, q - 2 * (means * s).sum(axis=1) + n * np.square(means).sum(axis=1), means)


def _ends(trees: Ensemble) -> Array:
    """Behind the last node below each, which stand one after another."""
    end = list(range(1, len(trees.mode) + 1))
    false, leaf = trees.false.tolist(), trees.is_leaf.tolist()
    for node in range(len(end) - 1, -1, -1):
        if not leaf[node]:
            end[node] = end[false[node]]
    return np.array(end)


def _below(of_nodes: Array, end: Array) -> Array:
    """Sums over each node and those below it."""
    total = np.concatenate([np.zeros((1, *of_nodes.shape[1:])), np.cumsum(of_nodes, axis=0)])
    return np.asarray(total[end] - total[:-1])


def pruned(trees: Ensemble, risks: Risks, alpha: float) -> Ensemble:
    """The trees of least risk plus ``alpha`` for each leaf."""
    leaf, true, false = trees.is_leaf.tolist(), trees.true.tolist(), trees.false.tolist()
    cost = (risks.stays + alpha).tolist()
    ends = (risks.ends + alpha).tolist()
    goes: list[bool] = [False] * len(leaf)
    for node in range(len(leaf) - 1, -1, -1):
        if leaf[node]:
            continue
        cost[node] = cost[true[node]] + cost[false[node]]
        if ends[node] <= cost[node]:
            cost[node], goes[node] = ends[node], True
    if not any(goes):
        return trees
    stops = replace(trees, mode=np.where(goes, "LEAF", trees.mode))
    kept = reachable(stops, stops.roots)
    owner = trees.tree[np.repeat(np.arange(len(leaf)), np.diff(trees.first))]
    targets = [np.unique(trees.target[owner == tree]) for tree in range(len(trees.tree_ids))]
    ends_at = [node for node in kept.tolist() if goes[node]]
    of_node = {node: targets[trees.tree[node]] for node in ends_at}
    return with_leaves(trees, {node: (own, risks.means[node, own]) for node, own in of_node.items()})


def alphas(trees: Ensemble, risks: Risks, count: int = 24) -> Array:
    """Prices of a leaf to try, ascending: at which shares of the branches go."""
    leaves = _below(trees.is_leaf.astype(float), _ends(trees))
    below = _below(np.where(trees.is_leaf, risks.stays, 0), _ends(trees))
    branch = ~trees.is_leaf & (leaves > 1)
    gains = (risks.ends - below)[branch] / (leaves[branch] - 1)
    gains = gains[gains > 0]
    return np.unique(np.quantile(gains, np.linspace(0, 1, count))) if len(gains) else np.zeros(0)


def in_order_of_gain(trees: Ensemble, x: Array, answers: Array) -> list[int]:
    """Trees, each the one that with those before it comes nearest to the answers [n, targets], as an average."""
    values = trees.values(answers.shape[1])
    said = np.stack([values[places].ravel() for places in trees.leaves_of(x)]).astype(np.float32)
    wanted = answers.ravel().astype(np.float32)
    left, order = list(range(len(said))), list[int]()
    total = np.zeros_like(wanted)
    norms = np.einsum("ij,ij->i", said, said)
    while left:
        goal = wanted * (len(order) + 1) - total
        errors = norms[left] - 2 * (said[left] @ goal)
        best = left.pop(int(errors.argmin()))
        order.append(best)
        total += said[best]
    return order


def with_trees(trees: Ensemble, kept: list[int]) -> Ensemble:
    """These trees alone, whose votes weigh as much together as those of all did."""
    total = len(trees.tree_ids)
    part = trees.taken(np.flatnonzero(np.isin(trees.tree, kept)))
    return replace(part, weight=(part.weight * (total / len(kept))).astype(trees.weight.dtype))


def largest(tries: int, is_good: Callable[[int], bool]) -> int:
    """The largest number from 0 to ``tries`` that is good, where 0 is and larger ones are ever worse."""
    good, bad = 0, tries + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_good(middle):
            good = middle
        else:
            bad = middle
    return good
