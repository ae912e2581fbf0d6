"""Compiled models from strangers: files that lie, that name files, that ask for more than they may. SECURITY.md."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import frame_builder
import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import ort_models as models
import pytest
from onnx import TensorProto, helper, numpy_helper

from dc_compiler.cli import main
from dc_compiler.codec import binding
from dc_compiler.errors import DccError
from dc_compiler.model import packed

FLOAT = TensorProto.FLOAT
NAMES = {number: name.lower() for name, number in TensorProto.DataType.items()}
PLAIN: dict[int, Any] = {
    FLOAT: np.float32, TensorProto.UINT8: np.uint8, TensorProto.INT8: np.int8, TensorProto.UINT16: np.uint16,
    TensorProto.INT16: np.int16, TensorProto.INT32: np.int32, TensorProto.INT64: np.int64, TensorProto.BOOL: np.bool_,
    TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64, TensorProto.UINT32: np.uint32,
    TensorProto.UINT64: np.uint64, TensorProto.COMPLEX64: np.complex64, TensorProto.COMPLEX128: np.complex128,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16, TensorProto.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: ml_dtypes.float8_e4m3fnuz, TensorProto.FLOAT8E5M2: ml_dtypes.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip
KNOWN = PLAIN.keys() - {TensorProto.COMPLEX64, TensorProto.COMPLEX128}  # to onnxruntime as well
NOT_CARRIED = (TensorProto.STRING, TensorProto.UINT4, TensorProto.INT4)
ALL_TYPES = (*PLAIN, *NOT_CARRIED)
WEIGHTS: dict[int, Any] = {
    FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT8: np.int8,
    TensorProto.INT32: np.int32,
}


def tensor(elem_type: int, name: str = "c") -> TensorProto:
    """Two elements of the type."""
    if elem_type == TensorProto.STRING:
        return TensorProto(name=name, data_type=elem_type, dims=[2], string_data=[b"one", b"two"])
    if elem_type in NOT_CARRIED:
        return TensorProto(name=name, data_type=elem_type, dims=[2], raw_data=b"\x21")
    return TensorProto(
        name=name, data_type=elem_type, dims=[2], raw_data=np.array([1, 0]).astype(PLAIN[elem_type]).tobytes()
    )


def topology(inner: onnx.ModelProto) -> bytes:
    return raw_topology(inner.SerializeToString())


def raw_topology(inner: bytes) -> bytes:
    return binding.encode_data(np.frombuffer(models.manifest({}) + inner, np.uint8), "raw")


def wrapped(
    inner: onnx.ModelProto, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """The inner model behind an outer graph that declares something of its own."""
    outer = models.make_model([], inputs, outputs)
    return models.wrap(outer, topology(inner), {})


def constant_model(elem_type: int) -> onnx.ModelProto:
    model = models.make_model(
        [helper.make_node("Identity", ["c"], ["y"])], [], [models.value("y", elem_type, [2])], [tensor(elem_type)]
    )
    model.opset_import[0].version = 21  # for types of 8 and 4 bits
    return model


def refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011  onnxruntime has several kinds
        models.open_session(model)
    return str(caught.value)


def python_refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(DccError) as caught:
        packed.unpack(model, "the file")
    return str(caught.value)


@pytest.mark.parametrize("inner", ALL_TYPES, ids=NAMES.get)
def test_outputs_of_every_pair_of_types(inner: int) -> None:
    for outer in ALL_TYPES:
        for shape in ([2], None):
            model = wrapped(constant_model(inner), [], [models.value("y", outer, shape)])
            if outer != inner or outer in NOT_CARRIED:
                message = refusal(model)
                if outer in KNOWN and inner in KNOWN:
                    assert f"output 'y': the graph declares element type {NAMES[outer]}" in message
                    assert f"the inner model element type {NAMES[inner]}" in message
            elif inner in (FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.DOUBLE, TensorProto.UINT8):
                np.testing.assert_array_equal(models.open_session(model).run(None, {})[0], [1, 0])


@pytest.mark.parametrize("inner", ALL_TYPES, ids=NAMES.get)
def test_inputs_of_every_pair_of_types(inner: int) -> None:
    inside = models.make_model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [models.value("x", inner, [2])],
        [models.value("y", inner, [2])],
    )
    inside.opset_import[0].version = 21
    for outer in ALL_TYPES:
        model = wrapped(inside, [models.value("x", outer, [2])], [models.value("y", inner, [2])])
        if outer != inner or outer in NOT_CARRIED:
            message = refusal(model)
            if outer in KNOWN and inner in KNOWN:
                assert f"input 'x': the graph declares element type {NAMES[outer]}" in message
                assert f"the inner model element type {NAMES[inner]}" in message
        elif inner in (FLOAT, TensorProto.INT64):
            (y,) = models.open_session(model).run(None, {"x": np.array([3, 4], PLAIN[inner])})
            np.testing.assert_array_equal(y, [3, 4])


@pytest.mark.parametrize("stored", [*WEIGHTS, TensorProto.UINT4], ids=NAMES.get)
def test_decoded_weights_of_every_pair_of_types(stored: int) -> None:
    dtype = WEIGHTS.get(stored, ml_dtypes.uint4)
    frame = binding.encode_data(np.array([1, 0], dtype), "raw")
    for declared in ALL_TYPES:
        for buffer in (None, declared, stored):
            nodes = [helper.make_node("DecodeWeights", ["p"] + ["b"] * (buffer is not None), ["y"], domain="dcc")]
            tensors = [models.bytes_tensor("p", frame)] + ([] if buffer is None else [tensor(buffer, "b")])
            model = models.make_model(nodes, [], [models.value("y", declared, [2])], tensors)
            if declared != stored or stored not in WEIGHTS:
                refusal(model)
            elif stored != TensorProto.BFLOAT16:  # which NumPy does not know
                np.testing.assert_array_equal(models.open_session(model).run(None, {})[0], np.array([1, 0], dtype))


def test_a_payload_is_no_buffer() -> None:
    """Decoding into the frame itself would change what is being read."""
    frame = binding.encode_data(np.arange(64, dtype=np.uint8), "raw")
    node = helper.make_node("DecodeWeights", ["p", "p"], ["y"], domain="dcc")
    outputs = [models.value("y", TensorProto.UINT8, None)]
    for _ in range(9):  # until a frame decodes to as many bytes as it has
        frame = binding.encode_data(np.zeros(len(frame), np.uint8), "lossless")
    assert len(frame) == binding.decode(frame).size
    assert "the buffer is the payload" in refusal(
        models.make_model([node], [], outputs, [models.bytes_tensor("p", frame)])
    )


@pytest.mark.parametrize("shape", [[3], [2, 1], ["n", 2]])
def test_declared_shapes_must_fit(shape: list[int | str]) -> None:
    assert "output 'y': the graph declares" in refusal(
        wrapped(constant_model(FLOAT), [], [models.value("y", FLOAT, shape)])
    )


def test_values_that_are_no_tensors() -> None:
    element = helper.make_tensor_type_proto(FLOAT, None)
    kinds = [helper.make_sequence_type_proto(element), helper.make_optional_type_proto(element)]
    sequence = models.make_model(
        [helper.make_node("SequenceConstruct", ["c"], ["y"])],
        [],
        [helper.make_value_info("y", kinds[0])],
        [tensor(FLOAT)],
    )
    assert "output 'y' of the inner model is no tensor" in refusal(
        wrapped(sequence, [], [models.value("y", FLOAT, [2])])
    )
    for kind in kinds:
        refusal(wrapped(constant_model(FLOAT), [], [helper.make_value_info("y", kind)]))
        refusal(wrapped(sequence, [], [helper.make_value_info("y", kind)]))
        inside = models.make_model(
            [helper.make_node("Identity", ["c"], ["y"])],
            [helper.make_value_info("x", kind)],
            [models.value("y", FLOAT, [2])],
            [tensor(FLOAT)],
        )
        refusal(wrapped(inside, [models.value("x", FLOAT, [2])], [models.value("y", FLOAT, [2])]))
    node = helper.make_node("DecodeWeights", ["p"], ["y"], domain="dcc")
    frame = models.bytes_tensor("p", binding.encode_data(np.ones(2, np.float32), "raw"))
    refusal(models.make_model([node], [], [helper.make_value_info("y", kinds[0])], [frame]))


def test_values_without_a_type_or_a_name() -> None:
    model = wrapped(constant_model(FLOAT), [], [models.value("y", FLOAT, [2])])
    model.graph.node[0].output[0] = "h"
    model.graph.node.add(op_type="Identity", input=["h"], output=["y"])
    refusal(model)  # onnxruntime finds no type for h
    model = wrapped(constant_model(FLOAT), [], [models.value("y", FLOAT, [2])])
    model.graph.node[0].output.append("")
    refusal(model)
    model = wrapped(constant_model(FLOAT), [models.value("x", FLOAT, [2])], [models.value("y", FLOAT, [2])])
    model.graph.node[0].input[0] = ""
    refusal(model)


@pytest.mark.parametrize("domain", ["dcc", "dcc.run"])
def test_operators_of_inner_models_are_unknown_outside(domain: str) -> None:
    node = helper.make_node("ReleaseModel", [], ["y"], domain=domain)
    model = models.make_model([node], [], [models.value("y", TensorProto.UINT8, None)])
    assert "is not a registered function/op" in refusal(model)


def test_operators_of_the_library_are_refused_in_inner_models() -> None:
    model = with_node(helper.make_node("ReleaseModel", [], ["u"], domain="dcc.run"))
    whole = wrapped(model, [], [models.value("y", FLOAT, [2])])
    assert "a node of the domain 'dcc.run' is no part of a layer of the main graph" in refusal(whole)
    assert "a node of the domain 'dcc.run' is no part of a layer of the main graph" in python_refusal(whole)


# Where a tensor, or a node, can stand in an inner model.


def external(name: str = "e") -> TensorProto:
    result = TensorProto(name=name, data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    result.external_data.add(key="location", value="secret.txt")
    return result


def sparse(values: TensorProto, indices: TensorProto | None = None) -> onnx.SparseTensorProto:
    found = indices or numpy_helper.from_array(np.array([0, 1]), "i")
    return onnx.SparseTensorProto(values=values, indices=found, dims=[4])


def body(*nodes: onnx.NodeProto, initializer: Sequence[TensorProto] = ()) -> onnx.GraphProto:
    return helper.make_graph(nodes, "body", [], [models.value("b", FLOAT, [2])], initializer)


def with_node(node: onnx.NodeProto) -> onnx.ModelProto:
    model = constant_model(FLOAT)
    model.graph.node.append(node)
    return model


def with_attribute(**value: Any) -> onnx.NodeProto:
    node = onnx.NodeProto(op_type="Constant", output=["unused"])
    attribute = node.attribute.add(name="value")
    for field, content in value.items():
        if isinstance(content, list):
            getattr(attribute, field).extend(content)
        else:
            getattr(attribute, field).CopyFrom(content)
    return node


def in_function(*nodes: onnx.NodeProto, domain: str = "local") -> onnx.ModelProto:
    model = constant_model(FLOAT)
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function(domain, "F", ["a"], ["b"], list(nodes), imports))
    return model


def in_training(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = constant_model(FLOAT)
    model.training_info.add().algorithm.CopyFrom(graph)
    return model


def with_initializer(values: TensorProto | None = None, sparse_values: Any = None) -> onnx.ModelProto:
    model = constant_model(FLOAT)
    if values is not None:
        model.graph.initializer.append(values)
    else:
        model.graph.sparse_initializer.append(sparse_values)
    return model


EXTERNAL: dict[str, Callable[[], onnx.ModelProto]] = {
    "initializer": lambda: with_initializer(external()),
    "values of a sparse initializer": lambda: with_initializer(sparse_values=sparse(external())),
    "indices of a sparse initializer": lambda: with_initializer(sparse_values=sparse(tensor(FLOAT), external())),
    "tensor attribute": lambda: with_node(with_attribute(t=external())),
    "list of tensors": lambda: with_node(with_attribute(tensors=[tensor(FLOAT), external()])),
    "sparse attribute": lambda: with_node(with_attribute(sparse_tensor=sparse(external()))),
    "list of sparse tensors": lambda: with_node(with_attribute(sparse_tensors=[sparse(external())])),
    "initializer of a body": lambda: with_node(with_attribute(g=body(initializer=[external()]))),
    "attribute in a body": lambda: with_node(with_attribute(g=body(with_attribute(t=external())))),
    "second of two bodies": lambda: with_node(with_attribute(graphs=[body(), body(initializer=[external()])])),
    "body in a body": lambda: with_node(
        with_attribute(g=body(with_attribute(g=body(with_attribute(t=external())))))
    ),
    "function": lambda: in_function(with_attribute(t=external())),
    "body in a function": lambda: in_function(with_attribute(g=body(initializer=[external()]))),
    "training graph": lambda: in_training(body(initializer=[external()])),
    "without a location": lambda: with_initializer(
        TensorProto(name="e", data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    ),
}  # fmt: skip
OWN_NODE = helper.make_node("CompiledModel", ["t"], ["u"], domain="dcc", model_inputs=0)
HOLDS_DCC: dict[str, Callable[[], onnx.ModelProto]] = {
    "node": lambda: with_node(OWN_NODE),
    "DecodeWeights": lambda: with_node(helper.make_node("DecodeWeights", ["t"], ["u"], domain="dcc")),
    "ReleaseModel": lambda: with_node(helper.make_node("ReleaseModel", [], ["u"], domain="dcc")),
    "body": lambda: with_node(with_attribute(g=body(OWN_NODE))),
    "function": lambda: in_function(OWN_NODE),
    "function of the domain": lambda: in_function(helper.make_node("Relu", ["a"], ["b"]), domain="dcc"),
    "training graph": lambda: in_training(body(OWN_NODE)),
}


@pytest.mark.parametrize("place", EXTERNAL)
def test_external_data_is_refused_wherever_a_tensor_can_stand(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.txt").write_bytes(np.array([7, 7], np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    model = wrapped(EXTERNAL[place](), [], [models.value("y", FLOAT, [2])])
    assert "has external data; a packed model names no files" in refusal(model)
    assert "has external data; a packed model names no files" in python_refusal(model)


@pytest.mark.parametrize("place", HOLDS_DCC)
def test_compiled_models_do_not_hold_compiled_models(place: str) -> None:
    model = wrapped(HOLDS_DCC[place](), [], [models.value("y", FLOAT, [2])])
    assert "uses the operator domain 'dcc'" in refusal(model)
    assert "uses the operator domain 'dcc'" in python_refusal(model)


def test_nodes_that_name_files_are_refused() -> None:
    node = helper.make_node("EPContext", [], ["u"], domain="com.microsoft", embed_mode=0, ep_cache_context="../x.bin")
    model = wrapped(with_node(node), [], [models.value("y", FLOAT, [2])])
    assert "EPContext" in refusal(model)
    assert "EPContext" in python_refusal(model)


def test_names_of_the_library_are_refused() -> None:
    model = constant_model(FLOAT)
    model.graph.output.append(models.value("dcc.released", TensorProto.UINT8, None))
    whole = wrapped(model, [], [models.value("y", FLOAT, [2]), models.value("z", TensorProto.UINT8, None)])
    assert "'dcc.released'" in refusal(whole)


def length_delimited(field: int, content: bytes, overlong: int = 0) -> bytes:
    """A protobuf field; its tag in more bytes than it needs."""
    tag = models.varint(field << 3 | 2)
    tag = tag[:-1] + bytes([tag[-1] | 0x80]) + b"\x80" * (overlong - 1) + b"\0" if overlong else tag
    return tag + models.varint(len(content)) + content


WIRE: dict[str, tuple[bytes, str]] = {
    # TensorProto.data_location is field 14, in initializer 5 of graph 7
    "tag in two bytes": (length_delimited(7, length_delimited(5, b"\xf0\x00\x01"), 1), "external data"),
    "location 2^32 + 1": (
        length_delimited(7, length_delimited(5, b"\x70" + models.varint(2**32 + 1))),
        "external data",
    ),
    "entry without content": (length_delimited(7, length_delimited(5, length_delimited(13, b""))), "external data"),
    "graph in two parts": (
        length_delimited(7, b"") + length_delimited(7, length_delimited(5, b"\x70\x01"), 3),
        "external data",
    ),
    "a length past the end": (length_delimited(7, b"")[:-1] + b"\x05", "not a well-formed"),
    "a group": (b"\x3b\x3c", "not a well-formed"),
    "field 0": (b"\x02\x00", "not a well-formed"),
    "tag of 64 bits": (b"\xba\x80\x80\x80\x80\x10\x00", "not a well-formed"),
    "number of 11 bytes": (b"\x08" + b"\x80" * 10 + b"\x01", "not a well-formed"),
    "cut in a tag": (b"\x80", "not a well-formed"),
    "211 messages inside each other": (
        functools.reduce(lambda inner, field: length_delimited(field, inner), [6, 5, 1] * 70 + [7], b""),
        "nest too deep",
    ),
}


@pytest.mark.parametrize("name", WIRE)
def test_wire_format_is_walked_as_protobuf_reads_it(name: str) -> None:
    content, complaint = WIRE[name]
    outer = models.make_model([], [], [models.value("y", FLOAT, [2])])
    assert complaint in refusal(models.wrap(outer, raw_topology(content), {}))


# Functions and bodies.


def chain_of_functions(count: int, calls: int, depth: int = 0, circle: bool = False) -> onnx.ModelProto:
    """Functions that each call the one before `calls` times, `depth` bodies deep."""
    model = constant_model(FLOAT)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    model.opset_import.add(domain="local", version=1)
    for i in range(count):
        first = [helper.make_node(f"F{count - 1}", ["a"], ["b"], domain="local")] if circle else []
        nodes = [helper.make_node(f"F{i - 1}", ["a"], [f"b{k}"], domain="local") for k in range(calls)] if i else first
        for _ in range(depth):
            nodes = [with_attribute(g=body(*nodes))]
        model.functions.append(helper.make_function("local", f"F{i}", ["a"], ["b"], nodes, imports))
    model.graph.node.append(helper.make_node(f"F{count - 1}", ["c"], ["unused"], domain="local"))
    return model


FUNCTIONS: dict[str, tuple[onnx.ModelProto, str]] = {
    "fan out": (chain_of_functions(40, 12), "max_decoded_bytes"),
    "calls": (chain_of_functions(70, 1), "nest 70 deep"),
    "bodies in calls": (chain_of_functions(5, 1, depth=20), "deep"),
    "circle": (chain_of_functions(3, 1, circle=True), "calls itself"),
    "long chain": (chain_of_functions(20_000, 1), "deep"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_counted_in_place(name: str) -> None:
    inner, complaint = FUNCTIONS[name]
    model = wrapped(inner, [], [models.value("y", FLOAT, [2])])
    start = time.process_time()
    assert complaint in refusal(model)
    assert time.process_time() - start < 1


# What a file may expand to.


def zeros_frame(*dims: int, dtype: int = FLOAT) -> bytes:
    """A tensor of zeros in some sixty bytes, whatever its size."""
    width = 8 if dtype == TensorProto.DOUBLE else 4
    fields = frame_builder.Fields(1, dtype, dims, 0, codebook_kind=1, k=1, zero=1)
    return frame_builder.Frame(fields, (bytes(width), b"")).to_bytes()


def zeros_model(*dims: int, count: int = 1) -> onnx.ModelProto:
    """Session form: the sum of `count` weights of zeros."""
    names = [f"w{i}" for i in range(count)]
    nodes = [helper.make_node("Sum", names, ["s"]), helper.make_node("ReduceSum", ["s"], ["y"], keepdims=0)]
    inner = models.make_model(nodes, [], [models.value("y", FLOAT, [])])
    listed = models.manifest({n: (FLOAT, dims) for n in names}) + inner.SerializeToString()
    coded = binding.encode_data(np.frombuffer(listed, np.uint8), "raw")
    return models.wrap(inner, coded, dict.fromkeys(names, zeros_frame(*dims)))


def test_elements_that_share_bytes_have_a_payload_of_their_own() -> None:
    """Where one weight of 4 bits ends, the next would start in the middle of a byte."""
    table = np.array([1, -8, 7], ml_dtypes.int4)
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["d"]), helper.make_node("Identity", ["d"], ["y"])]
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "s")
    inner = models.make_model(nodes, [], [models.value("y", FLOAT, [3])], [scale])
    inner.opset_import[0].version = 21

    def packed_as(weights: dict[str, tuple[int, list[int]]], frame: bytes, count: int) -> onnx.ModelProto:
        listed = models.manifest(weights)
        if count > 1:  # all in one payload
            parts = models.manifest(weights)[2:].split(b"\1\1")[1:]
            listed = models.varint(1) + models.varint(1) + models.varint(count) + b"".join(b"\1" + p for p in parts)
        coded = binding.encode_data(np.frombuffer(listed + inner.SerializeToString(), np.uint8), "raw")
        return models.wrap(inner, coded, {"w": frame})

    one = packed_as({"w": (TensorProto.INT4, [3])}, binding.encode_data(table), 1)
    (y,) = models.open_session(one).run(None, {})
    np.testing.assert_array_equal(y, [0.5, -4, 3.5])
    two = packed_as(
        {"w": (TensorProto.INT4, [3]), "v": (TensorProto.INT4, [3])},
        binding.encode_data(np.concatenate([table, table])),
        2,
    )
    assert "weight 'w' has elements that share bytes" in refusal(two)
    with pytest.raises(DccError, match="weight 'w' has elements that share bytes"):
        packed.unpack(two, "it")


def zeros_graph(*dims: int, count: int = 1) -> onnx.ModelProto:
    """Graph form of the same, without buffers."""
    names = [f"w{i}" for i in range(count)]
    nodes = [helper.make_node("DecodeWeights", [f"{n}.dcc"], [n], domain="dcc") for n in names]
    nodes += [helper.make_node("Sum", names, ["s"]), helper.make_node("ReduceSum", ["s"], ["y"], keepdims=0)]
    payloads = [models.bytes_tensor(f"{n}.dcc", zeros_frame(*dims)) for n in names]
    types = [models.value(n, FLOAT, dims) for n in names]
    return models.make_model(nodes, [], [models.value("y", FLOAT, [])], payloads, types)


def with_topology(frame: bytes, payloads: Mapping[str, bytes]) -> onnx.ModelProto:
    return models.wrap(models.make_model([], [], [models.value("y", FLOAT, None)]), frame, payloads)


def long_topology(size: int) -> onnx.ModelProto:
    """A topology that its header says is `size` bytes long."""
    frame = frame_builder.lz(size, frame_builder.Sequences(b"", (), b"", b"x"))
    return with_topology(frame.to_bytes(), {})


def repeated(head: bytes, entry: bytes, count: int) -> bytes:
    return binding.encode_data(np.frombuffer(head + entry * count, np.uint8), "lz")


ENTRY = b"\1\0\1\0"  # a payload of one weight without a name, a float scalar
BOMBS: dict[str, Callable[[], onnx.ModelProto]] = {
    "6 GB of weights": lambda: zeros_model(40_000, 40_000),
    "6 GB of weights, graph form": lambda: zeros_graph(40_000, 40_000),
    "64 weights of 16 MB": lambda: zeros_model(2000, 2000, count=64),
    "64 weights of 16 MB, graph form": lambda: zeros_graph(2000, 2000, count=64),
    "2 GB of topology": lambda: long_topology(2_000_000_000),
    "more weights than payloads": lambda: with_topology(
        repeated(b"\1" + models.varint(2_000_000), ENTRY, 2_000_000), {"w": zeros_frame(2)}
    ),
    "a payload of two million weights": lambda: with_topology(
        repeated(b"\1\1" + models.varint(2_000_000), ENTRY[1:], 2_000_000), {"w": zeros_frame(2)}
    ),
    "four million empty nodes": lambda: with_topology(
        repeated(models.manifest({}) + b"\x3a" + models.varint(8_000_000), b"\x0a\0", 4_000_000), {}
    ),
    "twenty million packed dims": lambda: with_topology(
        repeated(
            models.manifest({})
            + b"\x3a" + models.varint(20_000_010) + b"\x2a" + models.varint(20_000_005)
            + b"\x0a" + models.varint(20_000_000),
            b"\1",
            20_000_000,
        ),
        {},
    ),
}  # fmt: skip
WEIGH = """
import sys, time
import onnxruntime as ort
options = ort.SessionOptions()
options.log_severity_level = 4
options.register_custom_ops_library(sys.argv[1])
for path in sys.argv[2:]:
    start = time.process_time()
    try:
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        print(time.process_time() - start, error)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
WEIGH_PYTHON = """
import sys, time
import onnx
from dc_compiler.errors import DccError
from dc_compiler.model import packed
for path in sys.argv[2:]:
    model = onnx.load(path)
    start = time.process_time()
    try:
        packed.unpack(model, path)
    except DccError as error:
        print(time.process_time() - start, error)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def weigh(script: str, files: Mapping[str, onnx.ModelProto], folder: Path) -> list[str]:
    """The refusals of all files, one after the other in a process of their own; each took under a second, and the
    process never more than 200 MiB, Python and onnxruntime included."""
    paths = []
    for number, model in enumerate(files.values()):
        paths.append(str(folder / f"{number}.onnx"))
        onnx.save(model, paths[-1])
    command = [sys.executable, "-c", script, binding.get_library_path(), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *refusals, kilobytes = done.stdout.splitlines()
    assert len(refusals) == len(files), refusals
    messages = []
    for name, line in zip(files, refusals, strict=True):
        seconds, message = line.split(" ", 1)
        assert float(seconds) < 1, name
        messages.append(message)
    assert int(kilobytes) < 200 << 10
    return messages


@pytest.mark.parametrize("script", [WEIGH, WEIGH_PYTHON], ids=["runtime", "unpack"])
def test_weighed_bombs_are_refused_at_once(script: str, tmp_path: Path) -> None:
    for message in weigh(script, {name: make() for name, make in BOMBS.items()}, tmp_path):
        assert re.search("max.decoded.bytes", message) or "packed weights" in message or "more weights than" in message


@pytest.mark.parametrize("script", [WEIGH, WEIGH_PYTHON], ids=["runtime", "unpack"])
def test_weighed_inner_models_are_refused_at_once(script: str, tmp_path: Path) -> None:
    outputs = [models.value("y", FLOAT, [2])]
    inner = {name: make() for name, make in (EXTERNAL | HOLDS_DCC).items()} | {n: f for n, (f, _) in FUNCTIONS.items()}
    files = {name: wrapped(model, [], outputs) for name, model in inner.items()}
    files |= {n: models.wrap(models.make_model([], [], outputs), raw_topology(w), {}) for n, (w, _) in WIRE.items()}
    for message in weigh(script, files, tmp_path):
        assert "inner model" in message


@pytest.mark.parametrize("make", [zeros_model, zeros_graph])
def test_the_host_may_bound_and_allow(make: Callable[..., onnx.ModelProto]) -> None:
    def entries(limit: int) -> ort.SessionOptions:
        return models.options(entries={"dcc.max_decoded_bytes": str(limit)})

    model = make(1000, 1000, count=8)  # 32 MB
    assert models.open_session(model).run(None, {})[0] == 0
    assert " bytes, but it may take 31999999" in refusal_with(model, entries(31_999_999))
    assert models.open_session(model, entries(33_000_000)).run(None, {})[0] == 0
    model = make(1000, 1000, count=20)  # 80 MB
    assert "set dcc.max_decoded_bytes" in refusal(model)
    assert models.open_session(model, entries(100_000_000)).run(None, {})[0] == 0
    with pytest.raises(DccError, match="--max-decoded-bytes"):
        packed.unpack(model, "it")
    unpacked = packed.unpack(model, "it", max_decoded_bytes=100_000_000)
    assert sum(len(t.raw_data) for t in unpacked.graph.initializer) == 80_000_000


def test_the_command_bounds_and_allows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, dense = str(tmp_path / "zeros.onnx"), tmp_path / "dense.onnx"
    onnx.save(zeros_model(1000, 1000, count=20), source)  # 80 MB
    for command in (["inspect", source], ["unpack", source, "-o", str(dense)]):
        assert main(command) == 2
        assert "zeros.onnx" in capsys.readouterr().err
        assert not dense.exists()
        assert main([*command, "--max-decoded-bytes", "100000000"]) == 0
    assert dense.stat().st_size > 80_000_000


def refusal_with(model: onnx.ModelProto, options: ort.SessionOptions) -> str:
    with pytest.raises(Exception, match="max_decoded_bytes") as caught:
        models.open_session(model, options)
    return str(caught.value)


def test_sessions_have_budgets_of_their_own() -> None:
    model = zeros_graph(2000, 2000, count=3)  # 48 MB of 64
    sessions = [models.open_session(model) for _ in range(3)]
    assert all(s.run(None, {})[0] == 0 for s in sessions)


def test_the_bound_is_checked() -> None:
    for bad in ("", "much", "-1", "1e9", str(2**64)):
        with pytest.raises(Exception, match=r"dcc\.max_decoded_bytes must be"):
            models.options(entries={"dcc.max_decoded_bytes": bad})


def test_a_bound_set_after_registering_counts() -> None:
    options = models.options()
    options.add_session_config_entry("dcc.max_decoded_bytes", "1000")
    refusal_with(zeros_model(100, 100), options)


def test_nested_bodies_on_a_small_stack() -> None:
    """As deep as protobuf reads, on a thread with a stack of 1 MB."""
    graph = body(helper.make_node("Identity", ["c"], ["b"]))
    for _ in range(30):
        graph = body(helper.make_node("If", ["flag"], ["b"], then_branch=graph, else_branch=body(
            helper.make_node("Identity", ["c"], ["b"])
        )))  # fmt: skip
    inner = models.make_model(
        [helper.make_node("If", ["flag"], ["y"], then_branch=graph, else_branch=graph)],
        [models.value("flag", TensorProto.BOOL, [])],
        [models.value("y", FLOAT, [2])],
        [tensor(FLOAT)],
    )
    model = wrapped(inner, list(inner.graph.input), list(inner.graph.output))
    results: list[Any] = []

    def run() -> None:
        results.extend(models.open_session(model).run(None, {"flag": np.array(True)}))

    before = threading.stack_size(1 << 20)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    np.testing.assert_array_equal(results[0], [1, 0])
