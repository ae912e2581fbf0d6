"""Products of integers: MatMul and Gemm by an int8 weight, the other factor rounded to 8 bits as it comes.

The operators are those of onnxruntime's dynamic quantization, which it fuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from dc_compiler import ir
from dc_compiler.model.names import unused_name


def integer_product(
    node: onnx.NodeProto, scale: str, rounded: Sequence[str], names: Counter[str]
) -> list[onnx.NodeProto]:
    """MatMul or Gemm as a product of integers, times both scales, plus what Gemm adds."""

    def new(part: str) -> str:
        return unused_name(f"{node.output[0]}.{part}", names)

    value, value_scale, zero = rounded
    weight = node.input[1]
    nodes = []
    if ir.attribute(node, "transB", 0):
        nodes.append(helper.make_node("Transpose", [weight], [new("weight")], perm=[1, 0]))
        weight = nodes[-1].output[0]
    addend = node.input[2] if len(node.input) > 2 else ""
    product = new("product") if addend else node.output[0]
    sums, floats, scales = new("int32"), new("float"), new("scales")
    nodes += [
        helper.make_node("MatMulInteger", [value, weight, zero], [sums], name=node.name),
        helper.make_node("Cast", [sums], [floats], to=TensorProto.FLOAT),
        helper.make_node("Mul", [value_scale, scale], [scales]),
        helper.make_node("Mul", [floats, scales], [product]),
    ]
    if addend:
        nodes.append(helper.make_node("Add", [product, addend], [node.output[0]]))
    return nodes
