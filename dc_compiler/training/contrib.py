"""Writes operators of the domain com.microsoft, which onnxruntime's optimizer puts into files, as standard ones.

Gradients are known for standard operators alone. Formulas: onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dc_compiler import ir

DOMAIN = "com.microsoft"
LAYER_NORMALIZATION = 17  # the operator set that brought it

Shapes = Mapping[str, Sequence[int]]


class _Writer:
    """Nodes in place of one; the values between them and the constants get names of their own."""

    def __init__(self, node: onnx.NodeProto, number: int, elem_type: int, shapes: Shapes) -> None:
        self.node, self.shapes = node, shapes
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._name, self._prefix = node.name or node.output[0], f"dcc.contrib.{number}."
        self._dtype = helper.tensor_dtype_to_np_dtype(elem_type)

    def given(self, index: int) -> str | None:
        """An input, or None where it is not given."""
        return self.node.input[index] if index < len(self.node.input) and self.node.input[index] else None

    def option(self, name: str, default: Any) -> Any:
        return ir.attribute(self.node, name, default)

    def op(self, kind: str, *inputs: str, **options: Any) -> str:
        result = f"{self._prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [result], self._node_name(), **options))
        return result

    def number(self, value: float) -> str:
        name = f"{self._prefix}c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, self._dtype), name))
        return name

    def give(self, value: str, output: int = 0) -> None:
        """Call a value what the node calls its output; nothing where that is not wanted."""
        if output < len(self.node.output) and self.node.output[output]:
            self.nodes.append(helper.make_node("Identity", [value], [self.node.output[output]], self._node_name()))

    def _node_name(self) -> str:
        return f"{self._name}#{len(self.nodes)}"


def _gelu(w: _Writer, x: str) -> str:
    """x/2 (1 + erf(x / sqrt 2))."""
    erf = w.op("Erf", w.op("Mul", x, w.number(math.sqrt(0.5))))
    return w.op("Mul", w.op("Mul", x, w.number(0.5)), w.op("Add", erf, w.number(1)))


def _tanh_gelu(w: _Writer, x: str) -> str:
    """x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    cube = w.op("Mul", w.op("Mul", x, x), x)
    inner = w.op("Mul", w.op("Add", x, w.op("Mul", cube, w.number(0.044715))), w.number(math.sqrt(2 / math.pi)))
    return w.op("Mul", w.op("Mul", x, w.number(0.5)), w.op("Add", w.op("Tanh", inner), w.number(1)))


def _biased(w: _Writer) -> str:
    """The first input, and where there is a second their sum."""
    x, bias = w.given(0), w.given(1)
    assert x is not None
    return x if bias is None else w.op("Add", x, bias)


def _plain_gelu(w: _Writer) -> bool:
    w.give(_gelu(w, _biased(w)))  # Gelu has one input, BiasGelu two
    return True


def _fast_gelu(w: _Writer) -> bool:
    w.give(_tanh_gelu(w, _biased(w)))
    return True


def _quick_gelu(w: _Writer) -> bool:
    """x sigmoid(alpha x)."""
    x = w.node.input[0]
    w.give(w.op("Mul", x, w.op("Sigmoid", w.op("Mul", x, w.number(w.option("alpha", 1.702))))))
    return True


def _fused_matmul(w: _Writer) -> bool:
    """alpha A' B', where ' transposes the last two axes or not."""
    if w.option("transBatchA", 0) or w.option("transBatchB", 0):
        return False
    sides = []
    for name, flag in zip(w.node.input, ("transA", "transB"), strict=True):
        rank = len(w.shapes.get(name, ()))
        if w.option(flag, 0) and rank < 2:
            return rank == 1
        axes = [*range(rank - 2), rank - 1, rank - 2]
        sides.append(w.op("Transpose", name, perm=axes) if w.option(flag, 0) else name)
    product, alpha = w.op("MatMul", *sides), w.option("alpha", 1.0)
    w.give(product if alpha == 1 else w.op("Mul", product, w.number(alpha)))
    return True


def _activated(w: _Writer, value: str) -> bool:
    """The activation that FusedConv and FusedGemm name."""
    kind = w.option("activation", "")
    kind = kind.decode() if isinstance(kind, bytes) else kind
    parameters = list(w.option("activation_params", []))
    if kind in ("Relu", "Sigmoid", "Tanh"):
        w.give(w.op(kind, value))
    elif kind == "LeakyRelu":
        w.give(w.op(kind, value, alpha=parameters[0] if parameters else w.option("activation_alpha", 0.01)))
    elif kind == "Clip" and len(parameters) == 2:
        w.give(w.op(kind, value, *map(w.number, parameters)))
    elif kind:
        return False
    else:
        w.give(value)
    return True


def _fused(kind: str, inputs: int) -> Callable[[_Writer], bool]:
    def write(w: _Writer) -> bool:
        own = {a.name: helper.get_attribute_value(a) for a in w.node.attribute if not a.name.startswith("activation")}
        names = list(w.node.input)
        value = w.op(kind, *names[:inputs], **own)
        if len(names) > inputs:  # FusedConv's Z
            value = w.op("Add", value, names[inputs])
        return _activated(w, value)

    return write


def _skip_layer_norm(w: _Writer) -> bool:
    """LayerNormalization(x + skip + bias); the fourth output is that sum."""
    if any(w.node.output[1:3]):
        return False
    x, skip, gamma, beta, bias = (w.given(i) for i in range(5))
    assert x is not None
    assert skip is not None
    assert gamma is not None
    total = w.op("Add", x, skip)
    total = total if bias is None else w.op("Add", total, bias)
    parameters = [gamma] if beta is None else [gamma, beta]
    w.give(w.op("LayerNormalization", total, *parameters, axis=-1, epsilon=w.option("epsilon", 1e-12)))
    w.give(total, 3)
    return True


# What writes an operator: False where the node's options have no such form
_FORMS: dict[str, Callable[[_Writer], bool]] = {
    "BiasGelu": _plain_gelu, "FastGelu": _fast_gelu, "FusedConv": _fused("Conv", 3),
    "FusedGemm": _fused("Gemm", 3), "FusedMatMul": _fused_matmul, "Gelu": _plain_gelu, "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer_norm,
}  # fmt: skip


def decompose(model: onnx.ModelProto, shapes: Shapes, elem_types: Mapping[str, int]) -> None:
    """Replace the operators of com.microsoft in the main graph that have a form of standard ones.

    Args:
        shapes, elem_types: of values of the main graph, as far as they are known.
    """
    standard = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    graph = model.graph

    def rewritten() -> Iterator[onnx.NodeProto]:
        for number, node in enumerate(graph.node):
            form = _FORMS.get(node.op_type) if node.domain == DOMAIN else None
            if node.op_type == "SkipLayerNormalization" and standard < LAYER_NORMALIZATION:
                form = None
            writer = _Writer(node, number, elem_types.get(node.output[0], onnx.TensorProto.FLOAT), shapes)
            if form is None or not form(writer):
                yield node
            else:
                graph.initializer.extend(writer.constants)
                yield from writer.nodes

    nodes = list(rewritten())
    del graph.node[:]
    graph.node.extend(nodes)
