"""How a weight is executed travels with the file, and files whose weights are all decoded stay as they were."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from models.graphs import GRAPHS

from dc_compiler import InferenceSession, compile_model, inspect_model, unpack_model
from dc_compiler.codec import binding
from dc_compiler.codec.layer_gain import layer_gain
from dc_compiler.model import emit, packed
from dc_compiler.model.files import read_model
from dc_compiler.model.importer import build_program
from dc_compiler.pass_manager import Context, PassManager
from dc_compiler.recipe import parse_pipeline
from dc_compiler.report import cells, frame_row


def weights(**executions: str) -> list[list[packed.PackedWeight]]:
    """One payload for each weight."""
    return [[packed.PackedWeight(name, 1, (300, 2), how)] for name, how in executions.items()]


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


def test_reports_show_how_a_weight_is_executed(tmp_path: Path) -> None:
    compiled("decode", tmp_path / "plain.onnx")
    (row,) = inspect_model(tmp_path / "plain.onnx").tensors
    assert (row.execution, cells(row)[-1]) == ("decode", row.coder)
    frame = binding.encode_data(np.zeros(2000, np.float32))
    assert cells(frame_row("w", frame, execution="int8"))[-1] == "lossless, run by int8"


def test_reports_show_what_the_library_decides_and_expects(tmp_path: Path) -> None:
    """By the cost model that it decides with when it loads the model."""
    values = np.zeros((1000, 1000), np.float32)
    values[::20] = 1
    frame = binding.encode_data(values)
    try:
        shown = {}
        for isa in binding.isas():
            binding.select_isa(isa)
            row = frame_row("w", frame, execution="sparse")
            found = layer_gain(frame, in_int8=False)
            assert (row.runs_sparse, row.gain) == (found.runs, found.gain)
            shown[isa] = cells(row)[-1]
    finally:
        binding.select_isa("auto")
    assert shown["portable"] == "lossless, run dense here (by sparse: no gain known)"
    if "avx512" in shown:
        gain = layer_gain(frame, in_int8=False, isa="avx512").gain
        assert shown["avx512"] == f"lossless, run by sparse, {gain:.1f}x"


def test_expected_gains() -> None:
    """They fall with the share that is kept, between the shares of the table and to nothing beyond, and a layer runs
    so from 15 % on."""

    def frame(kept: int, *shape: int) -> bytes:
        values = np.zeros(shape, np.float32)
        values.reshape(-1)[: values.size * kept // 100] = 1
        return binding.encode_data(values)

    for shape, in_int8 in (((800, 1000), False), ((2000, 2000), True), ((64, 128, 3, 3), False)):
        shares = (1, 5, 9, 13, 17, 21, 26, 33, 41, 49, 56, 59)
        found = [layer_gain(frame(kept, *shape), in_int8=in_int8, isa="avx512") for kept in shares]
        gains = [f.gain for f in found]
        assert gains[1] == gains[0]
        assert all(a >= b for a, b in itertools.pairwise(gains))
        assert gains[0] > 1.15
        assert gains[-2:] == [0, 0]
        assert [f.runs for f in found] == [gain >= 1.15 for gain in gains]
    nothing_known = [
        layer_gain(frame(5, 20, 20), in_int8=False, isa="avx512"),
        layer_gain(frame(5, 512, 3, 3, 3), in_int8=False, isa="avx512"),
        layer_gain(frame(5, 800, 1000), in_int8=False, isa="portable"),
        layer_gain(frame(5, 2000, 2000), in_int8=True, isa="avx2"),
    ]
    assert [(f.runs, f.gain) for f in nothing_known] == [(False, 0)] * 4


def test_what_nobody_can_execute_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """By the runtime and by everything that opens the file."""
    path = tmp_path / "lut.onnx"
    compiled("lut", path)
    for open_it in (InferenceSession, inspect_model, unpack_model):
        with pytest.raises(Exception, match="weight 'w' is to be run by 'lut', which this library does not know"):
            open_it(path)


def test_the_report_says_what_is_decoded_and_what_is_kept() -> None:
    net, _ = GRAPHS["names_of_ours"]()
    rows = {t.name: t.execution for t in compile_model(net, skip="w.dcc", min_size=0).report.tensors}
    assert (rows["w"], rows["w.dcc"]) == ("decode", "kept")
