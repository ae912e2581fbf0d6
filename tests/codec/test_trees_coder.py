"""Coder `trees`: the attributes of all kinds of ensembles come back bit for bit, by both decoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from frame_builder import trees_of_bits
from models import ensembles
from models.ensembles import Branch, Leaf, Tree

from dc_compiler.codec import binding, reference
from dc_compiler.errors import CorruptFrameError, InvalidArgumentError

TREES = ensembles.forest(4, 4, targets=3)
ONE_TARGET = ensembles.forest(4, 4, digits=None)
LEAF = Leaf(((0, 0.5),))


def _with(change: Callable[[Branch, int], Branch], trees: list[Tree]) -> list[Tree]:
    """The trees with every branch changed; the number counts them."""
    count = iter(range(1 << 20))

    def changed(tree: Tree) -> Tree:
        if isinstance(tree, Leaf):
            return tree
        number = next(count)
        return change(replace(tree, true=changed(tree.true), false=changed(tree.false)), number)

    return [changed(t) for t in trees]


def _modes(branch: Branch, number: int) -> Branch:
    mode = ("BRANCH_LEQ", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")[number % 4]
    return replace(branch, mode=mode, tracks=number % 3 == 0)


ENSEMBLES: dict[str, onnx.NodeProto] = {
    "classifier": ensembles.classifier(TREES),
    "one target": ensembles.classifier(ONE_TARGET),
    "regressor": ensembles.regressor(ONE_TARGET),
    "several targets": ensembles.regressor(TREES, aggregate_function="AVERAGE", base_values=[0.1, 0.2, 0.3]),
    "double": ensembles.regressor(ensembles.forest(3, 4, digits=2), double=True),
    "modes": ensembles.regressor(_with(_modes, ONE_TARGET)),
    "lone leaf": ensembles.regressor([LEAF, *ONE_TARGET, LEAF]),
    "leaves without weights": ensembles.regressor([*ONE_TARGET, Branch(0, 1.0, Leaf(()), Leaf(((0, 1.0), (0, 2.0))))]),
    "equal thresholds": ensembles.regressor(_with(lambda b, _: replace(b, feature=0, threshold=1.5), ONE_TARGET)),
    "odd floats": ensembles.regressor(
        _with(lambda b, i: replace(b, threshold=(float("nan"), float("inf"), -0.0, 0.0, 1e-45)[i % 5]), ONE_TARGET)
    ),
    "strings as labels": ensembles.classifier(
        [Branch(0, 0.5, Leaf(((0, 1.0),)), Leaf(((1, 1.0),)))], classlabels_int64s=None, classlabels_strings=["a", "b"]
    ),
    "5": ensembles.ensemble_5(ONE_TARGET),
    "5 of several targets": ensembles.ensemble_5(TREES, order="breadth"),
    "5 in another order": ensembles.ensemble_5(ONE_TARGET, order="best"),
} | {
    f"{order}, ids {ids}": ensembles.classifier(TREES, order=order, ids=ids)
    for order in ("true", "false", "breadth", "best")
    for ids in ("true", "breadth", "best")
}  # fmt: skip


@pytest.mark.parametrize("name", ENSEMBLES)
def test_attributes_come_back(name: str) -> None:
    data = np.frombuffer(ensembles.packed_attributes(ENSEMBLES[name]), np.uint8)
    frame = binding.encode_data(data, "trees")
    assert np.array_equal(binding.decode(frame), data)
    assert np.array_equal(reference.decode(frame), data)
    assert len(frame) < len(binding.encode_data(data, "smallest"))


def _changed(**values: Any) -> onnx.NodeProto:
    return ensembles.node("TreeEnsembleRegressor", ensembles.attributes(ONE_TARGET, classes=False) | values)


PLAIN = ensembles.attributes(ONE_TARGET, classes=False)
COUNT = len(PLAIN["nodes_nodeids"])
REFUSED: dict[str, tuple[onnx.NodeProto, str]] = {
    "a cycle": (_changed(nodes_truenodeids=[0] * COUNT), "not trees"),
    "two parents": (_changed(nodes_falsenodeids=PLAIN["nodes_truenodeids"]), "not trees"),
    "one id twice": (_changed(nodes_nodeids=[0] * COUNT), "not trees"),
    "unknown child": (_changed(nodes_truenodeids=[999] * COUNT), "not trees"),
    "one tree id twice": (_changed(nodes_treeids=[*PLAIN["nodes_treeids"][:-1], 0]), "not trees"),
    "short array": (_changed(nodes_values=PLAIN["nodes_values"][1:]), "differ in length"),
    "weights in another order": (
        _changed(target_nodeids=PLAIN["target_nodeids"][::-1], target_treeids=PLAIN["target_treeids"][::-1]),
        "another order",
    ),
    "no trees": (onnx.helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], nodes_modes=["LEAF"]), "missing"),
    "leaf of two parents": (
        ensembles.node("TreeEnsemble", ensembles.attributes_apart(ONE_TARGET) | {"tree_roots": [0]}), "not trees"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_forest_is_refused_with_a_reason(name: str) -> None:
    made, reason = REFUSED[name]
    data = np.frombuffer(ensembles.packed_attributes(made), np.uint8)
    with pytest.raises(InvalidArgumentError, match=reason):
        binding.encode_data(data, "trees")


@pytest.mark.parametrize("data", [b"", b"\x2a\x02\x0a\x00", b"any bytes", b"\x2a\x7f\x0a"])
def test_bytes_that_are_no_attributes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        binding.encode_data(np.frombuffer(data, np.uint8), "trees")


def test_decoders_agree_on_codes_of_any_bits() -> None:
    """Bits drawn by their own chances make forests of every kind, and break every rule."""
    accepted, reasons = 0, set[str]()
    for seed in range(60):
        columns = None if seed % 6 < 2 else [{"nodes_values": 2, "class_ids": 1}, {"tree_roots": 1}][seed % 2]
        frame = trees_of_bits(seed, is_apart=seed % 2 == 0, columns=columns).to_bytes()
        try:
            wanted = reference.decode(frame)
        except CorruptFrameError as error:
            reasons.add(str(error))
            with pytest.raises(CorruptFrameError):
                binding.decode(frame)
            continue
        assert np.array_equal(binding.decode(frame), wanted), seed
        accepted += 1
    assert accepted > 20
    assert len(reasons) > 3
    assert not any("CRC" in r or "chunk" in r for r in reasons)
