"""Models that are quantized already: their tables are weights of their own, packed without loss in both forms."""

from __future__ import annotations

import onnx
import pytest
from onnx import numpy_helper
from quantized_nets import NETS

from dc_compiler import compile_model, ir
from dc_compiler.model import packed


def stored(model: onnx.ModelProto) -> dict[str, tuple[int, list[int], bytes]]:
    """Type, extents and bytes of all stored tensors, by name."""
    found = {t.name: t for t in model.graph.initializer}
    found |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}
    return {
        name: (t.data_type, list(t.dims), numpy_helper.from_array(numpy_helper.to_array(t)).raw_data)
        for name, t in found.items()
    }


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
