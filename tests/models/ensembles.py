"""Tree ensembles made in code: random trees, and the nodes that hold them as exporters write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

ML = "ai.onnx.ml"


@dataclass(frozen=True)
class Leaf:
    """Weights by target."""

    weights: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Branch:
    """The true child takes samples whose feature is at most the threshold, where the mode says nothing else."""

    feature: int
    threshold: float
    true: Tree
    false: Tree
    mode: str = "BRANCH_LEQ"
    tracks: bool = False


Tree = Leaf | Branch


def grow(
    rng: np.random.Generator, depth: int, *, features: int = 4, targets: int = 1, digits: int | None = 1,
    low: float = -3.0, high: float = 3.0,
) -> Tree:  # fmt: skip
    """A tree of at most so many levels of branches, thresholds with so many decimal digits."""
    if depth == 0 or rng.random() < 0.2:
        shares = rng.integers(0, 4, targets) / 8
        return Leaf(tuple((i, float(np.float32(s))) for i, s in enumerate(shares)))
    threshold = rng.uniform(low, high)
    threshold = float(np.float32(threshold if digits is None else round(threshold, digits)))
    true, false = (
        grow(rng, depth - 1, features=features, targets=targets, digits=digits, low=low, high=high) for _ in "tf"
    )
    return Branch(int(rng.integers(features)), threshold, true, false)


def forest(trees: int = 5, depth: int = 5, *, seed: int = 0, **options: Any) -> list[Tree]:
    """Random trees, each with a branch at its root."""
    rng = np.random.default_rng(seed)
    found: list[Tree] = []
    while len(found) < trees:
        tree = grow(rng, depth, **options)
        if isinstance(tree, Branch):
            found.append(tree)
    return found


def traversed(tree: Tree, order: str) -> Iterator[Tree]:
    """The nodes of a tree in an order: ``true``, ``false`` (that child first), ``breadth``, or ``best``: branches of
    small features first, both children one after the other, as trees with a bound on their leaves are grown."""
    waiting = [tree]
    if order == "best":
        yield tree
        while waiting:
            node = min(waiting, key=lambda n: n.feature if isinstance(n, Branch) else 99)
            waiting.remove(node)
            if isinstance(node, Branch):
                yield from (node.true, node.false)
                waiting += [node.true, node.false]
        return
    while waiting:
        node = waiting.pop(0 if order == "breadth" else -1)
        yield node
        if isinstance(node, Branch):
            both = [node.true, node.false]
            waiting += both[::-1] if order == "true" else both


def attributes(
    trees: Sequence[Tree], *, order: str = "true", ids: str | None = None, classes: bool = True, double: bool = False,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Attributes of TreeEnsembleClassifier, or Regressor; ``ids`` is the order of node ids, where it is another."""
    columns: dict[str, Any] = {}
    prefix = "class" if classes else "target"

    def add(**values: Any) -> None:
        for name, value in values.items():
            columns.setdefault(name, []).append(value)

    for number, tree in enumerate(trees):
        nodes = list(traversed(tree, order))
        id_of = {id(node): i for i, node in enumerate(traversed(tree, ids or order))}
        for node in nodes:
            add(nodes_treeids=number, nodes_nodeids=id_of[id(node)], nodes_hitrates=1.0)
            if isinstance(node, Branch):
                add(
                    nodes_featureids=node.feature, nodes_values=node.threshold, nodes_modes=node.mode,
                    nodes_truenodeids=id_of[id(node.true)], nodes_falsenodeids=id_of[id(node.false)],
                    nodes_missing_value_tracks_true=int(node.tracks),
                )  # fmt: skip
                continue
            add(nodes_featureids=0, nodes_values=0.0, nodes_modes="LEAF", nodes_missing_value_tracks_true=0)
            add(nodes_truenodeids=0, nodes_falsenodeids=0)
            for target, weight in node.weights:
                add(**{f"{prefix}_treeids": number, f"{prefix}_nodeids": id_of[id(node)], f"{prefix}_ids": target})
                add(**{f"{prefix}_weights": weight})
    if double:
        for name in ("nodes_values", "nodes_hitrates", f"{prefix}_weights"):
            values = columns.pop(name)
            tensor = helper.make_tensor(name, TensorProto.DOUBLE, [len(values)], values)
            columns[f"{name}_as_tensor"] = tensor
    if classes:
        targets = 1 + max(columns["class_ids"])
        more = {"classlabels_int64s": list(range(max(targets, 2))), "post_transform": "NONE"} | more
    else:
        more = {"n_targets": 1 + max(columns["target_ids"])} | more
    return columns | more


def attributes_apart(trees: Sequence[Tree], *, order: str = "true", **more: Any) -> dict[str, Any]:
    """Attributes of TreeEnsemble, whose leaves have arrays of their own, and one target each."""
    modes = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
    nodes = [node for tree in trees for node in traversed(tree, order)]
    branches = [n for n in nodes if isinstance(n, Branch)]
    leaves = [n for n in nodes if isinstance(n, Leaf)]
    place = {id(n): i for kind in (branches, leaves) for i, n in enumerate(kind)}

    def floats(values: list[float]) -> onnx.TensorProto:
        return helper.make_tensor("", TensorProto.FLOAT, [len(values)], values)

    def raw(values: list[int]) -> onnx.TensorProto:
        return helper.make_tensor("", TensorProto.UINT8, [len(values)], bytes(values), raw=True)

    return {
        "aggregate_function": 1, "n_targets": 1 + max(n.weights[0][0] for n in leaves), "post_transform": 0,
        "tree_roots": [place[id(t)] for t in trees], "nodes_modes": raw([modes.index(n.mode) for n in branches]),
        "nodes_featureids": [n.feature for n in branches], "nodes_splits": floats([n.threshold for n in branches]),
        "nodes_truenodeids": [place[id(n.true)] for n in branches],
        "nodes_falsenodeids": [place[id(n.false)] for n in branches],
        "nodes_trueleafs": [int(isinstance(n.true, Leaf)) for n in branches],
        "nodes_falseleafs": [int(isinstance(n.false, Leaf)) for n in branches],
        "leaf_targetids": [n.weights[0][0] for n in leaves], "leaf_weights": floats([n.weights[0][1] for n in leaves]),
    } | more  # fmt: skip


def node(op: str, values: dict[str, Any]) -> onnx.NodeProto:
    """A node of an ensemble's operator, x to y; a classifier also gives scores."""
    outputs = ["y", "scores"] if op == "TreeEnsembleClassifier" else ["y"]
    return helper.make_node(op, ["x"], outputs, domain=ML, **values)


def packed_attributes(made: onnx.NodeProto) -> bytes:
    """What coder `trees` packs of a node."""
    return bytes(onnx.NodeProto(attribute=made.attribute).SerializeToString())


def model(made: onnx.NodeProto, features: int = 4) -> onnx.ModelProto:
    """A model of the node alone."""
    version = 5 if made.op_type == "TreeEnsemble" else 3
    labels = made.op_type == "TreeEnsembleClassifier"
    outputs = [helper.make_tensor_value_info(made.output[0], TensorProto.INT64 if labels else TensorProto.FLOAT, None)]
    outputs += [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in made.output[1:]]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", features])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, version)]
    return helper.make_model(helper.make_graph([made], "g", [x], outputs), opset_imports=opsets, ir_version=10)


def classifier(trees: Sequence[Tree], **options: Any) -> onnx.NodeProto:
    return node("TreeEnsembleClassifier", attributes(trees, **options))


def regressor(trees: Sequence[Tree], **options: Any) -> onnx.NodeProto:
    return node("TreeEnsembleRegressor", attributes(trees, classes=False, **options))


def ensemble_5(trees: Sequence[Tree], **options: Any) -> onnx.NodeProto:
    return node("TreeEnsemble", attributes_apart(trees, **options))
