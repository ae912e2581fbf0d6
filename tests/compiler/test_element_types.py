"""The table of element types agrees with onnx, onnxruntime, the decoder in NumPy and the library."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from dc_compiler import ir
from dc_compiler.codec import binding, reference
from dc_compiler.errors import InvalidArgumentError

TYPES = ir.ELEMENT_TYPES
BOOK = np.array([-1, 0, 2], np.float32)


@pytest.mark.parametrize("kind", TYPES, ids=lambda t: t.name)
def test_names_numbers_and_dtypes_are_those_of_onnx(kind: ir.ElementType) -> None:
    assert TensorProto.DataType.Name(kind.number).lower() == kind.name
    assert helper.tensor_dtype_to_np_dtype(kind.number) == kind.dtype
    assert ir.element_type(kind.number) is ir.find_element_type(kind.number) is kind
    assert ir.element_type_of(kind.dtype) is kind
    assert kind.bit_pattern.itemsize == kind.dtype.itemsize


def test_strings_and_types_to_come_are_not_in_the_table() -> None:
    assert ir.find_element_type(TensorProto.STRING) is None
    assert not ir.is_compressible(TensorProto.STRING)
    with pytest.raises(KeyError):
        ir.element_type(TensorProto.STRING)


@pytest.mark.parametrize("kind", TYPES, ids=lambda t: t.name)
def test_frames_hold_what_the_table_says(kind: ir.ElementType) -> None:
    """The specification has its own list, on purpose."""
    assert (kind.number in reference.DTYPES) == kind.framed
    values = np.zeros(5, kind.dtype)
    if not kind.framed:
        with pytest.raises(InvalidArgumentError, match="cannot be encoded"):
            binding.encode_data(values)
        return
    frame = binding.encode_data(values)
    info = binding.frame_info(frame)
    assert (info.elem_type, info.dtype) == (kind.number, kind.dtype)
    assert reference.decode(frame).dtype == kind.dtype


def test_what_can_be_compressed_is_packed_and_trained() -> None:
    compressible = [t for t in TYPES if t.is_compressible]
    assert [t.name for t in compressible] == ["float", "float16", "double", "bfloat16"]
    assert all(t.framed and t.carried and t.trains is not None for t in compressible)
    assert [ir.compute_dtype(t.dtype) for t in compressible] == [np.float32, np.float32, np.float64, np.float32]


@pytest.mark.parametrize("kind", [t for t in TYPES if t.carried], ids=lambda t: t.name)
def test_onnxruntime_calls_them_so(kind: ir.ElementType) -> None:
    value = [helper.make_tensor_value_info(name, kind.number, [2]) for name in ("x", "y")]
    node = helper.make_node("Identity", ["x"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "g", value[:1], value[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    session = ort.InferenceSession(model.SerializeToString())
    assert session.get_inputs()[0].type == kind.ort_name


def test_zero_is_an_index_or_none_on_both_sides() -> None:
    indices = np.array([1, 0, 2, 1], np.uint16)
    for zero in (None, 1):
        frame = binding.encode_codebook(indices, [4], np.float32, codebook=BOOK, zero=zero)
        assert binding.frame_info(frame).zero == zero
        clustered = ir.Clustered(indices, 3, BOOK, zero=zero)
        assert binding.encode_clustered(clustered, [4], np.float32) == frame


def test_serving_needs_no_onnx() -> None:
    code = "import sys, dc_compiler; dc_compiler.get_library_path(); assert 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
