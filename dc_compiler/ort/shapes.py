"""Shape inference without weights, and what runs of given extents would cost: cheap for models of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, TypeProto, helper

from dc_compiler import ir

Dim = int | str | None  # an extent, a symbol, or not known
SMALL = 1024  # elements up to which a tensor's data may be a shape that inference needs


@dataclass(frozen=True)
class Value:
    """Element type and extents of a tensor; ``dims`` is None where even the rank is not known."""

    elem_type: int
    dims: tuple[Dim, ...] | None


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the data of small tensors alone; the others keep type and shape."""
    graph = onnx.GraphProto(
        name=model.graph.name, input=model.graph.input, output=model.graph.output, value_info=model.graph.value_info
    )
    graph.initializer.extend(_without_data(t) for t in model.graph.initializer)
    for node in model.graph.node:
        graph.node.append(node)
        _strip(graph.node[-1])
    return onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions, graph=graph
    )


def infer(model: onnx.ModelProto, inputs: Mapping[str, Sequence[Dim]] | None = None) -> dict[str, Value]:
    """Types and shapes of the tensors of the main graph and its bodies, as far as inference finds them.

    Args:
        model: what :func:`skeleton` gives; its inputs' shapes are replaced.
        inputs: extents of inputs.
    """
    for value in model.graph.input:
        if inputs is not None and value.name in inputs:
            elem_type = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, elem_type, inputs[value.name]))
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # what does not fit is found by running
        inferred = model
    found: dict[str, Value] = {}
    for graph in ir.walk_graphs(inferred.graph):
        for info in (*graph.value_info, *graph.output, *graph.input):
            if info.type.HasField("tensor_type"):
                found[info.name] = _value(info.type.tensor_type)
    for site in ir.weight_sites(inferred.graph):
        if site.tensor is not None:
            found[site.value_name] = Value(site.tensor.data_type, tuple(site.tensor.dims))
    return found


@dataclass(frozen=True)
class Cost:
    """Bytes of all values of a run, and multiplications, as far as shapes are known."""

    values: int
    multiplications: int


def cost(model: onnx.ModelProto, found: Mapping[str, Value]) -> Cost:
    """What a run would cost with shapes that :func:`infer` found."""
    size = work = 0
    for graph in ir.walk_graphs(model.graph):
        for node in graph.node:
            for name in node.output:
                elements = _elements(found.get(name))
                size += elements * _itemsize(found[name].elem_type) if elements else 0
                work += elements * _depth(node, found)
    return Cost(size + sum(_elements(found.get(i.name)) * 4 for i in model.graph.input), work)


def _depth(node: onnx.NodeProto, found: Mapping[str, Value]) -> int:
    """Multiplications for one element of a product's output."""
    if node.op_type in ("Conv", "ConvTranspose") and len(node.input) > 1:
        dims = _known(found.get(node.input[1]))
        return math.prod(dims[1:]) if dims else 1
    if node.op_type in ("MatMul", "Gemm") and node.input:
        dims = _known(found.get(node.input[0]))
        return dims[-1] if dims else 1
    return 1


def _known(value: Value | None) -> tuple[int, ...]:
    """The extents when all are known, else nothing."""
    if value is None or value.dims is None or not all(isinstance(d, int) for d in value.dims):
        return ()
    return tuple(int(d) for d in value.dims if isinstance(d, int))


def _elements(value: Value | None) -> int:
    dims = _known(value)
    return math.prod(dims) if dims else 0


def _itemsize(elem_type: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(elem_type).itemsize) if elem_type != TensorProto.STRING else 32


def _value(kind: TypeProto.Tensor) -> Value:
    if not kind.HasField("shape"):
        return Value(kind.elem_type, None)
    return Value(kind.elem_type, tuple(_dims(kind)))


def _dims(kind: TypeProto.Tensor) -> Iterator[Dim]:
    for dim in kind.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            yield int(dim.dim_value)
        else:
            yield dim.dim_param or None


def _without_data(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if math.prod(tensor.dims) <= SMALL and not tensor.external_data:
        return tensor
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _strip(node: onnx.NodeProto) -> None:
    """Drop the data of large tensors in a node's attributes and in its bodies."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            attribute.t.CopyFrom(_without_data(attribute.t))
    for body in ir.subgraphs(node):
        for tensor in body.initializer:
            tensor.CopyFrom(_without_data(tensor))
        for inner in body.node:
            _strip(inner)
