"""Models that are quantized already: their tables are weights of their own, packed without loss in both forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from quantized_nets import NETS

from dc_compiler import compile_model, ir
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.model import packed


def tables(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """All stored tensors, by name."""
    found = {t.name: t for t in model.graph.initializer}
    found |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}
    return {name: numpy_helper.to_array(t) for name, t in found.items()}


def stored(model: onnx.ModelProto) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, extents and bytes of all stored tensors, by name."""
    return {name: (str(t.dtype), t.shape, t.tobytes()) for name, t in tables(model).items()}


@pytest.mark.parametrize("form", ["session", "graph"])
@pytest.mark.parametrize("name", NETS)
def test_tables_are_packed_and_come_back_bit_for_bit(name: str, form: str) -> None:
    net = NETS[name]()
    result = compile_model(net, preset="lossless", emit=form, min_size=64)
    (row,) = [r for r in result.report.tensors if r.name == "w"]
    kind = ir.element_type_of(row.dtype)
    assert row.exact == f"{kind.name}, already quantized"
    if form == "graph" and kind.bits == 4:
        assert row.reason == "the graph form carries no elements of 4 bits"
    else:
        assert row.reason is None
        assert row.bytes < 0.95 * row.raw_bytes
    assert result.report.verification is not None
    (output,) = result.report.verification.outputs
    # onnxruntime puts other kernels in the place of products whose weight is a constant, some of which round more
    assert output.identical or (form == "graph" and name in ("qdq", "matmul_nbits") and (output.cosine or 0) > 0.9999)
    note = next(n for n in result.report.notes if n.startswith("already quantized: "))
    assert kind.name in note
    assert stored(packed.unpack(result.model, "it")) == stored(net)
    onnx.checker.check_model(packed.unpack(result.model, "it"))


COARSER = ["matmul_integer", "dynamic_quantize_matmul", "qdq", "qdq_conv", "qlinear_conv", "conv_integer", "int16"]


@pytest.mark.parametrize("form", ["session", "graph"])
@pytest.mark.parametrize("name", COARSER)
def test_a_coarser_grid_keeps_type_and_zero_point(name: str, form: str) -> None:
    net = NETS[name]()
    pipeline = "cluster(grid,step=0.3,integers=true),encode"
    result = compile_model(net, pipeline=pipeline, emit=form, min_size=64)
    (row,) = [r for r in result.report.tensors if r.name == "w"]
    assert row.exact is None
    assert row.sqnr_db is not None
    assert 15 < row.sqnr_db < 35
    dense = packed.unpack(result.model, "it")
    before, after = (tables(m)["w"] for m in (net, dense))
    assert after.dtype == before.dtype
    zero = 128 if before.dtype == np.uint8 else 0
    assert (after == zero).mean() > (before == zero).mean()
    error = np.square((after.astype(float) - before).std()) / np.square(before.astype(float) - zero).mean()
    assert -10 * np.log10(error) == pytest.approx(row.sqnr_db, abs=0.3)
    lossless = compile_model(net, preset="lossless", emit=form, min_size=64)
    assert row.bytes < 0.7 * next(r.bytes for r in lossless.report.tensors if r.name == "w")
    assert result.report.verification is not None
    assert (result.report.verification.outputs[0].cosine or 0) > 0.98
    others = {n: v for n, v in stored(net).items() if n != "w"}
    assert {n: v for n, v in stored(dense).items() if n != "w"} == others


def test_integers_stay_exact_unless_asked_for() -> None:
    net = NETS["qdq"]()
    result = compile_model(net, pipeline="cluster(grid,step=0.3),encode", min_size=64)
    assert stored(packed.unpack(result.model, "it"))["w"] == stored(net)["w"]
    fine = compile_model(net, pipeline="cluster(grid,step=0.0001,integers=true),encode", min_size=64)
    assert stored(packed.unpack(fine.model, "it"))["w"] == stored(net)["w"]


def test_several_numbers_a_byte_stay_exact() -> None:
    net = NETS["matmul_nbits"]()
    result = compile_model(net, pipeline="cluster(grid,step=1,integers=true),encode", min_size=64)
    assert stored(packed.unpack(result.model, "it"))["w"] == stored(net)["w"]


def test_only_grids_keep_integers() -> None:
    with pytest.raises(InvalidArgumentError, match="only mode=grid keeps integers"):
        compile_model(NETS["qdq"](), pipeline="cluster(kmeans,integers=true),encode")


@pytest.mark.parametrize("name", ["qdq", "matmul_integer", "conv_integer"])
def test_integers_make_up_for_each_other_on_samples(name: str) -> None:
    """Inputs that go together: rounding that knows them moves the outputs less, at the same step."""
    net = NETS[name]()
    rng = np.random.default_rng(7)
    shape, mixed = ([256, 10, 10], 8) if name == "conv_integer" else ([256], 96)
    few = rng.standard_normal((*shape, 2)) @ rng.standard_normal((2, mixed))
    x = np.moveaxis(few + 0.1 * rng.standard_normal(few.shape), -1, 1).astype(np.float32)
    moved = []
    for options in ("", ",calibrate=true"):
        pipeline = f"cluster(grid,step=0.5,integers=true{options}),encode"
        report = compile_model(net, pipeline=pipeline, data={"x": x}, min_size=64).report
        assert report.verification is not None
        moved.append(report.verification.outputs[0].sqnr_db or 0)
    assert moved[1] > moved[0] + 3


def test_a_step_is_found_for_integers() -> None:
    """With a scale a channel, a vector whose values are a record's: of a model by `quantize_static`, say."""
    x = np.random.default_rng(8).standard_normal((400, 96)).astype(np.float32)
    pipeline = "cluster(grid,integers=true,calibrate=true,rate=0.3),encode"
    report = compile_model(NETS["qdq"](), pipeline=pipeline, data={"x": x}, target_ratio=2.2, min_size=16).report
    assert 2.2 <= report.ratio < 2.3
    assert any("the step of cluster is" in note for note in report.notes)
