"""Small models that use the library's operators, made by hand (FORMAT.md section 9)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from dc_compiler.codec import binding

Array = npt.NDArray[Any]

LEVELS = [
    ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
]


def options(level: Any = None, threads: int = 1, entries: Mapping[str, str] | None = None) -> ort.SessionOptions:
    """Session options with the library registered last; errors are not logged as the tests read them."""
    result = ort.SessionOptions()
    result.log_severity_level = 4
    result.intra_op_num_threads = threads
    if level is not None:
        result.graph_optimization_level = level
    for key, value in (entries or {}).items():
        result.add_session_config_entry(key, value)
    result.register_custom_ops_library(binding.get_library_path())
    return result


def open_session(model: onnx.ModelProto, session_options: ort.SessionOptions | None = None) -> ort.InferenceSession:
    return ort.InferenceSession(
        model.SerializeToString(), session_options or options(), providers=["CPUExecutionProvider"]
    )


def growth_of_reloading(model: onnx.ModelProto) -> int:
    """Bytes that a process of its own grows by in 1,000 sessions, after as many to let the heap settle."""
    code = "import sys, onnx, ort_models; print(ort_models.growth_here(onnx.load_from_string(sys.stdin.buffer.read())))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=model.SerializeToString(),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return int(done.stdout)


def growth_here(model: onnx.ModelProto) -> int:
    """As above, in this process. One options object: every registration keeps a few KB for the life of the process."""
    shared = options()
    before = 0
    for count in range(2000):
        if count == 1000:
            before = resident_bytes()
        open_session(model, shared)
    return resident_bytes() - before


def peak_of_opening(path: Path, compiled: bool) -> int:
    """Bytes by which the most memory of a process grows that opens the model, as `dcc bench` weighs it."""
    code = "import sys; from dc_compiler.ort.bench import load_worker; load_worker(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(int(compiled)), "1"], stdout=subprocess.PIPE, check=True
    )
    return int(json.loads(done.stdout)["peak"])


def resident_bytes() -> int:
    with open("/proc/self/statm") as status:
        return int(status.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bytes_tensor(name: str, data: bytes) -> TensorProto:
    return numpy_helper.from_array(np.frombuffer(data, np.uint8), name)


def value(name: str, dtype: int, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def element_type(array: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[TensorProto] = (),
    value_info: Sequence[onnx.ValueInfoProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers, value_info=value_info)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("dcc", 1)], ir_version=8
    )


def buffer_nodes(name: str, array: Array, fill: int) -> list[onnx.NodeProto]:
    """Nodes that onnxruntime folds into a buffer; the bit pattern `fill` keeps it apart from other weights' buffers."""
    pattern = np.array([fill], f"u{array.dtype.itemsize}").view(array.dtype)
    shape = numpy_helper.from_array(np.array(array.shape, np.int64))
    return [
        helper.make_node("Constant", [], [f"{name}.shape"], value=shape),
        helper.make_node(
            "ConstantOfShape", [f"{name}.shape"], [f"{name}.buffer"], value=numpy_helper.from_array(pattern)
        ),
    ]


def decode_node(name: str, buffer: bool = True) -> onnx.NodeProto:
    inputs = [f"{name}.dcc", f"{name}.buffer"] if buffer else [f"{name}.dcc"]
    return helper.make_node("DecodeWeights", inputs, [name], name=f"{name}.decode", domain="dcc")


def graph_form(
    model: onnx.ModelProto, fills: Mapping[str, int], payloads: Mapping[str, bytes] | None = None
) -> onnx.ModelProto:
    """The model with the initializers in `fills` packed; a fill of -1 stands for no buffer."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    kept = [t for t in graph.initializer if t.name not in fills]
    nodes: list[onnx.NodeProto] = []
    for name, fill in fills.items():
        array = arrays[name]
        kept.append(bytes_tensor(f"{name}.dcc", (payloads or {}).get(name) or binding.encode_data(array, "raw")))
        if fill >= 0:
            nodes += buffer_nodes(name, array, fill)
        nodes.append(decode_node(name, buffer=fill >= 0))
        graph.value_info.append(value(name, element_type(array), array.shape))
    nodes += graph.node
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return result


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def manifest(weights: Mapping[str, tuple[int, Sequence[int]]], executions: Mapping[str, bytes] | None = None) -> bytes:
    """One payload for each weight; version 2 where executions are given."""
    out = varint(1 if executions is None else 2) + varint(len(weights))
    for name, (dtype, dims) in weights.items():
        out += varint(1) + varint(len(name.encode())) + name.encode() + bytes([dtype, len(dims)])
        out += b"".join(varint(d) for d in dims)
        if executions is not None:
            out += varint(len(executions[name])) + executions[name]
    return out


def without(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """The model without the named initializers, as the topology has it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    kept = [t for t in model.graph.initializer if t.name not in names]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    return result


def wrap(model: onnx.ModelProto, topology: bytes, payloads: Mapping[str, bytes]) -> onnx.ModelProto:
    """A CompiledModel node with the inputs and outputs of `model`."""
    inputs = [i.name for i in model.graph.input]
    node = helper.make_node(
        "CompiledModel",
        [*inputs, "topology", *(f"{name}.dcc" for name in payloads)],
        [o.name for o in model.graph.output],
        name="compiled",
        domain="dcc",
        model_inputs=len(inputs),
    )
    tensors = [bytes_tensor("topology", topology), *(bytes_tensor(f"{n}.dcc", p) for n, p in payloads.items())]
    return make_model([node], list(model.graph.input), list(model.graph.output), tensors)


def session_form(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """The model in session form with the named initializers packed."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in names}
    declared = manifest({name: (element_type(a), a.shape) for name, a in arrays.items()})
    topology = declared + without(model, names).SerializeToString()
    return wrap(
        model,
        binding.encode_data(np.frombuffer(topology, np.uint8), "lz"),
        {name: binding.encode_data(a, "raw") for name, a in arrays.items()},
    )


def chain(weights: Sequence[Array]) -> onnx.ModelProto:
    """x [n, k] times w0, w1, ... (each cast to f32) -> y [n, k]."""
    nodes = []
    current = "x"
    for i, _ in enumerate(weights):
        result = "y" if i == len(weights) - 1 else f"h{i}"
        nodes += [
            helper.make_node("Cast", [f"w{i}"], [f"w{i}.f32"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", [current, f"w{i}.f32"], [result]),
        ]
        current = result
    return make_model(
        nodes,
        [value("x", TensorProto.FLOAT, ["n", weights[0].shape[0]])],
        [value("y", TensorProto.FLOAT, ["n", weights[-1].shape[1]])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )


def random_weights(count: int, shape: tuple[int, int] = (8, 8), dtype: Any = np.float32) -> list[Array]:
    rng = np.random.default_rng(7)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(count)]


def random_input(rows: int, columns: int = 8) -> Array:
    return np.random.default_rng(8).standard_normal((rows, columns)).astype(np.float32)
