"""Frames are no larger than the paper's own coding, computed here on its own, on AlexNet's layers.

The paper (Deep Compression, section 2, 4 and table 4): relative positions of fixed width with filler zeros, a
Huffman code without length limit for positions and one for codebook indices, 32 bits for a codebook entry. The space
for the code tables is not counted against the paper, but is part of our frames.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dc_compiler.codec import binding

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """A layer of AlexNet with the paper's kept fraction and bits of an index."""

    name: str
    elements: int
    kept: float
    bits: int


ALEXNET = [
    Layer("conv1", 34848, 0.84, 8),
    Layer("conv2", 307200, 0.38, 8),
    Layer("conv3", 884736, 0.35, 8),
    Layer("conv4", 663552, 0.37, 8),
    Layer("conv5", 442368, 0.37, 8),
    Layer("fc6", 37748736, 0.09, 5),
    Layer("fc7", 16777216, 0.09, 5),
    Layer("fc8", 4096000, 0.25, 5),
]
SAMPLE = 300_000  # elements coded of each layer; sizes are scaled up to the true count


def clustered(layer: Layer, seed: int) -> tuple[Array, Array]:
    """Indices (n,) and codebook (2^bits,) of a Laplace-distributed layer: pruned by magnitude, k-means from a linear
    start. Index 0 is zero."""
    rng = np.random.default_rng(seed)
    weights = rng.laplace(size=min(layer.elements, SAMPLE)).astype(np.float32)
    threshold = np.quantile(np.abs(weights), 1 - layer.kept)
    kept = np.abs(weights) > threshold
    values = weights[kept].astype(np.float64)
    centroids = np.linspace(values.min(), values.max(), 2**layer.bits - 1)
    for _ in range(10):
        nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
        counts = np.bincount(nearest, minlength=centroids.size)
        sums = np.bincount(nearest, values, centroids.size)
        centroids = np.sort(np.where(counts > 0, sums / np.maximum(counts, 1), centroids))
    indices = np.zeros(weights.size, np.uint16)
    indices[kept] = 1 + np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
    return indices, np.concatenate([[0.0], centroids]).astype(np.float32)


def huffman_bits(symbols: Array) -> int:
    """Bits of all symbols in an optimal Huffman code without length limit."""
    heap = [int(count) for count in np.bincount(symbols) if count]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


def paper_bits(indices: Array, entries: int, position_bits: int) -> int:
    """Size of a layer in the paper's coding, in bits."""
    gaps = np.diff(np.flatnonzero(indices), prepend=-1) - 1
    span = 2**position_bits
    fillers = int((gaps // span).sum())
    positions = np.concatenate([gaps % span, np.full(fillers, span - 1)])
    symbols = np.concatenate([indices[indices != 0], np.zeros(fillers, np.uint16)])
    return huffman_bits(positions) + huffman_bits(symbols) + 32 * entries


def test_paper_bits_by_hand() -> None:
    # Positions 1, 3 (filler), 1 and indices 1, 0, 2 with 2 bits: 3 bits and 5 bits; two entries.
    indices = np.array([0, 1, 0, 0, 0, 0, 0, 2, 0], np.uint16)
    assert paper_bits(indices, 2, 2) == 3 + 5 + 64


def test_frames_are_no_larger_than_the_papers_coding() -> None:
    widths = (4, 5, 8)
    paper = dict.fromkeys(widths, 0.0)
    ours = {"huffman": 0.0, "auto": 0.0}
    for seed, layer in enumerate(ALEXNET):
        indices, codebook = clustered(layer, seed)
        scale = layer.elements / indices.size
        for width in widths:
            paper[width] += scale * paper_bits(indices, codebook.size, width) / 8
        for coder in ours:
            frame = binding.encode_codebook(
                indices, dims=indices.shape, dtype=np.float32, codebook=codebook, zero=0, coder=coder
            )
            ours[coder] += scale * len(frame)
    for coder, size in ours.items():
        ratios = ", ".join(f"{width} bits {size / paper[width]:.4f}" for width in widths)
        print(f"{coder}: {size / 1e6:.3f} MB; ratio to the paper's coding with positions of {ratios}")
    assert ours["huffman"] <= 1.00 * paper[4]
    assert ours["auto"] <= 0.97 * paper[4]
