"""dcc:DecodeWeights in onnxruntime: values, buffers, threads, errors."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import ort_models as models
import pytest
from onnx import TensorProto, helper, numpy_helper

from dc_compiler.codec import binding

DTYPES = [np.float32, np.float16, np.float64, ml_dtypes.bfloat16]


def weight_output(array: models.Array, fill: int = 1) -> onnx.ModelProto:
    """A model whose output y is the packed weight w cast to f32, times the input x."""
    model = models.make_model(
        [
            helper.make_node("Cast", ["w"], ["w.f32"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "w.f32"], ["y"]),
        ],
        [models.value("x", TensorProto.FLOAT, [1])],
        [models.value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, "w")],
    )
    return models.graph_form(model, {"w": fill})


def refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(Exception, match=r"node 'w\.decode', weight 'w'") as caught:
        models.open_session(model)
    return str(caught.value)


@pytest.mark.parametrize("fill", [1, -1], ids=["buffer", "no buffer"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_decodes_every_element_type(dtype: Any, fill: int) -> None:
    array = models.random_weights(1, (6, 5), dtype)[0]
    session = models.open_session(weight_output(array, fill))
    for _ in range(3):
        (y,) = session.run(None, {"x": np.ones(1, np.float32)})
        np.testing.assert_array_equal(y, array.astype(np.float32))


@pytest.mark.parametrize("level", models.LEVELS)
def test_equal_shaped_weights_keep_apart(level: Any) -> None:
    model = models.chain(models.random_weights(4))
    x = models.random_input(3)
    (expected,) = models.open_session(model, models.options(level)).run(None, {"x": x})
    packed = models.graph_form(model, {f"w{i}": i for i in range(4)})
    session = models.open_session(packed, models.options(level))
    for _ in range(3):
        np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("level", models.LEVELS[1:])
def test_a_buffer_shared_by_two_weights_is_refused(level: Any) -> None:
    packed = models.graph_form(models.chain(models.random_weights(2)), {"w0": 1, "w1": 1})
    with pytest.raises(Exception, match=r"weight 'w[01]': its buffer is another weight's too"):
        models.open_session(packed, models.options(level))


def test_without_optimization_equal_buffers_are_two() -> None:
    model = models.chain(models.random_weights(2))
    x = models.random_input(2)
    packed = models.graph_form(model, {"w0": 1, "w1": 1})
    session = models.open_session(packed, models.options(ort.GraphOptimizationLevel.ORT_DISABLE_ALL))
    expected = models.open_session(model).run(None, {"x": x})[0]
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5)


def test_runs_do_not_copy_the_weight() -> None:
    """Gathering a row of a 64 MB weight takes microseconds; copying it first takes over 5 ms."""
    array = np.zeros((4096, 4096), np.float32)
    array[5] = np.arange(4096)
    model = models.make_model(
        [helper.make_node("Gather", ["w", "i"], ["y"])],
        [models.value("i", TensorProto.INT64, [1])],
        [models.value("y", TensorProto.FLOAT, [1, 4096])],
        [numpy_helper.from_array(array, "w")],
    )
    payload = binding.encode_codebook(
        (array != 0).astype(np.uint16) * array.astype(np.uint16),
        array.shape,
        np.float32,
        codebook=np.arange(4096, dtype=np.float32),
        zero=0,
    )
    session = models.open_session(models.graph_form(model, {"w": 1}, {"w": payload}))
    times = []
    for _ in range(20):
        start = time.perf_counter()
        (y,) = session.run(None, {"i": np.array([5])})
        times.append(time.perf_counter() - start)
        np.testing.assert_array_equal(y[0], array[5])
    assert min(times) < 2e-3


def test_consumers_that_work_in_place_leave_the_weight_alone() -> None:
    array = models.random_weights(1)[0]
    model = models.make_model(
        [helper.make_node("Relu", ["w"], ["r"]), helper.make_node("Add", ["r", "x"], ["y"])],
        [models.value("x", TensorProto.FLOAT, [1])],
        [models.value("y", TensorProto.FLOAT, [8, 8]), models.value("w", TensorProto.FLOAT, [8, 8])],
        [numpy_helper.from_array(array, "w")],
    )
    session = models.open_session(models.graph_form(model, {"w": 1}))
    for _ in range(3):
        y, w = session.run(None, {"x": np.ones(1, np.float32)})
        np.testing.assert_array_equal(y, np.maximum(array, 0) + 1)
        np.testing.assert_array_equal(w, array)
        w[:] = 0  # an output is the caller's


def test_concurrent_runs_agree() -> None:
    model = models.chain(models.random_weights(3))
    x = models.random_input(4)
    session = models.open_session(models.graph_form(model, {"w0": 1, "w1": 2, "w2": -1}))
    expected = session.run(None, {"x": x})[0]
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: session.run(None, {"x": x})[0], range(400)):
            np.testing.assert_array_equal(result, expected)


def test_reloading_does_not_leak() -> None:
    model = weight_output(models.random_weights(1, (64, 64))[0])
    grown = models.growth_of_reloading(model)
    assert grown < 4 << 20, f"{grown / 1e6:.1f} MB for 1000 sessions of 16 KB weights"


def test_registering_twice_and_sharing_options() -> None:
    array = models.random_weights(1)[0]
    shared = models.options()
    shared.register_custom_ops_library(binding.get_library_path())
    sessions = [models.open_session(weight_output(array), shared) for _ in range(3)]
    del shared, sessions[0]
    for session in sessions:
        np.testing.assert_array_equal(session.run(None, {"x": np.ones(1, np.float32)})[0], array)


def test_corrupt_payload_is_refused() -> None:
    model = weight_output(models.random_weights(1)[0])
    (payload,) = (t for t in model.graph.initializer if t.name == "w.dcc")
    damaged = bytearray(payload.raw_data)
    damaged[len(damaged) // 2] ^= 1
    payload.raw_data = bytes(damaged)
    refusal(model)
    payload.CopyFrom(models.bytes_tensor("w.dcc", b"not a frame"))
    refusal(model)
    payload.CopyFrom(models.bytes_tensor("w.dcc", b""))
    refusal(model)


def test_payload_that_is_no_constant_is_refused() -> None:
    model = weight_output(models.random_weights(1)[0])
    del model.graph.initializer[:]
    model.graph.input.append(models.value("w.dcc", TensorProto.UINT8, ["bytes"]))
    assert "the payload is not an initializer" in refusal(model)


@pytest.mark.parametrize("fill", [1, -1], ids=["buffer", "no buffer"])
def test_payload_of_another_shape_or_type_is_refused(fill: int) -> None:
    array = models.random_weights(1, (6, 5))[0]
    for other, complaint in ((array.T, "shape"), (array[:5], "shape"), (array.astype(np.float16), "element type")):
        model = weight_output(array, fill)
        (payload,) = (t for t in model.graph.initializer if t.name == "w.dcc")
        payload.CopyFrom(models.bytes_tensor("w.dcc", binding.encode_data(np.ascontiguousarray(other), "raw")))
        assert complaint in refusal(model)


def test_thread_count_is_checked() -> None:
    model = weight_output(models.random_weights(1)[0])
    models.open_session(model, models.options(entries={"dcc.decode_threads": "2"}))
    for bad in ("", "two", "-1", "9999"):
        with pytest.raises(Exception, match=r"dcc\.decode_threads must be"):
            models.options(entries={"dcc.decode_threads": bad})
