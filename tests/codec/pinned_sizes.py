"""Frames whose size and bytes are pinned in pinned_sizes.csv; `python pinned_sizes.py --write` pins them anew.

The tensors are synthetic integers; a change of the encoder shows in the reviewed table as bytes won or lost.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from frame_builder import Quantized
from golden_frames import BF16
from native_encoder import encode
from synthetic import bell, integers, peaked, sparse

from dc_compiler.codec import binding

TABLE = Path(__file__).with_name("pinned_sizes.csv")
COLUMNS = ("frame", "size", "sha256")


def _tensors() -> dict[str, Quantized]:
    log = (-50, tuple(integers(64, 24, 1).tolist()))
    return {
        "fc 9% of 5 bits": Quantized(sparse(60000, 32, 15, 9, 10).reshape(300, 200), lo=-15, k=32, zero=16),
        "conv 37% of 8 bits": Quantized(
            sparse(57600, 256, 128, 37, 11).reshape(64, 100, 3, 3), lo=-128, k=256, zero=129
        ),
        "dense grid with log scales": Quantized(
            peaked(32768, 90, 12).reshape(64, 512), lo=-45, k=90, zero=46, log_scales=log, inner=512
        ),
        "f16 codebook": Quantized(peaked(3000, 16, 13).reshape(100, 30), 10, bell(16, 13).astype("<f2")),
        "small": Quantized(sparse(1000, 16, 7, 20, 14).reshape(10, 100), lo=-7, k=16, zero=8),
        "tiny": Quantized(sparse(40, 16, 7, 50, 15), lo=-7, k=16, zero=8),
        "zeros": Quantized(np.zeros((100, 100), np.int64), lo=0, k=1, zero=1),
        "16 bits": Quantized(peaked(20000, 65536, 16), lo=-32768, k=65536, zero=32769),
    }


def frames() -> Iterator[tuple[str, bytes]]:
    """Name and frame, in the order of the table."""
    for name, q in _tensors().items():
        for coder in ("fixed", "huffman", "rans", "auto", "context", "smallest", "rows"):
            yield f"{name}: {coder}", encode(q, coder)
        if q.zero:
            yield f"{name}: huffman with 4 position bits", encode(q, "huffman", position_bits=4)
    floats = bell(8192, 20)
    for dtype in (np.dtype("<f4"), np.dtype("<f2"), np.dtype("<f8"), BF16):
        for coder in ("raw", "lossless", "auto"):
            yield f"{dtype} elements: {coder}", binding.encode_data(floats.astype(dtype), coder=coder)
    text = b"".join(b"layer%d.weight: layer%d.bias\n" % (i % 97, i % 89) for i in range(2000))
    for coder in ("raw", "lossless", "lz", "auto"):
        yield f"text: {coder}", binding.encode_data(np.frombuffer(text, np.uint8), coder=coder)
    for coder in ("text", "smallest"):
        yield f"short text: {coder}", binding.encode_data(np.frombuffer(text[:2000], np.uint8), coder=coder)


def rows() -> list[tuple[str, str, str]]:
    """The table as it should be."""
    return [(name, str(len(frame)), hashlib.sha256(frame).hexdigest()) for name, frame in frames()]


def pinned() -> list[tuple[str, str, str]]:
    """The table as it is stored."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        header, *stored = csv.reader(file)
    assert tuple(header) == COLUMNS
    return [(name, size, digest) for name, size, digest in stored]


def main() -> None:
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: {Path(__file__).name} --write (replaces {TABLE.name})")
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows()])


if __name__ == "__main__":
    main()
