"""prune(trees) and cluster(trees): what is exact is exact for any input, what takes data keeps what it promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from models import ensembles
from models.ensembles import Branch, Leaf, Tree

from dc_compiler import InferenceSession, compile_model
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.model import files, importer
from dc_compiler.passes.trees import complexity
from dc_compiler.passes.trees.ensemble import Ensemble, NotTreesError, reachable, read, with_leaves, write
from dc_compiler.passes.trees.exact import simplified
from dc_compiler.passes.trees.leaves import on_grid
from dc_compiler.passes.trees.thresholds import shortened

RNG = np.random.default_rng(5)
ODD = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1.5, -1.5, 3e38], np.float32)
X = np.concatenate([RNG.uniform(-4, 4, (600, 4)).astype(np.float32), RNG.choice(ODD, (200, 4))])
X[:300] = np.round(X[:300])  # many of the thresholds themselves


def leaf(*weights: float) -> Leaf:
    return Leaf(tuple(enumerate(weights)))


def wasteful(tree: Tree, rng: np.random.Generator) -> Tree:
    """A tree that says the same with more nodes: branches on what is known, and leaves twice."""
    if isinstance(tree, Leaf):
        if rng.random() < 0.3:
            return Branch(int(rng.integers(4)), 0.5, tree, Leaf(tree.weights))
        return tree
    true, false = wasteful(tree.true, rng), wasteful(tree.false, rng)
    if rng.random() < 0.4:
        true = replace(tree, threshold=tree.threshold + 1, true=true, false=leaf(9.0, 9.0, 9.0))
    return replace(tree, true=true, false=false)


TREES = [wasteful(t, RNG) for t in ensembles.forest(6, 4, targets=3)]
ONE = [wasteful(t, RNG) for t in ensembles.forest(6, 4)]


def with_modes(tree: Tree, rng: np.random.Generator) -> Tree:
    if isinstance(tree, Leaf):
        return tree
    mode = str(rng.choice(["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_GTE", "BRANCH_EQ", "BRANCH_NEQ"]))
    return replace(tree, mode=mode, true=with_modes(tree.true, rng), false=with_modes(tree.false, rng))


MIXED = [with_modes(t, RNG) for t in ONE]
MODELS = {
    "classifier": ensembles.classifier(TREES),
    "regressor": ensembles.regressor(ONE, order="breadth"),
    "modes": ensembles.regressor(MIXED),
    "missing values": ensembles.regressor([replace(t, tracks=True) if isinstance(t, Branch) else t for t in ONE]),
    "5": ensembles.ensemble_5([replace(t, mode="BRANCH_LEQ") if isinstance(t, Branch) else t for t in ONE]),
    "5 of modes": ensembles.ensemble_5(MIXED),
}


def outputs(node: onnx.NodeProto, x: np.ndarray = X) -> list[np.ndarray]:
    session = InferenceSession(ensembles.model(node).SerializeToString())
    return [np.asarray(o) for o in session.run(None, {"x": x})]


def as_node(node: onnx.NodeProto, trees: Ensemble) -> onnx.NodeProto:
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    write(changed, trees)
    return changed


@pytest.mark.parametrize("name", MODELS)
def test_trees_are_written_as_they_were_read(name: str) -> None:
    node = MODELS[name]
    same = as_node(node, read(node))
    for before, after in zip(outputs(node), outputs(same), strict=True):
        assert before.tobytes() == after.tobytes()
    leaves = list(read(node).leaves_of(X))
    assert len(leaves) == 6
    if name == "regressor":
        said = sum(read(node).values(3)[places] for places in leaves)
        assert np.allclose(said, outputs(node)[0])


@pytest.mark.parametrize("name", MODELS)
def test_simplified_trees_say_the_same_of_any_input(name: str) -> None:
    node = MODELS[name]
    simpler = simplified(read(node))
    assert len(simpler.mode) < len(read(node).mode)
    for before, after in zip(outputs(node), outputs(as_node(node, simpler)), strict=True):
        assert before.tobytes() == after.tobytes()


def test_what_goes_and_what_stays() -> None:
    known = Branch(0, 1.0, Branch(0, 2.0, leaf(1.0), leaf(2.0)), Branch(0, 1.0, leaf(3.0), leaf(4.0)))
    plain = Branch(0, 1.0, leaf(1.0), leaf(4.0))
    tracking = Branch(0, 1.0, Branch(0, 2.0, leaf(1.0), leaf(2.0)), leaf(4.0), tracks=True)

    def sizes(tree: Tree) -> int:
        return len(simplified(read(ensembles.regressor([tree]))).mode)

    assert sizes(known) == sizes(plain) == 3
    assert sizes(tracking) == 5  # a missing value goes on to the false child of the inner branch
    assert sizes(Branch(0, 1.0, leaf(1.0), leaf(1.0))) == 1
    assert sizes(Branch(0, 1.0, leaf(0.0), leaf(-0.0))) == 3  # not the same bits


def test_default_and_prune_simplify_without_data() -> None:
    net = ensembles.model(MODELS["classifier"])
    before = outputs(MODELS["classifier"])
    sizes = {}
    for way in ({"preset": "lossless"}, {}, {"pipeline": "prune(trees),encode"}):
        result = compile_model(net, **way)  # type: ignore[arg-type]
        (row,) = result.report.tensors
        sizes[str(way)] = row.raw_bytes
        session = InferenceSession(result.model.SerializeToString())
        for one, other in zip(before, session.run(None, {"x": X}), strict=True):
            assert one.tobytes() == np.asarray(other).tobytes()
    lossless, default, pruned = sizes.values()
    assert default == pruned < lossless


def test_thresholds_move_within_their_gaps() -> None:
    for name in ("regressor", "modes"):
        trees = read(MODELS[name])
        x = X[300:600]
        moved = shortened(trees, x)
        for before, after in zip(trees.leaves_of(x), moved.leaves_of(x), strict=True):
            assert np.array_equal(before, after)
        plain = np.isin(trees.mode, ("BRANCH_LEQ", "BRANCH_GT"))
        assert len(np.unique(moved.threshold[plain])) < len(np.unique(trees.threshold[plain]))
    gap = read(ensembles.regressor([Branch(0, 0.7, leaf(1.0), leaf(2.0))]))
    x = np.array([[0.26], [0.9]], np.float32).repeat(4, axis=1)
    assert shortened(gap, x).threshold[0] == 0.5


def test_leaves_on_a_grid_keep_sure_votes() -> None:
    trees = read(
        ensembles.classifier([Branch(0, 0.0, leaf(0.25, 0.0), Branch(1, 0.0, leaf(0.13, 0.12), leaf(0.0, 0.25)))])
    )
    moved = on_grid(trees, 0.5)
    assert np.array_equal(moved.weight[[0, 1, 4, 5]], np.array([0.25, 0, 0, 0.25], np.float32))
    assert np.abs(moved.weight - trees.weight).max() <= 0.25 * trees.weight.std() + 1e-6


def test_cost_complexity_pruning_is_minimal() -> None:
    """Against all ways to prune a small tree."""
    rng = np.random.default_rng(0)
    tree = ensembles.forest(1, 3, seed=4, targets=2)[0]
    trees = read(ensembles.classifier([tree]))
    x = rng.uniform(-3, 3, (400, 4)).astype(np.float32)
    answers = np.eye(2)[(x[:, 0] > 0).astype(int)] * 0.25
    risks = complexity.risks_of(trees, x, answers)
    branches = np.flatnonzero(~trees.is_leaf)

    def cost(made: Ensemble, alpha: float) -> float:
        said = made.values(2)[next(iter(made.leaves_of(x)))]
        return float(np.square(said - answers).sum() + alpha * made.is_leaf.sum())

    for alpha in (0.0, 0.05, 0.3, 1.0, 5.0, 100.0):
        best = np.inf
        for ways in range(1 << len(branches)):
            ends = {int(b) for i, b in enumerate(branches) if ways >> i & 1}
            kept = set(reachable(_cut(trees, ends), trees.roots).tolist())
            end = {n: (np.arange(2), risks.means[n]) for n in ends & kept}
            best = min(best, cost(with_leaves(trees, end), alpha))
        assert cost(complexity.pruned(trees, risks, alpha), alpha) == pytest.approx(best, rel=1e-4)


def _cut(trees: Ensemble, ends: set[int]) -> Ensemble:
    mode = trees.mode.copy()
    mode[list(ends)] = "LEAF"
    return replace(trees, mode=mode)


def voting(trees: int = 20, depth: int = 6) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A forest that votes about three classes, grown on other samples than the data given: trees of exact splits."""
    rng = np.random.default_rng(1)

    def classes(x: np.ndarray) -> np.ndarray:
        return np.asarray((x[:, 0] + x[:, 1] > 0).astype(np.int64) + (x[:, 2] > 0.5))

    def grown(x: np.ndarray, y: np.ndarray, left: int) -> Tree:
        counts = np.bincount(y, minlength=3)
        if left == 0 or counts.max() == len(y):
            return leaf(*(counts / len(y) / trees).astype(np.float32).tolist())
        feature = int(rng.integers(3))
        threshold = float(np.float32(np.median(x[:, feature]) + rng.normal() * 0.1))
        goes = x[:, feature] <= threshold
        if goes.all() or not goes.any():
            return leaf(*(counts / len(y) / trees).astype(np.float32).tolist())
        return Branch(feature, threshold, grown(x[goes], y[goes], left - 1), grown(x[~goes], y[~goes], left - 1))

    x = rng.uniform(-1, 1, (1500, 4)).astype(np.float32)
    made = [grown(part, classes(part), depth) for part in np.array_split(x, trees)]
    given = rng.uniform(-1, 1, (900, 4)).astype(np.float32)
    return ensembles.model(ensembles.classifier(made)), {"x": given, "labels": classes(given)}


def test_data_make_a_forest_smaller_within_the_drop() -> None:
    net, data = voting()
    lossless = compile_model(net, preset="lossless", force=True).report
    result = compile_model(
        net, pipeline="prune(trees,drop=2),cluster(trees),encode", data=data, labels="labels", force=True
    ).report
    assert result.output_bytes < lossless.output_bytes / 2
    pruning, clustering = result.passes[0].facts, result.passes[1].facts
    assert pruning["tree nodes"][0] < pruning["tree nodes before"][0]
    assert pruning["validation score before"] > 0.8
    assert pruning["validation score after"] >= pruning["validation score before"] - 0.02 - 1e-9
    assert clustering["thresholds"] < clustering["thresholds before"]
    scores = result.verification.scores if result.verification is not None else None
    assert scores is not None
    assert scores.metric == "accuracy"
    assert scores.after > scores.before - 0.06


def test_max_drop_is_what_trees_may_lose() -> None:
    net, data = voting(8, 4)
    options: dict[str, Any] = {"data": data, "labels": "labels", "force": True}
    by_flag = compile_model(net, pipeline="prune(trees),encode", max_drop=3, **options)
    by_option = compile_model(net, pipeline="prune(trees,drop=3.0),encode", **options)
    assert by_flag.report.pipeline == by_option.report.pipeline == "prune(trees=true,drop=3.0),encode"
    assert by_flag.model.graph == by_option.model.graph
    with pytest.raises(InvalidArgumentError, match="needs --data"):
        compile_model(net, pipeline="prune(trees),encode", max_drop=3)


def test_options_that_do_not_fit_are_refused() -> None:
    net, data = voting(2, 2)
    for pipeline, reason in {
        "prune(drop=1),encode": "it is for trees",
        "prune(trees,density=0.1),encode": "trees have none",
        "prune(trees,drop=200),encode": "at most 100",
        "cluster(trees),encode": "needs samples",
    }.items():
        with pytest.raises(InvalidArgumentError, match=reason):
            compile_model(net, pipeline=pipeline)
    del data


def test_arrays_that_are_no_trees_are_left_alone() -> None:
    node = ensembles.node(
        "TreeEnsembleRegressor", ensembles.attributes(ONE, classes=False) | {"nodes_truenodeids": [0]}
    )
    with pytest.raises(NotTreesError):
        read(node)
    program = importer.build_program(files.read_model(ensembles.model(node)), min_size=16)
    assert program.records[0].reason is None
