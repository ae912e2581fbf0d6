"""Which weights run in int8, and why others do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import onnx
from onnx import TensorProto

from dc_compiler import ir
from dc_compiler.codec import binding
from dc_compiler.codec.layer_gain import BEST_ISA, layer_gain
from dc_compiler.model import sparse
from dc_compiler.model.int8.convolutions import output_of, rounded_values
from dc_compiler.model.names import default_opset

LEAST_OPSET = 11  # that has DynamicQuantizeLinear, and Round
# Below, rounding the other factor takes about as long as integers save: benchmarks/layers.py --peers measures it
LEAST_SIZE = 1 << 16
LEAST_EXTENT = 32
GRID = 2  # codebook kind of a frame (FORMAT.md 2)

RangesOf = Callable[[ir.Program, Sequence[str]], dict[str, ir.Range]]


def choose_int8(program: ir.Program, ranges_of: RangesOf | None, *, session_form: bool = True) -> None:
    """Let every layer that can, and is large enough to gain, run in int8; a note tells how many cannot, and why.

    Looked at are products with a constant second factor (MatMul, Gemm) and convolutions of the main graph.

    Args:
        ranges_of: finds how values are rounded that convolutions read and make; None leaves convolutions alone.
        session_form: whether the library makes the graph that runs: products may run from what is kept where that is
            little, and what is computed of a weight is computed once.
    """
    graph, opset = program.proto.graph, default_opset(program.proto)
    readers, outputs = ir.readers(graph), {o.name for o in graph.output}
    stored = {s.value_name for s in program.sites} | {t.name for t in graph.initializer}
    chosen: list[tuple[ir.WeightRecord, str]] = []
    convolutions: list[onnx.NodeProto] = []
    others = Counter[str]()
    for record, site in zip(program.records, program.sites, strict=True):
        if record.frame is None or record.is_vector or record.exact is not None:
            continue
        name = site.value_name
        if site.graph is not graph or name in outputs:
            others["stored in a body, or an output"] += 1
            continue
        nodes = readers.get(name, [])
        obstacle = _obstacle(record, name, nodes, opset, ranges_of is not None)
        if obstacle is None and any(n is not None and n.input[0] in stored for n in nodes):
            obstacle = "what it multiplies is stored, too"
        if obstacle is None and not session_form and any(ir.attribute(n, "transB", 0) for n in nodes if n is not None):
            obstacle = "transposed, which in the graph form every run would do again"
        if obstacle is not None:
            others[obstacle] += 1
            continue
        chosen.append((record, name))
        convolutions += [n for n in nodes if n is not None and n.op_type == "Conv"]
    if convolutions and ranges_of is not None:
        program.ranges = ranges_of(program, rounded_values(convolutions, lambda n: output_of(n, readers)))
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    from_kept = 0
    for record, name in chosen:
        assert record.frame is not None
        can = (
            session_form
            and len(record.shape) == 2
            and all(n is not None and sparse.can_run(n, name, record, shapes) for n in readers[name])
        )
        gains = can and layer_gain(record.frame, in_int8=True, isa=BEST_ISA).runs
        record.execution = ir.SPARSE_INT8 if gains else ir.INT8
        from_kept += gains
    reasons = "".join(f"; {count} not: {reason}" for reason, count in others.most_common())
    count = f"{len(chosen)} {'weight runs' if len(chosen) == 1 else 'weights run'}"
    sparsely = f", {from_kept} of them from what is kept" if from_kept else ""
    program.notes.append(f"int8: {count} in integers{sparsely}{reasons}")


def _obstacle(
    record: ir.WeightRecord, name: str, readers: Sequence[onnx.NodeProto | None], opset: int, has_ranges: bool
) -> str | None:
    """Why a weight of the main graph does not run in int8, or None."""
    assert record.frame is not None
    info = binding.frame_info(record.frame)
    if info.elem_type != TensorProto.FLOAT or info.codebook_kind != GRID or info.channels == 0:
        return "not on a scaled grid of float32"
    if info.grid_lo < -128 or info.grid_lo + info.codebook_entries > 128:
        return "points of more than 8 bits"
    kinds = {node.op_type if node is not None else "a body" for node in readers}
    is_alike = kinds <= {"MatMul", "Gemm"} or kinds == {"Conv"}
    for node in readers:
        if node is None or not is_alike or not ir.multiplies(node, name):
            return f"read by {' and '.join(sorted(kinds))}"
        if opset < LEAST_OPSET:
            return f"operator set {opset} cannot round values to 8 bits ({LEAST_OPSET} can)"
        if node.op_type == "Conv" and not has_ranges:
            return "Conv, whose inputs need ranges: give --data, three batches or more"
        layout = _layout(node, info.dims)
        if layout is None:
            return f"{len(info.dims)} axes"
        if (info.channels, info.inner) != layout:
            return "scales along another axis"
    is_small = record.size < LEAST_SIZE or min(record.shape) < LEAST_EXTENT
    return "too small to gain" if is_small and kinds != {"Conv"} else None


def _layout(node: onnx.NodeProto, dims: tuple[int, ...]) -> tuple[int, int] | None:
    """Channels and inner extent of scales by output channel; None where the weight has too many axes or too few."""
    if not (3 <= len(dims) <= 5 if node.op_type == "Conv" else len(dims) == 2):
        return None
    return ir.channel_layout(dims, [ir.Use(node.op_type, 1, bool(ir.attribute(node, "transB", 0)))])
