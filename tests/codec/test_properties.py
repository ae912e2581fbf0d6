"""Round trips of random tensors: native encoder -> native decoder -> reference decoder, bit for bit."""

from __future__ import annotations

import ctypes
import math
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frame_builder import Quantized, rows
from golden_frames import bits, expected
from hypothesis import given, settings
from hypothesis import strategies as st
from native_encoder import encode

from dc_compiler.codec import binding, reference
from dc_compiler.codec.reference import DTYPES, Array
from dc_compiler.codec.reference.spec import INTEGERS, NIBBLES
from dc_compiler.errors import CorruptFrameError, InvalidArgumentError

CODERS = {"fixed": 1, "huffman": 2, "rans": 3, "context": 6, "rows": 8}  # of section 2
SLOW = 3000  # elements that the reference decoders of context and rows take a second for
FLOATS = (1, 10, 11, 16)
INTEGER_TYPES = (2, 3, 4, 5, 6, 21, 22)
MOST_SETTINGS = [15] * 18 + [4, 7, 15, 15, 15, 11, 4, 8]  # of section 5.5
PROFILE = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def assert_same(values: Array, wanted: Array) -> None:
    assert values.dtype == wanted.dtype
    assert values.shape == wanted.shape
    np.testing.assert_array_equal(bits(values), bits(wanted))


@st.composite
def quantized(draw: st.DrawFn) -> Quantized:
    """A tensor of 1 to a few thousand elements; the seed, not the values, is drawn, so that shrinking stays quick."""
    dims = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 7, 12]), max_size=4)))
    n = math.prod(dims)
    k = draw(st.sampled_from([1, 2, 3, 16, 31, 256, 300]))
    dtype = draw(st.sampled_from(FLOATS))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    zero_index = draw(st.none() | st.integers(0, k - 1))
    density = draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    indices = np.asarray(rng.binomial(k - 1, rng.random(), n))
    if zero_index is not None:
        indices[rng.random(n) >= density] = zero_index
    zero = 0 if zero_index is None else zero_index + 1
    more: dict[str, Any] = {}
    axis = draw(st.none() | st.integers(0, len(dims))) if draw(st.booleans()) else None
    if axis is not None:
        channels = dims[axis] if axis < len(dims) else 1
        more["inner"] = math.prod(dims[axis + 1 :])
        if draw(st.booleans()):
            low = draw(st.sampled_from([-1008, -170, -8, 1015 - 255]))
            more["log_scales"] = (low, tuple(rng.integers(0, draw(st.sampled_from([1, 20, 256])), channels).tolist()))
        else:
            compute = np.float64 if dtype == 11 else np.float32
            exponent = float(rng.integers(-38, 3))
            more["scales"] = ((rng.random(channels) + 1e-3) * 10.0**exponent).astype(compute)
    if draw(st.booleans()):
        lows = [1, -5, -128, 128 - k, -(1 << 24), (1 << 24) - k + 1]
        lo = draw(st.sampled_from(lows)) if zero_index is None else -zero_index
        return Quantized(indices.reshape(dims), dtype, lo=lo, k=k, zero=zero, **more)
    entry = DTYPES[dtype] if axis is None else np.dtype(np.float64 if dtype == 11 else np.float32)
    codebook = rng.standard_normal(k).astype(entry)
    if zero_index is not None:
        codebook[zero_index] = 0
    return Quantized(indices.reshape(dims), dtype, codebook, zero=zero, **more)


@PROFILE
@given(
    q=quantized(),
    coder=st.sampled_from([*CODERS, "auto", "smallest"]),
    position_bits=st.integers(0, 16),
    chunk=st.sampled_from([0, 0, 1, 5, 100, 1000]),
)
def test_codebook_round_trip(q: Quantized, coder: str, position_bits: int, chunk: int) -> None:
    positions = position_bits if coder == "huffman" and q.zero else 0
    chunk = max(chunk, q.indices.size // 50)
    frame = encode(q, coder, positions, chunk, threads=1)
    assert encode(q, coder, positions, chunk, threads=2) == frame
    wanted = expected(q)
    assert_same(binding.decode(frame, threads=1), wanted)
    assert_same(binding.decode(frame, threads=2), wanted)
    np.testing.assert_array_equal(binding.decode_indices(frame), q.indices)
    header = reference.parse_header(frame)
    if header.coder not in (CODERS["context"], CODERS["rows"]) or header.n <= SLOW:
        assert_same(reference.decode(frame), wanted)
        np.testing.assert_array_equal(reference.decode_indices(frame), q.indices)
        assert_points(frame, q)
    if coder == "smallest":
        assert len(frame) <= min(len(encode(q, other, chunk=chunk)) for other in ("auto", "context", "rows"))

    info = binding.frame_info(frame)
    assert (info.dtype, info.dims, info.elements) == (DTYPES[q.dtype], q.indices.shape, q.indices.size)
    assert (info.codebook_entries, info.zero) == (header.k, q.zero - 1 if q.zero else None)
    assert info.nonzero == header.nnz == np.count_nonzero(q.indices != q.zero - 1)
    if coder in CODERS:
        assert header.coder == CODERS[coder]
        assert coder == "fixed" or not chunk or header.chunk == chunk
        assert positions == 0 or header.position_bits == positions


def assert_points(frame: bytes, q: Quantized) -> None:
    """Both decoders give the int8 points of a scaled grid of f32, and refuse anything else."""
    has_scales = q.scales is not None or q.log_scales is not None
    if q.dtype != 1 or q.codebook is not None or not has_scales or q.lo < -128 or q.lo + q.k > 128:
        with pytest.raises(InvalidArgumentError):
            binding.decode_points(frame)
        with pytest.raises(CorruptFrameError):
            reference.decode_points(frame)
        return
    for points, scales in (binding.decode_points(frame, threads=2), reference.decode_points(frame)):
        assert_same(points, (q.indices.astype(np.int32) + q.lo).astype(np.int8))
        channel = np.arange(points.size) // q.inner % len(scales)
        assert_same(points.reshape(-1).astype(np.float32) * scales[channel], binding.decode(frame).reshape(-1))


@st.composite
def integers_of(draw: st.DrawFn) -> Quantized:
    """A table of integers, or their steps on coarser grids, which may reach beyond their type."""
    dtype = draw(st.sampled_from(INTEGER_TYPES))
    least, most, width = INTEGERS[dtype]
    dims = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 7, 12]), max_size=4)))
    k = min(draw(st.sampled_from([1, 2, 3, 16, 255, 300])), most - least + 1)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    indices = np.asarray(rng.binomial(k - 1, rng.random(), math.prod(dims))).reshape(dims)
    if width > 16 or draw(st.booleans()):
        low = max(least, -(1 << 24))
        lo = draw(st.sampled_from([low, low + (min(most, 1 << 24) - low - k + 1) // 2, min(most, 1 << 24) - k + 1]))
        return Quantized(indices, dtype, lo=lo, k=k, zero=draw(st.sampled_from([0, 1, k])))
    channels = dims[0] if dims else 1
    zero = draw(st.integers(0, k - 1))
    steps = tuple(rng.integers(0, 40, channels).tolist())
    return Quantized(
        indices, dtype, lo=-zero, k=k, zero=zero + 1, log_scales=(draw(st.sampled_from([-9, 0, 5, 120])), steps),
        inner=math.prod(dims[1:]), offset=draw(st.sampled_from([least, most, (least + most) // 2])),
    )  # fmt: skip


@PROFILE
@given(
    q=integers_of(),
    coder=st.sampled_from([*CODERS, "auto", "smallest"]),
    chunk=st.sampled_from([0, 6, 100]),
)
def test_integers_round_trip(q: Quantized, coder: str, chunk: int) -> None:
    chunk = max(chunk, 2 * (q.indices.size // 50)) if chunk else 0
    frame = encode(q, coder, 0, chunk)
    wanted = expected(q)
    assert_same(binding.decode(frame, threads=2), wanted)
    np.testing.assert_array_equal(binding.decode_indices(frame), q.indices)
    assert binding.frame_info(frame).nonzero == np.count_nonzero(q.indices != q.zero - 1)
    if reference.parse_header(frame).n <= SLOW // 4:
        assert_same(reference.decode(frame), wanted)


@PROFILE
@given(
    seed=st.integers(0, 1 << 30),
    dtype=st.sampled_from(sorted(DTYPES)),
    dims=st.lists(st.sampled_from([0, 1, 3, 5, 16]), max_size=4),
    kind=st.sampled_from(["bits", "normal", "few"]),
    coder=st.sampled_from(["auto", "smallest", "raw", "lossless", "lz", "text"]),
)
def test_data_round_trip(seed: int, dtype: int, dims: list[int], kind: str, coder: str) -> None:
    rng = np.random.default_rng(seed)
    n = math.prod(dims)
    most = 7 if dtype in NIBBLES else 255
    if kind == "bits" and dtype not in NIBBLES:
        values = np.frombuffer(rng.bytes(n * DTYPES[dtype].itemsize), DTYPES[dtype])
    elif kind == "normal":
        values = np.minimum(np.abs(rng.standard_normal(n) * 50), most).astype(DTYPES[dtype])
    else:
        values = rng.choice([0, 1, 2, most], n, p=[0.9, 0.05, 0.03, 0.02]).astype(DTYPES[dtype])
    values = values.reshape(dims)
    unfit = (coder in ("lz", "text") and dtype != 2) or (coder == "lossless" and dtype in NIBBLES)
    if (n == 0 and coder in ("lossless", "lz", "text")) or unfit:
        with pytest.raises(InvalidArgumentError):
            binding.encode_data(values, coder=coder)
        return
    frame = binding.encode_data(values, coder=coder, threads=1)
    assert binding.encode_data(values, coder=coder, threads=2) == frame
    for threads in (1, 2):
        assert_same(binding.decode(frame, threads=threads), values)
    assert_same(reference.decode(frame), values)
    if coder in ("auto", "smallest"):
        assert len(frame) <= len(binding.encode_data(values, coder="raw"))


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("k", [4096, 40000, 65536])
def test_large_codebooks(coder: str, k: int) -> None:
    rng = np.random.default_rng(k)
    indices = rng.binomial(k - 1, 0.5, 20000 if coder not in ("context", "rows") else SLOW)
    indices[:2] = [0, k - 1]
    q = Quantized(indices, lo=-(k // 2), k=k, zero=k // 2 + 1)
    frame = encode(q, coder)
    assert_same(binding.decode(frame), expected(q))
    assert_same(reference.decode(frame), expected(q))


@pytest.mark.parametrize("size", [0, 1, 8, 3071, 3072, 3073, 3079, 3080, 6143, 6144, 9999])
def test_crcs_of_every_length(size: int) -> None:
    """The library takes parts of long sections side by side; the reference takes byte after byte."""
    values = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    frame = binding.encode_data(values, coder="raw")
    assert_same(reference.decode(frame), values)
    assert_same(binding.decode(frame), values)


def test_context_of_more_than_a_chunk() -> None:
    """Images of 32 x 32 with a spot somewhere: the layout is found, whatever the number of threads."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:32, :32].reshape(2, 1, -1) - rng.integers(4, 28, (2, 1200, 1))
    is_kept = (x * x + y * y < 12) & (rng.random((1200, 1024)) < 0.8)
    indices = np.where(is_kept, 4, 3)
    q = Quantized(indices, lo=-3, k=8, zero=4)
    frame = encode(q, "context", threads=1)
    header = reference.parse_header(frame)
    assert (header.chunk, header.columns, header.stride) == (1 << 20, 1024, 32)
    assert encode(q, "context", threads=2) == frame
    assert len(frame) < 0.9 * len(encode(q, "auto"))
    assert_same(binding.decode(frame, threads=2), expected(q))


def test_rows_of_more_than_a_chunk() -> None:
    """Images of 32 x 32 with a spot somewhere: the layout is found, and most of what `context` saves is saved."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:32, :32].reshape(2, 1, -1) - rng.integers(4, 28, (2, 1200, 1))
    is_kept = (x * x + y * y < 12) & (rng.random((1200, 1024)) < 0.8)
    q = Quantized(np.where(is_kept, rng.integers(4, 8, (1200, 1024)), 3), lo=-3, k=8, zero=4)
    frame = encode(q, "rows", threads=1)
    header = reference.parse_header(frame)
    assert (header.chunk, header.columns, header.stride) == (1 << 20, 1024, 32)
    assert encode(q, "rows", threads=2) == frame
    plain, best = len(encode(q, "rans")), len(encode(q, "context"))
    assert plain - len(frame) > 0.7 * (plain - best) > 0.1 * plain
    assert_same(binding.decode(frame, threads=2), expected(q))


def test_auto_takes_rows_where_columns_differ() -> None:
    """Half of the columns keep a fortieth of their weights, the others half."""
    rng = np.random.default_rng(6)
    is_kept = rng.random((200, 300)) < np.where(rng.random(300) < 0.5, 0.5, 0.025)
    q = Quantized(np.where(is_kept, rng.integers(0, 16, (200, 300)), 7), lo=-7, k=16, zero=8)
    frames = {coder: encode(q, coder) for coder in ("rans", "huffman", "rows", "auto", "smallest_fast")}
    assert frames["auto"] == frames["smallest_fast"] == frames["rows"]
    assert len(frames["rows"]) < 0.9 * min(len(frames["rans"]), len(frames["huffman"]))


@pytest.mark.usefixtures("any_isa")
@pytest.mark.parametrize("seed", range(24))
def test_rows_of_any_settings(seed: int) -> None:
    """Also those that the encoder does not choose: each set of kernels gives what the reference does."""
    rng = np.random.default_rng(seed)
    k = int(rng.choice([2, 5, 40, 600]))
    zero = int(rng.integers(0, k))
    columns, rows_count = int(rng.choice([1, 6, 36])), int(rng.integers(1, 40))
    indices = rng.binomial(k - 1, 0.5, (rows_count, columns))
    indices[rng.random(indices.shape) < rng.random()] = zero
    settings = {f"s{i}": int(rng.integers(0, most + 1)) for i, most in enumerate(MOST_SETTINGS)}
    settings["s25"] = max(settings["s25"], 2 if k > 256 else 0)
    q = Quantized(indices, lo=-zero, k=k, zero=zero + 1)
    stride = int(rng.integers(2, columns + 1)) if columns > 1 and seed % 2 else 0
    lanes = int(rng.choice([1, 2, 4, 8, 16]))
    group = int(rng.integers(1, columns + 1))
    frame = rows(q, columns, group, stride, lanes, chunk=columns * int(rng.integers(1, 40)), **settings).to_bytes()
    np.testing.assert_array_equal(reference.decode_indices(frame), indices)
    for isa in binding.isas():
        binding.select_isa(isa)
        np.testing.assert_array_equal(binding.decode_indices(frame), indices, err_msg=isa)


@pytest.mark.parametrize("position_bits", range(17))
@pytest.mark.parametrize("density", [0.0, 0.001, 0.1])
def test_every_width_of_positions(position_bits: int, density: float) -> None:
    """Gaps both below and above every width up to 13 bits; density 0 is the tensor of zeros."""
    rng = np.random.default_rng(1)
    indices = np.where(rng.random(12000) < density, rng.integers(0, 16, 12000), 5)
    indices[-1] = 7 if density else 5
    q = Quantized(indices, lo=-5, k=16, zero=6)
    frame = encode(q, "huffman", position_bits, chunk=11000)
    assert position_bits in (0, reference.parse_header(frame).position_bits)
    assert_same(binding.decode(frame), expected(q))
    assert_same(reference.decode(frame), expected(q))


def _frames_for_kernels() -> list[tuple[bytes, Array]]:
    """Tensors large enough for wide kernels and awkward enough for their tails."""
    rng = np.random.default_rng(3)
    out = []
    for n in (17, 1000, 40001):
        for k in (3, 200, 5000):
            indices = rng.binomial(k - 1, 0.5, (1, n))
            for dtype in FLOATS if n == 1000 else FLOATS[:1]:
                q = Quantized(indices, dtype, lo=-(k // 2), k=k, zero=k // 2 + 1, log_scales=(-30, (4,)), inner=n)
                out += [(encode(q, coder), expected(q)) for coder in CODERS]
        for code in FLOATS:
            values = rng.standard_normal(n).astype(DTYPES[code])
            out.append((binding.encode_data(values, coder="lossless"), values))
    return out


@pytest.fixture
def any_isa() -> Iterator[None]:
    yield
    binding.select_isa("auto")


@pytest.mark.usefixtures("any_isa")
def test_every_isa_decodes_alike_and_encodes_alike() -> None:
    frames = _frames_for_kernels()
    for isa in binding.isas():
        binding.select_isa(isa)
        assert binding.isa() == isa
        for frame, values in frames:
            assert_same(binding.decode(frame, threads=1), values)
        assert [frame for frame, _ in _frames_for_kernels()] == [frame for frame, _ in frames]


FENV_WORDS = 8  # glibc's fenv_t on x86-64; the last word is MXCSR
FLUSH_TO_ZERO = 0x8040


@pytest.fixture
def flushing_thread() -> Iterator[None]:
    """This thread, and those it starts, treat subnormal numbers as zero: onnxruntime can be told to do that."""
    libm = ctypes.CDLL("libm.so.6")
    saved = (ctypes.c_uint32 * FENV_WORDS)()
    libm.fegetenv(saved)
    flushing = (ctypes.c_uint32 * FENV_WORDS)(*saved)
    flushing[FENV_WORDS - 1] |= FLUSH_TO_ZERO
    libm.fesetenv(flushing)
    yield
    libm.fesetenv(saved)


def _subnormal_frame() -> tuple[bytes, Array]:
    indices = np.arange(60000).reshape(4, -1) % 31
    codebook = (np.arange(31) - 15).astype(np.float32)
    scales = np.array([1e-45, 3e-42, 2.0**-127, 1.0], np.float32)
    q = Quantized(indices, 1, codebook, zero=16, scales=scales, inner=15000)
    return encode(q, "rans", chunk=10000), expected(q)


SUBNORMALS, SUBNORMAL_VALUES = _subnormal_frame()


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="sets MXCSR through glibc")
@pytest.mark.usefixtures("flushing_thread")
@pytest.mark.parametrize("threads", [1, 2])
def test_subnormal_numbers_are_kept_in_a_thread_that_flushes_them(threads: int) -> None:
    tiny = np.array([1e-45], np.float32)
    assert (tiny * np.float32(1))[0] == 0, "the thread does not flush"
    assert binding.decode(SUBNORMALS, threads).tobytes() == SUBNORMAL_VALUES.tobytes()


FLAGS = {
    "avx512": {
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512dq",
        "avx512vbmi",
        "avx512_vbmi2",
        "avx512_vnni",
        "bmi2",
        "abm",
        "f16c",
    },
    "avx2": {"avx2", "fma", "bmi2", "abm", "f16c"},
    "simd128": {"asimd"},
}


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux what the processor can do")
@pytest.mark.usefixtures("any_isa")
def test_dispatch_picks_the_widest_kernels_the_processor_runs() -> None:
    """What the processor can do is read from the kernel's list, not from the library."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    widest = [name for name, needed in FLAGS.items() if needed <= flags]
    assert binding.isas() == [*widest, "portable"]
    assert binding.isa() == binding.isas()[0]


@pytest.mark.usefixtures("any_isa")
def test_unknown_isa_is_refused_and_changes_nothing() -> None:
    binding.select_isa("portable")
    with pytest.raises(InvalidArgumentError):
        binding.select_isa("avx9000")
    assert binding.isa() == "portable"
