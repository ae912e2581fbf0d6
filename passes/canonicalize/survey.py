"""Says from the message alone whether a graph has anything that canonicalize could change."""

from __future__ import annotations

import onnx

from dc_compiler import ir
from dc_compiler.passes.canonicalize.constants import EXACT

LOOKED_AT = frozenset({"Identity", "BatchNormalization"})


def has_work(graph: onnx.GraphProto) -> bool:
    """Whether the main graph may have Identity, batch normalization, computed constants, or what nothing uses.

    Most large graphs have none, and links between 100,000 nodes take seconds to make. Where it says no, the pass would
    change nothing and report nothing.
    """
    bodies = [g for g in ir.walk_graphs(graph) if g is not graph]
    used = {name for g in bodies for n in g.node for name in n.input} | {o.name for g in bodies for o in g.output}
    used.difference_update(name for g in bodies for name in ir.defined(g))
    used.update(o.name for o in graph.output)
    for node in graph.node:
        used.update(node.input)
    stored = {t.name for t in graph.initializer}
    if not stored <= used:
        return True
    for node in graph.node:
        kind = node.op_type
        if kind == "Constant":
            stored.update(node.output)
        if kind in LOOKED_AT or used.isdisjoint(node.output):
            return True
        if kind in EXACT and all(name in stored for name in node.input if name):
            return True
    return False
