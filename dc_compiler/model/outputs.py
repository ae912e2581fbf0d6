"""Gives a graph's outputs the shapes that onnxruntime infers, which a custom operator would hide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

Shape = Sequence[int | str | None]  # extents: numbers, symbolic names, or open


def declare_shapes(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> None:
    """Write inferred shapes into the declarations of tensor outputs.

    Args:
        graph: its outputs are changed where they declare less, or other names.
        shapes: of the outputs, as an onnxruntime session of the model reports them. An empty one stands for a scalar
            as well as for an unknown rank, so it changes nothing.
    """
    for output in graph.output:
        shape = shapes.get(output.name)
        if not shape or output.type.WhichOneof("value") != "tensor_type":
            continue
        tensor = output.type.tensor_type
        declared = [_extent(d) for d in tensor.shape.dim] if tensor.HasField("shape") else None
        if declared == list(shape):
            continue
        tensor.ClearField("shape")
        for extent in shape:
            if isinstance(extent, str):
                tensor.shape.dim.add(dim_param=extent)
            else:
                tensor.shape.dim.add(**({} if extent is None else {"dim_value": extent}))


def _extent(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    """An extent as onnxruntime reports it."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or None
