"""Small hand-built ONNX models, one for every place and form in which a weight can appear.

`GRAPHS` maps a name to a function that returns the model and inputs to run it with. Every call builds the same
bytes. Weights have about 1,000 to 5,000 elements unless being small is the point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

Array = NDArray[Any]
Feeds = dict[str, Any]  # arrays; lists of arrays for sequence inputs
Built = tuple[onnx.ModelProto, Feeds]

F16, BF16, F32, F64 = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE
I64, BOOL, STRING = TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING

GRAPHS: dict[str, Callable[[], Built]] = {}


def register(build: Callable[[], Built]) -> Callable[[], Built]:
    """Adds a builder to `GRAPHS` under its own name."""
    GRAPHS[build.__name__] = build
    return build


# Pieces ------------------------------------------------------------------------------------------------------------


def weight(*shape: int, dtype: DTypeLike = np.float32, seed: int = 1) -> Array:
    """Heavy-tailed values in [-0.25, 0.25], peaked at zero as trained weights are; no libm, so equal everywhere."""
    cubes = np.random.default_rng(seed).integers(-10_000, 10_001, shape) ** 3
    return np.asarray(cubes / 4e12).astype(dtype)


def sample(*shape: int, dtype: DTypeLike = np.float32, seed: int = 100) -> Array:
    """Input values, uniform in [-1, 1]."""
    return np.asarray(np.random.default_rng(seed).integers(-1000, 1001, shape) / 1000).astype(dtype)


def tensor(name: str, values: Array) -> TensorProto:
    return numpy_helper.from_array(values, name)


def tensor_in_fields(name: str, values: Array) -> TensorProto:
    """A tensor whose values are in float_data, double_data or int32_data instead of raw_data."""
    elem = helper.np_dtype_to_tensor_dtype(values.dtype)
    return helper.make_tensor(name, elem, values.shape, values.ravel(), raw=False)


def info(name: str, elem: int, *shape: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, elem, shape)


def x_in(*shape: int | str) -> ValueInfoProto:
    return info("x", F32, *shape)


def y_out(*shape: int | str) -> ValueInfoProto:
    return info("y", F32, *shape)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


def constant(name: str, values: Array) -> onnx.NodeProto:
    return node("Constant", [], [name], value=tensor(f"{name}.value", values))


def body(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[ValueInfoProto],
    inputs: Sequence[ValueInfoProto] = (),
    weights: Sequence[TensorProto] = (),
) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, inputs, outputs, weights)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    weights: Sequence[TensorProto] = (),
    opset: int = 18,
    domains: Sequence[tuple[str, int]] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model with the lowest IR version of its opset; below IR 4 its initializers are inputs too, as they must be."""
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*domain) for domain in domains)]
    ir_version = max(helper.find_min_ir_version_for(opsets[:1]), 8 if functions else 0)
    if ir_version < 4:
        inputs = [*inputs, *(info(w.name, w.data_type, *w.dims) for w in weights)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    return helper.make_model(graph, ir_version=ir_version, opset_imports=opsets, functions=functions)


def linear(*weights: TensorProto, nodes: Sequence[onnx.NodeProto] = (), rows: int = 64, columns: int = 48) -> Built:
    """`y = x @ w` for x of [batch, rows], where w is among `weights` or made by `nodes`."""
    net = model([*nodes, node("MatMul", ["x", "w"], ["y"])], [x_in("batch", rows)], [y_out("batch", columns)], weights)
    return net, {"x": sample(3, rows)}


# Operators ---------------------------------------------------------------------------------------------------------


@register
def matmul() -> Built:
    return linear(tensor("w", weight(64, 48)))


@register
def matmul_stacked() -> Built:
    """A weight of rank 4, broadcast over the batch."""
    net = model(
        [node("MatMul", ["x", "w"], ["y"])],
        [x_in("batch", 3, 5, 20)],
        [y_out("batch", 3, 5, 24)],
        [tensor("w", weight(1, 3, 20, 24))],
    )
    return net, {"x": sample(2, 3, 5, 20)}


@register
def gemm() -> Built:
    net = model(
        [node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5)],
        [x_in("batch", 64)],
        [y_out("batch", 48)],
        [tensor("w", weight(48, 64)), tensor("b", weight(48, seed=2))],
    )
    return net, {"x": sample(3, 64)}


def convolution(op: str, channels: int, kernel: Array, out_channels: int, **attributes: Any) -> Built:
    """One convolution with bias over an input of the kernel's rank, 9 positions a side."""
    sides = ["side"] * (kernel.ndim - 2)
    net = model(
        [node(op, ["x", "w", "b"], ["y"], **attributes)],
        [x_in("batch", channels, *sides)],
        [y_out("batch", out_channels, *(f"out{i}" for i in range(len(sides))))],
        [tensor("w", kernel), tensor("b", weight(out_channels, seed=2))],
    )
    return net, {"x": sample(2, channels, *[9] * len(sides))}


@register
def conv() -> Built:
    return convolution("Conv", 8, weight(24, 8, 3, 3), 24, pads=[1, 1, 1, 1])


@register
def conv_1d() -> Built:
    return convolution("Conv", 16, weight(24, 16, 5), 24)


@register
def conv_3d() -> Built:
    return convolution("Conv", 4, weight(16, 4, 3, 3, 3), 16)


@register
def conv_grouped() -> Built:
    return convolution("Conv", 32, weight(32, 8, 3, 3), 32, group=4)


@register
def conv_depthwise() -> Built:
    return convolution("Conv", 128, weight(128, 1, 3, 3), 128, group=128)


@register
def conv_transpose() -> Built:
    return convolution("ConvTranspose", 16, weight(16, 12, 3, 3), 12, strides=[2, 2])


@register
def conv_transpose_grouped() -> Built:
    return convolution("ConvTranspose", 16, weight(16, 12, 3, 3), 24, group=2)


@register
def gather_embedding() -> Built:
    net = model(
        [node("Gather", ["table", "ids"], ["y"])],
        [info("ids", I64, "batch", "length")],
        [y_out("batch", "length", 16)],
        [tensor("table", weight(100, 16))],
    )
    return net, {"ids": np.array([[0, 99, 7], [7, 50, 1]], np.int64)}


def recurrent(op: str, gates: int, extra: Sequence[str] = ()) -> Built:
    """A bidirectional layer, input 12, hidden 16, with skipped optional inputs."""
    hidden, size = 16, 12
    net = model(
        [node(op, ["x", "W", "R", "B", *extra], ["", "h"], hidden_size=hidden, direction="bidirectional")],
        [x_in("length", "batch", size)],
        [info("h", F32, 2, "batch", hidden)],
        [
            tensor("W", weight(2, gates * hidden, size)),
            tensor("R", weight(2, gates * hidden, hidden, seed=2)),
            tensor("B", weight(2, 2 * gates * hidden, seed=3)),
            *([tensor("P", weight(2, 3 * hidden, seed=4))] if extra else []),
        ],
    )
    return net, {"x": sample(5, 2, size)}


@register
def lstm() -> Built:
    return recurrent("LSTM", 4, extra=["", "", "", "P"])


@register
def gru() -> Built:
    return recurrent("GRU", 3)


@register
def rnn() -> Built:
    return recurrent("RNN", 1)


@register
def small_parameters() -> Built:
    """Floats that operators want as constants: resize scales, clip bounds, a pad value."""
    net = model(
        [
            node("Resize", ["x", "", "scales"], ["r"], mode="nearest"),
            node("Clip", ["r", "low", "high"], ["c"]),
            node("Pad", ["c", "pads", "fill"], ["y"]),
        ],
        [x_in("batch", 2, 4, 4)],
        [y_out("batch", 2, 10, 10)],
        [
            tensor("scales", np.array([1, 1, 2, 2], np.float32)),
            tensor("low", np.array(-0.5, np.float32)),
            tensor("high", np.array(0.5, np.float32)),
            tensor("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)),
            tensor("fill", np.array(0.25, np.float32)),
        ],
    )
    return net, {"x": sample(1, 2, 4, 4)}


@register
def layer_normalization() -> Built:
    """A scale and a bias of one dimension, though of many elements."""
    net = model(
        [node("LayerNormalization", ["x", "scale", "bias"], ["y"])],
        [x_in("batch", 1500)],
        [y_out("batch", 1500)],
        [tensor("scale", 1 + weight(1500)), tensor("bias", weight(1500, seed=2))],
    )
    return net, {"x": sample(3, 1500)}


@register
def contrib_attention() -> Built:
    net = model(
        [node("Attention", ["x", "qkv.w", "qkv.b"], ["y"], domain="com.microsoft", num_heads=4)],
        [x_in("batch", "length", 24)],
        [y_out("batch", "length", 24)],
        [tensor("qkv.w", weight(24, 72)), tensor("qkv.b", weight(72, seed=2))],
        domains=[("com.microsoft", 1)],
    )
    return net, {"x": sample(2, 5, 24)}


@register
def contrib_operator() -> Built:
    """A weight used by an operator of a domain that the ONNX checker does not know."""
    net = model(
        [node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", alpha=0.5)],
        [x_in("batch", 64)],
        [y_out("batch", 48)],
        [tensor("w", weight(64, 48))],
        domains=[("com.microsoft", 1)],
    )
    return net, {"x": sample(3, 64)}


# Sharing -----------------------------------------------------------------------------------------------------------


@register
def tied() -> Built:
    net = model(
        [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "w"], ["y"])],
        [x_in("batch", 48)],
        [y_out("batch", 48)],
        [tensor("w", weight(48, 48))],
    )
    return net, {"x": sample(3, 48)}


@register
def tied_embedding() -> Built:
    """One table looked up by Gather and, transposed, projected onto: the language-model head."""
    net = model(
        [
            node("Gather", ["table", "ids"], ["h"]),
            node("Transpose", ["table"], ["head"], perm=[1, 0]),
            node("MatMul", ["h", "head"], ["y"]),
        ],
        [info("ids", I64, "batch")],
        [y_out("batch", 100)],
        [tensor("table", weight(100, 16))],
    )
    return net, {"ids": np.array([3, 99], np.int64)}


@register
def tied_across_graphs() -> Built:
    """One weight used in the main graph and captured by both branches of an If."""
    branches = [
        body(name, [node("MatMul", ["h", "w"], ["m"]), node(op, ["m"], ["out"])], [info("out", F32, "batch", 48)])
        for name, op in (("then", "Relu"), ("else", "Neg"))
    ]
    net = model(
        [
            node("MatMul", ["x", "w"], ["h"]),
            node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        ],
        [info("flag", BOOL), x_in("batch", 48)],
        [y_out("batch", 48)],
        [tensor("w", weight(48, 48))],
    )
    return net, {"flag": np.array(True), "x": sample(3, 48)}


@register
def duplicate_values() -> Built:
    """Two initializers of equal values under two names."""
    values = weight(48, 48)
    net = model(
        [node("MatMul", ["x", "w1"], ["h"]), node("MatMul", ["h", "w2"], ["y"])],
        [x_in("batch", 48)],
        [y_out("batch", 48)],
        [tensor("w1", values), tensor("w2", values)],
    )
    return net, {"x": sample(3, 48)}


@register
def weight_is_output() -> Built:
    net = model(
        [node("MatMul", ["x", "w"], ["y"])],
        [x_in("batch", 64)],
        [y_out("batch", 48), info("w", F32, 64, 48)],
        [tensor("w", weight(64, 48))],
    )
    return net, {"x": sample(3, 64)}


@register
def unused_initializer() -> Built:
    return linear(tensor("w", weight(64, 48)), tensor("unused", weight(40, 40, seed=2)))


# Constant nodes ----------------------------------------------------------------------------------------------------


@register
def constant_value() -> Built:
    return linear(nodes=[constant("w", weight(64, 48))])


@register
def constant_floats() -> Built:
    """A weight in the `value_floats` attribute, which is a flat list."""
    return linear(
        tensor("shape", np.array([64, 48], np.int64)),
        nodes=[
            node("Constant", [], ["flat"], value_floats=weight(64 * 48).tolist()),
            node("Reshape", ["flat", "shape"], ["w"]),
        ],
    )


@register
def constant_is_output() -> Built:
    net = model([constant("y", weight(40, 40))], [], [y_out(40, 40)])
    return net, {}


# Subgraphs ---------------------------------------------------------------------------------------------------------


def conditional(then_branch: onnx.GraphProto, else_branch: onnx.GraphProto, *weights: TensorProto) -> Built:
    """An If on the input `flag` over x of [batch, 48]; false is fed, so the else branch runs."""
    net = model(
        [node("If", ["flag"], ["y"], then_branch=then_branch, else_branch=else_branch)],
        [info("flag", BOOL), x_in("batch", 48)],
        [y_out("batch", 48)],
        weights,
    )
    return net, {"flag": np.array(False), "x": sample(3, 48)}


def branch(
    name: str, weights: Sequence[TensorProto] = (), nodes: Sequence[onnx.NodeProto] = (), use: str = "w"
) -> onnx.GraphProto:
    """A branch computing `x @ use`."""
    out = f"{name}_out"
    return body(name, [*nodes, node("MatMul", ["x", use], [out])], [info(out, F32, "batch", 48)], weights=weights)


@register
def if_initializers() -> Built:
    """Both branches call their own, different, weight by one name."""
    return conditional(
        branch("then", [tensor("w", weight(48, 48))]), branch("else", [tensor("w", weight(48, 48, seed=2))])
    )


@register
def if_constants() -> Built:
    return conditional(
        branch("then", nodes=[constant("a", weight(48, 48))], use="a"),
        branch("else", nodes=[constant("b", weight(48, 48, seed=2))], use="b"),
    )


@register
def if_captured() -> Built:
    return conditional(
        branch("then", use="a"),
        branch("else", use="b"),
        tensor("a", weight(48, 48)),
        tensor("b", weight(48, 48, seed=2)),
    )


@register
def if_returns_weight() -> Built:
    """The branches compute nothing: each only offers a weight, as a Constant node and as an initializer."""
    then_branch = body("then", [constant("a", weight(48, 48))], [info("a", F32, 48, 48)])
    else_branch = body("else", [], [info("b", F32, 48, 48)], weights=[tensor("b", weight(48, 48, seed=2))])
    net, feeds = conditional(then_branch, else_branch)
    net.graph.node[0].output[0] = "w"
    net.graph.node.append(node("MatMul", ["x", "w"], ["y"]))
    return net, feeds


@register
def loop_body() -> Built:
    loop = body(
        "loop",
        [node("Identity", ["go"], ["go_on"]), node("MatMul", ["state", "w"], ["next"])],
        [info("go_on", BOOL), info("next", F32, "batch", 48)],
        [info("i", I64), info("go", BOOL), info("state", F32, "batch", 48)],
        [tensor("w", weight(48, 48))],
    )
    net = model(
        [node("Loop", ["trips", "", "x"], ["y"], body=loop)],
        [info("trips", I64), x_in("batch", 48)],
        [y_out("batch", 48)],
    )
    return net, {"trips": np.array(3, np.int64), "x": sample(3, 48)}


@register
def loop_nested_if() -> Built:
    """Weights two graphs deep, and one captured from the outermost graph."""
    even = body(
        "even",
        [node("MatMul", ["state", "w"], ["e"])],
        [info("e", F32, "batch", 48)],
        weights=[tensor("w", weight(48, 48))],
    )
    odd = body("odd", [node("MatMul", ["state", "outer"], ["o"])], [info("o", F32, "batch", 48)])
    loop = body(
        "loop",
        [
            node("Identity", ["go"], ["go_on"]),
            node("Mod", ["i", "two"], ["remainder"]),
            node("Cast", ["remainder"], ["is_odd"], to=BOOL),
            node("If", ["is_odd"], ["next"], then_branch=odd, else_branch=even),
        ],
        [info("go_on", BOOL), info("next", F32, "batch", 48)],
        [info("i", I64), info("go", BOOL), info("state", F32, "batch", 48)],
    )
    net = model(
        [node("Loop", ["trips", "", "x"], ["y"], body=loop)],
        [info("trips", I64), x_in("batch", 48)],
        [y_out("batch", 48)],
        [tensor("outer", weight(48, 48, seed=2)), tensor("two", np.array(2, np.int64))],
    )
    return net, {"trips": np.array(3, np.int64), "x": sample(3, 48)}


@register
def scan_body() -> Built:
    scan = body(
        "scan",
        [
            node("MatMul", ["state", "w"], ["m"]),
            node("Add", ["m", "item"], ["next"]),
            node("Identity", ["next"], ["seen"]),
        ],
        [info("next", F32, 48), info("seen", F32, 48)],
        [info("state", F32, 48), info("item", F32, 48)],
        [tensor("w", weight(48, 48))],
    )
    net = model(
        [node("Scan", ["start", "x"], ["last", "y"], body=scan, num_scan_inputs=1)],
        [x_in("length", 48)],
        [y_out("length", 48)],
        [tensor("start", np.zeros(48, np.float32))],
    )
    return net, {"x": sample(4, 48)}


# Model-local functions ---------------------------------------------------------------------------------------------

LOCAL = ("local", 1)


def local_function(name: str, inputs: Sequence[str], nodes: Sequence[onnx.NodeProto]) -> onnx.FunctionProto:
    """A function with output `out`, in the domain `local`."""
    return helper.make_function(
        "local", name, inputs, ["out"], nodes, [helper.make_opsetid("", 18), helper.make_opsetid(*LOCAL)]
    )


def call(name: str, inputs: Sequence[str], output: str) -> onnx.NodeProto:
    return node(name, inputs, [output], domain="local")


def calling(nodes: Sequence[onnx.NodeProto], functions: Sequence[onnx.FunctionProto], *weights: TensorProto) -> Built:
    net = model(nodes, [x_in("batch", 48)], [y_out("batch", 48)], weights, domains=[LOCAL], functions=functions)
    return net, {"x": sample(3, 48)}


def project(seed: int = 1, name: str = "Project") -> onnx.FunctionProto:
    return local_function(name, ["v"], [constant("w", weight(48, 48, seed=seed)), node("MatMul", ["v", "w"], ["out"])])


@register
def function_constant() -> Built:
    return calling([call("Project", ["x"], "y")], [project()])


@register
def function_called_twice() -> Built:
    """One weight, two calls; and a different weight `w` in the main graph, which the function's must not hide."""
    return calling(
        [call("Project", ["x"], "h"), node("MatMul", ["h", "w"], ["m"]), call("Project", ["m"], "y")],
        [project()],
        tensor("w", weight(48, 48, seed=2)),
    )


@register
def function_nested() -> Built:
    outer = local_function(
        "Outer",
        ["v"],
        [constant("u", weight(48, 48, seed=3)), call("Project", ["v"], "h"), node("MatMul", ["h", "u"], ["out"])],
    )
    return calling([call("Outer", ["x"], "y")], [project(), outer])


@register
def function_takes_weight() -> Built:
    """The weight is an initializer passed to a function as an argument."""
    twice = local_function(
        "Twice", ["v", "m"], [node("MatMul", ["v", "m"], ["h"]), node("MatMul", ["h", "m"], ["out"])]
    )
    return calling([call("Twice", ["x", "w"], "y")], [twice], tensor("w", weight(48, 48)))


@register
def function_called_in_if() -> Built:
    """A function with a weight, called in the branches of an If in the main graph."""
    branches = [
        body(name, [call(name, ["x"], f"{name}_out")], [info(f"{name}_out", F32, "batch", 48)])
        for name in ("Then", "Else")
    ]
    net = model(
        [node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1])],
        [info("flag", BOOL), x_in("batch", 48)],
        [y_out("batch", 48)],
        domains=[LOCAL],
        functions=[project(1, "Then"), project(2, "Else")],
    )
    return net, {"flag": np.array(False), "x": sample(3, 48)}


# Element types and storage -----------------------------------------------------------------------------------------


def typed(weights: TensorProto) -> Built:
    """`y = x @ w` in the weight's own type."""
    net = model(
        [node("MatMul", ["x", "w"], ["y"])],
        [info("x", weights.data_type, "batch", 64)],
        [info("y", weights.data_type, "batch", 48)],
        [weights],
    )
    return net, {"x": sample(3, 64, dtype=helper.tensor_dtype_to_np_dtype(weights.data_type))}


def cast_up(weights: TensorProto) -> Built:
    """`y = x @ float(w)`: ORT's CPU provider has few kernels for bfloat16."""
    return linear(weights, nodes=[node("Cast", [weights.name], ["w"], to=F32)])


@register
def float16_raw() -> Built:
    return typed(tensor("w", weight(64, 48, dtype=np.float16)))


@register
def float16_int32_data() -> Built:
    return typed(tensor_in_fields("w", weight(64, 48, dtype=np.float16)))


@register
def bfloat16_raw() -> Built:
    return cast_up(tensor("w16", weight(64, 48, dtype=ml_dtypes.bfloat16)))


@register
def bfloat16_int32_data() -> Built:
    return cast_up(tensor_in_fields("w16", weight(64, 48, dtype=ml_dtypes.bfloat16)))


@register
def float64_raw() -> Built:
    return typed(tensor("w", weight(64, 48, dtype=np.float64)))


@register
def float64_double_data() -> Built:
    return typed(tensor_in_fields("w", weight(64, 48, dtype=np.float64)))


@register
def float32_float_data() -> Built:
    return typed(tensor_in_fields("w", weight(64, 48)))


# IR versions and opsets --------------------------------------------------------------------------------------------


def small_cnn(opset: int) -> Built:
    """Conv, BatchNormalization, Relu, pooling, Gemm: operators whose definitions changed over the opsets."""
    channels = 24
    net = model(
        [
            node("Conv", ["x", "conv.w"], ["c"], pads=[1, 1, 1, 1]),
            node("BatchNormalization", ["c", "scale", "bias", "mean", "variance"], ["n"]),
            node("Relu", ["n"], ["r"]),
            node("GlobalAveragePool", ["r"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "fc.w", "fc.b"], ["y"]),
        ],
        [x_in(2, 8, 6, 6)],
        [y_out(2, 50)],
        [
            tensor("conv.w", weight(channels, 8, 3, 3)),
            *(
                tensor(name, 1 + weight(channels, seed=2 + i))
                for i, name in enumerate(["scale", "bias", "mean", "variance"])
            ),
            tensor("fc.w", weight(channels, 50, seed=6)),
            tensor("fc.b", weight(50, seed=7)),
        ],
        opset=opset,
    )
    return net, {"x": sample(2, 8, 6, 6)}


for _opset in (7, 8, 9, 11, 13, 15, 18, 21, 23):  # 7 and 8 go with IR 3, whose initializers are all inputs
    GRAPHS[f"opset_{_opset}"] = partial(small_cnn, _opset)


def overridable() -> onnx.ModelProto:
    """IR 8, with the weight listed as an input: callers may replace it at every run, so it must stay an input."""
    net, _ = linear(tensor("w", weight(64, 48)), tensor("fixed", weight(48, 48, seed=2)))
    net.graph.node.append(node("MatMul", ["y", "fixed"], ["z"]))
    net.graph.input.append(info("w", F32, 64, 48))
    net.graph.output.append(info("z", F32, "batch", 48))
    return net


@register
def overridable_default() -> Built:
    return overridable(), {"x": sample(3, 64)}


@register
def overridable_fed() -> Built:
    return overridable(), {"x": sample(3, 64), "w": weight(64, 48, seed=9)}


# Values ------------------------------------------------------------------------------------------------------------


def with_one(value: float) -> Built:
    values = weight(64, 48)
    values[3, 5] = value
    return linear(tensor("w", values))


@register
def nan_weight() -> Built:
    return with_one(np.nan)


@register
def inf_weight() -> Built:
    return with_one(np.inf)


@register
def all_zero_weight() -> Built:
    return linear(tensor("w", np.zeros((64, 48), np.float32)))


@register
def same_value_weight() -> Built:
    return linear(tensor("w", np.full((64, 48), 0.125, np.float32)))


@register
def negative_zero_and_denormals() -> Built:
    values = weight(64, 48)
    values[0] = -0.0
    values[1] = 0.0
    values[2] = np.arange(48, dtype=np.uint32).view(np.float32)
    return linear(tensor("w", values))


@register
def extreme_values() -> Built:
    """The largest finite float among ordinary weights: sums of squares overflow float32."""
    values = weight(64, 48)
    values[0, 0], values[0, 1] = np.finfo(np.float32).max, np.finfo(np.float32).min
    return linear(tensor("w", values))


@register
def zero_element_initializer() -> Built:
    net = model(
        [node("Concat", ["x", "empty"], ["y"], axis=0)],
        [x_in("batch", 48)],
        [y_out("more", 48)],
        [tensor("empty", np.zeros((0, 48), np.float32))],
    )
    return net, {"x": sample(3, 48)}


@register
def scalar_initializer() -> Built:
    net = model(
        [node("Mul", ["x", "s"], ["y"])], [x_in("batch")], [y_out("batch")], [tensor("s", np.array(1.5, np.float32))]
    )
    return net, {"x": sample(3)}


@register
def quantized() -> Built:
    """Integer weights behind DequantizeLinear and in QLinearMatMul: nothing for a float compiler to do."""
    levels = (weight(64, 48) * 400).astype(np.int8)
    net = model(
        [
            node("DequantizeLinear", ["w8", "w8.scale"], ["w"], axis=1),
            node("MatMul", ["x", "w"], ["m"]),
            node("QuantizeLinear", ["m", "scale", "zero"], ["q"]),
            node("QLinearMatMul", ["q", "scale", "zero", "v8", "scale", "zero", "scale", "zero"], ["p"]),
            node("DequantizeLinear", ["p", "scale", "zero"], ["y"]),
        ],
        [x_in("batch", 64)],
        [y_out("batch", 48)],
        [
            tensor("w8", levels),
            tensor("w8.scale", np.linspace(0.01, 0.02, 48, dtype=np.float32)),
            tensor("v8", levels[:48]),
            tensor("scale", np.array(0.05, np.float32)),
            tensor("zero", np.array(0, np.int8)),
        ],
    )
    return net, {"x": sample(3, 64)}


@register
def sparse_initializer() -> Built:
    values = weight(64, 48)
    values[np.abs(values) < 0.05] = 0
    kept = np.flatnonzero(values)
    net, feeds = linear()
    net.graph.sparse_initializer.append(
        helper.make_sparse_tensor(tensor("w", values.ravel()[kept]), tensor("w.at", kept.astype(np.int64)), [64, 48])
    )
    return net, feeds


# Inputs and outputs that are not tensors of numbers ----------------------------------------------------------------


@register
def sequence_output() -> Built:
    nodes = [node("MatMul", ["x", "w1"], ["a"]), node("MatMul", ["x", "w2"], ["b"])]
    weights = [tensor("w1", weight(48, 48)), tensor("w2", weight(48, 32, seed=2))]
    out = helper.make_tensor_sequence_value_info("y", F32, None)
    net = model([*nodes, node("SequenceConstruct", ["a", "b"], ["y"])], [x_in("batch", 48)], [out], weights)
    return net, {"x": sample(3, 48)}


@register
def sequence_input() -> Built:
    net = model(
        [node("ConcatFromSequence", ["xs"], ["x"], axis=0), node("MatMul", ["x", "w"], ["y"])],
        [helper.make_tensor_sequence_value_info("xs", F32, ["batch", 64])],
        [y_out("total", 48)],
        [tensor("w", weight(64, 48))],
    )
    return net, {"xs": [sample(2, 64), sample(1, 64, seed=101)]}


def optional_info(name: str, *shape: int | str) -> ValueInfoProto:
    return helper.make_value_info(name, helper.make_optional_type_proto(helper.make_tensor_type_proto(F32, shape)))


@register
def optional_input() -> Built:
    net = model(
        [node("OptionalGetElement", ["maybe"], ["x"]), node("MatMul", ["x", "w"], ["y"])],
        [optional_info("maybe", "batch", 64)],
        [y_out("batch", 48)],
        [tensor("w", weight(64, 48))],
    )
    return net, {"maybe": sample(3, 64)}


@register
def optional_output() -> Built:
    net = model(
        [node("MatMul", ["x", "w"], ["m"]), node("Optional", ["m"], ["y"])],
        [x_in("batch", 64)],
        [optional_info("y", "batch", 48)],
        [tensor("w", weight(64, 48))],
    )
    return net, {"x": sample(3, 64)}


@register
def string_input() -> Built:
    net = model(
        [
            node(
                "LabelEncoder",
                ["word"],
                ["id"],
                domain="ai.onnx.ml",
                keys_strings=["cat", "dog"],
                values_int64s=[1, 2],
                default_int64=0,
            ),
            node("Gather", ["table", "id"], ["y"]),
        ],
        [info("word", STRING, "batch")],
        [y_out("batch", 64)],
        [tensor("table", weight(20, 64))],
        domains=[("ai.onnx.ml", 2)],
    )
    return net, {"word": np.array(["dog", "fish", "cat"], object)}


@register
def string_output() -> Built:
    net = model(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("ArgMax", ["m"], ["id"], axis=1, keepdims=0),
            node("Gather", ["names", "id"], ["name"]),
        ],
        [x_in("batch", 64)],
        [info("name", STRING, "batch")],
        [tensor("w", weight(64, 48)), tensor("names", np.array([f"class {i}" for i in range(48)], object))],
    )
    return net, {"x": sample(3, 64)}


@register
def map_output() -> Built:
    net = model(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("ZipMap", ["m"], ["y"], domain="ai.onnx.ml", classlabels_int64s=list(range(48))),
        ],
        [x_in("batch", 64)],
        [],
        [tensor("w", weight(64, 48))],
        domains=[("ai.onnx.ml", 1)],
    )
    net.graph.output.append(
        helper.make_value_info(
            "y",
            helper.make_sequence_type_proto(helper.make_map_type_proto(I64, helper.make_tensor_type_proto(F32, []))),
        )
    )
    return net, {"x": sample(3, 64)}


@register
def no_inputs() -> Built:
    net = model(
        [node("MatMul", ["a", "b"], ["y"])],
        [],
        [y_out(32, 32)],
        [tensor("a", weight(32, 40)), tensor("b", weight(40, 32, seed=2))],
    )
    return net, {}


@register
def input_is_output() -> Built:
    net, feeds = linear(tensor("w", weight(64, 48)))
    net.graph.output.append(info("x", F32, "batch", 64))
    return net, feeds


@register
def scalar_and_unused_inputs() -> Built:
    net = model(
        [node("MatMul", ["x", "w"], ["m"]), node("Mul", ["m", "gain"], ["y"])],
        [x_in("batch", 64), info("gain", F32), info("unused", I64, "any")],
        [y_out("batch", 48)],
        [tensor("w", weight(64, 48))],
    )
    return net, {"x": sample(3, 64), "gain": np.array(0.5, np.float32), "unused": np.arange(2)}


# Names and annotations ---------------------------------------------------------------------------------------------


@register
def odd_names() -> Built:
    """Slashes, spaces, colons, non-ASCII letters; nodes without names."""
    net = model(
        [node("MatMul", ["Eingabe größe:0", "encoder/layer 0/权重"], ["выход/0"])],
        [info("Eingabe größe:0", F32, "batch", 64)],
        [info("выход/0", F32, "batch", 48)],
        [tensor("encoder/layer 0/权重", weight(64, 48))],
    )
    return net, {"Eingabe größe:0": sample(3, 64)}


@register
def names_of_ours() -> Built:
    """Every name a compiler would like to give its own tensors is taken by the model."""
    net = model(
        [
            node("MatMul", ["dcc.topology", "w"], ["h"], name="dcc"),
            node("MatMul", ["h", "w.dcc"], ["w.dcc.buffer"], name="w.dcc"),
            node("Add", ["w.dcc.buffer", "w.dcc.dcc"], ["w.buffer"]),
        ],
        [info("dcc.topology", F32, "batch", 48)],
        [info("w.buffer", F32, "batch", 48)],
        [tensor("w", weight(48, 48)), tensor("w.dcc", weight(48, 48, seed=2)), tensor("w.dcc.dcc", weight(48, seed=3))],
    )
    return net, {"dcc.topology": sample(3, 48)}


@register
def annotated() -> Built:
    """Everything a model can say about itself beside its computation."""
    net = model(
        [
            node("MatMul", ["x", "w"], ["h"], name="dense", doc_string="the product"),
            node("Relu", ["h"], ["y"], name="act"),
        ],
        [x_in("batch", 64)],
        [y_out("batch", 48)],
        [tensor("w", weight(64, 48))],
        opset=21,
    )
    net.producer_name, net.producer_version, net.domain = "someone", "1.2.3", "org.example.models"
    net.model_version, net.doc_string = 7, "A model with a story.\nIn two lines."
    helper.set_model_props(net, {"author": "Zoë", "labels": '["a", "b"]', "empty": ""})
    graph = net.graph
    graph.name, graph.doc_string = "main graph", "the graph's own words"
    graph.input[0].doc_string, graph.output[0].doc_string = "what goes in", "what comes out"
    graph.input[0].type.denotation = "TENSOR"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    graph.initializer[0].doc_string = "the weight"
    graph.value_info.append(info("h", F32, "batch", 48))
    for part in (graph, graph.node[0], graph.initializer[0], graph.input[0]):
        part.metadata_props.add(key="note", value="keep me")
    return net, {"x": sample(3, 64)}
