"""Energy of one run of a model, modelled: bytes of weights that come from memory, and multiply-adds.

Figures are those of a 45 nm process (Horowitz, "Computing's energy problem", ISSCC 2014), which arXiv 1510.00149,
section 6.3, takes as well: 640 pJ for 32 bits from DRAM, 3.7 and 0.9 pJ for a product and a sum of floats, 0.2 and 0.1
pJ for a product of bytes and a sum of 32 bits. Weights are taken to come from memory once a run, as they do where they
are larger than the caches or something else ran meanwhile. Activations and all other operators are left out. It is a
model to compare layers by, not a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from dc_compiler import ir
from dc_compiler.codec import binding
from dc_compiler.model import packed

PICO = 1e-12
MEMORY_BYTE = 640 / 4 * PICO
FLOAT_MULTIPLY_ADD = (3.7 + 0.9) * PICO
BYTE_MULTIPLY_ADD = (0.2 + 0.1) * PICO
KEPT_BYTES = 4.5  # that sparse kernels read for a kept weight, about, its position included
KEPT_INT8_BYTES = 1.8  # the same in int8
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "MatMulInteger"})


@dataclass(frozen=True)
class Energy:
    """Joules a run."""

    memory: float
    operations: float

    @property
    def total(self) -> float:
        return self.memory + self.operations


@dataclass(frozen=True)
class _Weight:
    """A stored weight as it is read: bytes, and the share of its elements that multiply."""

    dims: tuple[int, ...]
    nbytes: float
    share: float
    multiply_add: float


def energy(model: onnx.ModelProto, inputs: Mapping[str, tuple[int, ...]]) -> Energy | None:
    """What a run on inputs of these shapes takes; None where the graph's shapes do not tell.

    Raises:
        DccError: a compiled model is damaged.
    """
    weights = _weights(model)
    plain = packed.unpack(model, "the model") if packed.is_compiled(model) else model
    shapes = _shapes(plain, inputs)
    memory = operations = 0.0
    used: set[str] = set()
    stored_as = {n.output[0]: n.input[0] for n in plain.graph.node if n.op_type in ("DequantizeLinear", "Transpose")}
    for node in plain.graph.node:
        factor = node.input[1] if len(node.input) > 1 else ""
        name = next((n for n in (factor, stored_as.get(factor, "")) if n in weights), None)
        if node.op_type not in PRODUCTS or name is None:
            continue
        output = shapes.get(node.output[0])
        if output is None:
            return None
        weight = weights[name]
        memory += 0.0 if name in used else weight.nbytes * MEMORY_BYTE
        used.add(name)
        operations += _multiply_adds(node, weight.dims, output) * weight.share * weight.multiply_add
    return Energy(memory, operations) if used else None


def _multiply_adds(node: onnx.NodeProto, dims: tuple[int, ...], output: tuple[int, ...]) -> float:
    """Of a layer with a dense weight: for each output element, one for each of its inputs."""
    inputs = math.prod(dims[1:]) if node.op_type == "Conv" else math.prod(dims) / max(1, output[-1])
    return math.prod(output) * inputs


def _weights(model: onnx.ModelProto) -> dict[str, _Weight]:
    """All stored weights by name, as the model reads them."""
    found: dict[str, _Weight] = {}
    graph = model.graph
    if packed.is_written(model):
        opened = packed.open_packed(model, "the model")
        graph = opened.inner.graph
        for payload in opened.payloads:
            info = binding.frame_info(payload.frame)
            for weight in payload.weights:
                found[weight.name] = _read_as(weight, info.nonzero / max(1, info.elements))
    for tensor in graph.initializer:
        size = ir.element_type(tensor.data_type).nbytes(math.prod(tensor.dims)) if tensor.dims else 0
        found.setdefault(tensor.name, _Weight(tuple(tensor.dims), size, 1.0, FLOAT_MULTIPLY_ADD))
    return found


def _read_as(weight: packed.PackedWeight, kept: float) -> _Weight:
    elements = math.prod(weight.dims)
    if weight.execution == ir.SPARSE:
        return _Weight(weight.dims, elements * kept * KEPT_BYTES, kept, FLOAT_MULTIPLY_ADD)
    if weight.execution == ir.SPARSE_INT8:
        return _Weight(weight.dims, elements * kept * KEPT_INT8_BYTES, kept, BYTE_MULTIPLY_ADD)
    if weight.execution == ir.INT8:
        return _Weight(weight.dims, elements, 1.0, BYTE_MULTIPLY_ADD)
    nbytes = ir.element_type(weight.elem_type).nbytes(elements)
    return _Weight(weight.dims, nbytes, 1.0, FLOAT_MULTIPLY_ADD)


def _shapes(model: onnx.ModelProto, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of values, as far as shape inference finds them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        if value.name in inputs:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, inputs[value.name]))
    del copy.graph.value_info[:]
    try:
        graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):  # what it cannot infer; very large messages
        return {}
    found: dict[str, tuple[int, ...]] = {}
    for value in (*graph.value_info, *graph.output):
        dims = [d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.HasField("shape") and min(dims, default=0) >= 0:
            found[value.name] = tuple(dims)
    return found


def counted(root: Path = Path("/sys/class/powercap")) -> float | None:
    """Joules that the processors have taken so far by their own counters (RAPL); None where there are none to read."""
    total, found = 0, False
    for counter in sorted(root.glob("intel-rapl:[0-9]*")):
        if counter.name.count(":") > 1:  # a part of a package
            continue
        try:
            total += int((counter / "energy_uj").read_text())
        except (OSError, ValueError):
            continue
        found = True
    return total * 1e-6 if found else None
