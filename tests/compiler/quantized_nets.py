"""Small models that are quantized already, in every way in which onnxruntime runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
ROWS, COLUMNS = 96, 64


def table(rows: int = ROWS, columns: int = COLUMNS, *, seed: int = 1, width: float = 24.0) -> Array:
    """Rounded normal numbers whose columns have standard deviations of their own, int64 within -127..127."""
    rng = np.random.default_rng(seed)
    deviation = width * 2.0 ** rng.uniform(-2, 0.5, columns)
    return np.clip(np.rint(rng.standard_normal((rows, columns)) * deviation), -127, 127).astype(np.int64)


def tensor(name: str, values: Any, elem_type: int | None = None) -> onnx.TensorProto:
    """An initializer; floats are float32, and ``elem_type`` is for types that NumPy lacks."""
    array = np.asarray(values)
    array = array.astype(np.float32) if array.dtype == np.float64 else array
    if elem_type is not None:
        array = array.astype(helper.tensor_dtype_to_np_dtype(elem_type))
    return numpy_helper.from_array(array, name)


def model(nodes: list[onnx.NodeProto], stored: list[onnx.TensorProto], inputs: Mapping[str, tuple[int, Sequence[Any]]],
          opset: int = 21, ir_version: int = 10) -> onnx.ModelProto:  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        stored,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def node(op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, domain=domain, name=outputs[0], **attributes)


X = {"x": (TensorProto.FLOAT, ["n", ROWS])}
IMAGES = {"x": (TensorProto.FLOAT, ["n", 8, 10, 10])}
SCALES = (np.random.default_rng(2).random(COLUMNS) * 0.01 + 0.001).astype(np.float32)


def matmul_integer() -> onnx.ModelProto:
    """As quantize_dynamic writes it, with a zero point that is not 0."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["s", "ws"], ["ss"]),
        node("Mul", ["f", "ss"], ["y"]),
    ]
    stored = [tensor("w", (table() + 128).astype(np.uint8)), tensor("wz", np.uint8(128)), tensor("ws", 0.01)]
    return model(nodes, stored, X)


def dynamic_quantize_matmul() -> onnx.ModelProto:
    nodes = [node("DynamicQuantizeMatMul", ["x", "w", "ws", "wz"], ["y"], "com.microsoft")]
    stored = [tensor("w", table().astype(np.int8)), tensor("ws", SCALES), tensor("wz", np.zeros(COLUMNS, np.int8))]
    return model(nodes, stored, X)


def qdq() -> onnx.ModelProto:
    """A scale a column."""
    nodes = [node("DequantizeLinear", ["w", "ws"], ["d"], axis=1), node("MatMul", ["x", "d"], ["y"])]
    return model(nodes, [tensor("w", table().astype(np.int8)), tensor("ws", SCALES)], X)


def qdq_conv() -> onnx.ModelProto:
    """Values between layers rounded, too, a bias of int32, and the weight in a Constant."""
    weight = table(24 * 8, 9).reshape(24, 8, 3, 3).astype(np.int8)
    nodes = [
        node("Constant", [], ["w"], value=tensor("", weight)),
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["a"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["d"], axis=0),
        node("DequantizeLinear", ["b", "bs", "bz"], ["e"], axis=0),
        node("Conv", ["a", "d", "e"], ["c"]),
        node("QuantizeLinear", ["c", "s", "z"], ["r"]),
        node("DequantizeLinear", ["r", "s", "z"], ["y"]),
    ]
    stored = [
        tensor("s", 0.03), tensor("z", np.uint8(120)), tensor("ws", SCALES[:24]), tensor("wz", np.zeros(24, np.int8)),
        tensor("b", np.arange(-12, 12, dtype=np.int32) * 50), tensor("bs", SCALES[:24] * 0.03),
        tensor("bz", np.zeros(24, np.int32)),
    ]  # fmt: skip
    return model(nodes, stored, IMAGES)


def qlinear_conv() -> onnx.ModelProto:
    weight = (table(24 * 8, 9) + 128).reshape(24, 8, 3, 3).astype(np.uint8)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "s", "z", "b"], ["c"]),
        node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    stored = [
        tensor("s", 0.03), tensor("z", np.uint8(120)), tensor("w", weight), tensor("ws", 0.01),
        tensor("wz", np.uint8(128)), tensor("b", np.arange(24, dtype=np.int32)),
    ]  # fmt: skip
    return model(nodes, stored, IMAGES)


def conv_integer() -> onnx.ModelProto:
    weight = table(24 * 8, 9).reshape(24, 8, 3, 3).astype(np.int8)
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("ConvInteger", ["q", "w", "z"], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "s"], ["y"]),
    ]
    return model(nodes, [tensor("w", weight)], IMAGES)


def matmul_nbits() -> onnx.ModelProto:
    """Two numbers of 4 bits a byte, blocks of 32."""
    codes = np.clip(table(COLUMNS, ROWS, width=2.2) + 8, 0, 15).astype(np.uint8)
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).reshape(COLUMNS, ROWS // 32, 16)
    scales = np.random.default_rng(3).random((COLUMNS, ROWS // 32)).astype(np.float32) * 0.1
    nodes = [
        node("MatMulNBits", ["x", "w", "ws"], ["y"], "com.microsoft", K=ROWS, N=COLUMNS, bits=4, block_size=32)
    ]  # fmt: skip
    return model(nodes, [tensor("w", packed), tensor("ws", scales.reshape(-1))], X)


def gather_block_quantized() -> onnx.ModelProto:
    codes = np.clip(table(256, COLUMNS, width=2.2), -8, 7)
    scales = np.random.default_rng(4).random((256, COLUMNS // 32)).astype(np.float32)
    nodes = [
        node("GatherBlockQuantized", ["w", "x", "ws"], ["y"], "com.microsoft", block_size=32, quantize_axis=1)
    ]  # fmt: skip
    stored = [tensor("w", codes, TensorProto.INT4), tensor("ws", scales)]
    return model(nodes, stored, {"x": (TensorProto.INT64, ["n"])})


def blocked(elem_type: int = TensorProto.UINT4) -> onnx.ModelProto:
    """A scale and a zero point for every 32 rows of a column, as zero points of 4 bits."""
    codes = np.clip(table(width=2.2) + 8, 0, 15)
    rng = np.random.default_rng(5)
    blocks = (ROWS // 32, COLUMNS)
    nodes = [
        node("DequantizeLinear", ["w", "ws", "wz"], ["d"], axis=0, block_size=32),
        node("MatMul", ["x", "d"], ["y"]),
    ]
    stored = [
        tensor("w", codes, elem_type), tensor("ws", rng.random(blocks).astype(np.float32)),
        tensor("wz", rng.integers(6, 10, blocks), elem_type),
    ]  # fmt: skip
    return model(nodes, stored, X)


def int16() -> onnx.ModelProto:
    nodes = [node("DequantizeLinear", ["w", "ws"], ["d"]), node("MatMul", ["x", "d"], ["y"])]
    return model(nodes, [tensor("w", (table() * 40).astype(np.int16)), tensor("ws", 1e-4)], X)


def float8() -> onnx.ModelProto:
    nodes = [node("DequantizeLinear", ["w", "ws"], ["d"]), node("MatMul", ["x", "d"], ["y"])]
    values = (table() / 16).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    return model(nodes, [numpy_helper.from_array(values, "w"), tensor("ws", 0.1)], X)


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    f.__name__: f
    for f in (
        matmul_integer, dynamic_quantize_matmul, qdq, qdq_conv, qlinear_conv, conv_integer, matmul_nbits,
        gather_block_quantized, blocked, int16, float8,
    )
}  # fmt: skip
