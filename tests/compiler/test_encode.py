"""Encoding: sizes of the coders against each other, weights that do not shrink, and bytes that never vary."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models.graphs import GRAPHS
from small_programs import CONV, DTYPES, Array, apply, bits, normal, record

from dc_compiler import compile_model
from dc_compiler.codec import binding
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.ir import WeightRecord
from dc_compiler.pass_manager import Override
from dc_compiler.passes.cluster import Cluster
from dc_compiler.passes.encode import Encode
from dc_compiler.passes.prune import Prune
from dc_compiler.report import CompileReport

INDEX_CODERS = ("huffman", "rans", "fixed")


def packed(passes: list[Any], values: Array, **context: Any) -> WeightRecord:
    weight = record(values.copy(), use=CONV)
    apply(passes, weight, **context)
    return weight


def frame_size(coder: str, density: float, options: dict[str, Any], values: Array) -> int:
    weight = packed([Prune(density=density), Cluster(**options), Encode(coder=coder)], values)  # type: ignore[arg-type]
    return len(weight.frame) if weight.frame is not None else values.nbytes


@given(
    st.sampled_from(DTYPES),
    st.sampled_from([0.05, 0.3, 1.0]),
    st.sampled_from([{"mode": "grid"}, {"bits": 2}, {"bits": 7, "scales": "channel"}]),
    st.integers(0, 1000),
)
@settings(deadline=None, max_examples=25)
def test_auto_is_the_smallest(dtype: Any, density: float, options: dict[str, Any], seed: int) -> None:
    values = normal(40, 70, dtype=dtype, seed=seed)
    sizes = {coder: frame_size(coder, density, options, values) for coder in (*INDEX_CODERS, "auto")}
    assert sizes["auto"] == min(sizes.values())
    assert sizes["auto"] < values.nbytes


def test_context_finds_what_rows_and_columns_have_in_common() -> None:
    """Rows of very different density, then pixels of images: both far below what frequencies alone give."""
    generator = np.random.default_rng(0)
    dense_rows = generator.random((200, 1)) < 0.1
    uneven = normal(200, 256) * (generator.random((200, 256)) < np.where(dense_rows, 0.3, 0.005)).astype(np.float32)
    centre = np.hypot(*np.mgrid[-8:8, -8:8]) < 3
    images = normal(200, 256, seed=1) * (generator.random((200, 256)) < 0.2 * centre.reshape(-1)).astype(np.float32)
    for values in (uneven, images):
        sizes = {}
        for coder in ("rans", "rows", "context", "smallest"):
            weight = packed([Cluster(bits=2), Encode(coder=coder)], np.sign(values))
            sizes[coder] = len(weight.frame or b"")
        assert sizes["smallest"] <= sizes["rows"]
        assert max(sizes["context"], sizes["rows"]) < 0.9 * sizes["rans"]


SPARSE = "prune(density=0.05),cluster(bits=4),encode"
DENSE = "cluster(grid,step=0.15),encode"


def compiled(model: str, pipeline: str) -> CompileReport:
    return compile_model(Path(__file__).parents[2] / "samples" / f"{model}.onnx", pipeline=pipeline).report


@pytest.mark.parametrize("model", ["lenet5", "lenet300"])
def test_sparse_weights_are_predicted_without_slow_coders(model: str) -> None:
    """That saves 6 to 16 % of the file; what a slow coder would take off that is not worth its time."""
    plain, fast, smallest, slow = (
        compiled(model, f"{SPARSE}({coder})") for coder in ("rans", "smallest_fast", "smallest", "context")
    )
    assert {row.coder for row in fast.tensors} >= {"rows"}
    assert fast.output_bytes < 0.94 * plain.output_bytes
    assert smallest.output_bytes <= fast.output_bytes < 1.005 * slow.output_bytes
    assert sum(row.bytes for row in smallest.tensors if row.coder == "context") < 0.05 * smallest.output_bytes


def test_smallest_passes_over_slow_coders_that_do_not_pay() -> None:
    """Dense weights of a grid: next to nothing saved, for several times the load time."""
    smallest, fast = compiled("lenet5", f"{DENSE}(smallest)"), compiled("lenet5", f"{DENSE}(smallest_fast)")
    assert [row.bytes for row in smallest.tensors] == [row.bytes for row in fast.tensors]
    facts = smallest.passes[-1].facts["passed over"]
    assert 0 < facts["bytes"] < 0.005 * smallest.output_bytes
    assert not any("passed over" in note for note in smallest.notes)  # next to nothing is no news


def test_a_slow_coder_that_would_have_saved_something_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dc_compiler.codec.load_time.DOUBLING", 1.0)  # nothing pays
    monkeypatch.setattr("dc_compiler.passes.encode.WORTH_TELLING", 0.001)
    smallest = compiled("lenet300", f"{SPARSE}(smallest)")
    (note,) = (note for note in smallest.notes if "passed over" in note)
    facts = smallest.passes[-1].facts["passed over"]
    assert facts["bytes"] >= 0.001 * smallest.output_bytes
    assert note.startswith(f"encode: passed over context for {facts['weights']} weights: the file would be")
    assert f"{facts['bytes']:,} bytes smaller" in note
    assert f"about {facts['load time']:.1f} times as long to load" in note
    assert facts["bytes"] / smallest.output_bytes < math.log2(facts["load time"])


def test_slow_coders_are_weighed_for_the_file_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, the sparse weight is worth its time; beside a large dense one it saves too small a share of the file."""
    monkeypatch.setattr("dc_compiler.codec.load_time.LONG", 1000.0)  # what takes long is no dearer
    generator = np.random.default_rng(0)
    rows = np.where(generator.random((200, 1)) < 0.1, 0.3, 0.005)
    sparse = np.sign(normal(200, 256) * (generator.random((200, 256)) < rows).astype(np.float32))
    steps = [Cluster(mode="grid"), Encode(coder="smallest")]
    alone = record(sparse.copy(), "a")
    apply(steps, alone)
    beside, large = record(sparse.copy(), "a"), record(normal(1000, 1000), "b")
    apply(steps, beside, large)
    coders = [binding.frame_info(w.frame).coder for w in (alone, beside, large) if w.frame is not None]
    assert coders == ["context", "rows", "rans"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("coder", [*INDEX_CODERS, "rows", "context", "auto"])
def test_frames_hold_the_values(dtype: Any, coder: Any) -> None:
    values = normal(40, 70, dtype=dtype)
    weight = packed([Cluster(mode="kmeans", bits=4), Encode(coder=coder)], values)
    assert weight.frame is not None
    assert binding.frame_info(weight.frame).coder in ((*INDEX_CODERS, "rows") if coder == "auto" else (coder,))
    decoded = binding.decode(weight.frame)
    assert decoded.shape == values.shape
    assert np.array_equal(bits(decoded), bits(weight.values))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lossless_changes_no_bit(dtype: Any) -> None:
    values = normal(40, 70, dtype=dtype)
    values[0, :4] = np.array([0.0, -0.0, np.finfo(np.float16).smallest_subnormal, 1.0]).astype(dtype)
    weight = packed([Encode(coder="lossless")], values)
    assert weight.frame is not None
    assert np.array_equal(bits(binding.decode(weight.frame)), bits(values))
    assert len(weight.frame) < values.nbytes


@pytest.mark.parametrize(("rows", "columns"), [(20, 20), (700, 110)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_a_weight_that_does_not_shrink_gets_its_values_back(dtype: Any, rows: int, columns: int) -> None:
    """Left alone means: as it was in the input. 14 bits and their codebook exceed 16 bits at such sizes."""
    values = normal(rows, columns, dtype=dtype)
    width = {400: {2: 8, 4: 9, 8: 9}, 77_000: {2: 14, 4: 16, 8: 16}}[values.size][values.dtype.itemsize]
    weight = packed([Cluster(mode="kmeans", bits=width, init="density"), Encode(coder="fixed")], values)
    if weight.reason is None:
        assert weight.frame is not None
        assert len(weight.frame) < values.nbytes
        return
    assert "would not make it smaller" in weight.reason
    assert weight.frame is None
    assert np.array_equal(bits(weight.values), bits(values))
    assert (weight.signal, weight.noise) == (None, 0.0)


def test_something_does_not_shrink() -> None:
    """The test above meets both cases."""
    small = packed([Cluster(bits=8, init="density"), Encode(coder="fixed")], normal(20, 20, dtype=np.float16))
    large = packed([Cluster(bits=14, init="density"), Encode(coder="fixed")], normal(700, 110, dtype=np.float16))
    assert [w.reason is not None for w in (small, large)] == [True, True]


def test_random_bits_are_left_alone() -> None:
    noise = np.random.default_rng(0).integers(0, 2**16, (50, 50)).astype(np.uint16).view(np.float16)
    values = np.where(np.isfinite(noise), noise, np.float16(1))
    weight = packed([Encode(coder="lossless")], values)
    assert weight.frame is None
    assert weight.reason is not None
    assert np.array_equal(bits(weight.values), bits(values))


def test_vectors_are_coded_only_losslessly() -> None:
    bias = record(normal(1, 5000))
    apply([Cluster(mode="grid"), Encode()], bias)
    assert bias.frame is None
    assert bias.reason is not None
    assert "vector" in bias.reason
    bias = record(normal(1, 5000))
    apply(Encode(coder="lossless"), bias)
    assert bias.frame is not None


def test_overrides_choose_the_coder() -> None:
    first, second = record(normal(40, 70), "a"), record(normal(40, 70), "b")
    steps = [Cluster(mode="kmeans", bits=3), Encode(coder="rans")]
    apply(steps, first, second, overrides=[Override("b", {"coder": "huffman", "position_bits": "3"})])
    infos = [binding.frame_info(w.frame) for w in (first, second) if w.frame is not None]
    assert [i.coder for i in infos] == ["rans", "huffman"]


def test_an_index_coder_for_a_weight_without_indices_is_refused() -> None:
    weight = record(normal(40, 70))
    with pytest.raises(InvalidArgumentError, match="clustered"):
        apply(Encode(coder="lossless"), weight, overrides=[Override("w", {"coder": "huffman"})])


PIPELINES = (
    "encode(lossless)",
    "cluster(grid),encode",
    "prune(density=0.2),cluster(kmeans,bits=5,init=forgy),encode(huffman)",
    "prune(threshold=0.7),cluster(kmeans,bits=6,scales=channel,init=density),encode(rans)",
)


@pytest.fixture
def free_isa() -> Iterator[None]:
    yield
    binding.select_isa("auto")


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("name", ["opset_18", "float16_raw", "bfloat16_raw", "float64_raw"])
def test_bytes_depend_on_the_request_alone(name: str, pipeline: str, free_isa: None) -> None:
    """Not on the number of threads, not on the processor's kernels, not on the run."""

    def content(jobs: int, isa: str, seed: int = 3) -> bytes:
        binding.select_isa(isa)
        net, _ = GRAPHS[name]()
        result = compile_model(net, pipeline=pipeline, min_size=64, jobs=jobs, seed=seed)
        return bytes(result.model.SerializeToString(deterministic=True))

    expected = content(1, "portable")
    assert content(2, "portable") == expected
    for isa in binding.isas():
        assert content(2, isa) == expected
    if "forgy" in pipeline:
        assert content(1, "portable", seed=4) != expected


def test_rows_of_the_report_add_up() -> None:
    """Kept share, bits and bytes of the report are those of the frame."""
    net, _ = GRAPHS["matmul"]()
    result = compile_model(net, pipeline="prune(density=0.25),cluster(kmeans,bits=4),encode(huffman)")
    (row,) = result.report.tensors
    assert row.kept is not None
    assert abs(row.kept - 0.25) < 0.01
    assert (row.bits, row.coder, row.shape, row.raw_bytes) == (4, "huffman", (64, 48), 12_288)
    frame = next(t.raw_data for t in result.model.graph.initializer if t.name == "w.dcc")
    assert row.bytes == len(frame)
    assert row.ratio == pytest.approx(12_288 / len(frame))
    assert row.coded_index_bits is not None
    assert 3.5 < row.coded_index_bits < 4.5  # of 16 entries, filler zeros included
    assert dataclasses.asdict(row)["reason"] is None


def test_every_coder_pays_for_its_time() -> None:
    """Rows of different spread: `rows` takes 1 % off the weight in five times the time of `rans`. That is worth it in a
    file of this weight, and not in one that is mostly others."""
    spread = np.exp(0.4 * np.random.default_rng(0).standard_normal((64, 1)))
    values = (normal(64, 400) * spread).astype(np.float32)

    def coder(*others: WeightRecord) -> str:
        weight = record(values.copy(), "a")
        apply([Cluster(mode="grid", step=0.5), Encode()], weight, *others)
        assert weight.frame is not None
        return binding.frame_info(weight.frame).coder

    assert coder() == "rows"
    assert coder(record(normal(400, 400), "b")) == "rans"
