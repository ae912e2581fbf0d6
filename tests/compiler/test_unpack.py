"""`dcc_unpack`: compiled models of either form back to standard ONNX, byte for byte as protobuf's classes write it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from fixtures.inputs import FIXTURES
from models.graphs import GRAPHS
from onnx import TensorProto, helper, numpy_helper
from slow_unpack import slow_unpack

from dc_compiler import InferenceSession, compile_model, unpack_model
from dc_compiler.codec import binding
from dc_compiler.errors import CorruptFrameError, DccError, InvalidArgumentError, ModelError, OverLimitError
from dc_compiler.model import files, messages, packed

FORMS = ("session", "graph")


def check(model: onnx.ModelProto) -> None:
    for threads in (1, 3):
        dense = binding.unpack(model.SerializeToString(), threads=threads)
        assert dense == slow_unpack(model).SerializeToString(deterministic=True)


@pytest.mark.parametrize("form", FORMS)
def test_graphs(form: str) -> None:
    for name in GRAPHS:
        check(compile_model(GRAPHS[name]()[0], preset="lossless", min_size=16, emit=form, force=True).model)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FIXTURES)
def test_fixtures(name: str, form: str) -> None:
    pipeline = "canonicalize,prune(density=0.3),cluster(grid),encode"
    check(compile_model(FIXTURES[name], pipeline=pipeline, min_size=64, emit=form, force=True).model)


@pytest.mark.parametrize(("execution", "form"), [("sparse", "session"), ("int8", "session"), ("int8", "graph")])
@pytest.mark.parametrize("name", ["matmul", "gemm", "conv"])
def test_layers_that_run_otherwise(name: str, execution: str, form: str) -> None:
    pipeline = "prune(density=0.2),cluster(grid),encode"
    net, _ = GRAPHS[name]()
    model = compile_model(net, pipeline=pipeline, min_size=16, execution=execution, emit=form, force=True).model
    check(model)
    plain = onnx.load_from_string(binding.unpack(model.SerializeToString()))
    assert {n.domain for n in plain.graph.node}.isdisjoint({"dcc", "dcc.run"})
    assert {o.domain for o in plain.opset_import}.isdisjoint({"dcc", "dcc.run"})


@pytest.mark.parametrize("form", FORMS)
def test_a_model_too_large_for_one_message(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protobuf writes and reads it in pieces."""
    model = compile_model(FIXTURES["torch_cnn_legacy"], preset="lossless", min_size=16, emit=form).model
    expected = slow_unpack(model)
    monkeypatch.setattr(files, "MAX_MESSAGE_BYTES", 100)
    assert packed.unpack(model, "it") == expected
    assert onnx.load_from_string(messages.to_bytes(model)) == model
    compiled, dense = tmp_path / "compiled.onnx", tmp_path / "dense.onnx"
    files.write_model(model, compiled)
    unpack_model(compiled, dense)
    monkeypatch.undo()
    loaded = onnx.load(dense)
    for tensor in loaded.graph.initializer:
        tensor.ClearField("data_location")  # which onnx writes when it has read the data
    assert loaded == expected


# Models that others have changed --------------------------------------------------------------------------------------


def compiled(form: str = "session", name: str = "matmul") -> onnx.ModelProto:
    return compile_model(GRAPHS[name]()[0], preset="lossless", min_size=16, emit=form).model


def test_other_nodes_beside_a_compiled_model() -> None:
    """They would be lost."""
    model = compiled()
    model.graph.node.add(op_type="Identity", input=[model.graph.output[0].name], output=["more"])
    with pytest.raises(CorruptFrameError, match="other nodes stand beside the compiled model"):
        packed.unpack(model, "it")


@pytest.mark.parametrize("kind", ["input", "output"])
def test_renamed_inputs_and_outputs(kind: str) -> None:
    """The dense model would have the old names."""
    model = compiled()
    value = getattr(model.graph, kind)[0]
    old, value.name = value.name, "renamed"
    names = getattr(model.graph.node[0], kind)
    names[0] = "renamed"
    with pytest.raises(CorruptFrameError, match=f"{kind} 'renamed' of the graph is '{old}' in the inner model"):
        packed.unpack(model, "it")


def test_operator_sets_are_those_of_the_inner_graph() -> None:
    model = compiled()
    expected = {o.domain: o.version for o in slow_unpack(model).opset_import}
    next(o for o in model.opset_import if o.domain == "").version += 1
    assert {o.domain: o.version for o in packed.unpack(model, "it").opset_import} == expected


def test_what_others_read_of_a_buffer_stays() -> None:
    """Optimizers of graphs make one constant of equal ones: a buffer's shape may be what another node reads."""
    model = compiled("graph")
    _, feed = GRAPHS["matmul"]()
    (shape,) = (t.name for t in model.graph.initializer if t.name.endswith(".shape"))
    copied = [helper.make_tensor_value_info("copy", TensorProto.INT64, [2])]
    body = helper.make_graph([helper.make_node("Identity", [shape], ["copy"])], "body", [], copied)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    model.graph.node.append(helper.make_node("If", ["flag"], ["copy"], then_branch=body, else_branch=body))
    model.graph.output.extend(copied)
    dense = packed.unpack(model, "it")
    assert [n.op_type for n in dense.graph.node] == ["MatMul", "If"]
    assert {t.name for t in dense.graph.initializer} == {"w", "flag", shape}
    results = [InferenceSession(m.SerializeToString()).run(None, feed) for m in (dense, model)]
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_buffer_that_is_an_output_stays() -> None:
    model = compiled("graph")
    (buffer,) = (n.output[0] for n in model.graph.node if n.op_type == "ConstantOfShape")
    model.graph.output.append(helper.make_tensor_value_info(buffer, TensorProto.FLOAT, None))
    dense = packed.unpack(model, "it")
    assert [n.op_type for n in dense.graph.node] == ["ConstantOfShape", "MatMul"]
    assert {t.name for t in dense.graph.initializer} == {"w", f"{buffer}.shape"}


@pytest.mark.parametrize("form", FORMS)
def test_messages_in_several_parts(form: str) -> None:
    """Protobuf takes graphs that follow each other for one, and the last of several texts."""
    model = compiled(form)
    expected = slow_unpack(model)
    halves = onnx.ModelProto(), onnx.ModelProto()
    for half, keep in zip(halves, (0, 1), strict=True):
        half.CopyFrom(model)
        tensors = list(model.graph.initializer)[keep::2]
        del half.graph.initializer[:]
        half.graph.initializer.extend(tensors)
    for field in ("node", "input", "output", "value_info", "metadata_props"):
        halves[1].graph.ClearField(field)
    tail = onnx.ModelProto(graph=halves[1].graph, domain="new")
    halves[0].domain = "old"
    dense = onnx.load_from_string(binding.unpack(halves[0].SerializeToString() + tail.SerializeToString()))
    expected.domain = "new"
    for tensors in (dense.graph.initializer, expected.graph.initializer):
        tensors.sort(key=lambda t: t.name)
    assert dense == expected


# What is refused ------------------------------------------------------------------------------------------------------


def changed(change: Callable[[onnx.ModelProto], object], form: str = "session") -> bytes:
    model = compiled(form)
    change(model)
    return bytes(model.SerializeToString())


def at_payload(change: Callable[[TensorProto], object], form: str = "session") -> bytes:
    def find(model: onnx.ModelProto) -> None:
        (payload,) = (t for t in model.graph.initializer if t.name == "w.dcc")
        change(payload)

    return changed(find, form)


def external(tensor: TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")


def with_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("DecodeWeights", ["p"], ["w"], name="inside", domain="dcc")
    imports = [helper.make_opsetid("dcc", 1)]
    model.functions.append(helper.make_function("local", "F", ["p"], ["w"], [node], imports))


def with_body(model: onnx.ModelProto) -> None:
    node = helper.make_node("DecodeWeights", ["p"], ["w"], name="inside", domain="dcc")
    body = helper.make_graph([node], "body", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, None)])
    model.graph.node.add(op_type="If", output=["z"]).attribute.append(helper.make_attribute("then_branch", body))


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "the model has no graph"),
    "a page": (lambda: b"<!DOCTYPE html><html><body>Not found</body></html>", "not a well-formed ONNX model"),
    "not compiled": (lambda: GRAPHS["matmul"]()[0].SerializeToString(), "was not compiled by dcc"),
    "cut": (lambda: compiled().SerializeToString()[:-1], "not a well-formed ONNX model"),
    "payload elsewhere": (lambda: at_payload(external), r"'w\.dcc': the payload is in another file \(external data\)"),
    "payload of floats": (lambda: at_payload(lambda t: setattr(t, "data_type", 1)), "not a uint8 vector"),
    "empty payload": (lambda: at_payload(lambda t: t.ClearField("raw_data")), r"'w\.dcc': the frame is corrupt"),
    "cut payload": (lambda: at_payload(lambda t: setattr(t, "raw_data", t.raw_data[:-1])), r"'w\.dcc'"),
    "changed payload": (
        lambda: at_payload(lambda t: setattr(t, "raw_data", t.raw_data[:-1] + bytes([t.raw_data[-1] ^ 1]))),
        r"'w': the frame is corrupt: a section has a wrong CRC",
    ),
    "other payload": (
        lambda: at_payload(lambda t: setattr(t, "raw_data", binding.encode_data(np.zeros(3, np.float32)))),
        "weight 'w': the model has element type float and shape",
    ),
    "payload elsewhere, graph form": (lambda: at_payload(external, "graph"), "weight 'w': the payload is in another"),
    "half bytes for a weight": (
        lambda: at_payload(
            lambda t: setattr(t, "raw_data", binding.encode_data(np.zeros(3, ml_dtypes.uint4))), "graph"
        ),
        "weight 'w': the payload holds uint4",
    ),
    "no payload": (lambda: changed(lambda m: m.graph.initializer.pop()), "the payload is not an initializer"),
    "no topology": (lambda: changed(lambda m: m.graph.node[0].ClearField("input")), "lacks its topology"),
    "no attribute": (lambda: changed(lambda m: m.graph.node[0].ClearField("attribute")), "lacks its topology"),
    "another input": (
        lambda: changed(lambda m: setattr(m.graph.node[0].attribute[0], "i", 0)),
        "the topology's frame is not a uint8 vector|not an initializer",
    ),
    "another type": (
        lambda: changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE)),
        "of the graph is double, in the inner model float",
    ),
    "unknown operator": (
        lambda: changed(lambda m: setattr(m.graph.node[1], "op_type", "New"), "graph"),
        "is not one that this version of dcc knows",
    ),
    "in a function": (lambda: changed(with_function, "graph"), "'inside' of the domain 'dcc' stands in a function"),
    "in a body": (lambda: changed(with_body, "graph"), "'inside' of the domain 'dcc' stands in a body"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, sentence = REFUSED[name]
    with pytest.raises((CorruptFrameError, InvalidArgumentError), match=sentence):
        binding.unpack(make())


def test_a_graph_without_a_graph() -> None:
    with pytest.raises(ModelError, match="it was not compiled by dcc"):
        packed.unpack(onnx.ModelProto(), "it")


@pytest.mark.parametrize("form", FORMS)
def test_limits(form: str) -> None:
    """What weights and topology decode to counts; one byte less is refused, with the number."""
    data = compiled(form).SerializeToString()
    with pytest.raises(
        OverLimitError, match=r"would make the file decode to (\d+) bytes, but it may take 1;"
    ) as caught:
        binding.unpack(data, max_decoded_bytes=1)
    assert re.match("'dcc.topology'|weight 'w'", str(caught.value))
    low, high = 1, 1 << 20  # the least that is enough
    while low < high:
        middle = (low + high) // 2
        try:
            binding.unpack(data, max_decoded_bytes=middle)
            high = middle
        except OverLimitError:
            low = middle + 1
    weights = sum(len(t.raw_data) for t in slow_unpack(compiled(form)).graph.initializer)
    assert weights <= low <= weights + 20_000
    with pytest.raises(OverLimitError, match=r"^the file: .*the file is trusted, allow more \(--max-decoded-bytes\)$"):
        packed.unpack(compiled(form), "the file", max_decoded_bytes=low - 1)
    for absurd in (0, -1):
        with pytest.raises(OverLimitError):
            binding.unpack(data, max_decoded_bytes=absurd)
    assert binding.unpack(data, max_decoded_bytes=1 << 70) == binding.unpack(data)


def refusal(data: bytes) -> str | None:
    try:
        binding.unpack(data, max_decoded_bytes=1 << 22, threads=1)
    except DccError as e:
        return str(e)
    return None


@pytest.mark.parametrize("form", FORMS)
def test_every_changed_byte_is_refused_or_harmless(form: str) -> None:
    """Bytes of payloads are under checksums; of the rest names may change, and the library must survive."""
    data = compiled(form, "small_parameters").SerializeToString()
    for at in range(0, len(data), 3):
        for mask in (0x01, 0x80, 0xFF):
            broken = bytearray(data)
            broken[at] ^= mask
            assert refusal(bytes(broken)) != ""
    sizes = range(0, len(data), 7)
    assert sum(refusal(data[:size]) is None for size in sizes) < 5  # metadata stand at the end
