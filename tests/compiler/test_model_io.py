"""Model files: external data, atomic writing, models beyond 2 GiB, overridable weights, what survives a compile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixtures.inputs import FIXTURES, sample_inputs
from models.graphs import GRAPHS, overridable, sample, weight
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from test_graphs import run, same

from dc_compiler import compile_model, inspect_model, unpack_model, verify_models
from dc_compiler.cli import main
from dc_compiler.errors import ModelError, OutputError
from dc_compiler.model import files

FORMS = ("session", "graph")


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A copy of a model whose weights lie in a second file."""
    for path in FIXTURES["torch_mlp_external"].parent.glob("torch_mlp_external.onnx*"):
        shutil.copy(path, tmp_path)
    return tmp_path / "torch_mlp_external.onnx"


def change_external(path: Path, change: Callable[[onnx.TensorProto], None]) -> None:
    """Rewrite the references to external data, not the data."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if external_data_helper.uses_external_data(tensor):
            change(tensor)
    path.write_bytes(model.SerializeToString())


def refer_to(location: str) -> Callable[[onnx.TensorProto], None]:
    def change(tensor: onnx.TensorProto) -> None:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location

    return change


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# External data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_external_data_becomes_part_of_the_output(external: Path, form: str, tmp_path: Path) -> None:
    feed = sample_inputs("torch_mlp_external")
    result = compile_model(external, tmp_path / "out.onnx", preset="lossless", min_size=64, emit=form)
    assert result.report.original_bytes == sum(p.stat().st_size for p in tmp_path.glob("torch_mlp_external*"))
    assert result.report.output_bytes == (tmp_path / "out.onnx").stat().st_size
    moved = shutil.move(tmp_path / "out.onnx", tmp_path / "elsewhere.onnx")
    expected = run(str(external), feed)
    for path in external.parent.glob("torch_mlp_external*"):
        path.unlink()
    assert same(expected, run(str(moved), feed), exact=form == "session")


def test_weights_left_alone_are_embedded(external: Path, tmp_path: Path) -> None:
    """Nothing refers to the old data file, whatever is packed."""
    feed = sample_inputs("torch_mlp_external")
    every: tuple[dict[str, Any], ...] = ({"skip": "*"}, {"min_size": 10**6}, {"preset": "lossless", "min_size": 0})
    for options in every:
        result = compile_model(external, **options)
        assert not any(map(external_data_helper.uses_external_data, files.all_tensors(result.model)))
        assert same(run(str(external), feed), run(result.model, feed), exact=True)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin"])
def test_external_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    inner = tmp_path / "folder"
    (inner / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(10**6))
    onnx.save(GRAPHS["matmul"]()[0], inner / "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    change_external(inner / "in.onnx", refer_to(location))
    for action in (compile_model, inspect_model):
        with pytest.raises(ModelError, match="tensor 'w' cannot be read"):
            action(inner / "in.onnx")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    inner = tmp_path / "folder"
    inner.mkdir()
    onnx.save(GRAPHS["matmul"]()[0], inner / "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    shutil.move(inner / "w.bin", tmp_path / "w.bin")
    (inner / "w.bin").symlink_to("../w.bin")
    with pytest.raises(ModelError, match="tensor 'w' cannot be read"):
        compile_model(inner / "in.onnx")


def test_missing_and_short_data_files(external: Path, tmp_path: Path) -> None:
    data = tmp_path / "torch_mlp_external.onnx.data"
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"torch_mlp_external\.onnx: tensor '.*' cannot be read"):
        compile_model(external, tmp_path / "out.onnx")
    data.unlink()
    with pytest.raises(ModelError, match=r"torch_mlp_external\.onnx: tensor '.*' cannot be read"):
        compile_model(external, tmp_path / "out.onnx")
    assert listing(tmp_path) == ["torch_mlp_external.onnx"]


def test_external_data_in_a_function(tmp_path: Path) -> None:
    """A Constant node in a model-local function may be external like any other tensor."""
    net, feed = GRAPHS["function_constant"]()
    expected = run(net, feed)
    (tensor,) = [n.attribute[0].t for f in net.functions for n in f.node if n.op_type == "Constant"]
    (tmp_path / "f.bin").write_bytes(tensor.raw_data)
    external_data_helper.set_external_data(tensor, "f.bin", 0, len(tensor.raw_data))
    tensor.ClearField("raw_data")
    (tmp_path / "in.onnx").write_bytes(net.SerializeToString())
    for min_size in (1, 10**6):
        result = compile_model(tmp_path / "in.onnx", preset="lossless", min_size=min_size)
        assert same(expected, run(result.model, feed), exact=True)


# Writing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["replace", "fsync", "chmod"])
def test_a_failing_write_leaves_nothing(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "out.onnx").write_text("what was there before")
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OutputError, match=r"out\.onnx cannot be written: No space left on device"):
        compile_model(GRAPHS["matmul"]()[0], tmp_path / "out.onnx")
    assert listing(tmp_path) == ["out.onnx"]
    assert (tmp_path / "out.onnx").read_text() == "what was there before"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compile_model(GRAPHS["matmul"]()[0], tmp_path / "out.onnx")
    assert listing(tmp_path) == []


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    compile_model(GRAPHS["matmul"]()[0], tmp_path / "out.onnx")
    (tmp_path / "other").touch()
    assert (tmp_path / "out.onnx").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_messages_given_and_written_are_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, _ = GRAPHS["opset_18"]()
    before = net.SerializeToString(deterministic=True)
    result = compile_model(net, tmp_path / "a.onnx", min_size=64)
    assert net.SerializeToString(deterministic=True) == before
    assert result.model == onnx.load(tmp_path / "a.onnx")
    monkeypatch.setattr(files, "MAX_MESSAGE_BYTES", 100)
    large = compile_model(net, tmp_path / "b.onnx", min_size=64)
    assert large.model == result.model


# Beyond 2 GiB --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_model_too_large_for_one_message(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit lowered, payloads go to a second file; onnxruntime and every command read it from there."""
    net, feed = GRAPHS["opset_18"]()
    onnx.save(net, tmp_path / "in.onnx")
    options: dict[str, Any] = {"pipeline": "canonicalize,cluster(grid),encode", "min_size": 16, "emit": form}
    small = compile_model(net, tmp_path / "small.onnx", **options)
    monkeypatch.setattr(files, "MAX_MESSAGE_BYTES", 100)
    report = compile_model(tmp_path / "in.onnx", tmp_path / "out.onnx", **options).report
    assert listing(tmp_path) == ["in.onnx", "out.onnx", "out.onnx.data", "small.onnx"]
    assert report.output_bytes == sum(p.stat().st_size for p in tmp_path.glob("out.onnx*"))
    tensors = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer
    moved = [t for t in tensors if external_data_helper.uses_external_data(t)]
    assert moved
    infos = [external_data_helper.ExternalDataInfo(t) for t in moved]
    assert all(i.location == "out.onnx.data" and (i.offset or 0) % 4096 == 0 for i in infos)
    assert sum(map(len, (t.raw_data for t in tensors))) < 5000, "nothing large stays in the message"
    onnx.checker.check_model(tmp_path / "out.onnx")

    expected = run(small.model, feed)
    assert same(expected, run(str(tmp_path / "out.onnx"), feed), exact=True)
    inspected = inspect_model(tmp_path / "out.onnx")
    assert [t.bytes for t in inspected.tensors] == [t.bytes for t in inspect_model(tmp_path / "small.onnx").tensors]
    assert inspected.output_bytes == report.output_bytes
    assert verify_models(tmp_path / "small.onnx", tmp_path / "out.onnx").identical
    unpack_model(tmp_path / "out.onnx", tmp_path / "dense.onnx")
    assert (tmp_path / "dense.onnx.data").exists()
    onnx.checker.check_model(tmp_path / "dense.onnx")
    assert same(expected, run(str(tmp_path / "dense.onnx"), feed), exact=form == "session")


def test_a_failing_second_file_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.replace, []

    def fail_second(source: str, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(files, "MAX_MESSAGE_BYTES", 100)
    monkeypatch.setattr(os, "replace", fail_second)
    with pytest.raises(OutputError, match="No space left"):
        compile_model(GRAPHS["matmul"]()[0], tmp_path / "out.onnx", force=True)
    assert listing(tmp_path) == []


def test_a_file_that_would_be_no_smaller_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, _ = GRAPHS["matmul"]()
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(net, source)
    command = ["compile", str(source), "-o", str(target), "--emit", "graph", "--skip", "*"]
    assert main(command) == 1
    size = source.stat().st_size
    error = capsys.readouterr().err
    assert f"the original {size:,}; nothing was written (--force writes it)" in error
    assert listing(tmp_path) == ["in.onnx"]
    assert main([*command, "--force"]) == 0
    assert f"note: the file has {target.stat().st_size:,} bytes, the original {size:,}" in capsys.readouterr().out
    assert compile_model(net, skip="*", emit="graph").report.output_bytes >= size  # in memory nothing is refused


# What survives -------------------------------------------------------------------------------------------------------

FIELDS = ("producer_name", "producer_version", "domain", "model_version", "doc_string")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("skip", [(), ("w",)], ids=["packed", "left alone"])
def test_annotations_survive(form: str, skip: tuple[str, ...], tmp_path: Path) -> None:
    """What the model says about itself, in both forms and after unpacking; ours lies beside it under dcc.* keys."""
    net, _ = GRAPHS["annotated"]()
    result = compile_model(net, tmp_path / "out.onnx", emit=form, skip=skip, force=True)
    compiled = result.model
    dense = unpack_model(tmp_path / "out.onnx") if form == "session" or not skip else net
    for model in (compiled, dense):
        assert [getattr(model, f) for f in FIELDS] == [getattr(net, f) for f in FIELDS]
        assert list(model.graph.input) == list(net.graph.input)
        assert list(model.graph.output) == list(net.graph.output)
        assert (model.graph.name, model.graph.doc_string) == (net.graph.name, net.graph.doc_string)
        assert list(model.graph.metadata_props) == list(net.graph.metadata_props)
        theirs = [p for p in model.metadata_props if not p.key.startswith("dcc.")]
        assert theirs == list(net.metadata_props)
    ours = {p.key: p.value for p in compiled.metadata_props if p.key.startswith("dcc.")}
    assert ours["dcc.original_bytes"] == str(net.ByteSize())
    assert ours["dcc.pipeline"] == result.report.pipeline
    assert result.report.pipeline.startswith("canonicalize,cluster(mode=grid")
    assert len(dense.metadata_props) == len(net.metadata_props)
    assert [o.domain for o in dense.opset_import] == [o.domain for o in net.opset_import]
    assert list(dense.graph.node) == list(net.graph.node)


@pytest.mark.parametrize("form", FORMS)
def test_lossless_and_back(form: str, tmp_path: Path) -> None:
    """Unpacking a lossless compile gives the very same weights."""
    net, _ = GRAPHS["opset_18"]()
    compile_model(net, tmp_path / "out.onnx", preset="lossless", min_size=0, emit=form)
    dense = unpack_model(tmp_path / "out.onnx")

    def facts(model: onnx.ModelProto) -> dict[str, object]:
        arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        return {name: (a.shape, a.dtype, a.tobytes()) for name, a in arrays.items()}

    assert facts(dense) == facts(net)


# Initializers that are inputs ----------------------------------------------------------------------------------------


def test_a_graph_form_in_which_nothing_is_packed_is_unpacked_and_compiled_again(tmp_path: Path) -> None:
    """It needs no library, but it is what dcc wrote: its facts are shown, taken away, or replaced."""
    model, feed = GRAPHS["matmul"]()
    model.metadata_props.add(key="own", value="kept")
    first, again, dense = (tmp_path / f"{n}.onnx" for n in ("first", "again", "dense"))
    compile_model(model, first, emit="graph", skip="*", force=True)
    assert not any(o.domain == "dcc" for o in onnx.load(first).opset_import)
    assert inspect_model(first).form == "graph"
    compile_model(first, again, emit="graph", skip="*", force=True)
    onnx.checker.check_model(onnx.load(again))
    for path in (first, again):
        unpack_model(path, dense)
        assert [(p.key, p.value) for p in onnx.load(dense).metadata_props] == [("own", "kept")]
        assert same(run(str(dense), feed), run(model, feed), exact=True)


@pytest.mark.parametrize("form", FORMS)
def test_an_overridable_weight_that_is_left_alone_stays_overridable(form: str) -> None:
    net = overridable()
    result = compile_model(net, emit=form, skip="w", preset="lossless")
    assert not any("no longer an input" in note for note in result.report.notes)
    assert [i.name for i in result.model.graph.input] == ["x", "w"]
    assert {t.name: t.reason for t in result.report.tensors}["fixed"] is None
    for feed in ({"x": sample(3, 64)}, {"x": sample(3, 64), "w": weight(64, 48, seed=9)}):
        assert same(run(net, feed), run(result.model, feed), exact=form == "session")


@pytest.mark.parametrize("form", FORMS)
def test_an_overridable_weight_that_is_packed_is_noted(form: str) -> None:
    net, feed = overridable(), {"x": sample(3, 64)}
    result = compile_model(net, emit=form, preset="lossless")
    assert "w: no longer an input that can be overridden" in result.report.notes
    assert [i.name for i in result.model.graph.input] == ["x"]
    assert same(run(net, feed), run(result.model, feed), exact=False)


@pytest.mark.parametrize("form", FORMS)
def test_initializers_of_old_models_are_inputs_by_duty_only(form: str, tmp_path: Path) -> None:
    """Below IR version 4 every initializer is listed as an input; onnxruntime treats them as constants all the same."""
    net, feed = GRAPHS["opset_7"]()
    assert net.ir_version == 3
    result = compile_model(net, tmp_path / "out.onnx", emit=form, preset="lossless", min_size=16)
    assert result.report.notes == []
    assert result.model.ir_version >= 4
    assert [i.name for i in result.model.graph.input] == list(feed)
    assert same(run(net, feed), run(result.model, feed), exact=form == "session")
    session = ort.InferenceSession(unpack_model(tmp_path / "out.onnx").SerializeToString())
    assert [i.name for i in session.get_inputs()] == list(feed)


@pytest.mark.parametrize("old", ["node_in", "node_out", "Relu", "node_name", "attribute", "extent", "stored", "key"])
def test_names_that_are_not_text(old: str, tmp_path: Path) -> None:
    """A name of other bytes than UTF-8, wherever it stands, is refused with a sentence."""
    node = helper.make_node("Relu", ["node_in"], ["node_out"], "node_name", domain="dom", attribute=1)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["extent"])]
    outputs = [helper.make_tensor_value_info("node_out", TensorProto.FLOAT, None)]
    graph = helper.make_graph(
        [node], "g", inputs, outputs, [numpy_helper.from_array(np.zeros(3, np.float32), "stored")]
    )
    model = helper.make_model(graph)
    model.metadata_props.add(key="key", value="value")
    data = model.SerializeToString()
    assert old.encode() in data
    (tmp_path / "m.onnx").write_bytes(data.replace(old.encode(), b"\xff" * len(old)))
    with pytest.raises(ModelError, match="damaged: a name in it is not UTF-8"):
        files.read_model(tmp_path / "m.onnx")
