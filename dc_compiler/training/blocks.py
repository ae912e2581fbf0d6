"""Finds where blocks of a model end, so that training can hold each to what the original's gives (arXiv 2102.05426)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx

from dc_compiler import ir

MOST = 6  # ends that are looked at


def ends(graph: onnx.GraphProto, original: onnx.GraphProto, weights: Collection[str], value: str) -> list[str]:
    """Values between the weights and ``value`` that all errors of weights before them pass through, ``MOST`` at the
    most, with about as many of the weights' uses between one and the next.

    Args:
        graph: in topological order; ``value`` is made by one of its nodes. original: whose values of the same name are
            to be compared with, so that what passes made differently is not among them.
        weights: values that count as weights; what does not depend on them is the same in both.
    """
    nodes = _needed(graph.node, value)
    last = {name: i for i, node in enumerate(nodes) for name in _reads(node)}
    last[value] = len(nodes)
    known = {name: node.op_type for node in original.node for name in node.output}
    depends, live = set(weights), set[str]()
    found: list[tuple[str, int]] = []
    uses = 0
    for i, node in enumerate(nodes):
        read = _reads(node)
        uses += len(read & set(weights))
        if not depends.isdisjoint(read):
            depends.update(n for n in node.output if n)
            live.update(n for n in node.output if last.get(n, -1) > i)
        live = {n for n in live if last[n] > i}
        if len(live) == 1:
            name = next(iter(live))
            if name in node.output and name != value and known.get(name) == node.op_type:
                found.append((name, uses))
    return _spread(found, uses)


def _needed(nodes: Sequence[onnx.NodeProto], value: str) -> list[onnx.NodeProto]:
    """The nodes that a value depends on, in their order."""
    wanted, kept = {value}, []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted |= _reads(node)
            kept.append(node)
    return kept[::-1]


def _reads(node: onnx.NodeProto) -> set[str]:
    bodies = (g for body in ir.subgraphs(node) for g in ir.walk_graphs(body))
    return {name for names in (node.input, *(n.input for g in bodies for n in g.node)) for name in names if name}


def _spread(found: Sequence[tuple[str, int]], uses: int) -> list[str]:
    """The last value up to each of equal parts of the uses; none where no weight comes after it."""
    chosen: list[str] = []
    for k in range(1, MOST + 1):
        most = k * uses / (MOST + 1)
        before = [(name, n) for name, n in found if 0 < n <= most and n < uses]
        if before and before[-1][0] not in chosen:
            chosen.append(before[-1][0])
    return chosen
