"""Every kernel set against NumPy, on tensors that reach each of its loops: table sizes, widths, lanes, alignments."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from frame_builder import join

from dc_compiler.codec import binding
from dc_compiler.codec.reference.readers import ByteReader
from dc_compiler.errors import CorruptFrameError

Array = npt.NDArray[Any]

SIZES = (1, 7, 63, 64, 4096, 4111, 70001)  # around a vector, a block, and more than one of it


@pytest.fixture(params=binding.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    binding.select_isa(request.param)
    yield request.param
    binding.select_isa("auto")


def indices_of(n: int, k: int, zero: int | None = None, seed: int = 0) -> npt.NDArray[np.uint16]:
    """Bell-shaped indices below `k`, the first of them k - 1; of them 85 % are `zero` where that is given."""
    rng = np.random.default_rng(seed)
    indices = np.clip(np.rint(rng.normal(k / 2, k / 6, n)), 0, k - 1).astype(np.uint16)
    if zero is not None:
        indices[rng.random(n) < 0.85] = zero
    indices[0] = k - 1
    return indices


def frame_of(indices: npt.NDArray[np.uint16], codebook: Array, coder: str, **more: Any) -> bytes:
    return binding.encode_codebook(indices, indices.shape, codebook.dtype, codebook=codebook, coder=coder, **more)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("k", [2, 16, 17, 32, 33, 64, 65, 100, 128, 129, 256, 257, 3000])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_codebooks_of_every_size(k: int, dtype: Any) -> None:
    codebook = np.random.default_rng(k).standard_normal(k).astype(dtype)
    for n in SIZES:
        indices = indices_of(n, k)
        np.testing.assert_array_equal(binding.decode(frame_of(indices, codebook, "fixed")), codebook[indices])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("width", range(1, 17))
def test_fixed_of_every_width(width: int) -> None:
    for k in (1 << width, (1 << width - 1) + 1):
        codebook = np.arange(k, dtype=np.float32)
        for n in (*SIZES, (1 << 18) + 9):
            indices = indices_of(n, k)
            np.testing.assert_array_equal(binding.decode_indices(frame_of(indices, codebook, "fixed")), indices)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("coder", ["huffman", "rans"])
@pytest.mark.parametrize("k", [2, 3, 20, 136, 300, 5000, 40000])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_entropy_coders_of_every_alphabet(coder: str, k: int, is_sparse: bool) -> None:
    """Few and many symbols, likely and rare ones: short and long codes, narrow and wide tables, 1 to 32 lanes."""
    codebook = np.arange(k, dtype=np.float32) - k // 2
    for n in (*SIZES, 1000, 10000, 30000):
        indices = indices_of(n, k, k // 2 if is_sparse else None)
        for positions in (0, 4) if coder == "huffman" and is_sparse else (0,):
            frame = frame_of(indices, codebook, coder, zero=k // 2, position_bits=positions, chunk_elements=20000)
            for threads in (1, 2):
                np.testing.assert_array_equal(binding.decode_indices(frame, threads), indices)
            np.testing.assert_array_equal(binding.decode(frame, threads=1), codebook[indices])


def sections_of(frame: bytes) -> tuple[bytes, list[bytes]]:
    """The header with its CRC, and the bodies of the sections."""
    reader = ByteReader(frame)
    head = reader.take(binding.frame_info(frame).header_bytes)
    bodies = []
    while reader.at < len(frame):
        bodies.append(reader.take(reader.varint()))
        reader.u32()
    return head, bodies


@pytest.mark.usefixtures("isa")
def test_streams_side_by_side_fail_as_each_would_alone() -> None:
    """Chunks of 32 lanes, decoded in pairs on one thread; the first that is damaged is the one complained about."""
    indices = indices_of(125000, 136)
    codebook = np.arange(136, dtype=np.float32)
    frame = frame_of(indices, codebook, "rans", chunk_elements=40000)
    assert binding.frame_info(frame).lanes == 32
    np.testing.assert_array_equal(binding.decode(frame, threads=1), codebook[indices])
    head, bodies = sections_of(frame)
    damages: list[Callable[[bytes], bytes]] = [
        lambda body: body[:4000] + bytes([body[4000] ^ 64]) + body[4001:],
        lambda body: body[:-2],  # too few words
        lambda body: body + b"\0\0",  # too many
        lambda body: b"\0\0\0\0" + body[4:],  # an initial state that is too low
    ]
    for first, second in itertools.combinations(range(-4, 0), 2):
        for damage, another in itertools.product(damages, [lambda body: body, *damages]):
            parts = list(bodies)
            parts[first] = damage(parts[first])
            parts[second] = another(parts[second])
            refusals = set()
            for threads in (1, 2):
                with pytest.raises(CorruptFrameError) as caught:
                    binding.decode(join(head[:-4], parts), threads=threads)
                refusals.add(str(caught.value))
            assert len(refusals) == 1


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("inner", [0, 1, 5, 70001])
def test_buffers_of_any_alignment(dtype: Any, inner: int) -> None:
    """C callers may pass buffers that their elements do not suit; nothing beside the buffer is written."""
    n = 70001
    indices = indices_of(n, 100)
    more: dict[str, Any] = {}
    if inner > 0:
        compute = np.float64 if dtype == np.float64 else np.float32
        more = {"scales": np.linspace(0.5, 2, n // inner, dtype=compute), "channels": n // inner, "inner": inner}
    grid: dict[str, Any] = {"grid_lo": -50, "k": 100, "zero": 50, "coder": "fixed"}
    size = n // inner * inner if inner > 0 else n
    frame = binding.encode_codebook(indices[:size], [size], dtype, **grid, **more)
    wanted = binding.decode(frame).tobytes()
    decode = ctypes.CDLL(binding.get_library_path()).dcc_frame_decode
    for offset in range(1, np.dtype(dtype).itemsize + 1):
        room = np.full(len(wanted) + 16, 0xA5, np.uint8)
        out = ctypes.c_void_p(room.ctypes.data + offset)
        size_t = ctypes.c_size_t
        assert decode(frame, size_t(len(frame)), out, size_t(len(wanted)), 1, None, size_t(0)) == 0
        assert room[offset : offset + len(wanted)].tobytes() == wanted
        assert (np.delete(room, np.s_[offset : offset + len(wanted)]) == 0xA5).all()
