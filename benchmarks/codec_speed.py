"""Speed of the codec: million elements per second of each coder and kernel set, on one thread.

    python benchmarks/codec_speed.py [--elements N] [--runs R] [--encode] [--against LIBRARY] [--json]

The tensors are those of the paper and of the default pipeline: pruned with 5 bits, dense on a grid with channel scales;
floats as they are; bytes like those of a graph. "copy" is numpy.copyto of as many float32 in the same run, the ceiling
of any decoder. "indices" is the rate without what makes floats of codebook indices. "ps" is what an element takes in
picoseconds with the best kernels, "table" what the library's table of coders says, by which `encode(smallest)` weighs
sizes against load times.

--against decodes the same frames with another build of the library by turns and shows how many times as fast this one
is: the median of the pairs, and their quartiles.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dc_compiler.codec import binding

Tensor = tuple[npt.NDArray[np.uint16], dict[str, Any]]
COLUMNS = 1024  # of the tensors with a codebook


def pruned(n: int, density: float, bits: int) -> Tensor:
    """Indices of a pruned and clustered layer: `density` of them non-zero, over a codebook of 2^bits entries."""
    rng = np.random.default_rng(1)
    k = 1 << bits
    zero = k // 2
    indices = np.clip(np.rint(rng.normal(zero, k / 5, n)), 0, k - 1).astype(np.uint16)
    indices[rng.random(n) >= density] = zero
    codebook = np.linspace(-1, 1, k, dtype=np.float32)
    codebook[zero] = 0
    return indices, {"codebook": codebook, "zero": zero}


def grid(n: int, channels: int) -> Tensor:
    """Indices of a normal layer on a grid of 0.08 standard deviations, with a scale per channel."""
    rng = np.random.default_rng(2)
    values = np.rint(rng.standard_normal(n) / 0.08).astype(np.int64)
    lo = int(values.min())
    return (values - lo).astype(np.uint16), {
        "grid_lo": lo,
        "k": int(values.max()) - lo + 1,
        "zero": -lo,
        "scales": np.linspace(0.5, 1, channels, dtype=np.float32),
        "channels": channels,
        "inner": n // channels,
    }


def seconds(work: Callable[[], object], runs: int) -> list[float]:
    """Processor time of each of `runs` calls, after one that is not counted."""
    work()
    times = []
    for _ in range(runs):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
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


def graph_like(n: int) -> npt.NDArray[np.uint8]:
    """Bytes with much in common, as of nodes of a graph."""
    nodes = (b"\x0a\x14layer%d.weight\x12\x0elayer%d.out\x22\x04Conv" % (i % 997, i % 499) for i in range(n // 30 + 1))
    return np.frombuffer(b"".join(nodes), np.uint8)[:n]


@dataclasses.dataclass(frozen=True)
class Case:
    """A tensor and a coder: how to encode it, how many elements, and whether kernel sets make a difference."""

    tensor: str
    coder: str
    elements: int
    encode: Callable[[], bytes]
    has_kernels: bool


def cases(n: int) -> Iterator[Case]:
    """Every coder on what it is for."""
    tensors = {
        "9 % of 5 bits": pruned(n, 0.09, 5),
        "35 % of 8 bits": pruned(n, 0.35, 8),
        "grid, scaled": grid(n, 256),
    }
    infos = binding.coders()
    for name, (indices, arguments) in tensors.items():
        for coder, info in infos.items():
            if info.stores is not binding.Stores.INDICES:
                continue
            for bits in (0, 5) if coder == "huffman" and "codebook" in arguments else (0,):
                encode = functools.partial(
                    binding.encode_codebook, indices, [n // COLUMNS, COLUMNS], np.float32, coder=coder, threads=1,
                    position_bits=bits, **arguments,
                )  # fmt: skip
                yield Case(name, coder, n, encode, not info.is_slow)
    floats = np.random.default_rng(3).standard_normal(n).astype(np.float32)
    for coder, info in infos.items():
        if info.stores is binding.Stores.ELEMENTS:
            encode = functools.partial(binding.encode_data, floats, coder=coder, threads=1)
            yield Case("floats", coder, n, encode, False)
        if info.stores is binding.Stores.BYTES:
            size = n if not info.is_slow else n // 16
            encode = functools.partial(binding.encode_data, graph_like(size), coder=coder, threads=1)
            yield Case("graph", coder, size, encode, False)


class Build:
    """The decoder of a build of the library, through the part of the C interface that stays."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)

    def decode_into(self, frame: bytes, out: npt.NDArray[Any]) -> None:
        self._call(self._library.dcc_frame_decode, frame, out, out.nbytes)

    def decode_indices_into(self, frame: bytes, out: npt.NDArray[np.uint16]) -> None:
        self._call(self._library.dcc_frame_decode_indices, frame, out, out.size)

    def _call(self, function: Any, frame: bytes, out: npt.NDArray[Any], capacity: int) -> None:
        size = ctypes.c_size_t
        pointer = ctypes.c_void_p(out.ctypes.data)
        if function(frame, size(len(frame)), pointer, size(capacity), 1, None, size(0)) != 0:
            raise SystemExit("a library cannot decode a frame of this one")


def paired(here: Callable[[], object], other: Callable[[], object], *, runs: int) -> dict[str, float]:
    """How many times as fast `here` is in processor time, by turns in both orders: median and quartiles."""
    ratios = []
    for run in range(runs + 1):
        times = {}
        for work in (here, other) if run % 2 else (other, here):
            start = time.thread_time()
            work()
            times[work] = time.thread_time() - start
        if run > 0:
            ratios.append(times[other] / times[here])
    low, median, high = statistics.quantiles(ratios, n=4)
    return {"against": round(median, 3), "low": round(low, 3), "high": round(high, 3)}


def rows(case: Case, options: argparse.Namespace, other: Build | None, copy: float) -> Iterator[dict[str, Any]]:
    """A row for each kernel set, and one for encoding."""
    frame = case.encode()
    info = binding.frame_info(frame)
    label = case.coder + (f" {info.position_bits}+" if info.position_bits else " " if info.lanes else "")
    label += str(info.lanes) if info.lanes else ""
    out, indices = np.empty(case.elements, info.dtype), np.empty(case.elements, np.uint16)
    here = Build(binding.get_library_path())
    for isa in reversed(binding.isas()) if case.has_kernels else ["auto"]:
        binding.select_isa(isa)
        work = functools.partial(binding.decode_into, frame, out, threads=1)
        row = measure(case.tensor, label, isa, case.elements, work, options.runs, copy)
        if info.codebook_entries:
            alone = functools.partial(here.decode_indices_into, frame, indices)
            row["indices"] = round(case.elements / statistics.median(seconds(alone, options.runs)) / 1e6, 1)
        if isa in ("auto", binding.isas()[0]):
            row["ps"] = round(1e6 / row["msym/s"])
            modelled = binding.coders()[case.coder].decode_seconds(info.elements, info.nonzero)
            row["table"] = round(modelled / info.elements * 1e12)
            if other is not None:
                row |= paired(*(functools.partial(b.decode_into, frame, out) for b in (here, other)), runs=options.runs)
        yield row
    binding.select_isa("auto")
    if options.encode:
        yield measure(case.tensor, label, "encode", case.elements, case.encode, max(1, options.runs // 3), copy)


def main() -> None:
    """Run the benchmark and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=8 << 20)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--encode", action="store_true", help="measure encoding too")
    parser.add_argument("--against", metavar="LIBRARY", help="another libdcc.so to compare decoders with")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.elements < COLUMNS or options.runs < 2:
        parser.error("give 1,024 elements or more, and 2 runs or more")
    n = options.elements // COLUMNS * COLUMNS

    source = np.ones(n, np.float32)
    target = np.empty_like(source)
    copy = n / statistics.median(seconds(lambda: np.copyto(target, source), options.runs)) / 1e6
    other = None if options.against is None else Build(options.against)
    found = [row for case in cases(n) for row in rows(case, options, other, copy)]
    if options.json:
        print(json.dumps({"elements": n, "copy msym/s": round(copy, 1), "rows": found}, indent=2))
        return
    print(f"{n} elements, numpy.copyto {copy:.0f} M/s")
    figures = ["msym/s", "lowest", "highest", "of copy", "indices", "ps", "table"]
    figures += ["against", "low", "high"] if other is not None else []
    for row in [dict(zip(names := ["tensor", "coder", "isa", *figures], names, strict=True)), *found]:
        shown = "".join(f"{row.get(figure, ''):>9}" for figure in figures)
        print(f"{row['tensor']:16}{row['coder']:14}{row['isa']:10}{shown}")


if __name__ == "__main__":
    main()
