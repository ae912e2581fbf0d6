"""Nodes that compute constants, replaced by what they compute where that makes the file smaller."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from dc_compiler import ir
from dc_compiler.codec import binding
from dc_compiler.errors import ModelError
from dc_compiler.ort.sessions import Sessions
from dc_compiler.passes.canonicalize.surgery import DOMAINS, Surgery

# Operators that put elements elsewhere and change none
MOVING = frozenset({"Concat", "Flatten", "Gather", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
# Those whose result every machine computes alike: no sums, whose order differs, and no series
EXACT = MOVING | frozenset(
    {
        "Abs", "Add", "And", "Cast", "Ceil", "Div", "Equal", "Floor", "Greater", "Less", "Max", "Min", "Mul", "Neg",
        "Not", "Or", "Reciprocal", "Shape", "Size", "Sqrt", "Sub", "Where",
    }
)  # fmt: skip
LARGE = 1024  # elements from which on it counts what a coder makes of a tensor, not its raw size
ENTRY = 16  # bytes of a stored tensor beside its name and data


def fold_constant(surgery: Surgery, node: gs.Node, sessions: Sessions) -> str | None:
    """Replace a node by its value if all its inputs are stored and the file gets smaller.

    What is used elsewhere, too, stays for the others and would be there twice. Packed integers stay packed:
    dequantization is not folded. A weight that the node alone takes stays under its name, with the new value.

    Returns:
        Why it stays although it reads a large stored tensor; None when it is folded, or not one to fold.
    """
    if node.op not in EXACT or node.domain not in DOMAINS or len(node.outputs) != 1:
        return None
    tensors = {t.name: t for t in node.inputs if not t.is_empty()}
    arrays = {name: surgery.constant(t) for name, t in tensors.items()}
    stored = {name: array for name, array in arrays.items() if array is not None}
    if len(stored) < len(arrays) or not stored or node.outputs[0].name in surgery.fixed:
        return None
    freed = {n: a for n, a in stored.items() if all(c is node for c in tensors[n].outputs)}
    large = {n for n, a in stored.items() if a.size >= LARGE}
    is_large, is_shared = bool(large), not large <= freed.keys()
    more = "what it reads is used elsewhere, too" if is_shared else "its value takes more bytes than what it is made of"
    reason = more if is_large else None
    saved = surgery.message(node).ByteSize() + sum(a.nbytes + ENTRY for a in freed.values())
    if _most_elements(node.op, list(stored.values())) > saved:
        return reason
    result = _computed(surgery, node, stored, sessions)
    if result is None or not (result.dtype.kind in "iub" or np.isfinite(result.astype(np.float64)).all()):
        return "onnxruntime does not compute it, or not as finite numbers" if is_large else None
    if result.nbytes + ENTRY + len(node.outputs[0].name) >= saved:
        return reason
    if node.op not in MOVING and is_large and _coded(result) > sum(map(_coded, freed.values())):
        return reason
    host = _host(surgery, [tensors[n] for n in freed], result)
    if host is None:
        surgery.store(node.outputs[0], result)
    else:
        record = surgery.record(host)
        assert record is not None
        surgery.replace(record, result)
        surgery.bypass(node, host)
    return None


def _most_elements(op: str, inputs: Sequence[np.ndarray]) -> int:
    """How many elements the result has at most, before anything is computed."""
    if op == "Gather":
        return math.prod(a.size for a in inputs)
    if op in MOVING:
        return sum(a.size for a in inputs)
    try:
        return math.prod(np.broadcast_shapes(*(a.shape for a in inputs)))
    except ValueError:
        return sum(a.size for a in inputs)


def _computed(
    surgery: Surgery, node: gs.Node, values: Mapping[str, np.ndarray], sessions: Sessions
) -> np.ndarray | None:
    """What onnxruntime makes of the node, the way it folds constants itself."""
    message = surgery.message(node)
    model = onnx.ModelProto(
        ir_version=surgery.program.proto.ir_version, opset_import=surgery.program.proto.opset_import
    )
    model.graph.name = "constant"
    model.graph.node.add().CopyFrom(message)
    model.graph.node[0].input[:] = [t.name for t in node.inputs]
    for name, array in values.items():
        elem_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, elem_type, array.shape))
    model.graph.output.add(name=message.output[0])
    try:
        result = sessions.open(model, 1).run(None, dict(values))[0]
    except ModelError:
        return None
    except Exception:  # onnxruntime's exceptions share no base class; element types that NumPy lacks end here, too
        return None
    return result if isinstance(result, np.ndarray) and result.dtype.kind in "fiub" else None


def _coded(array: np.ndarray) -> int:
    """Bytes that a lossless coder makes of it."""
    is_float = array.dtype.kind == "f"
    return len(binding.encode_data(array if is_float else np.ascontiguousarray(array).reshape(-1).view(np.uint8)))


def _host(surgery: Surgery, freed: Sequence[gs.Tensor], result: np.ndarray) -> gs.Tensor | None:
    """The largest weight among what the node alone takes, if the value can stand in its place."""
    found: list[tuple[ir.WeightRecord, gs.Tensor]] = []
    for tensor in freed:
        record = surgery.record(tensor)
        if record is not None and record.values.dtype == result.dtype and tensor.name not in surgery.hidden:
            found.append((record, tensor))
    return max(found, key=lambda f: f[0].size)[1] if found else None
