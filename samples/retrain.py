"""Trains a small network on scikit-learn's digits, compiles it with retraining, and compares size and error.

dcc does both trainings, with gradients from the ONNX graph itself; scikit-learn only carries the images.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from dc_compiler import compile_model, get_library_path, unpack_model

TRAINING = "finetune(epochs={epochs},lr=0.002),encode(lossless)"
COMPRESSION = (
    "prune(density=0.12,scope=global,criterion=obd,schedule=gradual,epochs={epochs},lr=0.002),shrink,"
    "cluster(rd,bits=4,price=0.05,epochs={epochs},vectors=true),shrink(sort=true),slim,encode(smallest)"
)


def untrained_network() -> onnx.ModelProto:
    """A perceptron with random weights: x, float32 [n, 1, 8, 8] -> 300 -> 100 -> logits, float32 [n, 10]."""
    random = np.random.Generator(np.random.PCG64(0))
    widths = [64, 300, 100, 10]
    nodes = [helper.make_node("Flatten", ["x"], ["hidden0"])]
    tensors = []
    for i, (before, after) in enumerate(pairwise(widths), start=1):
        weight = random.standard_normal((before, after)) * np.sqrt(2 / before)
        tensors.append(numpy_helper.from_array(weight.astype(np.float32), f"weight{i}"))
        tensors.append(numpy_helper.from_array(np.zeros(after, np.float32), f"bias{i}"))
        nodes.append(helper.make_node("Gemm", [f"hidden{i - 1}", f"weight{i}", f"bias{i}"], [f"sum{i}"]))
        nodes.append(helper.make_node("Relu", [f"sum{i}"], [f"hidden{i}"]))
    nodes.pop()  # the last layer has no Relu
    nodes[-1].output[0] = "logits"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "digits", [x], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def error(model: Path, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    """Share of wrong answers of the model in `model`, which may or may not be a compiled one."""
    options = ort.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": x})
    return float(np.mean(logits.argmax(axis=1) != y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100, help="passes over the data in each of the three trainings")
    epochs = parser.parse_args().epochs

    digits = load_digits()
    x = (digits.images[:, np.newaxis] / 8 - 1).astype(np.float32)  # pixels are 0 to 16
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(x))
    test, training = np.split(order, [len(x) // 3])  # the compiler never sees the test third
    data = {"x": x[training], "y": digits.target[training]}

    with tempfile.TemporaryDirectory() as folder:
        packed, dense, compiled = (Path(folder) / f"{name}.onnx" for name in ("packed", "dense", "compiled"))
        # Train. Lossless coding keeps the trained weights' bits, and unpacking gives a plain model with them back.
        compile_model(
            untrained_network(), packed, pipeline=TRAINING.format(epochs=epochs), data=data, labels="y", min_size=0
        )
        unpack_model(packed, dense)
        # Compress: prune while training, then cluster while training.
        report = compile_model(
            dense, compiled, pipeline=COMPRESSION.format(epochs=epochs), data=data, labels="y", min_size=0
        ).report
        print(f"{'':10}{'bytes':>12}{'error':>12}   ({len(test)} test images)")
        for label, path in (("original", dense), ("compiled", compiled)):
            print(f"{label:10}{path.stat().st_size:>12,}{error(path, x[test], digits.target[test]):>12.2%}")
        print(f"{'ratio':10}{report.ratio:>11.1f}x")


if __name__ == "__main__":
    main()
