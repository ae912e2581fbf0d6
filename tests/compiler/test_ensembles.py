"""Tree ensembles: packed in the session form, put back before the model runs, the same to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from models import ensembles
from onnx import helper
from slow_unpack import slow_unpack

from dc_compiler import InferenceSession, compile_model, inspect_model, unpack_model
from dc_compiler.codec import binding
from dc_compiler.errors import CorruptFrameError, OverLimitError
from dc_compiler.model import packed

TREES = ensembles.forest(12, 6, targets=3, digits=2)
ONE_TARGET = ensembles.forest(12, 6, digits=2)
MODELS = {
    "classifier": ensembles.model(ensembles.classifier(TREES)),
    "regressor": ensembles.model(ensembles.regressor(ONE_TARGET, order="best")),
    "double": ensembles.model(ensembles.regressor(ONE_TARGET, double=True)),
    "5": ensembles.model(ensembles.ensemble_5(ONE_TARGET)),
}
X = np.random.default_rng(1).uniform(-4, 4, (200, 4)).astype(np.float32)
X[0] = np.nan


def run(session: Any, net: onnx.ModelProto) -> list[np.ndarray]:
    return [np.asarray(o) for o in session.run(None, {net.graph.input[0].name: X.astype(input_type(net))})]


def input_type(net: onnx.ModelProto) -> Any:
    return helper.tensor_dtype_to_np_dtype(net.graph.input[0].type.tensor_type.elem_type)


@pytest.mark.parametrize("preset", ["default", "lossless", "smallest"])
@pytest.mark.parametrize("name", MODELS)
def test_an_ensemble_is_packed_and_comes_back(name: str, preset: str, tmp_path: Path) -> None:
    net = MODELS[name]
    if name == "double":  # what computes in doubles takes doubles
        net = onnx.ModelProto.FromString(net.SerializeToString())
        for value in (*net.graph.input, *net.graph.output):
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE if value.name == "x" else onnx.TensorProto.FLOAT
    onnx.save(net, tmp_path / "in.onnx")
    result = compile_model(tmp_path / "in.onnx", tmp_path / "out.onnx", preset=preset)
    (row,) = result.report.tensors
    assert (row.name, row.coder, row.reason) == ("y.trees", "trees", None)
    assert row.bytes < row.raw_bytes / 6
    assert inspect_model(tmp_path / "out.onnx").tensors[0].bytes == row.bytes
    back = unpack_model(tmp_path / "out.onnx")
    expected = slow_unpack(onnx.load(tmp_path / "out.onnx"))
    assert back.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    if preset == "lossless":
        assert [n.SerializeToString() for n in back.graph.node] == [n.SerializeToString() for n in net.graph.node]
    before = run(onnxruntime.InferenceSession(tmp_path / "in.onnx"), net)
    after = run(InferenceSession(tmp_path / "out.onnx"), net)
    for one, other in zip(before, after, strict=True):
        assert one.tobytes() == other.tobytes()


def test_the_graph_form_keeps_the_attributes() -> None:
    model = compile_model(MODELS["classifier"], preset="lossless", emit="graph", force=True).model
    assert model.graph.node[0].SerializeToString() == MODELS["classifier"].graph.node[0].SerializeToString()


def test_what_is_no_forest_stays_in_the_graph_with_a_reason() -> None:
    net = onnx.ModelProto.FromString(MODELS["regressor"].SerializeToString())
    modes = next(a for a in net.graph.node[0].attribute if a.name == "nodes_values")
    modes.floats.append(1.0)
    (row,) = compile_model(net, preset="lossless", force=True).report.tensors
    assert row.reason == "part of the graph: the ensemble's arrays are missing or differ in length"


def two_ensembles() -> onnx.ModelProto:
    """A model of two, of which both are packed."""
    net = onnx.ModelProto()
    net.CopyFrom(MODELS["regressor"])
    net.graph.node.append(ensembles.regressor(ensembles.forest(12, 6, seed=3)))
    net.graph.node[1].output[0] = "other"
    net.graph.output.append(helper.make_tensor_value_info("other", 1, None))
    return net


def test_two_ensembles_of_one_model(tmp_path: Path) -> None:
    net = two_ensembles()
    result = compile_model(net, tmp_path / "out.onnx", preset="lossless")
    assert [t.name for t in result.report.tensors] == ["y.trees", "other.trees"]
    back = unpack_model(tmp_path / "out.onnx")
    assert [n.SerializeToString() for n in back.graph.node] == [n.SerializeToString() for n in net.graph.node]


def changed(change: Any) -> bytes:
    """A compiled model with another manifest or inner model."""
    model = compile_model(two_ensembles(), preset="lossless").model
    opened = packed.open_packed(model, "it")
    entries = [list(p.weights) for p in opened.payloads]
    change(entries, opened.inner)
    content = packed.write_manifest(entries) + opened.inner.SerializeToString()
    (topology,) = [t for t in model.graph.initializer if t.name == "dcc.topology"]
    topology.raw_data = binding.encode_data(np.frombuffer(content, np.uint8))
    topology.dims[:] = [len(topology.raw_data)]
    return bytes(model.SerializeToString())


def _mark(inner: onnx.ModelProto, node: int) -> onnx.AttributeProto:
    mark: onnx.AttributeProto = inner.graph.node[node].attribute[0]
    return mark


def _same_twice(entries: Any, inner: onnx.ModelProto) -> None:
    _mark(inner, 1).s = _mark(inner, 0).s


def _unknown(entries: Any, inner: onnx.ModelProto) -> None:
    _mark(inner, 1).s = b"nowhere"


def _unmarked(entries: Any, inner: onnx.ModelProto) -> None:
    del inner.graph.node[1].attribute[:]


def _as_weight(entries: Any, inner: onnx.ModelProto) -> None:
    entries[0] = [packed.PackedWeight("w", 2, (*entries[0][0].dims, 1), "attributes")]


REFUSED = {
    "two nodes want the same": (_same_twice, "which no payload holds"),
    "a node wants what there is not": (_unknown, "which no payload holds"),
    "a payload of no node": (_unmarked, "belongs to no node"),
    "no vector": (_as_weight, "is not a uint8 vector alone"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_attributes_that_do_not_fit_are_refused(name: str) -> None:
    change, reason = REFUSED[name]
    file = changed(change)
    with pytest.raises(CorruptFrameError, match=reason):
        binding.unpack(file)
    with pytest.raises(Exception, match=reason):
        InferenceSession(file)


def test_what_attributes_decode_to_counts() -> None:
    file = changed(lambda entries, inner: None)
    assert len(binding.unpack(file)) > 10_000
    with pytest.raises(OverLimitError):
        binding.unpack(file, max_decoded_bytes=10_000)
