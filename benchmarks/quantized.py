"""Models that are quantized already: what order-0 codes, xz and dcc make of their tables, and of coarser grids.

    python benchmarks/quantized.py MODEL [MODEL ...] [--data INPUTS ...] [--steps 0.05 0.1] [--per-channel] [--bf16]

A float model is quantized first, by onnxruntime's `quantize_dynamic` to int8, with `--per-channel` a scale a channel.
Columns of the first table: bytes of all tables of integers; the same at their order-0 entropy, a code for each table;
by `xz -9e`, the tables one after the other; and as frames of `--preset lossless`; then the whole file, how many times
as small it is, and seconds to compile. With --data, a file of inputs (.npz) for each model, the second table has
`cluster(grid,integers=true)` at each step: the whole file, and the cosine of its outputs with those of the quantized
model and, where a float model was given, how near both of them are to that.

--bf16 prints the size and the speed of 16-bit floats without loss instead: normal weights whose layers have scales of
their own, on one thread.
"""

from __future__ import annotations

import argparse
import lzma
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt

from dc_compiler import compile_model, verify_models
from dc_compiler.codec import binding
from dc_compiler.model import files, importer
from dc_compiler.nibbles import pack_nibbles, shares_bytes

Array = npt.NDArray[np.generic]
LAYERS, EXTENT = 8, 1024  # of --bf16
RUNS = 40


@dataclass(frozen=True)
class Net:
    """A quantized model, the float model it was made of, if any, and inputs."""

    path: Path
    floats: Path | None
    data: Path | None


def quantized(model: Path, data: Path | None, folder: Path, *, per_channel: bool) -> Net:
    """The model, or what `quantize_dynamic` makes of it where it is one of floats."""
    if tables(model):
        return Net(model, None, data)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = folder / model.name
    quantize_dynamic(model, made, weight_type=QuantType.QInt8, per_channel=per_channel)
    return Net(made, model, data)


def tables(model: Path) -> list[Array]:
    """The values of weights that are quantized already."""
    program = importer.build_program(files.read_model(model), min_size=1)
    return [r.values for r in program.records if r.quantized is not None and r.quantized.is_weight]


def entropy_bytes(values: Array) -> float:
    """Bytes of a table with the best code for its numbers one by one, whose own table is free."""
    counts = np.unique(values.astype(np.float32), return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def raw_bytes(values: Array) -> bytes:
    return pack_nibbles(values).tobytes() if shares_bytes(values.dtype) else values.tobytes()


def lossless_rows(nets: Sequence[Net]) -> Iterator[str]:
    """The first table."""
    yield f"{'model':20} {'tables':>12} {'order-0':>12} {'xz':>12} {'dcc':>12} {'file':>12} {'ratio':>6} {'seconds':>8}"
    for net in nets:
        found = tables(net.path)
        raw = b"".join(map(raw_bytes, found))
        order0 = sum(map(entropy_bytes, found))
        xz = len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))
        report = compile_model(net.path, preset="lossless").report
        packed = sum(r.bytes for r in report.tensors if r.exact is not None and "quantized" in r.exact)
        sizes = f"{len(raw):12,} {order0:12,.0f} {xz:12,} {packed:12,} {report.output_bytes:12,}"
        yield f"{net.path.stem[:20]:20} {sizes} {report.ratio:5.2f}x {report.seconds:8.1f}"


def coarser_rows(nets: Sequence[Net], steps: Sequence[float], folder: Path) -> Iterator[str]:
    """The second table."""
    titles = f"{'model':20} {'step':>5} {'file':>12} {'ratio':>6} {'seconds':>8}"
    yield f"{titles}  cosine with the model; of it and of this with the floats"
    for net in nets:
        if net.data is None:
            continue
        before = None if net.floats is None else cosine(net.floats, net.path, net.data)
        for step in steps:
            target = folder / f"{net.path.stem}.{step}.onnx"
            pipeline = f"cluster(grid,step={step},integers=true),encode"
            report = compile_model(net.path, target, pipeline=pipeline, data=net.data, force=True).report
            text = f"{cosine(net.path, target, net.data):.4f}"
            if net.floats is not None:
                text += f"; {before:.4f}, {cosine(net.floats, target, net.data):.4f}"
            size = f"{report.output_bytes:12,} {report.ratio:5.2f}x {report.seconds:8.1f}"
            yield f"{net.path.stem[:20]:20} {step:5.2f} {size}  {text}"


def cosine(one: Path, other: Path, data: Path) -> float:
    """The least cosine of an output of two models on the same inputs."""
    found = [o.cosine for o in verify_models(one, other, data=data).outputs if o.cosine is not None]
    return min(found)


def half_rows() -> Iterator[str]:
    """The table of --bf16."""
    yield f"{'type':10} {'ratio':>6} {'exponent bits':>14} {'decode GB/s':>12}"
    rng = np.random.default_rng(0)
    scales = 0.02 * 2.0 ** rng.uniform(-1, 1, LAYERS)
    layers = [rng.standard_normal((EXTENT, EXTENT)) * scale for scale in scales]
    for dtype, shift, mask in ((ml_dtypes.bfloat16, 7, 255), (np.float16, 10, 31)):
        weights = np.stack(layers).astype(dtype)
        exponents = np.bincount((weights.view(np.uint16) >> shift & mask).reshape(-1))
        exponents = exponents[exponents > 0]
        bits = float(-(exponents / weights.size * np.log2(exponents / weights.size)).sum())
        ratio = weights.nbytes / len(binding.encode_data(weights, "lossless"))
        chunk = weights[0, :256]
        frame, out, best = binding.encode_data(chunk, "lossless"), np.empty_like(chunk), np.inf
        for _ in range(RUNS):
            start = time.perf_counter()
            binding.decode_into(frame, out, threads=1)
            best = min(best, time.perf_counter() - start)
        yield f"{np.dtype(dtype)!s:10} {ratio:5.3f}x {bits:14.2f} {chunk.nbytes / best / 1e9:12.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--data", nargs="+", type=Path, help="a file a model")
    parser.add_argument("--steps", nargs="+", type=float, default=[0.05, 0.1])
    parser.add_argument("--per-channel", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()
    if arguments.bf16:
        print(*half_rows(), sep="\n")
        return
    data = arguments.data or [None] * len(arguments.models)
    if not arguments.models or len(data) != len(arguments.models):
        parser.error("give models, and with --data a file for each")
    with tempfile.TemporaryDirectory() as folder:
        nets = [
            quantized(m, d, Path(folder), per_channel=arguments.per_channel)
            for m, d in zip(arguments.models, data, strict=True)
        ]
        for line in lossless_rows(nets):
            print(line, flush=True)
        if arguments.data:
            print()
            for line in coarser_rows(nets, arguments.steps, Path(folder)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
