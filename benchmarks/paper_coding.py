"""Whole-file size and cost of AlexNet at the paper's kept shares and bits, against the paper's own coding.

The paper's coding (arXiv 1510.00149, sections 2 to 4) is computed here from the decoded weights alone: relative
positions of fixed width with filler zeros, an unrestricted Huffman code for positions and one for codebook indices,
32-bit codebook entries and biases; its code tables are not counted. Ours is the file on disk.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from topologies import ALEXNET_KEPT, filled

from dc_compiler import compile_model, unpack_model


def huffman_bits(counts: np.ndarray) -> int:
    """Bits of a stream with these symbol counts under an optimal prefix code."""
    order = itertools.count()
    heap = [(int(c), next(order)) for c in counts if c]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap)[0] + heapq.heappop(heap)[0]
        total += merged
        heapq.heappush(heap, (merged, next(order)))
    return total


def paper_bits(weight: np.ndarray, position_bits: int) -> int:
    """Bits of one pruned and clustered weight in the paper's coding."""
    flat = weight.reshape(-1)
    places = np.flatnonzero(flat)
    span = 1 << position_bits
    gaps = np.diff(places, prepend=-1) - 1
    fillers = int((gaps // span).sum())
    positions = np.bincount(gaps % span, minlength=span)
    positions[span - 1] += fillers
    values, counts = np.unique(flat[places], return_counts=True)
    return huffman_bits(positions) + huffman_bits(np.append(counts, fillers)) + 32 * len(values)


def main() -> None:
    """Compile with both coders and compare."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    kept = [f"{name}:density={density}" for name, density in ALEXNET_KEPT.items()]
    with tempfile.TemporaryDirectory() as folder:
        original, output = Path(folder) / "alexnet.onnx", Path(folder) / "compiled.onnx"
        onnx.save(filled("bvlc_alexnet"), original)
        for coder in ("huffman", "auto"):
            report = compile_model(original, output, pipeline=f"prune,cluster,encode({coder})", set=kept).report
            print(f"{coder}: {report.original_bytes:,} -> {report.output_bytes:,} bytes, {report.ratio:.2f}x")
            print(f"  compiled in {report.seconds:.1f} s, peak memory {report.peak_memory / 1e9:.2f} GB")
            weights = [numpy_helper.to_array(t) for t in unpack_model(output).graph.initializer]
            for bits in (4, 5, 8):
                size = sum(paper_bits(w, bits) if w.ndim > 1 else 32 * w.size for w in weights) / 8
                print(f"  against the paper's coding with {bits}-bit positions: {report.output_bytes / size:.4f}")


if __name__ == "__main__":
    main()
