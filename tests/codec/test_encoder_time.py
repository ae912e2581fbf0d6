"""Time of the encoders: it grows with the elements and not faster, whatever they are, and stays below bounds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from dc_compiler.codec import binding
from dc_compiler.codec.reference import Array

pytestmark = pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitized library is slow")

MEGA = 1 << 20
GROWTH = 8  # of the time when there is four times as much: 4, and as much again for noise


def zeros(n: int) -> Array:
    return np.zeros(n, np.uint8)


def short_period(n: int) -> Array:
    return np.resize(np.array([1, 2, 3], np.uint8), n)


def noise(n: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, n).astype(np.uint8)


def two_values(n: int) -> Array:
    """Chains of equal hashes as long as can be, and matches of middle length everywhere."""
    return np.random.default_rng(1).integers(0, 2, n).astype(np.uint8)


def records(n: int) -> Array:
    """Equal records of 200 bytes but for one byte: matches just short of being long."""
    generator = np.random.default_rng(2)
    data: Array = np.resize(generator.integers(0, 256, 200).astype(np.uint8), n)
    data[::200] = generator.integers(0, 256, len(data[::200]))
    return data


def topologies(n: int) -> Array:
    """The same names and structures over and over, as of concatenated graphs."""
    nodes = (b"\x0a\x14layer%d.weight\x12\x0elayer%d.out\x22\x04Conv" % (i % 997, i % 499) for i in range(n // 30 + 1))
    return np.frombuffer(b"".join(nodes), np.uint8)[:n]


def trees(n: int) -> Array:
    """Lists of attributes: constant runs, counters and floats, as of a forest of decision trees."""
    generator = np.random.default_rng(3)
    count = n // 16 + 1
    parts = (np.ones(count, np.float32), np.arange(count, dtype=np.int32) % 511, np.zeros(count, np.float32))
    values = generator.standard_normal(count).astype(np.float32)
    return np.concatenate([part.view(np.uint8) for part in (*parts, values)])[:n]


DATA: list[Callable[[int], Array]] = [zeros, short_period, noise, two_values, records, topologies, trees]


def seconds(work: Callable[[], object]) -> float:
    """Processor time: the least of two, as other processes can only add to it."""
    times = []
    for _ in range(2):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def data_seconds(make: Callable[[int], Array], coder: str, n: int) -> float:
    return seconds(partial(binding.encode_data, make(n), coder=coder, threads=1))


@pytest.mark.parametrize("make", DATA)
def test_lz_takes_time_in_proportion(make: Callable[[int], Array]) -> None:
    """Where time counts more than the last bytes, above 1 MiB: measured 20 to 70 MB a second, a fourth is asked for."""
    small, large = (data_seconds(make, "lz", n * MEGA) for n in (2, 8))
    assert large < GROWTH * small
    assert large < 8 * MEGA / 5e6


@pytest.mark.parametrize("size", [MEGA >> 8, MEGA >> 6, MEGA >> 4, MEGA >> 2])
@pytest.mark.parametrize("coder", ["lossless", "lz", "text", "smallest"])
@pytest.mark.parametrize("make", DATA)
def test_bytes_take_a_second_a_megabyte(make: Callable[[int], Array], coder: str, size: int) -> None:
    """Also below 1 MiB, where lz looks hard for the smallest result, and 2 milliseconds for tables; `smallest` tries
    all one by one. Twice that on a busy machine."""
    data, times = make(size), max(1, (MEGA >> 4) // size)
    bound = times * (2 if coder == "smallest" else 1) * (size / 1e6 + 0.002)

    def encode() -> None:
        for _ in range(times):
            binding.encode_data(data, coder=coder, threads=1)

    assert seconds(encode) < 2 * bound


def grid_indices(n: int, k: int) -> Array:
    return np.clip(np.rint(np.random.default_rng(4).normal(k / 2, k / 8, n)), 0, k - 1).astype(np.uint16)


def index_seconds(indices: Array, k: int, coder: str) -> float:
    columns = 3600  # squares of ten sides go into it, each a layout that `context` and `rows` try
    dims = (indices.size // columns, columns)
    encode = partial(binding.encode_codebook, indices, dims, np.float16, grid_lo=0, k=k, zero=0, threads=1)
    return seconds(partial(encode, coder=coder))


@pytest.mark.parametrize("k", [90, 65536])
@pytest.mark.parametrize("coder", ["fixed", "huffman", "rans", "context", "rows", "smallest"])
def test_indices_take_time_in_proportion_and_a_second_a_megabyte(coder: str, k: int) -> None:
    n = 36 * 3600
    small, large = (index_seconds(grid_indices(m, k), k, coder) for m in (n, 4 * n))
    assert large < GROWTH * small + 0.02
    assert large < 2 * (4 * n * 2 / 1e6)
