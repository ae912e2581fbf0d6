"""A network of our own on Fashion-MNIST: trained by dcc, then compiled with retraining; ratio, errors and time.

    python benchmarks/fashion.py FOLDER [--model FILE] [--seeds 0 1 2] [--pipeline TEXT] [--test]

FOLDER holds the data set's four IDX files, gzipped or not. The last HELD training images are kept from the compiler,
both when the dense model is trained and when it is compiled; the settings below were chosen by the error on them. The
test part is read with --test only.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from retraining import error

from dc_compiler import compile_model, unpack_model
from dc_compiler.report import CompileReport

Array = NDArray[Any]
Part = tuple[Array, Array]  # images, float32 [n, 1, 28, 28]; labels, int64 [n]

HELD = 5000
DENSE = "finetune(epochs=12,lr=0.002,batch=128,shift=1),encode(lossless)"
RETRAINING = (
    "prune(density=0.17,scope=global,schedule=gradual,epochs=5,lr=0.002,batch=128,shift=1),"
    "cluster(rd,bits=4,price=0.018,epochs=4,batch=128,vectors=true,shift=1),slim,encode"
)
# Weights by name: shape, and how many inputs an output sums up
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "conv1": ((16, 1, 5, 5), 25),
    "conv2": ((32, 16, 3, 3), 144),
    "fc1": ((128, 32 * 7 * 7), 32 * 7 * 7),
    "fc2": ((10, 128), 128),
}


def read_idx(folder: Path, name: str) -> Array:
    """An IDX file of bytes, ``name`` or ``name.gz``: uint8, in the shape that its header gives."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if not plain.exists() and not packed.exists():
        raise SystemExit(f"{folder} has no {name} or {name}.gz; give the folder with Fashion-MNIST's four files")
    content = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    axes = content[3]  # two zeros, the type (8: unsigned bytes), the number of axes, then one big-endian extent an axis
    shape = np.frombuffer(content, ">u4", axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def read_part(folder: Path, prefix: str) -> Part:
    """Images with values from 0 to 1, and labels, of the part whose files start with ``prefix``."""
    images = read_idx(folder, f"{prefix}-images-idx3-ubyte")[:, None].astype(np.float32) / 255
    return images, read_idx(folder, f"{prefix}-labels-idx1-ubyte").astype(np.int64)


def untrained() -> onnx.ModelProto:
    """Two convolutions and two fully-connected layers, started as He et al. (arXiv 1502.01852) do.

    x, normalized images [n, 1, 28, 28] -> logits [n, 10].
    """
    random = np.random.Generator(np.random.PCG64(0))
    tensors: dict[str, Array] = {}
    for name, (shape, inputs) in SHAPES.items():
        tensors[f"{name}.weight"] = (random.standard_normal(shape) * np.sqrt(2 / inputs)).astype(np.float32)
        tensors[f"{name}.bias"] = np.zeros(shape[0], np.float32)

    def layer(kind: str, name: str, source: str, result: str, **options: Any) -> onnx.NodeProto:
        return helper.make_node(kind, [source, f"{name}.weight", f"{name}.bias"], [result], **options)

    nodes = [
        layer("Conv", "conv1", "x", "sum1", pads=[2] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["sum1"], ["relu1"]),
        layer("Conv", "conv2", "relu1", "sum2", pads=[1] * 4),
        helper.make_node("Relu", ["sum2"], ["relu2"]),
        helper.make_node("MaxPool", ["relu2"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        layer("Gemm", "fc1", "flat", "sum3", transB=1),
        helper.make_node("Relu", ["sum3"], ["relu3"]),
        layer("Gemm", "fc2", "relu3", "logits", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "fashion",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(t, name) for name, t in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def compile_with(model: Path | onnx.ModelProto, output: Path, pipeline: str, given: Part, seed: int) -> CompileReport:
    """Compile with what is given of the training part."""
    samples = {"x": given[0], "labels": given[1]}
    result = compile_model(model, output, pipeline=pipeline, data=samples, labels="labels", min_size=0, seed=seed)
    return result.report


def errors(model: Path, parts: dict[str, Part]) -> dict[str, float]:
    """Share of wrong answers in every part, in percent."""
    return {name: error(model, *part) for name, part in parts.items()}


def text(found: dict[str, float]) -> str:
    """Errors on one line."""
    return ", ".join(f"{name} {value:.2f} %" for name, value in found.items())


def train(model: Path, given: Part) -> None:
    """Train the dense model and write it to ``model``."""
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "lossless.onnx"
        report = compile_with(untrained(), packed, DENSE, given, 0)
        unpack_model(packed, model)
    print(f"{DENSE}\ntrained in {report.seconds:.0f} s", flush=True)


def main() -> None:
    """Train the dense model unless it is there; compile it with every seed; print a line each, then the median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, help="the dense model: trained and kept here, or used if it is there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pipeline", default=RETRAINING)
    parser.add_argument("--test", action="store_true", help="print the error on the test part, too")
    arguments = parser.parse_args()
    images, labels = read_part(arguments.folder, "train")
    mean, deviation = images[:-HELD].mean(dtype=np.float64), images[:-HELD].std(dtype=np.float64)
    parts = {"train": (images[:-HELD], labels[:-HELD]), "validation": (images[-HELD:], labels[-HELD:])}
    if arguments.test:
        parts["test"] = read_part(arguments.folder, "t10k")
    parts = {name: (((x - mean) / deviation).astype(np.float32), y) for name, (x, y) in parts.items()}
    ratios, found = [], []
    with tempfile.TemporaryDirectory() as folder:
        dense = arguments.model or Path(folder) / "dense.onnx"
        if not dense.exists():
            train(dense, parts["train"])
        print(f"dense: {dense.stat().st_size:,} bytes, error: {text(errors(dense, parts))}")
        print(arguments.pipeline, flush=True)
        for seed in arguments.seeds:
            output = Path(folder) / f"{seed}.onnx"
            report = compile_with(dense, output, arguments.pipeline, parts["train"], seed)
            ratios.append(report.ratio)
            found.append(errors(output, parts))
            size = f"{report.output_bytes:,} bytes {report.ratio:.1f}x"
            print(f"seed {seed}: {size}, error: {text(found[-1])}, {report.seconds:.0f} s", flush=True)
    for label, ratio, chosen in (("median", np.median(ratios), np.median), ("worst", min(ratios), np.max)):
        print(f"{label} {ratio:.1f}x, error: {text({name: chosen([f[name] for f in found]) for name in parts})}")


if __name__ == "__main__":
    main()
