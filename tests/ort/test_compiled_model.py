"""dcc:CompiledModel in onnxruntime: same outputs as the dense model, options, threads, errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import ort_models as models
import pytest
from onnx import TensorProto, helper, numpy_helper

from dc_compiler.codec import binding
from dc_compiler.errors import DccError
from dc_compiler.model import packed

DTYPES = [np.float32, np.float16, np.float64, ml_dtypes.bfloat16]
FLOAT = TensorProto.FLOAT


def lz(data: bytes) -> bytes:
    return binding.encode_data(np.frombuffer(data, np.uint8), "lz")


def parts(weights: list[models.Array]) -> tuple[onnx.ModelProto, dict[str, bytes], bytes]:
    """A dense model, its payloads and its topology before encoding, for tests that damage one of them."""
    model = models.chain(weights)
    arrays = {f"w{i}": w for i, w in enumerate(weights)}
    declared = models.manifest({n: (models.element_type(a), a.shape) for n, a in arrays.items()})
    topology = declared + models.without(model, arrays).SerializeToString()
    return model, {n: binding.encode_data(a, "raw") for n, a in arrays.items()}, topology


def assert_same(model: onnx.ModelProto, names: set[str], feeds: dict[str, Any], level: Any = None) -> None:
    expected = models.open_session(model, models.options(level)).run(None, feeds)
    session = models.open_session(models.session_form(model, names), models.options(level))
    for _ in range(2):
        for y, e in zip(session.run(None, feeds), expected, strict=True):
            np.testing.assert_array_equal(y, e, strict=True)


def refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(Exception, match="node 'compiled'") as caught:
        models.open_session(model)
    return str(caught.value)


# Small weights are in the inner model's message, large ones are handed over beside it.
@pytest.mark.parametrize("width", [8, 48])
@pytest.mark.parametrize("level", models.LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_are_those_of_the_dense_model(dtype: Any, level: Any, width: int) -> None:
    model = models.chain(models.random_weights(3, (width, width), dtype))
    for rows in (1, 5, 0):
        assert_same(model, {"w0", "w1", "w2"}, {"x": models.random_input(rows, width)}, level)


@pytest.mark.parametrize("outs", [3, 400])
@pytest.mark.parametrize("channels", [8, 256])
def test_every_way_a_weight_is_used(channels: int, outs: int) -> None:
    """Weights that kernels repack, that fusions change, that are outputs, that are scalars."""
    rng = np.random.default_rng(3)
    arrays = {
        "table": rng.standard_normal((10, 3 * 64)),
        "conv": rng.standard_normal((channels, 3, 3, 3)),
        "scale": rng.random(channels) + 0.5,
        "gemm": rng.standard_normal((5, channels * 64)),
        "out": rng.standard_normal(outs),
        "scalar": np.array(2.5),
    }
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["t"]),
        helper.make_node("Constant", [], ["image"], value_ints=[-1, 3, 8, 8]),
        helper.make_node("Reshape", ["t", "image"], ["c0"]),
        helper.make_node("Conv", ["c0", "conv"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "scale", "scale", "scale", "scale"], ["c2"]),
        helper.make_node("Relu", ["c2"], ["c3"]),
        helper.make_node("Flatten", ["c3"], ["f"]),
        helper.make_node("Gemm", ["f", "gemm"], ["g"], transB=1),
        helper.make_node("Mul", ["g", "scalar"], ["y"]),
        helper.make_node("Identity", ["out"], ["o"]),
    ]
    model = models.make_model(
        nodes,
        [models.value("i", TensorProto.INT64, ["n"])],
        [models.value("y", FLOAT, ["n", 5]), models.value("o", FLOAT, [outs]), models.value("table", FLOAT, [10, 192])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )
    for level in models.LEVELS:
        assert_same(model, set(arrays), {"i": np.array([1, 7, 3])}, level)


def test_scalars_and_other_types_pass_through() -> None:
    w = models.random_weights(1)[0]
    model = models.make_model(
        [
            helper.make_node("ReduceSum", ["w"], ["total"], keepdims=0),
            helper.make_node("Mul", ["total", "s"], ["y"]),
            helper.make_node("Not", ["flag"], ["negated"]),
            helper.make_node("Identity", ["count"], ["same"]),
        ],
        [
            models.value("s", FLOAT, []),
            models.value("flag", TensorProto.BOOL, [2]),
            models.value("count", TensorProto.INT64, ["k"]),
        ],
        [
            models.value("y", FLOAT, []),
            models.value("negated", TensorProto.BOOL, [2]),
            models.value("same", TensorProto.INT64, ["k"]),
        ],
        [numpy_helper.from_array(w, "w")],
    )
    feeds = {"s": np.array(3, np.float32), "flag": np.array([True, False]), "count": np.arange(4)}
    assert_same(model, {"w"}, feeds)


@pytest.mark.parametrize("widths", [(8,), (600, 40), (520, 512, 8)])
def test_model_without_inputs(widths: tuple[int, ...]) -> None:
    """Its weights are copied: all in the message, or the large ones beside it where one is most of the model."""
    arrays = {f"w{i}": models.random_weights(1, (n, n))[0] for i, n in enumerate(widths)}
    model = models.make_model(
        [helper.make_node("Neg", [name], [f"{name}.y"]) for name in arrays],
        [],
        [models.value(f"{name}.y", FLOAT, a.shape) for name, a in arrays.items()],
        [numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )
    assert_same(model, set(arrays), {})


def test_weights_of_bodies_and_functions() -> None:
    """Bodies see them in the graph around; functions are put in the place of their calls."""
    w, v = models.random_weights(2, (24, 24))
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["b"])], "body", [], [models.value("b", FLOAT, ["n", 24])]
    )
    call = helper.make_node("Product", ["x", "v"], ["p"], domain="local")
    model = models.make_model(
        [
            helper.make_node("If", ["c"], ["q"], then_branch=body, else_branch=body),
            call,
            helper.make_node("Add", ["p", "q"], ["y"]),
        ],
        [models.value("x", FLOAT, ["n", 24]), models.value("c", TensorProto.BOOL, [])],
        [models.value("y", FLOAT, ["n", 24])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(v, "v")],
    )
    product = helper.make_node("MatMul", ["a", "m"], ["r"])
    model.functions.append(
        helper.make_function("local", "Product", ["a", "m"], ["r"], [product], [helper.make_opsetid("", 17)])
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    for level in models.LEVELS:
        assert_same(model, {"w", "v"}, {"x": models.random_input(3, 24), "c": np.array(True)}, level)


def test_a_packed_weight_that_nothing_uses() -> None:
    model = models.chain(models.random_weights(2, (24, 24)))
    del model.graph.node[2:]
    model.graph.node[1].output[0] = "y"
    assert_same(model, {"w0", "w1"}, {"x": models.random_input(3, 24)})


def defining(kind: str, dims: tuple[int, int]) -> onnx.ModelProto:
    """The topology of y = x * w with a value w of its own, in one of the ways that a graph can have one."""
    model = models.without(models.chain(models.random_weights(1, dims)), {"w0"})
    own = numpy_helper.from_array(np.ones((2, 2), np.float32), "w0")
    if kind == "initializer":
        model.graph.initializer.append(own)
    elif kind == "sparse initializer":
        values = numpy_helper.from_array(np.ones(1, np.float32), "w0")
        indices = numpy_helper.from_array(np.array([1]), "i")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 2]))
    else:
        node = helper.make_node("Constant", [], ["w0"], value=own)
        if kind == "node":
            node = helper.make_node("Neg", ["x"], ["w0"])
        model.graph.node.insert(0, node)
    return model


@pytest.mark.parametrize("width", [8, 48])
@pytest.mark.parametrize("kind", ["initializer", "sparse initializer", "constant", "node"])
def test_inner_models_have_no_value_of_a_weights_name(kind: str, width: int) -> None:
    model, payloads, topology = parts(models.random_weights(1, (width, width)))
    declared = topology[: len(topology) - models.without(model, {"w0"}).ByteSize()]
    own = defining(kind, (width, width)).SerializeToString()
    whole = models.wrap(model, lz(declared + own), payloads)
    assert "has a value 'w0' of its own, beside the packed weight of that name" in refusal(whole)
    with pytest.raises(DccError, match="has a value 'w0' of its own"):
        packed.unpack(whole, "the file")


def test_inner_models_have_no_input_of_a_weights_name() -> None:
    for width in (8, 48):
        model, payloads, topology = parts(models.random_weights(1, (width, width)))
        declared = topology[: len(topology) - models.without(model, {"w0"}).ByteSize()]
        inner = models.without(model, {"w0"})
        inner.graph.input.append(models.value("w0", FLOAT, [width, width]))
        refusal(models.wrap(inner, lz(declared + inner.SerializeToString()), payloads))


def test_model_without_packed_weights() -> None:
    assert_same(models.chain(models.random_weights(1)), set(), {"x": models.random_input(2)})


def test_output_shapes_known_only_after_the_run() -> None:
    model = models.make_model(
        [helper.make_node("Mul", ["x", "w"], ["p"]), helper.make_node("NonZero", ["p"], ["y"])],
        [models.value("x", FLOAT, [4])],
        [models.value("y", TensorProto.INT64, [1, 2])],  # a declared shape that holds for some inputs only
        [numpy_helper.from_array(np.ones(4, np.float32), "w")],
    )
    session = models.open_session(models.session_form(model, {"w"}))
    for x in ([0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]):
        (y,) = session.run(None, {"x": np.array(x, np.float32)})
        np.testing.assert_array_equal(y, [np.flatnonzero(x)])


def test_only_requested_outputs_are_returned() -> None:
    model = models.chain(models.random_weights(2))
    model.graph.output.append(models.value("h0", FLOAT, ["n", 8]))
    x = models.random_input(2)
    expected = models.open_session(model).run(["h0"], {"x": x})[0]
    (y,) = models.open_session(models.session_form(model, {"w0", "w1"})).run(["h0"], {"x": x})
    np.testing.assert_array_equal(y, expected)


def test_concurrent_runs_and_sessions_agree() -> None:
    model = models.session_form(models.chain(models.random_weights(3)), {"w0", "w1", "w2"})
    shared = models.options()
    with ThreadPoolExecutor(6) as pool:
        sessions = list(pool.map(lambda _: models.open_session(model, shared), range(6)))
        inputs = [models.random_input(1 + i % 5) for i in range(300)]
        results = list(pool.map(lambda i: sessions[i % 6].run(None, {"x": inputs[i]})[0], range(300)))
    for x, y in zip(inputs, results, strict=True):
        np.testing.assert_array_equal(y, sessions[0].run(None, {"x": x})[0])


def test_reloading_does_not_leak() -> None:
    model = models.session_form(models.chain(models.random_weights(1, (64, 64))), {"w0"})
    grown = models.growth_of_reloading(model)
    assert grown < 4 << 20, f"{grown / 1e6:.1f} MB for 1000 sessions of 16 KB weights"


def test_decoded_weights_are_not_kept_twice() -> None:
    zeros = np.zeros((4096, 4096), np.uint16)
    payload = binding.encode_codebook(zeros, zeros.shape, np.float32, codebook=np.zeros(1, np.float32), zero=0)
    model = models.chain([np.zeros((4096, 4096), np.float32)])
    topology = models.manifest({"w0": (FLOAT, zeros.shape)}) + models.without(model, {"w0"}).SerializeToString()
    whole = models.wrap(model, lz(topology), {"w0": payload})
    del model
    before = models.resident_bytes()
    session = models.open_session(whole)
    held = models.resident_bytes() - before
    (y,) = session.run(None, {"x": models.random_input(1, 4096)})
    assert not y.any()
    assert held < 1.5 * 4 * zeros.size


def test_opening_takes_less_memory_than_the_dense_model_weighed(tmp_path: Path) -> None:
    """A weight that is used as it is and others that onnxruntime packs; every process opens one model."""
    table, *packed_ones = models.random_weights(1, (6000, 768)) + models.random_weights(4, (768, 768))
    dense = models.chain(packed_ones)
    dense.graph.node.insert(0, helper.make_node("Gather", ["table", "i"], ["x"]))
    dense.graph.input[0].CopyFrom(models.value("i", TensorProto.INT64, ["n"]))
    dense.graph.initializer.append(numpy_helper.from_array(table, "table"))
    del dense.graph.node[1::2]  # the casts
    for i, node in enumerate(dense.graph.node[1:]):
        node.input[1] = f"w{i}"
    names = {t.name for t in dense.graph.initializer}
    codes = {t.name: (numpy_helper.to_array(t) * 20).astype(np.int64).clip(-100, 100) for t in dense.graph.initializer}
    payloads = {
        n: binding.encode_codebook(
            (c + 100).astype(np.uint16), c.shape, np.float32, codebook=np.arange(-100, 101, dtype=np.float32), zero=100
        )
        for n, c in codes.items()
    }
    for tensor in dense.graph.initializer:
        tensor.raw_data = codes[tensor.name].astype(np.float32).tobytes()
    declared = models.manifest({n: (FLOAT, c.shape) for n, c in codes.items()})
    topology = declared + models.without(dense, names).SerializeToString()
    onnx.save(dense, tmp_path / "dense.onnx")
    onnx.save(models.wrap(dense, lz(topology), payloads), tmp_path / "compiled.onnx")
    peaks = [models.peak_of_opening(tmp_path / name, compiled) for name, compiled in
             (("dense.onnx", False), ("compiled.onnx", True))]  # fmt: skip
    assert peaks[1] < peaks[0], f"{peaks[1] / 1e6:.1f} MB, {peaks[0] / 1e6:.1f} MB dense"


def test_options_set_before_registration_reach_the_inner_session() -> None:
    def threads_started(count: int) -> int:
        before = len(os.listdir("/proc/self/task"))
        session = models.open_session(model, models.options(threads=count))
        started = len(os.listdir("/proc/self/task")) - before
        session.run(None, {"x": models.random_input(1)})
        return started

    model = models.session_form(models.chain(models.random_weights(1)), {"w0"})
    assert threads_started(1) == 0
    assert threads_started(4) == 2 * 3  # outer and inner session, the calling thread counts as one of four


def test_inner_session_writes_no_files(tmp_path: Path) -> None:
    session_options = ort.SessionOptions()
    session_options.enable_profiling = True
    session_options.profile_file_prefix = str(tmp_path / "profile")
    session_options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session_options.register_custom_ops_library(binding.get_library_path())
    model = models.session_form(models.chain(models.random_weights(1)), {"w0"})
    session = models.open_session(model, session_options)
    session.run(None, {"x": models.random_input(1)})
    profile = Path(session.end_profiling())
    assert sorted(tmp_path.iterdir()) == sorted([profile, tmp_path / "optimized.onnx"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert [n.op_type for n in optimized.graph.node] == ["CompiledModel"]


def test_errors_of_the_inner_run_are_passed_on() -> None:
    model = models.make_model(
        [helper.make_node("Gather", ["w", "i"], ["y"])],
        [models.value("i", TensorProto.INT64, ["n"])],
        [models.value("y", FLOAT, ["n", 8])],
        [numpy_helper.from_array(models.random_weights(1)[0], "w")],
    )
    session = models.open_session(models.session_form(model, {"w"}))
    with pytest.raises(Exception, match="indices element out of data bounds"):
        session.run(None, {"i": np.array([99])})
    assert session.run(None, {"i": np.array([1])})[0].shape == (1, 8)


def test_damaged_payloads_name_the_weight() -> None:
    model, payloads, topology = parts(models.random_weights(2))
    good = payloads["w1"]
    for bad in (b"", good[:-1], good[:60] + bytes([good[60] ^ 1]) + good[61:]):
        assert "weight 'w1': " in refusal(models.wrap(model, lz(topology), {**payloads, "w1": bad}))


def test_damaged_payloads_that_are_decoded_side_by_side_name_the_first_weight() -> None:
    """Streams of as many lanes run in pairs; the CRC tells of the damage when the stream is opened."""
    arrays = models.random_weights(4, (256, 256))
    model, _, topology = parts(arrays)
    codebook = np.linspace(-1, 1, 200, dtype=np.float32)
    indices = np.random.default_rng(5).integers(0, 200, (256, 256)).astype(np.uint16)
    good = binding.encode_codebook(indices, indices.shape, np.float32, codebook=codebook, coder="rans")
    assert binding.frame_info(good).lanes == 32
    bad = good[:-9] + bytes([good[-9] ^ 1]) + good[-8:]
    for damaged in ((0,), (1,), (2,), (3,), (0, 1), (1, 2), (1, 3)):
        payloads = {f"w{i}": bad if i in damaged else good for i in range(4)}
        assert f"weight 'w{damaged[0]}': " in refusal(models.wrap(model, lz(topology), payloads))


def test_payloads_must_be_what_the_manifest_declares() -> None:
    weights = models.random_weights(2)
    model, payloads, topology = parts(weights)
    for other in (weights[1][:4], weights[1].astype(np.float16), weights[1].reshape(1, 8, 8)):
        bad = binding.encode_data(np.ascontiguousarray(other), "raw")
        assert "weight 'w1': the model has" in refusal(models.wrap(model, lz(topology), {**payloads, "w1": bad}))
    assert "2 packed weights, but 1 payloads" in refusal(models.wrap(model, lz(topology), {"w0": payloads["w0"]}))


MANIFEST_DAMAGE: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("version", lambda t: b"\3" + t[1:], "manifest versions 1 and 2, not 3"),
    ("empty", lambda t: b"", "manifest ends early"),
    ("ends in a name", lambda t: t[:4], "manifest ends early"),
    (
        "count too large",
        lambda t: t[:1] + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\1" + t[2:],
        "18446744073709551615 packed weights, but 2 payloads",
    ),
    ("number over 64 bits", lambda t: t[:1] + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\2" + t[2:], "bad number"),
    ("number not in shortest form", lambda t: b"\x81\0" + t[1:], "bad number"),
    ("name longer than the rest", lambda t: t[:3] + b"\xff\xff\3" + t[4:], "manifest ends early"),
    ("payload without weights", lambda t: t[:2] + b"\0" + t[3:], "payload without weights"),
    ("weight of no known type", lambda t: t[:6] + b"\xc8" + t[7:], "bad type"),
    ("model is no protobuf", lambda t: t[: len(models.manifest(SPEC))] + b"\xff" * 40, "protobuf"),
]
SPEC: dict[str, tuple[int, tuple[int, ...]]] = {"w0": (FLOAT, (8, 8)), "w1": (FLOAT, (8, 8))}


@pytest.mark.parametrize(("damage", "complaint"), [d[1:] for d in MANIFEST_DAMAGE], ids=[d[0] for d in MANIFEST_DAMAGE])
def test_damaged_manifests_are_refused(damage: Callable[[bytes], bytes], complaint: str) -> None:
    model, payloads, topology = parts(models.random_weights(2))
    damaged = binding.encode_data(np.frombuffer(damage(topology), np.uint8), "raw")
    assert complaint in refusal(models.wrap(model, damaged, payloads)).lower()


def with_executions(**executions: bytes) -> onnx.ModelProto:
    """The model of two weights whose manifest of version 2 tells how each is executed."""
    model, payloads, topology = parts(models.random_weights(2))
    rest = topology[len(models.manifest(SPEC)) :]
    return models.wrap(model, lz(models.manifest(SPEC, executions) + rest), payloads)


def test_a_manifest_may_tell_that_weights_are_decoded() -> None:
    x = {"x": np.ones((3, 8), np.float32)}
    model, payloads, topology = parts(models.random_weights(2))
    (wanted,) = models.open_session(models.wrap(model, lz(topology), payloads)).run(None, x)
    (result,) = models.open_session(with_executions(w0=b"decode", w1=b"decode")).run(None, x)
    assert np.array_equal(np.asarray(result), np.asarray(wanted))


@pytest.mark.parametrize(
    ("execution", "complaint"),
    [
        (b"sparse_gemm", "weight 'w1' is to be run by 'sparse_gemm', which this library does not know"),
        (b"", "weight 'w1' is to be run by '', which this library does not know"),
        (b"decode ", "which this library does not know"),
        (b"\xff", "a weight's execution is not UTF-8"),
    ],
)
def test_executions_that_the_library_does_not_know_are_refused(execution: bytes, complaint: str) -> None:
    assert complaint in refusal(with_executions(w0=b"decode", w1=execution))


def int8_model(weights: bytes, frame: bytes, model: onnx.ModelProto | None = None, count: int = 1) -> onnx.ModelProto:
    """x [n, 8] times a weight of 8 x 8 in integers, as ``weights`` list what the frame holds."""
    product = models.make_model(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
            helper.make_node("MatMulInteger", ["q", "w", "qz"], ["i"]),
            helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
            helper.make_node("Mul", ["qs", "s"], ["both"]),
            helper.make_node("Mul", ["f", "both"], ["y"]),
        ],
        [models.value("x", FLOAT, ["n", 8])],
        [models.value("y", FLOAT, ["n", 8])],
    )
    inner = model or product
    topology = b"\2\1" + models.varint(count) + weights + inner.SerializeToString()
    return models.wrap(inner, lz(topology), {"w": frame})


def entry(name: str, dtype: int, dims: tuple[int, ...], execution: bytes) -> bytes:
    """A weight of a manifest of version 2."""
    return models.manifest({name: (dtype, dims)}, {name: execution})[3:]


def grid_frame(shape: tuple[int, ...] = (8, 8), lo: int = -100, k: int = 200, dtype: Any = np.float32) -> bytes:
    """Points from ``lo`` on with a scale a column."""
    indices = np.random.default_rng(3).integers(0, k, shape)
    steps = np.arange(-40, -40 + shape[-1])
    scales = {"log_scales": steps, "channels": shape[-1], "inner": 1}
    return binding.encode_codebook(indices, shape, dtype, grid_lo=lo, k=k, **scales)  # type: ignore[arg-type]


PAIR = entry("w", TensorProto.INT8, (8, 8), b"int8") + entry("s", FLOAT, (8,), b"int8.scale")


def test_a_weight_may_be_run_in_int8() -> None:
    frame = grid_frame()
    session = models.open_session(int8_model(PAIR, frame, count=2))
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    result = np.asarray(session.run(None, {"x": x})[0])
    np.testing.assert_allclose(result, x @ binding.decode(frame), atol=0.02 * np.abs(result).max())


@pytest.mark.parametrize(
    ("weights", "count", "complaint"),
    [
        (entry("w", TensorProto.INT8, (8, 8), b"int8"), 1, "not an int8 tensor with a float vector"),
        (entry("w", TensorProto.INT8, (8, 8), b"int8") + entry("s", FLOAT, (8,), b"decode"), 2, "not an int8 tensor"),
        (entry("w", TensorProto.UINT8, (8, 8), b"int8") + entry("s", FLOAT, (8,), b"int8.scale"), 2, "not an int8"),
        (entry("w", TensorProto.INT8, (8, 8), b"int8") + entry("s", FLOAT, (8, 1), b"int8.scale"), 2, "not an int8"),
        (
            entry("w", TensorProto.INT8, (8, 8), b"int8") + entry("s", TensorProto.DOUBLE, (8,), b"int8.scale"),
            2,
            "not an int8 tensor",
        ),
        (PAIR + entry("t", FLOAT, (8,), b"int8.scale"), 3, "not an int8 tensor"),
        (entry("s", FLOAT, (8,), b"int8.scale"), 1, "another execution than its payload"),
        (entry("v", FLOAT, (8, 8), b"decode") + PAIR, 3, "another execution than its payload"),
        (entry("w", TensorProto.INT8, (4, 8), b"int8") + entry("s", FLOAT, (8,), b"int8.scale"), 2, "the payload"),
        (entry("w", TensorProto.INT8, (8, 8), b"int8") + entry("s", FLOAT, (7,), b"int8.scale"), 2, "number of scales"),
        (entry("w", TensorProto.INT8, (8, 8), b"int8") + entry("w", FLOAT, (8,), b"int8.scale"), 2, "twice"),
    ],
)
def test_int8_weights_that_are_no_pair_are_refused(weights: bytes, count: int, complaint: str) -> None:
    assert complaint in refusal(int8_model(weights, grid_frame(), count=count))


@pytest.mark.parametrize(
    "frame",
    [
        grid_frame(lo=-129),
        grid_frame(lo=0, k=129),
        grid_frame(lo=-(1 << 24), k=2),
        binding.encode_data(np.zeros((8, 8), np.float32), "raw"),
        binding.encode_codebook(np.zeros(64, int), (8, 8), np.float32, grid_lo=0, k=1),
        binding.encode_codebook(np.zeros(64, int), (8, 8), np.float32, codebook=np.ones(1, np.float32)),
        grid_frame(dtype=np.float64),
        grid_frame(dtype=np.float16),
    ],
    ids=["low", "high", "far", "elements", "no scales", "codebook", "double", "half"],
)
def test_frames_without_int8_points_are_refused(frame: bytes) -> None:
    assert "weight 'w': " in refusal(int8_model(PAIR, frame, count=2))


def run_node(op_type: str = "MatMul", weight: str = "w", domain: str = "dcc.run", **more: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, ["x", weight], ["y"], domain=domain, **more)


def sparse_model(
    nodes: list[onnx.NodeProto],
    dtype: int = FLOAT,
    dims: tuple[int, ...] = (8, 8),
    stored: Any = None,
    functions: tuple[onnx.FunctionProto, ...] = (),
    executions: bytes = b"sparse",
) -> onnx.ModelProto:
    """x [n, 8] and a packed weight in nodes that run from it."""
    x = models.value("x", FLOAT, None if nodes[-1].op_type == "Conv" else ["n", 8])
    inner = models.make_model(nodes, [x], [models.value("y", FLOAT, None)])
    inner.opset_import.add(domain="dcc.run", version=1)
    inner.functions.extend(functions)
    listed = models.manifest({"w": (dtype, dims)}, {"w": executions})
    values = np.eye(8, dtype=np.float32) if stored is None else stored
    return models.wrap(inner, lz(listed + inner.SerializeToString()), {"w": binding.encode_data(values, "raw")})


AS_SPARSE = models.options(entries={"dcc.execution": "sparse"})


def test_a_layer_may_run_from_its_frame() -> None:
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    for execution in ("auto", "sparse", "dense"):
        session = models.open_session(sparse_model([run_node()]), models.options(entries={"dcc.execution": execution}))
        np.testing.assert_array_equal(np.asarray(session.run(None, {"x": x})[0]), x)


IN_A_BODY = helper.make_node(
    "If",
    ["c"],
    ["y"],
    then_branch=helper.make_graph([run_node()], "t", [], [models.value("y", FLOAT, None)]),
    else_branch=helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "e", [], [models.value("z", FLOAT, None)]
    ),
)
CONDITION = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
CALLED = onnx.FunctionProto(
    domain="f", name="f", input=["x", "w"], output=["y"], node=[run_node()],
    opset_import=[helper.make_opsetid("dcc.run", 1)],
)  # fmt: skip
DEFINED = onnx.FunctionProto(
    domain="dcc.run", name="MatMul", input=["x", "w"], output=["y"],
    node=[helper.make_node("Identity", ["x"], ["y"])], opset_import=[helper.make_opsetid("", 17)],
)  # fmt: skip
DOUBLES = np.eye(8)
LAYER = helper.make_node("MatMul", ["x", "w"], ["h"], domain="dcc.run")


def bounding(value: str = "h", op_type: str = "Relu", to: str = "y", inputs: tuple[str, ...] = ()) -> onnx.NodeProto:
    return helper.make_node(op_type, [value, *inputs], [to], domain="dcc.run")


NO_PART = "is no part of a layer of the main graph"
NO_LAYER = "belongs to no layer with a sparse weight"
SPARSE_LIES: dict[str, tuple[onnx.ModelProto, str]] = {
    "of no weight": (sparse_model([run_node(weight="x")]), NO_LAYER),
    "of a weight that is decoded": (sparse_model([run_node()], executions=b"decode"), NO_LAYER),
    "without a weight": (
        sparse_model([helper.make_node("MatMul", ["x"], ["y"], domain="dcc.run")]),
        NO_LAYER,
    ),
    "other operator": (sparse_model([run_node("Tanh")]), NO_PART),
    "in a body": (sparse_model([CONDITION, IN_A_BODY]), NO_PART),
    "in a function": (
        sparse_model([run_node(domain="f", op_type="f")], functions=(CALLED,)),
        NO_PART,
    ),
    "own function": (sparse_model([run_node()], functions=(DEFINED,)), "uses the operator domain 'dcc'"),
    "Relu of no layer": (sparse_model([LAYER, bounding("x")]), NO_LAYER),
    "two in a row": (
        sparse_model([LAYER, bounding(to="r"), bounding("r")]),
        NO_LAYER,
    ),
    "two of one layer": (
        sparse_model([LAYER, bounding(to="r"), bounding()]),
        NO_LAYER,
    ),
    "Relu before the layer": (sparse_model([bounding(), LAYER]), NO_LAYER),
    "read by another, too": (
        sparse_model([LAYER, bounding(to="r"), helper.make_node("Add", ["h", "r"], ["y"])]),
        "'h'",
    ),
    "two outputs": (
        sparse_model([helper.make_node("MatMul", ["x", "w"], ["h", "y"], domain="dcc.run")]),
        "has not one output",
    ),
    "four inputs": (
        sparse_model([helper.make_node("MatMul", ["x", "w", "", "x"], ["h"], domain="dcc.run"), bounding()]),
        "more than 3 inputs",
    ),
    "no groups": (
        sparse_model([run_node("Conv", group=0)], dims=(1, 1, 1, 1), stored=np.ones((1, 1, 1, 1), np.float32)),
        "no number of groups",
    ),
    "groups that do not fit": (
        sparse_model([run_node("Conv", group=2)], dims=(1, 1, 1, 1), stored=np.ones((1, 1, 1, 1), np.float32)),
        "no multiple of its groups",
    ),
    "double": (sparse_model([run_node()], TensorProto.DOUBLE, stored=DOUBLES), "not a float tensor alone"),
    "read by another": (
        sparse_model([helper.make_node("MatMul", ["x", "w"], ["v"]), run_node()]),
        "Type",
    ),
    "no matrix": (sparse_model([run_node()], dims=(64,), stored=np.zeros(64, np.float32)), "2 axes of floats belong"),
    "no kernel": (sparse_model([run_node("Conv")]), "4 axes of floats belong"),
    "negative pads": (
        sparse_model(
            [run_node("Conv", pads=[-1, 0, 0, 0])], dims=(1, 1, 1, 1), stored=np.ones((1, 1, 1, 1), np.float32)
        ),
        "attribute pads is not 4 sizes",
    ),
    "strides of zero": (
        sparse_model([run_node("Conv", strides=[0, 1])], dims=(1, 1, 1, 1), stored=np.ones((1, 1, 1, 1), np.float32)),
        "",
    ),
    "three strides": (
        sparse_model(
            [run_node("Conv", strides=[1, 1, 1])], dims=(1, 1, 1, 1), stored=np.ones((1, 1, 1, 1), np.float32)
        ),
        "attribute strides is not 2 sizes",
    ),
}


@pytest.mark.parametrize("name", SPARSE_LIES)
def test_layers_that_cannot_run_from_frames_are_refused(name: str) -> None:
    model, complaint = SPARSE_LIES[name]
    with pytest.raises(Exception, match="node 'compiled'") as caught:
        models.open_session(model, AS_SPARSE)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("attributes", [{"pads": [2**62] * 4}, {"pads": [2**40] * 4}, {"dilations": [2**62, 1]}])
def test_convolutions_of_impossible_sizes_are_refused_when_run(attributes: dict[str, Any]) -> None:
    """Sizes are known then."""
    kernel = np.ones((1, 1, 3, 3), np.float32)
    model = sparse_model([run_node("Conv", **attributes)], dims=kernel.shape, stored=kernel)
    session = models.open_session(model, AS_SPARSE)
    with pytest.raises(Exception, match=r"convolution|shape|memory|fit"):
        session.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})


KEPT_PAIR = entry("w", TensorProto.INT8, (8, 8), b"sparse.int8") + entry("s", FLOAT, (8,), b"int8.scale")
STEP = helper.make_node("Constant", [], ["step"], value=numpy_helper.from_array(np.array(0.5, np.float32)))
VALUES = helper.make_node("Cast", ["x"], ["u"], to=TensorProto.UINT8)


def part(op_type: str, inputs: list[str], made: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, [made], domain="dcc.run", **attributes)


PRODUCT = part("MatMulInteger", ["u", "w"], "sums")
CAST = part("Cast", ["sums"], "floats", to=FLOAT)
FACTORS = part("Mul", ["step", "s"], "factors")
SCALED = part("Mul", ["floats", "factors"], "y")
TURNED = part("Transpose", ["w"], "turned", perm=[1, 0])


def int8_layer(nodes: list[onnx.NodeProto], weights: bytes = KEPT_PAIR, frame: bytes | None = None) -> onnx.ModelProto:
    inner = models.make_model(
        [STEP, VALUES, *nodes], [models.value("x", FLOAT, ["n", 8])], [models.value("y", FLOAT, None)]
    )
    inner.opset_import.add(domain="dcc.run", version=1)
    return int8_model(weights, grid_frame() if frame is None else frame, inner, 2)


def test_an_int8_layer_may_run_from_its_frame() -> None:
    x = np.random.default_rng(0).integers(0, 200, (5, 8)).astype(np.float32)
    chains = ([PRODUCT, CAST, FACTORS, SCALED], [FACTORS, PRODUCT, CAST, SCALED])
    for nodes in chains:
        results = []
        for execution in ("dense", "sparse", "auto"):
            options = models.options(entries={"dcc.execution": execution})
            session = models.open_session(int8_layer(nodes), options)
            results.append(np.asarray(session.run(None, {"x": x})[0]))
        np.testing.assert_array_equal(results[1], results[0])
        np.testing.assert_array_equal(results[2], results[0])
        assert np.abs(results[0]).max() > 0


INT8_LIES: dict[str, tuple[onnx.ModelProto, str]] = {
    "no float": (int8_layer([PRODUCT, part("Relu", ["sums"], "y")]), NO_LAYER),
    "sum of sums": (int8_layer([PRODUCT, part("Add", ["sums", "s"], "y")]), NO_LAYER),
    "cut short": (int8_layer([PRODUCT, part("Cast", ["sums"], "y", to=FLOAT)]), NO_LAYER),
    "without factors": (int8_layer([PRODUCT, CAST, part("Mul", ["floats", "s"], "y")]), NO_LAYER),
    "factors too late": (int8_layer([PRODUCT, CAST, SCALED, FACTORS]), NO_LAYER),
    "factors of none": (int8_layer([PRODUCT, CAST, FACTORS, SCALED, part("Mul", ["step", "s"], "f")]), NO_LAYER),
    "first factors": (
        int8_layer([PRODUCT, CAST, FACTORS, part("Mul", ["factors", "floats"], "y")]), NO_LAYER,
    ),
    "two casts": (
        int8_layer([PRODUCT, CAST, part("Cast", ["floats"], "again", to=FLOAT), FACTORS, SCALED]), NO_LAYER,
    ),
    "transposed for none": (int8_layer([TURNED, PRODUCT, CAST, FACTORS, SCALED]), NO_LAYER),
    "two sums": (
        int8_layer([
            PRODUCT, CAST, FACTORS, part("Mul", ["floats", "factors"], "a"), part("Add", ["a", "s"], "b"),
            part("Add", ["b", "s"], "y"),
        ]),
        NO_LAYER,
    ),
    "sums read by another": (
        int8_layer([PRODUCT, CAST, FACTORS, SCALED, helper.make_node("Abs", ["sums"], ["z"])]), "'sums'",
    ),
    "scales read by another": (
        int8_layer([PRODUCT, CAST, FACTORS, SCALED, helper.make_node("Abs", ["s"], ["z"])]), "'s'",
    ),
    "float frame": (
        int8_layer([PRODUCT, CAST, FACTORS, SCALED], frame=binding.encode_data(np.eye(8, dtype=np.float32), "raw")),
        "",
    ),
    "no pair": (sparse_model([run_node()], executions=b"sparse.int8"), "not an int8 tensor with a float vector"),
}  # fmt: skip


@pytest.mark.parametrize("name", INT8_LIES)
def test_int8_layers_that_cannot_run_from_frames_are_refused(name: str) -> None:
    model, complaint = INT8_LIES[name]
    with pytest.raises(Exception, match="node 'compiled'") as caught:
        models.open_session(model, AS_SPARSE)
    assert complaint in str(caught.value)


def test_bounds_are_one_number() -> None:
    model = sparse_model([LAYER, bounding(op_type="Clip", inputs=("x",))])
    session = models.open_session(model, AS_SPARSE)
    with pytest.raises(Exception, match="input 3 is not one number"):
        session.run(None, {"x": np.ones((2, 8), np.float32)})


def test_damaged_frames_of_sparse_layers_are_refused() -> None:
    model = sparse_model([run_node()])
    for tensor in model.graph.initializer:
        if tensor.name == "w.dcc":
            tensor.raw_data = tensor.raw_data[:-9] + bytes([tensor.raw_data[-9] ^ 1]) + tensor.raw_data[-8:]
    assert refusal(model)


def test_damaged_topology_is_refused() -> None:
    model, payloads, topology = parts(models.random_weights(2))
    frame = lz(topology)
    assert "topology: " in refusal(models.wrap(model, frame[:-3], payloads))
    square = binding.encode_data(np.zeros((4, 4), np.uint8), "raw")
    assert "not a uint8 vector" in refusal(models.wrap(model, square, payloads))


@pytest.mark.parametrize("width", [8, 48])
def test_inputs_and_outputs_must_match_the_inner_model(width: int) -> None:
    weights = models.random_weights(1, (width, width))
    model, payloads, topology = parts(weights)
    missing_input = models.wrap(model, lz(topology), payloads)
    node = missing_input.graph.node[0]
    node.attribute[0].i = 2
    refusal(missing_input)
    node.attribute[0].i = -1
    assert "model_inputs is negative" in refusal(missing_input)
    model.graph.output.append(models.value("h", FLOAT, None))
    assert "number of outputs" in refusal(models.wrap(model, lz(topology), payloads))
    model.graph.input.append(models.value("x2", FLOAT, [1]))
    assert "number of inputs" in refusal(models.wrap(model, lz(topology), payloads))
