"""Calls between a model's own functions: refused when they never end or grow beyond all bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from dc_compiler import ir
from dc_compiler.errors import ModelError

MAX_NODES = 10_000_000  # of a model whose functions are all written out
Key = tuple[str, str, str]  # domain, name, overload


def check_calls(proto: onnx.ModelProto, label: str) -> None:
    """Refuse functions that call themselves, directly or through others, and calls that fan out without measure.

    Raises:
        ModelError
    """
    calls = {_key(f): [_called(n) for n in _nodes(f.node)] for f in proto.functions}
    sizes: dict[Key, int] = {}  # nodes of a function that is written out
    for function in calls:
        _measure(function, calls, sizes, label)
    graphs = ir.walk_graphs(proto.graph) if calls else ()
    total = sum(sizes.get(_called(n), 1) for g in graphs for n in g.node)
    if total > MAX_NODES:
        raise ModelError(f"{label}: its functions stand for {total:,} nodes; more than {MAX_NODES:,} are refused")


def _measure(start: Key, calls: dict[Key, list[Key]], sizes: dict[Key, int], label: str) -> None:
    """Fill in ``sizes`` of a function and of all that it calls, without recursion."""
    path: list[tuple[Key, Iterator[Key]]] = [(start, iter(calls[start]))]
    open_keys = {start}
    while path:
        key, rest = path[-1]
        callee = next((c for c in rest if c in calls and c not in sizes), None)
        if callee is None:
            sizes[key] = sum(sizes.get(c, 1) for c in calls[key])
            open_keys.discard(key)
            path.pop()
        elif callee in open_keys:
            raise ModelError(f"{label}: function '{callee[1]}' calls itself, which ONNX forbids")
        else:
            open_keys.add(callee)
            path.append((callee, iter(calls[callee])))


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of the bodies within them."""
    for node in nodes:
        yield node
        for body in ir.subgraphs(node):
            for graph in ir.walk_graphs(body):
                yield from graph.node


def _key(function: onnx.FunctionProto) -> Key:
    return function.domain, function.name, getattr(function, "overload", "")


def _called(node: onnx.NodeProto) -> Key:
    return node.domain, node.op_type, getattr(node, "overload", "")
