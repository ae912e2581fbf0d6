"""Turns a model with a scalar output into one that also gives that output's gradients: onnx-ad, and rules of our own.

onnx-ad (PyPI) writes the reverse graph. It carries several gradients at once on a trailing axis, which costs a training
step several times the arithmetic in transposes, and it lacks what real models use: weights of grouped convolutions,
automatic padding, symbolic extents. A loss has one gradient and training knows every extent, so the operators that take
the time (convolutions, products, pools, clips) get rules here that use plain ONNX operators at full speed.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, version_converter
from onnx_ad import UnsupportedOperator, reverse
from onnx_ad.rules import REVERSE

from dc_compiler import ir
from dc_compiler.errors import ModelError

Rule = Callable[[Any, onnx.NodeProto, list[str | None]], list[str | None]]

REMEDY = "keep what is before it out of training with --skip GLOB, or give the model as it was exported, not optimized"
# Operators of floats whose results move in steps: nothing before them can be trained through them
_STEPS = frozenset(
    {
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
        "QAttention",
        "QGemm",
    }
)
GRADIENT = "adj_"  # prefix of gradient outputs
MOST_PRODUCTS = 32  # places of a kernel that become a product of matrices each
OPSET = 18  # the rules' operators; older models are converted where possible
_PATCHING = threading.Lock()


def add_gradients(model: onnx.ModelProto, inputs: Sequence[str], output: str) -> onnx.ModelProto:
    """A model that also computes d output / d input for each of ``inputs``.

    Args:
        model: every input has a fully known shape; ``output`` is a float scalar.
        inputs: names of float inputs.

    Returns:
        A model with the outputs ``GRADIENT + name``, of the input's element type: its elements in row-major order, in
        some shape.

    Raises:
        ModelError: an operator between an input and the output has no gradient; its node is named.
    """
    newer = _newer(inlined(model))
    _refuse_foreign(newer.graph, inputs, output)
    try:
        with _own_rules():
            result: onnx.ModelProto = reverse(
                newer, list(inputs), [output], prefix=GRADIENT, dim=f"n{GRADIENT}", layout="onnx"
            )
    except UnsupportedOperator as e:
        raise ModelError(f"the model cannot be trained: {e}; {REMEDY}") from None
    seed = GRADIENT + output
    kept = [i for i in result.graph.input if i.name != seed]
    del result.graph.input[:]
    result.graph.input.extend(kept)
    dtype = next(o for o in result.graph.output if o.name == output).type.tensor_type.elem_type
    one = np.ones(1, helper.tensor_dtype_to_np_dtype(dtype))
    result.graph.initializer.append(onnx.numpy_helper.from_array(one, seed))
    _drop_unused(result.graph)
    _drop_last_reshapes(result.graph, {GRADIENT + n for n in inputs})
    return result


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own: their nodes stand in the main graph."""
    return inliner.inline_local_functions(model) if model.functions else model


def reached(graph: onnx.GraphProto, output: str) -> set[str]:
    """Values that ``output`` is differentiable by, as far as types tell: integers and rounding are in no one's way.

    Args:
        graph: element types that it does not declare count as floats.
    """
    integers = {name for name, kind in _elem_types(graph).items() if not ir.is_compressible(kind)}
    found = {output}
    for node in reversed(graph.node):
        if node.op_type not in _STEPS and not found.isdisjoint(node.output):
            found.update(name for name in _reads(node) if name not in integers)
    return found


def _reads(node: onnx.NodeProto) -> set[str]:
    """Values that a node takes in, those that its bodies capture included."""
    bodies = (g for body in ir.subgraphs(node) for g in ir.walk_graphs(body))
    return {name for names in (node.input, *(n.input for g in bodies for n in g.node)) for name in names if name}


def _elem_types(graph: onnx.GraphProto) -> dict[str, int]:
    values = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    known = {name: kind for name, kind in values.items() if kind}
    return known | {t.name: t.data_type for t in graph.initializer}


def _refuse_foreign(graph: onnx.GraphProto, inputs: Sequence[str], output: str) -> None:
    """onnx-ad looks at names of operators alone, so that it would take another domain's for ONNX's.

    Raises:
        ModelError: an operator of another domain lies between an input and the output.
    """
    useful, depends = reached(graph, output), set(inputs)
    for node in graph.node:
        if depends.isdisjoint(_reads(node)) or useful.isdisjoint(node.output):
            continue
        depends.update(node.output)
        if node.domain not in ("", "ai.onnx") and node.op_type not in _STEPS:
            who = f"node '{node.name or node.output[0]}' ({node.op_type} of {node.domain})"
            raise ModelError(f"the model cannot be trained: {who} has no gradient; {REMEDY}")


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes that no output needs: onnx-ad has gradients of constants too, and onnxruntime would run them."""
    needed, kept = {o.name for o in graph.output}, []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node.input)
            for body in ir.subgraphs(node):
                needed.update(name for g in ir.walk_graphs(body) for n in g.node for name in n.input)
            needed.discard("")  # an optional input that is not given
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _drop_last_reshapes(graph: onnx.GraphProto, gradients: set[str]) -> None:
    """Give the operand of a last Reshape instead of its result: the same elements in the same order, without a copy."""
    uses = Counter(name for node in graph.node for name in node.input)
    makers = {name: node for node in graph.node for name in node.output}
    uses.update(o.name for o in graph.output if o.name not in gradients)
    for output in graph.output:
        node = makers.get(output.name)
        if output.name in gradients and node is not None and node.op_type == "Reshape" and not uses[output.name]:
            source = makers.get(node.input[0])
            if source is None or uses[node.input[0]] > 1:
                continue
            graph.node.remove(node)
            source.output[list(source.output).index(node.input[0])] = output.name
            output.type.tensor_type.ClearField("shape")


def _newer(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model for operator set 18 where the converter manages; else as it is."""
    if any(o.domain in ("", "ai.onnx") and o.version >= OPSET for o in model.opset_import):
        return model
    try:
        converted: onnx.ModelProto = version_converter.convert_version(model, OPSET)
        return converted
    except Exception:  # the converter knows not every operator and raises bare RuntimeError
        return model


@contextmanager
def _own_rules() -> Iterator[None]:
    """onnx-ad's table with our rules in it, and with every refusal naming its node."""
    with _PATCHING:
        saved: dict[str, Rule] = dict(REVERSE)
        REVERSE.update({kind: _named(RULES.get(kind, rule)) for kind, rule in saved.items()})
        try:
            yield
        finally:
            REVERSE.update(saved)


def _named(rule: Rule) -> Rule:
    def run(ctx: Any, node: onnx.NodeProto, grads: list[str | None]) -> list[str | None]:
        try:
            return rule(ctx, node, grads)
        except UnsupportedOperator as e:
            name = node.name or node.output[0]
            raise UnsupportedOperator(f"node '{name}' ({node.op_type}) has no gradient: {e}") from None

    return run


def _shape(ctx: Any, name: str) -> list[int]:
    shape = ctx.shapes.static(name)
    if shape is None:
        raise UnsupportedOperator(f"the shape of '{name}' is not known")
    return list(shape)


def _reshape(ctx: Any, value: str, shape: Sequence[int]) -> str:
    return str(ctx.b.op("Reshape", [value, ctx.b.ints(shape)]))


def _plain(ctx: Any, gradient: str | None, of: str) -> str:
    """A gradient without onnx-ad's trailing axis, in the shape of the value it belongs to."""
    return _reshape(ctx, ctx.full(gradient, of), _shape(ctx, of))


def _seeded(ctx: Any, gradient: str, of: str) -> str:
    """The reverse of :func:`_plain`."""
    return _reshape(ctx, gradient, [*_shape(ctx, of), 1])


def _wants(ctx: Any, node: onnx.NodeProto, index: int) -> bool:
    return len(node.input) > index and bool(node.input[index]) and bool(ctx.asked_for(node.input[index]))


class _Window:
    """Extents of a sliding-window node: kernel, strides, dilations and explicit pads, one entry an axis."""

    def __init__(self, node: onnx.NodeProto, extents: Sequence[int], kernel: Sequence[int]) -> None:
        rank = len(kernel)
        self.kernel = list(kernel)
        self.strides = list(ir.attribute(node, "strides", [1] * rank))
        self.dilations = list(ir.attribute(node, "dilations", [1] * rank))
        self.reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        mode = ir.attribute(node, "auto_pad", "NOTSET")
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            total = [
                max(0, (math.ceil(n / s) - 1) * s + r - n)
                for n, s, r in zip(extents, self.strides, self.reach, strict=True)
            ]
            small, large = [t // 2 for t in total], [t - t // 2 for t in total]
            self.pads = small + large if mode == "SAME_UPPER" else large + small
        else:
            self.pads = list(ir.attribute(node, "pads", [0] * (2 * rank)))
        self.padded = [n + a + b for n, a, b in zip(extents, self.pads[:rank], self.pads[rank:], strict=True)]

    def members(self, axis: int, extent: int, outputs: int, with_pads: bool) -> np.ndarray:
        """How many elements of an axis each of its windows covers, padding included or not: [outputs]."""
        places = np.add.outer(
            np.arange(outputs) * self.strides[axis], np.arange(self.kernel[axis]) * self.dilations[axis]
        )
        before = self.pads[axis]
        first, last = (0, self.padded[axis]) if with_pads else (before, before + extent)
        return np.asarray(((places >= first) & (places < last)).sum(axis=1))


def _conv(ctx: Any, node: onnx.NodeProto, grads: list[str | None]) -> list[str | None]:
    """y = x * w + b: dx is the transposed convolution of dy, dw the convolution of x by dy over the batch."""
    x, w, y = node.input[0], node.input[1], node.output[0]
    extents, outputs = _shape(ctx, x)[2:], _shape(ctx, y)[2:]
    window = _Window(node, extents, _shape(ctx, w)[2:])
    dy = _plain(ctx, grads[0], y)
    result: list[str | None] = [None, None, None]
    if _wants(ctx, node, 0):
        ends = [(o - 1) * s + r for o, s, r in zip(outputs, window.strides, window.reach, strict=True)]
        rest = [p - e for p, e in zip(window.padded, ends, strict=True)]  # padded input that no window touches
        dx = ctx.b.op(
            "ConvTranspose", [dy, w], group=ir.attribute(node, "group", 1), strides=window.strides, pads=window.pads,
            dilations=window.dilations, output_padding=rest,
        )  # fmt: skip
        result[0] = _seeded(ctx, dx, x)
    if _wants(ctx, node, 1):
        result[1] = _conv_weight(ctx, node, window, dy)
    if _wants(ctx, node, 2):
        axes = [0, *range(2, 2 + len(extents))]
        result[2] = _seeded(ctx, ctx.reduce_sum(dy, axes, keepdims=0), node.input[2])
    return result


def _conv_weight(ctx: Any, node: onnx.NodeProto, window: _Window, dy: str) -> str:
    """dw: batch and channels change places."""
    channels, (_, c, *kernel) = _shape(ctx, node.input[0])[1], _shape(ctx, node.input[1])
    if channels == c and math.prod(kernel) <= MOST_PRODUCTS:
        return _conv_weight_by_products(ctx, node, window, dy)
    return _conv_weight_by_convolution(ctx, node, window, dy)


def _conv_weight_by_products(ctx: Any, node: onnx.NodeProto, window: _Window, dy: str) -> str:
    """dw at each place of the kernel is a product of matrices: of the inputs that the place sees, [c, n ...], and of
    dy, [m, n ...]. onnxruntime takes a third to a quarter of the time for these that it takes for a convolution."""
    (_, c, *_), (_, m, *outputs) = _shape(ctx, node.input[0]), _shape(ctx, node.output[0])
    kernel, rank = window.kernel, len(window.kernel)
    turn, axes = [1, 0, *range(2, 2 + rank)], list(range(2, 2 + rank))
    seen = ctx.b.op("Transpose", [node.input[0]], perm=turn)
    if any(window.pads):
        pads = [0, 0, *window.pads[:rank], 0, 0, *window.pads[rank:]]
        seen = ctx.b.op("Pad", [seen, ctx.b.ints(pads)])
    right = _reshape(ctx, ctx.b.op("Transpose", [dy], perm=turn), [m, -1])
    products = []
    for place in itertools.product(*(range(k) for k in kernel)):
        starts = [p * d for p, d in zip(place, window.dilations, strict=True)]
        ends = [a + (o - 1) * s + 1 for a, o, s in zip(starts, outputs, window.strides, strict=True)]
        part = ctx.b.op("Slice", [seen, *(ctx.b.ints(v) for v in (starts, ends, axes, window.strides))])
        products.append(ctx.b.op("Gemm", [_reshape(ctx, part, [c, -1]), right], transB=1))
    rows = products[0] if len(products) == 1 else ctx.b.op("Concat", products, axis=0)
    turned = ctx.b.op("Transpose", [_reshape(ctx, rows, [math.prod(kernel), c, m])], perm=[2, 1, 0])
    return _seeded(ctx, turned, node.input[1])


def _conv_weight_by_convolution(ctx: Any, node: onnx.NodeProto, window: _Window, dy: str) -> str:
    """dw, where strides and dilations change places, too.

    With g groups of c input channels each, x [n, g c, ...] becomes [c, g n, ...] and dy [n, m, ...] becomes
    [m, n, ...]; their convolution in g groups is [c, m, kernel].
    """
    x, w = node.input[0], node.input[1]
    (n, channels, *extents), (_, c, *kernel) = _shape(ctx, x), _shape(ctx, w)
    groups = channels // c
    spatial = list(range(2, 2 + len(extents)))
    grouped = _reshape(ctx, x, [n, groups, c, *extents])
    turned = ctx.b.op("Transpose", [grouped], perm=[2, 1, 0, *(a + 1 for a in spatial)])
    product = ctx.b.op(
        "Conv", [_reshape(ctx, turned, [c, groups * n, *extents]), ctx.b.op("Transpose", [dy], perm=[1, 0, *spatial])],
        group=groups, strides=window.dilations, dilations=window.strides, pads=window.pads,
    )  # fmt: skip
    # where the windows leave a rest of the padded input untouched, the product has rows that belong to no weight
    cropped = ctx.slice(product, [0] * len(kernel), kernel, spatial)
    return _seeded(ctx, ctx.b.op("Transpose", [cropped], perm=[1, 0, *spatial]), w)


def _gemm(ctx: Any, node: onnx.NodeProto, grads: list[str | None]) -> list[str | None]:
    """Y = alpha A' B' + beta C, where ' transposes or not: dA' = alpha dY B'^T, dB' = alpha A'^T dY."""
    a, b = node.input[0], node.input[1]
    alpha, beta = ir.attribute(node, "alpha", 1.0), ir.attribute(node, "beta", 1.0)
    trans_a, trans_b = ir.attribute(node, "transA", 0), ir.attribute(node, "transB", 0)
    dy = _plain(ctx, grads[0], node.output[0])

    def product(left: str, right: str, flip_left: int, flip_right: int, of: str) -> str:
        value = ctx.b.op("Gemm", [left, right], alpha=alpha, transA=flip_left, transB=flip_right)
        return _seeded(ctx, value, of)

    result: list[str | None] = [None, None, None]
    if _wants(ctx, node, 0):
        result[0] = product(b, dy, trans_b, 1, a) if trans_a else product(dy, b, 0, 1 - trans_b, a)
    if _wants(ctx, node, 1):
        result[1] = product(dy, a, 1, trans_a, b) if trans_b else product(a, dy, 1 - trans_a, 0, b)
    if _wants(ctx, node, 2):
        dc = ctx.unbroadcast(ctx.full(grads[0], node.output[0]), 2, node.input[2])
        result[2] = dc if beta == 1 else ctx.b.op("Mul", [dc, ctx.constant(beta, ctx.dtype(node.output[0]))])
    return result


def _matmul(ctx: Any, node: onnx.NodeProto, grads: list[str | None]) -> list[str | None]:
    """Y = A B for a matrix B: with the rows of all axes of A in one, dA = dY B^T and dB = A^T dY."""
    a, b = node.input[0], node.input[1]
    shapes = ctx.shapes.static(a), ctx.shapes.static(b)
    if None in shapes or len(shapes[1]) != 2 or len(shapes[0]) < 2:
        return _ONNX_AD["MatMul"](ctx, node, grads)
    k, n = shapes[1]
    dy = _reshape(ctx, ctx.full(grads[0], node.output[0]), [-1, n])
    result: list[str | None] = [None, None]
    if _wants(ctx, node, 0):
        result[0] = _seeded(ctx, ctx.b.op("Gemm", [dy, b], transB=1), a)
    if _wants(ctx, node, 1):
        result[1] = _seeded(ctx, ctx.b.op("Gemm", [_reshape(ctx, a, [-1, k]), dy], transA=1), b)
    return result


def _max_pool(ctx: Any, node: onnx.NodeProto, grads: list[str | None]) -> list[str | None]:
    """Every gradient goes to the place its window's maximum came from; those of overlapping windows add up."""
    x, y = node.input[0], node.output[0]
    kernel = list(ir.attribute(node, "kernel_shape", []))
    window = _Window(node, _shape(ctx, x)[2:], kernel)
    apart = all(s >= r for s, r in zip(window.strides, window.reach, strict=True))
    if not apart or ctx.dtype(x) != TensorProto.FLOAT or ir.attribute(node, "storage_order", 0):
        return _ONNX_AD["MaxPool"](ctx, node, grads)
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    indices = ctx.b.op("MaxPool", [x], outputs=2, **options)[1]
    spread = ctx.b.op(
        "MaxUnpool", [_plain(ctx, grads[0], y), indices, ctx.b.ints(_shape(ctx, x))],
        kernel_shape=kernel, strides=window.strides,
    )  # fmt: skip
    return [_seeded(ctx, spread, x)]


def _summed(ctx: Any, value: str, shape: Sequence[int], of: str) -> str:
    """A gradient of this shape, added up along the axes that broadcasting stretched ``of`` along."""
    target = _shape(ctx, of)
    lead = len(shape) - len(target)
    axes = [i for i, d in enumerate(shape) if i < lead or target[i - lead] != d]
    return _seeded(ctx, ctx.reduce_sum(value, axes, keepdims=1) if axes else value, of)


def _mul(ctx: Any, node: onnx.NodeProto, grads: list[str | None]) -> list[str | None]:
    """y = a b: da = dy b, db = dy a. A single number is slow to broadcast over onnx-ad's trailing axis."""
    (a, b), y = node.input, node.output[0]
    dy, shape = _plain(ctx, grads[0], y), _shape(ctx, y)
    return [
        _summed(ctx, ctx.b.op("Mul", [dy, other]), shape, of) if _wants(ctx, node, i) else None
        for i, (of, other) in enumerate(((a, b), (b, a)))
    ]


def _div(ctx: Any, node: onnx.NodeProto, grads: list[str | None]) -> list[str | None]:
    """y = a / b: da = dy / b, db = -y da."""
    (a, b), y = node.input, node.output[0]
    shape = _shape(ctx, y)
    da = ctx.b.op("Div", [_plain(ctx, grads[0], y), b])
    result: list[str | None] = [None, None]
    if _wants(ctx, node, 0):
        result[0] = _summed(ctx, da, shape, a)
    if _wants(ctx, node, 1):
        result[1] = _summed(ctx, ctx.b.op("Neg", [ctx.b.op("Mul", [da, y])]), shape, b)
    return result


def _clip(ctx: Any, node: onnx.NodeProto, grads: list[str | None]) -> list[str | None]:
    """The gradient passes where the input is not outside of the bounds."""
    if _wants(ctx, node, 1) or _wants(ctx, node, 2):
        return _ONNX_AD["Clip"](ctx, node, grads)
    x = node.input[0]
    dx, kind = _plain(ctx, grads[0], node.output[0]), ctx.dtype(x)
    for bound, outside in zip(node.input[1:], ("Less", "Greater"), strict=False):
        if bound:
            inside = ctx.b.op("Not", [ctx.b.op(outside, [x, bound])])
            dx = ctx.b.op("Mul", [dx, ctx.b.op("Cast", [inside], to=kind)])
    return [_seeded(ctx, dx, x)]


def _average_pool(ctx: Any, node: onnx.NodeProto, grads: list[str | None]) -> list[str | None]:
    """Every gradient, over the number of elements that its window averages, goes to all of the window."""
    x, y = node.input[0], node.output[0]
    (_, channels, *extents), outputs = _shape(ctx, x), _shape(ctx, y)[2:]
    window = _Window(node, extents, ir.attribute(node, "kernel_shape", []))
    kind = ctx.dtype(x)
    counts = np.ones(())
    with_pads = bool(ir.attribute(node, "count_include_pad", 0))
    for axis, (extent, output) in enumerate(zip(extents, outputs, strict=True)):
        counts = np.multiply.outer(counts, window.members(axis, extent, output, with_pads))
    share = ctx.b.op("Div", [_plain(ctx, grads[0], y), ctx.b.constant(counts, kind, [1, 1, *outputs])])
    ones = ctx.b.constant(np.ones([channels, 1, *window.kernel]), kind, [channels, 1, *window.kernel])
    ends = [(o - 1) * s + r for o, s, r in zip(outputs, window.strides, window.reach, strict=True)]
    starts = window.pads[: len(extents)]
    stops = [s + n for s, n in zip(starts, extents, strict=True)]
    spread = ctx.b.op(
        "ConvTranspose", [share, ones], group=channels, strides=window.strides, dilations=window.dilations,
        output_padding=[max(0, stop - end) for stop, end in zip(stops, ends, strict=True)],
    )  # fmt: skip
    return [_seeded(ctx, ctx.slice(spread, starts, stops, list(range(2, 2 + len(extents)))), x)]


RULES: dict[str, Rule] = {
    "AveragePool": _average_pool, "Clip": _clip, "Conv": _conv, "Div": _div, "Gemm": _gemm, "MatMul": _matmul,
    "MaxPool": _max_pool, "Mul": _mul,
}  # fmt: skip
_ONNX_AD: dict[str, Rule] = {kind: REVERSE[kind] for kind in RULES}
