"""Batch normalization folded into the layer before it, as onnxruntime does when it loads a model."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from dc_compiler import ir
from dc_compiler.passes.canonicalize.surgery import DOMAINS, Surgery

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
FOLDED = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})  # for which onnxruntime does it, too


def fold_batch_normalization(surgery: Surgery, node: gs.Node, rank: int | None) -> str | None:
    """Fold ``y = scale (x - mean) / sqrt(variance + epsilon) + bias`` into the layer that makes x.

    The layer's weights are multiplied by ``scale / sqrt(variance + epsilon)`` of their output channel; one bias takes
    the rest. Computed in float64 and rounded once. After a MatMul, the node becomes the Add of that bias.

    Args:
        rank: of x, None when it is not known.

    Returns:
        Why it stays as it is; None when it is folded, or does not follow a layer at all.
    """
    x = node.inputs[0]
    if len(x.inputs) != 1 or x.inputs[0].op not in LAYERS or x.inputs[0].domain not in DOMAINS:
        return None
    layer = x.inputs[0]
    reason = _obstacle(surgery, layer, node, rank)
    if reason is not None:
        return reason
    weight = surgery.record(layer.inputs[1])
    parameters = [surgery.record(t) for t in node.inputs[1:5]]
    bias = _bias(layer)
    old_bias = None if bias is None else surgery.record(bias)
    known = [r for r in (weight, *parameters) if r is not None and r.elem_type in FOLDED]
    if weight is None or len(known) < 5 or (bias is not None and old_bias is None):
        return "a weight or parameter is computed, left alone, or not of a float type that onnxruntime folds"
    shape = _channel_shape(layer, weight)
    channels = int(np.prod(shape[1]))
    wrong = any(r.shape != (channels,) for r in known[1:])
    if wrong or (old_bias is not None and (old_bias.size != channels or old_bias.shape[-1:] != (channels,))):
        return "its parameters or the layer's bias do not have one element a channel"
    scale, shift, mean, variance = (r.values.astype(np.float64) for r in known[1:])
    deviation = variance + float(node.attrs.get("epsilon", 1e-5))
    if not (deviation > 0).all():
        return "a variance is not positive"
    factor = scale / np.sqrt(deviation)
    before = 0.0 if old_bias is None else old_bias.values.reshape(-1).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        new_bias = ((before - mean) * factor + shift).astype(weight.values.dtype)
        new_weight = _multiplied(weight.values, factor, shape)
    flat = new_weight.reshape(-1)
    if not (np.isfinite(new_bias).all() and all(np.isfinite(flat[s]).all() for s in ir.blocks(flat.size))):
        return "folded weights would overflow"
    surgery.replace(weight, new_weight)
    if old_bias is None:
        surgery.replace(known[2], new_bias)
        bias = node.inputs[2]
    else:
        surgery.replace(old_bias, new_bias.reshape(old_bias.shape))
    if layer.op != "MatMul":
        surgery.take_place(node, layer, [*layer.inputs[:2], bias])
        return None
    node.inputs.clear()
    node.inputs.extend([x, bias])
    node.op, node.attrs = "Add", {}
    return None


def _obstacle(surgery: Surgery, layer: gs.Node, node: gs.Node, rank: int | None) -> str | None:
    """What stands in the way, as far as the graph alone tells."""
    if surgery.opset < 7 or node.attrs.get("spatial", 1) != 1:
        return "it is older than operator set 7, or not one for all positions"
    if node.attrs.get("training_mode", 0) or sum(not o.is_empty() for o in node.outputs) != 1:
        return "it trains"
    if not surgery.is_used_once(node.inputs[0]):
        return "the layer before it is used elsewhere, too"
    bias = _bias(layer)
    taken = [layer.inputs[1], *node.inputs[1:5], *([] if bias is None else [bias])]
    if not all(surgery.is_used_once(t) for t in taken):
        return "the layer's weights or its parameters are shared"
    if layer.op == "MatMul" and rank != 2:
        return "the MatMul before it does not make a matrix for sure"
    if layer.op == "Gemm" and layer.attrs.get("beta", 1.0) != 1:
        return "the Gemm before it scales its bias"
    return None


def _bias(layer: gs.Node) -> gs.Tensor | None:
    has_one = layer.op != "MatMul" and len(layer.inputs) > 2 and not layer.inputs[2].is_empty()
    return layer.inputs[2] if has_one else None


def _channel_shape(layer: gs.Node, weight: ir.WeightRecord) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The weight's shape with its output channels apart, and what a factor a channel is reshaped to for it."""
    shape = weight.shape
    if layer.op == "Conv":
        return shape, (shape[0], *(1 for _ in shape[1:]))
    if layer.op == "ConvTranspose":  # [inputs, outputs of a group, ...]
        group = int(layer.attrs.get("group", 1))
        apart = (group, shape[0] // group, *shape[1:])
        return apart, (group, 1, shape[1], *(1 for _ in shape[2:]))
    rows = layer.op == "Gemm" and bool(layer.attrs.get("transB", 0))
    return shape, (shape[0], 1) if rows else (1, *shape[1:])


def _multiplied(values: np.ndarray, factor: np.ndarray, shape: tuple[tuple[int, ...], tuple[int, ...]]) -> np.ndarray:
    """The weight times a factor a channel, every product in float64."""
    apart, broadcast = shape
    result = np.empty(apart, values.dtype)
    np.multiply(values.reshape(apart), factor.reshape(broadcast), out=result, dtype=np.float64, casting="same_kind")
    return result.reshape(values.shape)
