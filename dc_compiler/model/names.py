"""Names of values in a graph, and the operator set it is written in."""

from __future__ import annotations

from collections import Counter

import onnx

from dc_compiler import ir


def default_opset(model: onnx.ModelProto) -> int:
    """Version of the default operator set the model imports (0 when none)."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def unused_name(wanted: str, names: Counter[str]) -> str:
    """``wanted``, or with a number when the name is taken; the result is then taken too."""
    name, number = wanted, 2
    while names[name]:
        name = f"{wanted}.{number}"
        number += 1
    names[name] += 1
    return name


def defined_names(graph: onnx.GraphProto) -> list[str]:
    """Names of values that the graph and its bodies define, with repeats."""
    names: list[str] = []
    for g in ir.walk_graphs(graph):
        names += {i.name for i in g.input} | {t.name for t in g.initializer}
        names += [t.values.name for t in g.sparse_initializer]
        names += [o for n in g.node for o in n.output if o]
    return names
