"""What `prune(trees)` and `cluster(trees)` do to the ensembles of a program."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from dc_compiler import ir
from dc_compiler.calibration.divergence import Judge
from dc_compiler.calibration.tuning import keeps
from dc_compiler.ort.samples import Samples
from dc_compiler.pass_manager import Context, PassReport
from dc_compiler.passes.trees import complexity
from dc_compiler.passes.trees.ensemble import Ensemble, ensembles, store
from dc_compiler.passes.trees.exact import simplified, simplify
from dc_compiler.passes.trees.inputs import inputs_of
from dc_compiler.passes.trees.leaves import on_grid
from dc_compiler.passes.trees.thresholds import shortened

Array = np.ndarray
SHARE = 0.5  # of the drop that may go for smaller trees; the rest is for fewer


def prune_trees(program: ir.Program, context: Context, drop: float | None) -> PassReport:
    """Simplify exactly; with a drop also prune by cost-complexity and leave trees out, as far as the validation part
    allows."""
    before = _sizes(program)
    removed = simplify(program)
    facts: dict[str, Any] = {}
    if drop is not None:
        assert context.samples is not None
        judge = context.calibrated().judge
        for number, (record, site, trees) in enumerate(list(ensembles(program)), 1):
            search = _Search(program, record, trees, context.samples, judge)
            store(record, site, search.fewer(search.smaller(trees, SHARE * drop), drop))
            if context.progress is not None:
                context.progress("prune", number, len(before), None)
        facts |= {"validation score before": judge.before, "validation score after": judge.of(program).score}
    after = _sizes(program)
    facts |= {"tree nodes": after, "tree nodes before": before}
    if not before:
        program.notes.append("prune: the model has no tree ensembles that may be pruned")
    elif drop is not None:
        program.notes.append(f"prune: {sum(before):,} nodes of trees, {sum(after):,} of which are left{_scores(facts)}")
    return PassReport(
        "prune", removed if drop is None else sum(b != a for b, a in zip(before, after, strict=True)), facts=facts
    )


def cluster_trees(program: ir.Program, context: Context, step: float) -> PassReport:
    """Move thresholds within the gaps of the train part and round leaf weights to a grid."""
    assert context.samples is not None
    facts: dict[str, Any] = {"thresholds before": 0, "thresholds": 0, "leaf weights before": 0, "leaf weights": 0}
    changed = 0
    for record, site, trees in list(ensembles(program)):
        moved = simplified(on_grid(shortened(trees, inputs_of(program, site, context.samples)), step))
        for key, one in (("before", trees), ("", moved)):
            branches = ~one.is_leaf
            pairs = np.stack([one.feature[branches].astype(float), one.threshold[branches].astype(float)])
            facts[f"thresholds {key}".strip()] += len(np.unique(pairs, axis=1).T)
            facts[f"leaf weights {key}".strip()] += len(np.unique(one.weight))
        store(record, site, moved)
        changed += 1
    if not changed:
        program.notes.append("cluster: the model has no tree ensembles that may be clustered")
    else:
        program.rounding.append("cluster: thresholds and weights of trees were moved")
    return PassReport("cluster", changed, facts=facts)


def _sizes(program: ir.Program) -> list[int]:
    return [len(trees.mode) for _, _, trees in ensembles(program)]


def _scores(facts: dict[str, Any]) -> str:
    before, after = facts["validation score before"], facts["validation score after"]
    return "" if before is None or after is None else f"; score on the validation part {before:.4f} -> {after:.4f}"


class _Search:
    """Looks for the smallest trees of one ensemble that keep within a drop."""

    def __init__(
        self, program: ir.Program, record: ir.WeightRecord, trees: Ensemble, samples: Samples, judge: Judge
    ) -> None:
        self.program, self.judge = program, judge
        self.number = next(i for i, other in enumerate(program.records) if other is record)
        site = program.sites[self.number]
        assert isinstance(site, ir.EnsembleSite)
        self.x = inputs_of(program, site, samples)
        rows = samples.for_statistics()
        labels = None if samples.labels is None else np.asarray(samples.labels)[rows]
        self.answers = None if labels is None else _votes(site.node, trees, labels)

    def smaller(self, trees: Ensemble, drop: float) -> Ensemble:
        """The trees pruned at the largest price of a leaf."""
        risks = complexity.risks_of(trees, self.x, self.answers)
        prices = complexity.alphas(trees, risks)

        def at(number: int) -> Ensemble:
            price = 0.0 if number == 0 else float(prices[number - 1])
            return simplified(complexity.pruned(trees, risks, price)) if number else trees

        return at(complexity.largest(len(prices), lambda number: self._keeps(at(number), drop)))

    def fewer(self, trees: Ensemble, drop: float) -> Ensemble:
        """Those that bring most, of trees that vote."""
        if self.answers is None:
            return trees
        part = slice(complexity.MOST_ROWS)
        order = complexity.in_order_of_gain(trees, self.x[part], self.answers[part])
        most = len(order)

        def without(number: int) -> Ensemble:
            return trees if number == 0 else complexity.with_trees(trees, order[: most - number])

        return without(complexity.largest(most - 1, lambda number: self._keeps(without(number), drop)))

    def _keeps(self, trees: Ensemble, drop: float) -> bool:
        tried = replace(self.program.copy(), notes=[])
        site = tried.sites[self.number]
        assert isinstance(site, ir.EnsembleSite)
        store(tried.records[self.number], site, trees)
        return keeps(self.judge, tried, drop)


def _votes(node: onnx.NodeProto, trees: Ensemble, labels: Array) -> Array | None:
    """What each tree should say, where trees vote about classes that labels are the numbers of."""
    classes = next((list(a.ints) for a in node.attribute if a.name == "classlabels_int64s"), [])
    if not classes or not complexity.is_average(trees) or not np.isin(labels, classes).all():
        return None
    targets = int(trees.target.max(initial=0)) + 1
    if targets != len(classes):
        return None
    leaf = int(np.flatnonzero(trees.is_leaf)[0])
    share = float(trees.leaf_weights(leaf)[1].sum())
    return np.asarray(labels.reshape(-1, 1) == np.array(classes)).astype(np.float64) * share
