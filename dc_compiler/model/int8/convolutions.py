"""Convolutions of values that are rounded to 8 bits before and after, as onnxruntime fuses them (QDQ format)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dc_compiler import ir
from dc_compiler.model.names import unused_name

CHANNEL_OPSET = 13  # whose DequantizeLinear takes a scale a channel
CONTRIB = "com.microsoft"  # has one for older operator sets
FUSED = frozenset({"Relu", "Clip"})  # after a convolution: the range of what they give says it all


def output_of(node: onnx.NodeProto, readers: Mapping[str, Sequence[onnx.NodeProto | None]]) -> str:
    """The value that a convolution makes, behind a Relu or Clip that alone reads it."""
    name = str(node.output[0])
    found = readers.get(name, [])
    following = found[0] if len(found) == 1 else None
    if following is not None and following.op_type in FUSED and following.input[0] == name:
        return str(following.output[0])
    return name


def rounded_values(nodes: Iterable[onnx.NodeProto], output: Callable[[onnx.NodeProto], str]) -> list[str]:
    """Names of what convolutions read and make, each once."""
    return list(dict.fromkeys(name for node in nodes for name in (str(node.input[0]), output(node))))


def dequantized(
    graph: onnx.GraphProto, weight: str, scale: str, channels: int, opset: int, names: Counter[str]
) -> onnx.NodeProto:
    """The node that makes floats of an int8 weight for whoever does not take integers; its zero points are put among
    the initializers."""
    zero = unused_name(f"{weight}.zero", names)
    graph.initializer.append(numpy_helper.from_array(np.zeros(channels, np.int8), zero))
    output = unused_name(f"{weight}.float", names)
    domain = "" if opset >= CHANNEL_OPSET else CONTRIB
    return helper.make_node("DequantizeLinear", [weight, scale, zero], [output], domain=domain, axis=0)


def dequantized_bias(
    node: onnx.NodeProto, value_scale: str, weight_scale: str, names: Counter[str]
) -> list[onnx.NodeProto]:
    """Nodes that round a convolution's bias to int32 and make floats of it again; onnxruntime computes them at load.

    It does so itself for newer operator sets; for older ones it writes operators that these do not have.
    """
    bias = node.input[2]

    def new(part: str) -> str:
        return unused_name(f"{bias}.{part}", names)

    scale, quotient, nearest, integers, floats = map(new, ("scale", "quotient", "nearest", "int32", "float"))
    return [
        helper.make_node("Mul", [weight_scale, value_scale], [scale]),
        helper.make_node("Div", [bias, scale], [quotient]),
        helper.make_node("Round", [quotient], [nearest]),
        helper.make_node("Cast", [nearest], [integers], to=TensorProto.INT32),
        helper.make_node("DequantizeLinear", [integers, scale], [floats], domain=CONTRIB, axis=0),
    ]


def rounded(
    graph: onnx.GraphProto, value: str, bounds: ir.Range, opset: int, names: Counter[str]
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """Nodes that round a value to 8 bits and make floats of it again; scale and zero point become initializers."""
    scale, zero = (unused_name(f"{value}.{part}", names) for part in ("range", "zero"))
    graph.initializer.append(numpy_helper.from_array(np.array(bounds.scale, np.float32), scale))
    graph.initializer.append(numpy_helper.from_array(np.array(bounds.zero, np.uint8), zero))
    integers, floats = (unused_name(f"{value}.{part}", names) for part in ("uint8", "float"))
    domain = "" if opset >= CHANNEL_OPSET else CONTRIB
    return (
        helper.make_node("QuantizeLinear", [value, scale, zero], [integers], domain=domain),
        helper.make_node("DequantizeLinear", [integers, scale, zero], [floats], domain=domain),
    )
