"""The trees of an ensemble's node as arrays, and back as attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dc_compiler import ir

Array = np.ndarray
Seen = Callable[[Array, Array, Array], None]
LEAF = "LEAF"
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
BELOW = ("BRANCH_LEQ", "BRANCH_LT")
ABOVE = ("BRANCH_GTE", "BRANCH_GT")
WITH_SMALLER = ("BRANCH_LEQ", "BRANCH_GT")  # whose threshold itself goes where the smaller values go


class NotTreesError(Exception):
    """The arrays of a node hold something else; the text says what."""


@dataclass
class Ensemble:
    """Trees whose nodes stand before their children, the true child next; one tree after another.

    Attributes:
        tree: number of its tree, int [nodes]. feature: int [nodes]. threshold: float32 or float64 [nodes].
        mode: ``BRANCH_LEQ`` and so on, or ``LEAF`` [nodes]. true, false: places of the children, 0 of leaves.
        tracks: whether a missing value goes to the true child, bool [nodes]. hitrate: float [nodes], or None.
        first: where the weights of a leaf begin, int [nodes + 1]. target: int [weights]. weight: float [weights].
        tree_ids: of the trees, in the order of the arrays.
    """

    tree: Array
    feature: Array
    threshold: Array
    mode: Array
    true: Array
    false: Array
    tracks: Array
    hitrate: Array | None
    first: Array
    target: Array
    weight: Array
    tree_ids: Array

    @property
    def is_leaf(self) -> Array:
        """bool [nodes]."""
        return np.asarray(self.mode == LEAF)

    @property
    def roots(self) -> Array:
        """Places of the roots."""
        return np.flatnonzero(np.diff(self.tree, prepend=-1))

    def leaf_weights(self, node: int) -> tuple[Array, Array]:
        """Targets and weights of a leaf."""
        part = slice(int(self.first[node]), int(self.first[node + 1]))
        return self.target[part], self.weight[part]

    def values(self, targets: int) -> Array:
        """Weights as float64 [nodes, targets]; 0 where there are none."""
        found = np.zeros((len(self.tree), targets))
        np.add.at(found, (np.repeat(np.arange(len(self.tree)), np.diff(self.first)), self.target), self.weight)
        return found

    def taken(self, keep: Array) -> Ensemble:
        """The nodes of these places alone, ascending and with all that stay reachable from roots that stay; children
        are those that ``true`` and ``false`` name by their old places."""
        new = np.zeros(len(self.tree), int)
        new[keep] = np.arange(len(keep))
        counts = np.diff(self.first)[keep]
        spans = [np.arange(self.first[k], self.first[k + 1]) for k in keep if self.first[k] < self.first[k + 1]]
        weights = np.concatenate(spans) if spans else np.zeros(0, int)
        trees = self.tree[keep]
        left, numbers = np.unique(trees, return_inverse=True)
        leaf = self.mode[keep] == LEAF
        return Ensemble(
            numbers, self.feature[keep], self.threshold[keep], self.mode[keep],
            np.where(leaf, 0, new[self.true[keep]]), np.where(leaf, 0, new[self.false[keep]]), self.tracks[keep],
            None if self.hitrate is None else self.hitrate[keep], np.concatenate([[0], np.cumsum(counts)]),
            self.target[weights], self.weight[weights], self.tree_ids[left],
        )  # fmt: skip

    def leaves_of(self, x: Array, seen: Seen | None = None) -> Iterator[Array]:
        """The place of the leaf that each row of x [n, features] reaches, int [n], tree by tree.

        ``seen`` is called with the branches that values pass, these values, and whether they go to the true child.
        """
        leaf = self.is_leaf
        is_plain = bool((self.mode[~leaf] == "BRANCH_LEQ").all())
        for root in self.roots:
            at = np.full(len(x), root)
            left = np.flatnonzero(~leaf[at])
            while len(left):
                here = at[left]
                value, threshold = x[left, self.feature[here]], self.threshold[here]
                is_true = value <= threshold if is_plain else _compared(value, threshold, self.mode[here])
                is_true |= self.tracks[here] & np.isnan(value)
                if seen is not None:
                    seen(here, value, is_true)
                at[left] = np.where(is_true, self.true[here], self.false[here])
                left = left[~leaf[at[left]]]
            yield at


def _compared(value: Array, threshold: Array, mode: Array) -> Array:
    tests = [value <= threshold, value < threshold, value >= threshold, value > threshold, value == threshold,
             value != threshold]  # fmt: skip
    return np.select([mode == m for m in MODES[:-1]], tests, False)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _array(attributes: dict[str, Any], name: str) -> Array | None:
    """An array of attributes, be it a list or a tensor; None where there is none."""
    value = attributes.get(f"{name}_as_tensor", attributes.get(name))
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if not value:
        return None
    return np.array(value, np.float32 if isinstance(value[0], float) else None)


def ensembles(program: ir.Program) -> Iterator[tuple[ir.WeightRecord, ir.EnsembleSite, Ensemble]]:
    """The ensembles of a program that may be changed and whose arrays are trees."""
    for record, site in zip(program.records, program.sites, strict=True):
        if isinstance(site, ir.EnsembleSite) and record.reason is None and record.frame is None:
            try:
                yield record, site, read(site.node)
            except NotTreesError:
                continue


def store(record: ir.WeightRecord, site: ir.EnsembleSite, ensemble: Ensemble) -> None:
    """Make the node hold these trees."""
    write(site.node, ensemble)
    record.values = site.read(numpy_helper.to_array)


def read(node: onnx.NodeProto) -> Ensemble:
    """The trees of a node.

    Raises:
        NotTreesError
    """
    attributes = _attributes(node)
    try:
        return _read_apart(attributes) if node.op_type == "TreeEnsemble" else _read(attributes)
    except (KeyError, IndexError, TypeError, ValueError) as e:
        raise NotTreesError(f"its arrays do not fit together: {e}") from None


def _need(attributes: dict[str, Any], name: str, size: int | None = None) -> Array:
    found = _array(attributes, name)
    if found is None or (size is not None and len(found) != size):
        raise NotTreesError(f"{name} is missing or has another length than the other arrays")
    return found


def _read(attributes: dict[str, Any]) -> Ensemble:
    ids = _need(attributes, "nodes_nodeids")
    size = len(ids)
    trees, feature, modes, true, false = (
        _need(attributes, f"nodes_{n}", size) for n in ("treeids", "featureids", "modes", "truenodeids", "falsenodeids")
    )
    names = np.array([m.decode() for m in modes])
    leaf = names == LEAF
    tree_ids, first_of = np.unique(trees, return_index=True)
    order = np.argsort(first_of)
    tree_ids, number = tree_ids[order], np.argsort(order)[np.searchsorted(tree_ids, trees)]
    place = dict(zip(zip(number.tolist(), ids.tolist(), strict=True), range(size), strict=True))
    if len(place) != size:
        raise NotTreesError("two nodes of a tree have one id")
    pairs = zip(number.tolist(), true.tolist(), false.tolist(), leaf.tolist(), strict=True)
    children = [(0, 0) if ends else (place[t, yes], place[t, no]) for t, yes, no, ends in pairs]
    prefix = "class" if "class_ids" in attributes else "target"
    targets, weights = _need(attributes, f"{prefix}_ids"), _need(attributes, f"{prefix}_weights")
    owners = zip(
        _need(attributes, f"{prefix}_treeids").tolist(), _need(attributes, f"{prefix}_nodeids").tolist(), strict=True
    )
    number_of = dict(zip(tree_ids.tolist(), range(len(tree_ids)), strict=True))
    owner = np.array([place[number_of[t], i] for t, i in owners])
    if not leaf[owner].all():
        raise NotTreesError("a branch has a weight")
    tracks = _array(attributes, "nodes_missing_value_tracks_true")
    return _ordered(
        number, feature, _need(attributes, "nodes_values", size), names, np.array(children).reshape(-1, 2),
        np.zeros(size, bool) if tracks is None else tracks.astype(bool), _array(attributes, "nodes_hitrates"), owner,
        targets, weights, tree_ids,
    )  # fmt: skip


def _read_apart(attributes: dict[str, Any]) -> Ensemble:
    splits = _need(attributes, "nodes_splits")
    branches = len(splits)
    weights = _need(attributes, "leaf_weights")
    true, false, true_leaf, false_leaf, feature, modes = (
        _need(attributes, f"nodes_{n}", branches)
        for n in ("truenodeids", "falsenodeids", "trueleafs", "falseleafs", "featureids", "modes")
    )
    if (modes >= len(MODES) - 1).any():
        raise NotTreesError("sets of values decide")
    leaves = len(weights)
    nothing = np.zeros(leaves, int)
    size = branches + leaves
    children = np.zeros((size, 2), int)
    children[:branches, 0] = true + branches * true_leaf
    children[:branches, 1] = false + branches * false_leaf
    tracks = _array(attributes, "nodes_missing_value_tracks_true")
    hitrates = _array(attributes, "nodes_hitrates")
    tree = np.full(size, -1)
    for number, root in enumerate(attributes["tree_roots"]):
        tree[root] = number
    if hitrates is not None:
        hitrates = np.concatenate([hitrates, np.zeros(leaves, hitrates.dtype)])
    return _ordered(
        tree, np.concatenate([feature, nothing]), np.concatenate([splits, nothing.astype(splits.dtype)]),
        np.array([MODES[m] for m in modes] + [LEAF] * leaves), children,
        np.concatenate([np.zeros(branches, bool) if tracks is None else tracks.astype(bool), nothing.astype(bool)]),
        hitrates, np.arange(leaves) + branches, _need(attributes, "leaf_targetids", leaves), weights,
        np.arange(len(attributes["tree_roots"])), roots=list(attributes["tree_roots"]),
    )  # fmt: skip


def _ordered(
    tree: Array, feature: Array, threshold: Array, mode: Array, children: Array, tracks: Array, hitrate: Array | None,
    owner: Array, target: Array, weight: Array, tree_ids: Array, roots: list[int] | None = None,
) -> Ensemble:  # fmt: skip
    """The ensemble with nodes in the order of an Ensemble."""
    leaf = (mode == LEAF).tolist()
    if roots is None:
        is_child = np.zeros(len(mode), bool)
        is_child[children[mode != LEAF].ravel()] = True
        tops = np.flatnonzero(~is_child)
        roots = tops[np.argsort(tree[tops], kind="stable")].tolist()
        if not np.array_equal(tree[roots], np.arange(len(tree_ids))):
            raise NotTreesError("a tree has no root, or several")
    order: list[int] = []
    numbers: list[int] = []
    both = children.tolist()
    for number, root in enumerate(roots):
        waiting = [root]
        while waiting:
            node = waiting.pop()
            order.append(node)
            if len(order) > len(mode):
                raise NotTreesError("a node has two parents")
            if not leaf[node]:
                waiting += both[node][::-1]
        numbers += [number] * (len(order) - len(numbers))
    if len(set(order)) != len(mode):
        raise NotTreesError("a node has two parents, or none")
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    by_owner = np.argsort(place[owner], kind="stable")
    counts = np.bincount(place[owner], minlength=len(order))
    is_leaf = mode[order] == LEAF
    return Ensemble(
        np.array(numbers), feature[order], threshold[order], mode[order],
        np.where(is_leaf, 0, place[children[order, 0]]), np.where(is_leaf, 0, place[children[order, 1]]), tracks[order],
        None if hitrate is None else hitrate[order], np.concatenate([[0], np.cumsum(counts)]), target[by_owner],
        weight[by_owner], tree_ids,
    )  # fmt: skip


def write(node: onnx.NodeProto, trees: Ensemble) -> None:
    """Give the node these trees, in their order; what else its attributes say stays."""
    columns = _columns_apart(trees) if node.op_type == "TreeEnsemble" else _columns(node, trees)
    for i, attribute in enumerate(node.attribute):
        name = attribute.name.removesuffix("_as_tensor")
        values = columns.get(name)
        if values is None or not (attribute.t.ByteSize() or len(helper.get_attribute_value(attribute))):
            continue
        if attribute.type == onnx.AttributeProto.TENSOR:
            kind = helper.tensor_dtype_to_np_dtype(attribute.t.data_type)
            made = helper.make_tensor(
                attribute.t.name, attribute.t.data_type, [len(values)], np.asarray(values, kind).tobytes(), raw=True
            )
        else:
            made = values.tolist() if isinstance(values, np.ndarray) else values
        node.attribute[i].CopyFrom(helper.make_attribute(attribute.name, made, attr_type=attribute.type))


def _columns(node: onnx.NodeProto, trees: Ensemble) -> dict[str, Any]:
    leaf = trees.is_leaf
    roots = trees.roots
    ids = np.arange(len(leaf)) - np.repeat(roots, np.diff(np.append(roots, len(leaf))))
    owner = np.repeat(np.arange(len(leaf)), np.diff(trees.first))
    prefix = "class" if node.op_type == "TreeEnsembleClassifier" else "target"
    tree_ids = trees.tree_ids[trees.tree]
    return {
        "nodes_treeids": tree_ids, "nodes_nodeids": ids, "nodes_modes": trees.mode.tolist(),
        "nodes_featureids": np.where(leaf, 0, trees.feature), "nodes_values": np.where(leaf, 0, trees.threshold),
        "nodes_truenodeids": np.where(leaf, 0, ids[trees.true]),
        "nodes_falsenodeids": np.where(leaf, 0, ids[trees.false]),
        "nodes_missing_value_tracks_true": trees.tracks.astype(int), "nodes_hitrates": trees.hitrate,
        f"{prefix}_treeids": tree_ids[owner], f"{prefix}_nodeids": ids[owner], f"{prefix}_ids": trees.target,
        f"{prefix}_weights": trees.weight,
    }  # fmt: skip


def _columns_apart(trees: Ensemble) -> dict[str, Any]:
    leaf = trees.is_leaf
    place = np.where(leaf, np.cumsum(leaf), np.cumsum(~leaf)) - 1
    branch = ~leaf
    return {
        "tree_roots": place[trees.roots], "nodes_modes": [MODES.index(m) for m in trees.mode[branch]],
        "nodes_featureids": trees.feature[branch], "nodes_splits": trees.threshold[branch],
        "nodes_truenodeids": place[trees.true[branch]], "nodes_falsenodeids": place[trees.false[branch]],
        "nodes_trueleafs": leaf[trees.true[branch]].astype(int),
        "nodes_falseleafs": leaf[trees.false[branch]].astype(int),
        "nodes_missing_value_tracks_true": trees.tracks[branch].astype(int),
        "nodes_hitrates": None if trees.hitrate is None else trees.hitrate[branch],
        "leaf_targetids": trees.target, "leaf_weights": trees.weight,
    }  # fmt: skip


def with_leaves(trees: Ensemble, ends: dict[int, tuple[Array, Array]]) -> Ensemble:
    """The trees in which branches became leaves with these targets and weights; what is below them goes."""
    if not ends:
        return trees
    mode = trees.mode.copy()
    mode[list(ends)] = LEAF
    counts = np.diff(trees.first)
    parts_of_target, parts_of_weight = [], []
    for node, (targets, weights) in ends.items():
        counts[node] = len(targets)
        parts_of_target.append(targets)
        parts_of_weight.append(weights)
    owner = np.repeat(np.arange(len(mode)), np.diff(trees.first))
    owner = np.concatenate([owner, np.repeat(list(ends), [len(t) for t in parts_of_target])])
    order = np.argsort(owner, kind="stable")
    target = np.concatenate([trees.target, *parts_of_target])[order]
    weight = np.concatenate([trees.weight, *parts_of_weight])[order].astype(trees.weight.dtype)
    first = np.concatenate([[0], np.cumsum(counts)])
    changed = replace(trees, mode=mode, target=target, weight=weight, first=first)
    return changed.taken(reachable(changed, changed.roots))


def reachable(trees: Ensemble, roots: Array) -> Array:
    """Places of the nodes that branches lead to from these roots, ascending; nodes stand before their children."""
    stays = np.zeros(len(trees.mode), bool)
    stays[roots] = True
    true, false = trees.true.tolist(), trees.false.tolist()
    found = stays.tolist()
    for node, ends in enumerate(trees.is_leaf.tolist()):
        if found[node] and not ends:
            found[true[node]] = found[false[node]] = True
    return np.flatnonzero(found)
