"""What a stored tensor is to the operators that use it in the end: an operand of a product, or something else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx

from dc_compiler.ir.site import constant_tensor, subgraphs, walk_graphs

STANDARD = ("", "ai.onnx")
MICROSOFT = "com.microsoft"

# Operator -> inputs whose elements are factors of sums of products, or rows of an embedding. A small change of one
# changes the output a little; zero takes the term away.
_PRODUCTS: Mapping[str, frozenset[int]] = {
    "Attention": frozenset({0, 1, 2}), "Conv": frozenset({1}), "ConvInteger": frozenset({1}),
    "ConvTranspose": frozenset({1}), "DeformConv": frozenset({1}), "Einsum": frozenset(range(64)),
    "GRU": frozenset({1, 2}), "Gemm": frozenset({0, 1}), "LSTM": frozenset({1, 2}), "MatMul": frozenset({0, 1}),
    "MatMulInteger": frozenset({0, 1}), "QLinearConv": frozenset({3}), "QLinearMatMul": frozenset({0, 3}),
    "RNN": frozenset({1, 2}),
}  # fmt: skip
_MICROSOFT_PRODUCTS: Mapping[str, frozenset[int]] = {
    "Attention": frozenset({1}), "DecoderAttention": frozenset({2, 3}), "DecoderMaskedSelfAttention": frozenset({1}),
    "DynamicQuantizeLSTM": frozenset({1, 2}), "DynamicQuantizeMatMul": frozenset({1}),
    "EmbedLayerNormalization": frozenset({2, 3, 4}), "FusedConv": frozenset({1}), "FusedGemm": frozenset({0, 1}),
    "FusedMatMul": frozenset({0, 1}), "FusedMatMulActivation": frozenset({0, 1}),
    "GatedRelativePositionBias": frozenset({3}), "GatherBlockQuantized": frozenset({0}),
    "GemmFastGelu": frozenset({1}),
    "GroupQueryAttention": frozenset({0, 1, 2}), "LongformerAttention": frozenset({1, 4}),
    "MatMulIntegerToFloat": frozenset({0, 1}), "MatMulBnb4": frozenset({1}), "MatMulNBits": frozenset({1}),
    "MoE": frozenset({2, 4, 6}),
    "MultiHeadAttention": frozenset({0, 1, 2}), "NhwcConv": frozenset({1}), "NhwcFusedConv": frozenset({1}),
    "PackedAttention": frozenset({1}), "PackedMultiHeadAttention": frozenset({0, 1, 2}), "QAttention": frozenset({1}),
    "QGemm": frozenset({0, 3}), "TransposeMatMul": frozenset({0, 1}),
}  # fmt: skip
# Operators that hand on the elements of an input: what counts is who uses their output
_MOVES: Mapping[str, frozenset[int]] = {
    "Cast": frozenset({0}), "CastLike": frozenset({0}), "Compress": frozenset({0}), "Concat": frozenset(range(1024)),
    "DepthToSpace": frozenset({0}), "DequantizeLinear": frozenset({0}), "Dropout": frozenset({0}),
    "Expand": frozenset({0}), "Flatten": frozenset({0}), "GatherElements": frozenset({0}), "GatherND": frozenset({0}),
    "Identity": frozenset({0}), "Pad": frozenset({0}), "QuantizeLinear": frozenset({0}), "Reshape": frozenset({0}),
    "Slice": frozenset({0}), "SpaceToDepth": frozenset({0}), "Split": frozenset({0}), "Squeeze": frozenset({0}),
    "Tile": frozenset({0}), "Transpose": frozenset({0}), "Unsqueeze": frozenset({0}),
}  # fmt: skip
_SCALES = frozenset({"Mul", "Div", "Neg"})  # a weight may be scaled on its way to the operator that multiplies by it
_SIZES = frozenset({"Shape", "Size"})  # look at no element


_Consumer = tuple[onnx.NodeProto, int]  # and the number of its input


@dataclass
class Roles:
    """Answers, for a model, whether a value is used in products only."""

    _consumers: dict[str, list[_Consumer]] = field(default_factory=dict)
    _outputs: set[str] = field(default_factory=set)  # of the main graph
    _leaving: dict[str, list[str]] = field(default_factory=dict)  # a body's output -> the output of its If
    _opaque: dict[str, str] = field(default_factory=dict)  # an output of another body -> its operator
    _constants: dict[str, int] = field(default_factory=dict)  # stored tensors -> elements
    _functions: dict[tuple[str, str], onnx.FunctionProto] = field(default_factory=dict)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Roles:
        """Survey a model: time and memory in proportion to its nodes."""
        result = cls()
        result._outputs = {o.name for o in model.graph.output}
        result._functions = {(f.domain, f.name): f for f in model.functions}
        for graph in walk_graphs(model.graph):
            result._constants.update((t.name, math.prod(t.dims)) for t in graph.initializer)
            for node in graph.node:
                result._add(node, "")
        for function in model.functions:
            prefix = _scope(function)
            for graph in walk_graphs(onnx.GraphProto(node=function.node)):
                for node in graph.node:
                    result._add(node, prefix)
        return result

    def _add(self, node: onnx.NodeProto, prefix: str) -> None:
        stored = constant_tensor(node)
        if stored is not None:
            self._constants[prefix + node.output[0]] = math.prod(stored.dims)
        for index, name in enumerate(node.input):
            if name:
                self._consumers.setdefault(prefix + name, []).append((node, index))
        if not node.attribute:
            return
        for body in subgraphs(node):
            for inner, outer in zip(body.output, node.output, strict=False):
                if node.op_type == "If":
                    self._leaving.setdefault(prefix + inner.name, []).append(prefix + outer)
            if node.op_type != "If":
                self._opaque.update((prefix + o.name, node.op_type) for o in body.output)

    def obstacle(self, name: str) -> str | None:
        """Which use of a value is not that of an operand of a product, as "used by Add"; None when there is none."""
        kinds = set(self._users(name))
        if not kinds:
            return "not used in a product"
        others = sorted(k for k in kinds if k)
        return f"used by {others[0]}, not in a product" if others else None

    def _users(self, name: str) -> Iterator[str]:
        """For every operator that uses the value in the end: its name, or nothing where it multiplies by it."""
        pending, seen = [(name, "", False)], set()
        while pending:
            state = pending.pop()
            if state in seen:
                continue
            seen.add(state)
            value, prefix, scaled = state
            if not prefix and value in self._outputs:
                yield "the model's outputs"
            if prefix + value in self._opaque:
                yield self._opaque[prefix + value]
            pending += [(v.removeprefix(prefix), prefix, scaled) for v in self._leaving.get(prefix + value, ())]
            for node, index in self._consumers.get(prefix + value, ()):
                function = self._functions.get((node.domain, node.op_type))
                if function is not None:
                    yield from self._of_function(node, function, pending, prefix, index, scaled)
                elif _multiplies(node, index, scaled) or self._is_lookup(node, index, prefix):
                    yield ""
                elif hands_on(node, index):
                    pending += [(o, prefix, scaled) for o in node.output if o]
                elif _is_standard(node) and node.op_type in _SCALES:
                    pending.append((node.output[0], prefix, True))
                elif not (_is_standard(node) and node.op_type in _SIZES):
                    yield node.op_type

    def _of_function(
        self,
        node: onnx.NodeProto,
        function: onnx.FunctionProto,
        pending: list[tuple[str, str, bool]],
        prefix: str,
        index: int,
        scaled: bool,
    ) -> Iterator[str]:
        """Go on inside the function. What it hands out again counts as used by it."""
        if index < len(function.input):
            pending.append((function.input[index], _scope(function), scaled))
            if function.input[index] in function.output:
                yield node.op_type

    def _is_lookup(self, node: onnx.NodeProto, index: int, prefix: str) -> bool:
        """Whether rows of the tensor are looked up: an embedding. A table of positions is cut to the length of the
        input along one axis instead."""
        if not _is_standard(node) or index != 0:
            return False
        if node.op_type == "Gather":
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            return axis == 0 and prefix + node.input[1] not in self._constants
        is_cut = node.op_type == "Slice" and len(node.input) > 3 and prefix + node.input[2] not in self._constants
        return is_cut and self._constants.get(prefix + node.input[3]) == 1


def hands_on(node: onnx.NodeProto, index: int) -> bool:
    """Whether an operator only moves the elements of this input."""
    if not _is_standard(node):
        return node.domain == MICROSOFT and node.op_type in ("QuantizeLinear", "DequantizeLinear") and index == 0
    return index in _MOVES.get(node.op_type, ()) or (node.op_type == "Gather" and index == 0)


def _scope(function: onnx.FunctionProto) -> str:
    """Prefix that keeps the names inside a function apart from those of the graph."""
    return f"{function.domain}\0{function.name}\0"


def _is_standard(node: onnx.NodeProto) -> bool:
    return node.domain in STANDARD


def _multiplies(node: onnx.NodeProto, index: int, scaled: bool) -> bool:
    """Whether the operator's input is a factor in sums of products.

    What was scaled elementwise before is a weight only where weights stand: a table times activations is not.
    """
    products: Iterable[int] = ()
    if _is_standard(node):
        products = _PRODUCTS.get(node.op_type, ())
    elif node.domain == MICROSOFT:
        products = _MICROSOFT_PRODUCTS.get(node.op_type, ())
    return index in products and not (scaled and index == 0)
