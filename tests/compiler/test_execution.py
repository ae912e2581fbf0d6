"""How a weight is executed travels with the file, and files whose weights are all decoded stay as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from models.graphs import GRAPHS

from dc_compiler import InferenceSession, compile_model, inspect_model, ir, unpack_model
from dc_compiler.model import emit, packed
from dc_compiler.model.files import read_model
from dc_compiler.model.importer import build_program
from dc_compiler.pass_manager import Context, PassManager
from dc_compiler.recipe import parse_pipeline
from dc_compiler.report import cells


def weights(**executions: str) -> list[list[tuple[str, ir.WeightRecord]]]:
    """One payload for each weight."""
    values = np.zeros((300, 2), np.float32)
    return [[(name, ir.WeightRecord(name, values, 1, execution=how))] for name, how in executions.items()]


def test_the_manifest_tells_executions_only_where_one_is_not_decoding() -> None:
    plain = b"\1a" + bytes([1, 2]) + b"\xac\2\2"
    assert packed.write_manifest(weights(a="decode")) == b"\1\1\1" + plain
    assert packed.write_manifest(weights(a="sparse")) == b"\2\1\1" + plain + b"\6sparse"
    both = packed.write_manifest(weights(a="decode", b="sparse"))
    assert both == b"\2\2\1" + plain + b"\6decode" + b"\1" + plain.replace(b"a", b"b") + b"\6sparse"


def compiled(execution: str, path: Path) -> onnx.ModelProto:
    """The model with one weight, compiled so that the weight is executed in this way."""
    net, _ = GRAPHS["matmul"]()
    program = build_program(read_model(net), min_size=0)
    PassManager(parse_pipeline("cluster(grid),encode")).run(program, Context(jobs=1))
    for record in program.records:
        record.execution = execution
    model = emit.emit(program, "session", {})
    onnx.save(model, path)
    return model


def test_inspect_shows_how_a_weight_is_executed(tmp_path: Path) -> None:
    compiled("sparse", tmp_path / "sparse.onnx")
    (row,) = inspect_model(tmp_path / "sparse.onnx").tensors
    assert row.execution == "sparse"
    assert "run by sparse" in cells(row)[-1]
    compiled("decode", tmp_path / "plain.onnx")
    (row,) = inspect_model(tmp_path / "plain.onnx").tensors
    assert (row.execution, cells(row)[-1]) == ("decode", row.coder)
    assert unpack_model(tmp_path / "sparse.onnx") == unpack_model(tmp_path / "plain.onnx")


def test_the_runtime_refuses_what_it_cannot_execute(tmp_path: Path) -> None:
    compiled("sparse", tmp_path / "sparse.onnx")
    with pytest.raises(Exception, match="is to be run by 'sparse', which this library does not know"):
        InferenceSession(tmp_path / "sparse.onnx")


def test_the_report_says_what_is_decoded_and_what_is_kept() -> None:
    net, _ = GRAPHS["names_of_ours"]()
    rows = {t.name: t.execution for t in compile_model(net, skip="w.dcc", min_size=0).report.tensors}
    assert (rows["w"], rows["w.dcc"]) == ("decode", "kept")
