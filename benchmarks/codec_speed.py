"""Speed of the codec: symbols per second of each coder and kernel set, decoding to float32 on one thread.

    python benchmarks/codec_speed.py [--elements N] [--runs R] [--encode] [--json]

The tensors are those of the paper and of the default pipeline: pruned with 5 bits, dense on a grid with channel scales.
"copy" is numpy.copyto of as many float32 in the same run, the ceiling of any decoder.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dc_compiler.codec import binding
from dc_compiler.errors import InvalidArgumentError

Tensor = tuple[npt.NDArray[np.uint16], dict[str, Any]]


def pruned(n: int, density: float, bits: int) -> Tensor:
    """Indices of a pruned and clustered layer: `density` of them non-zero, over a codebook of 2^bits entries."""
    rng = np.random.default_rng(1)
    k = 1 << bits
    zero = k // 2
    indices = np.clip(np.rint(rng.normal(zero, k / 5, n)), 0, k - 1).astype(np.uint16)
    indices[rng.random(n) >= density] = zero
    codebook = np.linspace(-1, 1, k, dtype=np.float32)
    codebook[zero] = 0
    return indices, {"codebook": codebook, "zero": zero + 1}


def grid(n: int, channels: int) -> Tensor:
    """Indices of a normal layer on a grid of 0.08 standard deviations, with a scale per channel."""
    rng = np.random.default_rng(2)
    values = np.rint(rng.standard_normal(n) / 0.08).astype(np.int64)
    lo = int(values.min())
    return (values - lo).astype(np.uint16), {
        "grid_lo": lo,
        "k": int(values.max()) - lo + 1,
        "zero": 1 - lo,
        "scales": np.linspace(0.5, 1, channels, dtype=np.float32),
        "channels": channels,
        "inner": n // channels,
    }


def seconds(work: Callable[[], object], runs: int) -> list[float]:
    """Wall time of each of `runs` calls, after one that is not counted."""
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def measure(
    name: str, coder: str, isa: str, n: int, work: Callable[[], object], runs: int, copy: float
) -> dict[str, Any]:
    """One row: median and spread of the rate in million symbols per second, and the share of the copy's rate."""
    rates = sorted(n / t / 1e6 for t in seconds(work, runs))
    median = statistics.median(rates)
    row = {"tensor": name, "coder": coder, "isa": isa, "msym/s": median, "lowest": rates[0], "highest": rates[-1]}
    return {key: round(value, 1) if isinstance(value, float) else value for key, value in row.items()} | {
        "of copy": round(median / copy, 3)
    }


def main() -> None:
    """Run the benchmark and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=8 << 20)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--encode", action="store_true", help="measure encoding too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    n = options.elements // 1024 * 1024

    source = np.ones(n, np.float32)
    target = np.empty_like(source)
    copy = n / statistics.median(seconds(lambda: np.copyto(target, source), options.runs)) / 1e6
    tensors = {
        "9 % of 5 bits": pruned(n, 0.09, 5),
        "35 % of 8 bits": pruned(n, 0.35, 8),
        "grid, scaled": grid(n, 256),
    }
    rows = []
    for name, (indices, arguments) in tensors.items():
        cases: list[tuple[str, dict[str, Any]]] = [("fixed", {}), ("huffman", {}), ("rans", {}), ("context", {})]
        if "codebook" in arguments:
            cases.insert(2, ("huffman", {"position_bits": 5}))
        for coder, extra in cases:
            encode = functools.partial(
                binding.encode_codebook, indices, [n], np.float32, coder=coder, threads=1, **arguments, **extra
            )
            frame = encode()
            info = binding.frame_info(frame)
            lanes = {"huffman": f" {info.position_bits}+{info.lanes}", "context": ""}
            label = coder + lanes.get(coder, f" {info.lanes}")
            out = np.empty(n, np.float32)
            # the same code for every processor
            for isa in ("auto",) if coder == "context" else ("portable", "avx2", "avx512"):
                try:
                    binding.select_isa(isa)
                except InvalidArgumentError:
                    continue
                work = functools.partial(binding.decode_into, frame, out, threads=1)
                rows.append(measure(name, label, isa, n, work, options.runs, copy))
            binding.select_isa("auto")
            if options.encode:
                rows.append(measure(name, label, "encode", n, encode, max(1, options.runs // 3), copy))

    if options.json:
        print(json.dumps({"elements": n, "copy msym/s": round(copy, 1), "rows": rows}, indent=2))
        return
    print(f"{n} elements, numpy.copyto {copy:.0f} M/s")
    print(f"{'tensor':16}{'coder':14}{'kernels':10}{'Msym/s':>9}{'lowest':>9}{'highest':>9}{'of copy':>9}")
    for row in rows:
        print(
            f"{row['tensor']:16}{row['coder']:14}{row['isa']:10}{row['msym/s']:9}{row['lowest']:9}{row['highest']:9}"
            f"{row['of copy']:9}"
        )


if __name__ == "__main__":
    main()
