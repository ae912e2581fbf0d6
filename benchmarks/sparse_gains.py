"""What layers gain by running from what is kept, as the cost model has it (native/kernels/sparse_gain.cpp).

    python benchmarks/sparse_gains.py [--isa NAME ...] [--seconds S]

A row is an instruction set, a kind of layer, and the number of elements from which on it holds; then for each share
kept the least gain over the layers and batches looked at, each the median of pairs in turn: over onnxruntime's fp32,
and for products in int8 over its int8. Dense layers run on the best instruction set of the machine whatever the row
says, so figures for lesser ones are low where the machine has better ones.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator

from layers import Layer, Timing, timing

from dc_compiler.codec import binding

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
LEVELS = 31
INT8_ISAS = ("avx512",)  # that have kernels of their own for int8
BATCHES = (1, 16, 128)
# From so many elements on
MATRICES = {0: ("784x300", "512x512"), 300_000: ("768x3072", "2048x1000"), 4_000_000: ("4096x4096",)}
KERNELS = {
    0: ("3x3:64x64:56x56", "1x1:64x256:56x56", "3x3:128x128:28x28", "1x1:256x256:28x28"),
    200_000: ("3x3:256x256:14x14", "3x3:512x512:7x7", "1x1:512x512:14x14", "1x1:1024x256:14x14"),
}  # fmt: skip
Gains = dict[tuple[str, int], list[float]]


def least(found: list[Timing], name: str, over: str) -> float:
    return min(statistics.median(t.gains(name, over)) for t in found)


def gains_of(isa: str, seconds: float) -> Iterator[tuple[str, int, list[float]]]:
    """Kind, least elements, gains by share."""
    gains: Gains = {}
    has_int8 = isa in INT8_ISAS
    for least_size, names in MATRICES.items():
        for share in SHARES:
            found = [
                timing(Layer.parse(n), share, batch, LEVELS, isa, least=seconds, with_int8=has_int8)
                for n in names
                for batch in BATCHES
            ]
            gains.setdefault(("kMatrix", least_size), []).append(least(found, "sparse", "dense"))
            if has_int8:
                gains.setdefault(("kInt8", least_size), []).append(least(found, "sparse int8", "int8"))
    for least_size, names in KERNELS.items():
        for share in SHARES:
            found = [timing(Layer.parse(n), share, 1, LEVELS, isa, least=seconds) for n in names]
            gains.setdefault(("kKernel", least_size), []).append(least(found, "sparse", "dense"))
    for (kind, least_size), found_gains in sorted(gains.items()):
        yield kind, least_size, found_gains


def main() -> None:
    """Print rows as they stand in the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", nargs="+", default=list(binding.isas()), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=0.1, metavar="S", help="at least, for a layer")
    options = parser.parse_args()
    for isa in options.isa:
        for kind, least_size, gains in gains_of(isa, options.seconds):
            values = ", ".join(f"{gain:.2f}" for gain in gains)
            print(f'    {{"{isa}", LayerKind::{kind}, {least_size}, {{{values}}}}},', flush=True)


if __name__ == "__main__":
    main()
