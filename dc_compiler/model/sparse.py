"""Layers that run from the weights that were kept: which do, and their operators in the inner graph.

A layer whose weight is mostly zeros is faster when only what is not zero multiplies. The inner graph keeps its node, in
a domain of our own: the library runs it from the frame, or puts ONNX's domain in its place and decodes the weight
(FORMAT.md 9.2). Weights are the same; sums are taken in another order than onnxruntime's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx

from dc_compiler import ir
from dc_compiler.codec.layer_gain import BEST_ISA, layer_gain

RUN_DOMAIN = "dcc.run"
BOUNDS = frozenset({"Relu", "Clip"})  # behind a layer they are part of it


def choose_sparse(program: ir.Program, *, all_of_them: bool = False) -> None:
    """Let layers run from what is kept of their weights where they gain by it; a note tells how many do.

    The file is the same on every machine, so what gains with the best kernels counts; where it is loaded, the library
    decides for the kernels there.

    Args:
        all_of_them: whether they gain or not.
    """
    graph = program.proto.graph
    readers, outputs = ir.readers(graph), {o.name for o in graph.output}
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    count = 0
    for record, site in zip(program.records, program.sites, strict=True):
        name = site.value_name
        if record.frame is None or record.is_vector or site.graph is not graph or name in outputs:
            continue
        nodes = readers.get(name, [])
        runs = nodes and all(n is not None and can_run(n, name, record, shapes) for n in nodes)
        if runs and (all_of_them or layer_gain(record.frame, in_int8=False, isa=BEST_ISA).runs):
            record.execution = ir.SPARSE
            count += 1
    if count:
        program.notes.append(f"sparse: {count} {'weight runs' if count == 1 else 'weights run'} from what is kept")


def can_run(node: onnx.NodeProto, name: str, record: ir.WeightRecord, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the library has an operator for a node that reads a weight; ``shapes`` are those of stored tensors."""
    if not ir.multiplies(node, name) or record.values.dtype != "float32":
        return False
    if node.op_type != "Conv":
        columns = record.shape[0 if ir.attribute(node, "transB", 0) else -1] if len(record.shape) == 2 else 0
        return columns > 0 and _has_plain_bias(node, columns, shapes)
    is_depthwise = record.shape[1] == 1 and ir.attribute(node, "group", 1) > 1
    return len(record.shape) == 4 and not is_depthwise and ir.attribute(node, "auto_pad", "NOTSET") == "NOTSET"


def _has_plain_bias(node: onnx.NodeProto, columns: int, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether what a Gemm adds is a vector of as many numbers as there are outputs, or nothing."""
    if len(node.input) < 3 or not node.input[2]:
        return True
    return shapes.get(node.input[2]) in ((columns,), (1, columns))


def run_sparse(model: onnx.ModelProto, weights: Collection[str]) -> None:
    """Put the nodes that read these weights into the library's domain, and what bounds outputs of nodes there."""
    graph = model.graph
    readers, outputs = ir.readers(graph), {o.name for o in graph.output}
    bounds = []
    for node in graph.node:
        if len(node.input) > 1 and node.input[1] in weights:
            node.domain = RUN_DOMAIN
        follower = sole_reader(node.output[0], readers, outputs) if node.domain == RUN_DOMAIN else None
        if follower is not None and follower.op_type in BOUNDS and not follower.domain:
            bounds.append(follower)
    for node in bounds:
        node.domain = RUN_DOMAIN
    model.opset_import.add(domain=RUN_DOMAIN, version=1)


def sole_reader(
    value: str, readers: Mapping[str, Sequence[onnx.NodeProto | None]], outputs: Collection[str]
) -> onnx.NodeProto | None:
    """The node of the main graph whose first input a value is, if nothing else reads it."""
    found = readers.get(value, [])
    node = found[0] if len(found) == 1 and value not in outputs else None
    is_plain = node is not None and node.input[0] == value and list(node.input).count(value) == 1
    return node if is_plain else None
