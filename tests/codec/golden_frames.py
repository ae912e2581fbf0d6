"""The golden frames, written by frame_builder, and `python golden_frames.py [--force]`, which stores them in golden/.

A stored frame is the contract with files already written: it is replaced only when the format version changes. The
script therefore adds what is missing and overwrites nothing unless --force is given. Beside each NAME.dccw lies
NAME.npy with the bits of the expected elements, computed here without a decoder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from frame_builder import (
    Frame,
    Quantized,
    Sequences,
    context,
    fixed,
    huffman,
    lossless,
    lz,
    rans,
    raw,
    rows,
    short,
    text,
)
from models import ensembles
from native_encoder import attributes_frame
from synthetic import bell, integers, peaked, sparse

from dc_compiler.codec.reference import DTYPES, LOG_SCALE_STEPS
from dc_compiler.codec.reference.spec import INTEGERS

Array = npt.NDArray[Any]
FOLDER = Path(__file__).with_name("golden")
BF16 = np.dtype(ml_dtypes.bfloat16)


def expected(q: Quantized) -> Array:
    """Section 2.1, with each product of two f32 formed exactly in f64 and rounded once.

    For dtype f64 the scales used here are powers of two, so products are exact as well.
    """
    compute = np.dtype("<f8") if q.dtype == 11 else np.dtype("<f4")
    entries = q.lo + np.arange(q.k) if q.codebook is None else q.codebook
    values: Array = entries[q.indices]
    if q.codebook is not None and q.scales is None and q.log_scales is None:
        return values
    if q.scales is None and q.log_scales is None and q.dtype in INTEGERS:
        return values.astype(np.int64).astype(DTYPES[q.dtype])
    scales: Array = np.ones(1) if q.scales is None else q.scales
    if q.log_scales is not None:
        e, d = q.log_scales
        scales = np.array([float(LOG_SCALE_STEPS[(e + x) % 8]) * 2.0 ** ((e + x) // 8) for x in d])
    channel = np.arange(values.size).reshape(values.shape) // max(q.inner, 1) % len(scales)
    exact: Array = values.astype("<f8") * scales.astype("<f8")[channel]
    if q.dtype in INTEGERS:
        least, most, _ = INTEGERS[q.dtype]
        with np.errstate(over="ignore"):
            rounded = np.rint(np.clip(exact.astype(compute).astype("<f8"), -1e9, 1e9)) + q.offset
        integers: Array = np.clip(rounded, least, most).astype(np.int64)
        return integers.astype(DTYPES[q.dtype])
    with np.errstate(over="ignore"):
        return exact.astype(compute).astype(DTYPES[q.dtype])


def _quantized() -> dict[str, tuple[Frame, Array]]:
    weights = bell(16, 1)
    weights[7] = 0.0
    values = {code: weights.astype(DTYPES[code]) for code in (1, 10, 11, 16)}
    log = (-144, (0, 3, 12, 20, 131, 255))  # reaches the subnormal numbers and infinity of f16
    conv = sparse(240, 16, 7, 35, 2).reshape(6, 4, 5, 2)
    gaps = sparse(1500, 16, 7, 4, 3).reshape(50, 30)
    dense = peaked(240, 16, 4).reshape(6, 40)
    wide = peaked(240, 300, 7).reshape(10, 24)
    scales = np.array([1.0, 0.1, 3.0, 1e-3, 7.5, 1e-40], "<f4")
    binary = np.array([0.5, 2.0**-20, 4.0, 1.0, 2.0**10, 2.0**-3], "<f8")

    def plain(indices: Array, code: int) -> Quantized:
        return Quantized(indices, code, values[code], zero=8)

    ints = peaked(240, 255, 21).reshape(6, 40)
    nibbles = peaked(117, 16, 22).reshape(9, 13)
    short_floats = np.array([-448, -1.5, 0, 0.0625, 2, 240], "<f4").astype(DTYPES[17])
    frames: dict[str, tuple[Callable[..., Frame], Quantized, dict[str, Any]]] = {
        "fixed_f16": (fixed, plain(conv, 10), {}),
        "fixed_f32_no_zero": (fixed, Quantized(conv, 1, values[1]), {}),
        "fixed_bf16_grid_scales": (fixed, Quantized(conv, 16, lo=-7, k=16, zero=8, scales=scales, inner=40), {}),
        "fixed_f64_one_entry": (fixed, Quantized(conv * 0, 11, values[11][:1]), {}),
        "huffman_f32_dense": (huffman, plain(dense, 1), {}),
        "huffman_f32_positions": (huffman, plain(gaps, 1), {"position_bits": 4, "lanes": 2, "chunk": 400}),
        "huffman_f16_grid": (huffman, Quantized(dense, 10, lo=-7, k=16, zero=8), {"lanes": 4}),
        "huffman_f16_grid_log": (
            huffman,
            Quantized(conv, 10, lo=-7, k=16, zero=8, log_scales=log, inner=40),
            {"position_bits": 2, "lanes": 8},
        ),
        "huffman_bf16_scales": (huffman, Quantized(dense, 16, values[1], zero=8, scales=scales, inner=1), {"chunk": 7}),
        "huffman_f64_scales": (huffman, Quantized(dense, 11, values[11], zero=8, scales=binary, inner=40), {}),
        "huffman_f32_zeros": (huffman, plain(conv * 0 + 7, 1), {"position_bits": 3}),
        "rans_f32": (rans, plain(gaps, 1), {"lanes": 4, "chunk": 512}),
        "rans_f16_grid_log": (
            rans,
            Quantized(conv, 10, lo=-7, k=16, zero=8, log_scales=log, inner=40),
            {"lanes": 2, "s": 16},
        ),
        "rans_bf16": (rans, plain(dense, 16), {"lanes": 32, "s": 8}),
        "rans_f64_scales": (rans, Quantized(conv, 11, values[11], zero=8, scales=binary, inner=4), {"lanes": 8}),
        "fixed_int8": (fixed, Quantized(ints, 3, lo=-127, k=255, zero=128), {}),
        "huffman_uint8": (huffman, Quantized(ints, 2, lo=1, k=255, zero=114), {"lanes": 2}),
        "rans_uint8_log": (
            rans,
            Quantized(ints, 2, lo=-127, k=255, zero=128, log_scales=(-3, (0, 3, 6, 9, 12, 1)), inner=40, offset=113),
            {"lanes": 4},
        ),
        "rows_int8": (rows, Quantized(ints, 3, lo=-127, k=255, zero=128), {"columns": 40, "s17": 10, "s25": 0}),
        "rows_int8_scales": (
            rows,
            Quantized(ints, 3, lo=-127, k=255, zero=128, scales=np.array([1.5, 0.5, 2], "<f4"), inner=1, offset=-3),
            {"columns": 40},
        ),
        "rans_uint4": (rans, Quantized(nibbles, 21, lo=0, k=16, zero=9), {"chunk": 50}),
        "fixed_int4": (fixed, Quantized(nibbles, 22, lo=-8, k=16), {}),
        "rans_int4_log": (
            rans,
            Quantized(nibbles, 22, lo=-8, k=16, zero=9, log_scales=(0, (4,)), inner=117),
            {},
        ),
        "context_int16": (context, Quantized(wide * 3, 5, lo=-450, k=898), {"columns": 24}),
        "rans_uint16": (rans, Quantized(wide, 4, lo=65000, k=300, zero=3), {}),
        "rans_int32": (rans, Quantized(wide, 6, lo=-(1 << 24), k=300), {}),
        "rans_float8": (rans, Quantized(ints % 6, 17, short_floats, zero=3), {}),
        "fixed_float4": (fixed, Quantized(nibbles, 23, np.arange(16).astype("u1").view(DTYPES[23]), zero=1), {}),
        "rans_f32_one_entry": (rans, Quantized(conv * 0, 1, lo=3, k=1), {"chunk": 100}),
        "context_f32": (context, plain(gaps, 1), {"columns": 30, "group": 15, "stride": 5}),
        "context_f32_chunks": (context, plain(conv, 1), {"columns": 40, "group": 10, "stride": 2, "chunk": 100}),
        "context_bf16_no_zero": (context, Quantized(dense, 16, values[16]), {"columns": 7, "group": 2}),
        "context_f16_grid_log": (
            context,
            Quantized(conv, 10, lo=-7, k=16, zero=8, log_scales=log, inner=40),
            {"columns": 240, "group": 240, "stride": 240},
        ),
        "context_f64_wide": (context, Quantized(wide, 11, lo=0, k=300, zero=1), {"columns": 24, "group": 24}),
        "rows_f32": (rows, plain(gaps, 1), {"columns": 30, "group": 15, "stride": 5, "lanes": 16}),
        "rows_f32_chunks": (
            rows,
            plain(conv, 1),
            {"columns": 40, "group": 10, "stride": 2, "chunk": 80, "lanes": 1, "s17": 1, "s11": 9},
        ),
        "rows_bf16_no_zero": (rows, Quantized(dense, 16, values[16]), {"columns": 8, "group": 3, "lanes": 2}),
        "rows_f32_flipped": (rows, plain(dense, 1), {"columns": 24, "stride": 3, "s17": 10, "s23": 2, "s13": 15}),
        "rows_f16_grid_log": (
            rows,
            Quantized(conv, 10, lo=-7, k=16, zero=8, log_scales=log, inner=40),
            {"columns": 240, "stride": 240, "lanes": 8, "s24": 4, "s25": 1},
        ),
        "rows_f64_wide": (
            rows,
            Quantized(wide, 11, lo=0, k=300, zero=1),
            {"columns": 24, "group": 4, "stride": 4, "s17": 7, "s18": 4, "s19": 7, "s23": 7, "s25": 2},
        ),
        "rows_f32_one_entry": (rows, Quantized(conv * 0, 1, lo=3, k=1), {"columns": 40, "chunk": 120, "lanes": 2}),
        "context_f32_one_entry": (context, Quantized(conv * 0, 1, lo=3, k=1), {"columns": 40, "chunk": 100}),
    }
    written = {name: (write(q, **options), expected(q)) for name, (write, q, options) in frames.items()}
    halves = plain(dense, 1)
    assert halves.codebook is not None
    halves = replace(halves, codebook=halves.codebook.astype(BF16).astype("<f4"))
    written["fixed_f32_short"] = short(fixed(halves)), expected(halves)
    scaled = replace(halves, dtype=10, scales=scales, inner=40)
    written["context_f16_scales_short"] = short(context(scaled, columns=40)), expected(scaled)
    return written


def _elements() -> dict[str, tuple[Frame, Array]]:
    f32 = bell(96, 5).reshape(2, 3, 16)
    f32[0, 0, :4] = [0.0, -0.0, np.inf, 1e-45]
    bits = integers(64, 1 << 16, 6).astype("<u2")  # any bits are good elements, NaN included
    any_bytes = (integers(600, 255, 8) + 1).astype("u1")
    name, other = b"conv1.weight,", b"conv2.bias:0123456789"
    plain = name * 3 + other + b"9" * 300 + b"conv1"
    as_array = np.frombuffer(plain, np.uint8)
    parts = Sequences(
        tokens=bytes([0xDF, 0xFF, 0x50]),  # 13 literals, match of 26; 21 literals, match of 300; 5 literals
        offsets=(13, 1),
        extras=bytes([7, 6, 255, 26]),
        literals=name + other + b"conv1",
    )
    return {
        "raw_f32": (raw(f32), f32),
        "raw_uint8_empty": (raw(np.zeros((0, 3), "u1")), np.zeros((0, 3), "u1")),
        "raw_bf16_scalar": (raw(np.array(-1.5).astype(BF16)), np.array(-1.5).astype(BF16)),
        "lossless_f32": (lossless(f32, chunk=50), f32),
        "lossless_f32_rans": (lossless(f32, lanes=2), f32),
        "lossless_f64": (lossless(f32.astype("<f8")), f32.astype("<f8")),
        "lossless_f16": (lossless(bits.view("<f2")), bits.view("<f2")),
        "lossless_bf16": (lossless(bits.view(BF16), lanes=1), bits.view(BF16)),
        "raw_int4_odd": (raw(any_bytes[:9].view("i1").astype(DTYPES[22])), any_bytes[:9].view("i1").astype(DTYPES[22])),
        "lossless_int16": (lossless(bits.view("<i2")), bits.view("<i2")),
        "lossless_int32": (lossless(bits.astype("<i4") - 32768, lanes=1), bits.astype("<i4") - 32768),
        "lossless_float8": (lossless(any_bytes.view(DTYPES[19])), any_bytes.view(DTYPES[19])),
        "lossless_uint8": (lossless(bits.view("u1")), bits.view("u1")),
        "lz": (lz(len(plain), parts), as_array),
        "lz_rans": (lz(len(plain), parts, lanes=2), as_array),
        "text": (text(plain), as_array),
        "text_of_any_bytes": (text(any_bytes.tobytes()), any_bytes),
    }


def _trees() -> dict[str, tuple[Frame, Array]]:
    """Attributes of ensembles, whose frames the library has written, as there is no other encoder of forests."""
    trees = ensembles.forest(4, 3, targets=3, digits=2)
    made = {
        "trees_classifier": ensembles.classifier(trees, order="best", ids="breadth"),
        "trees_regressor_double": ensembles.regressor(ensembles.forest(2, 4, digits=None), double=True),
        "trees_5": ensembles.ensemble_5(ensembles.forest(4, 3, digits=3), order="breadth"),
    }
    found = {}
    for name, node in made.items():
        data = np.frombuffer(ensembles.packed_attributes(node), np.uint8)
        found[name] = attributes_frame(data), data
    return found


def golden_frames() -> dict[str, tuple[Frame, Array]]:
    """Name -> frame and expected elements."""
    return _quantized() | _elements() | _trees()


def bits(values: Array) -> Array:
    """The elements as unsigned integers, so that NaN equals itself and -0.0 differs from 0.0."""
    return values.view(f"u{values.dtype.itemsize}")


def main() -> None:
    force = sys.argv[1:] == ["--force"]
    FOLDER.mkdir(exist_ok=True)
    for name, (frame, values) in golden_frames().items():
        path = FOLDER / f"{name}.dccw"
        if path.exists() and not force:
            print(f"kept {path.name}")
            continue
        path.write_bytes(frame.to_bytes())
        np.save(path.with_suffix(".npy"), bits(values))
        print(f"wrote {path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
