"""Compiles a sample model, runs both files in plain onnxruntime and compares size and accuracy."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from dc_compiler import compile_model, get_library_path
from dc_compiler.errors import DccError

HERE = Path(__file__).parent


def load_data(path: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Images, float32 [n, 1, 28, 28], normalized as the sample models expect, and their labels, uint8 [n]."""
    with np.load(path) as data:
        x = (data["x"].astype(np.float32) / 255 - data["mean"]) / data["std"]
        return x[:, np.newaxis], data["y"]


def accuracy(model: Path, x: NDArray[np.float32], y: NDArray[np.uint8]) -> float:
    """Top-1 accuracy of the model in `model`, which may or may not be a compiled one."""
    options = ort.SessionOptions()
    options.register_custom_ops_library(get_library_path())  # the one line that serving a compiled model takes
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": x})
    return float(np.mean(np.argmax(logits, axis=1) == y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", choices=["lenet300", "lenet5"], default="lenet5")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--preset")
    how.add_argument("--pipeline")
    parser.add_argument("-o", "--output", type=Path, help="keep the compiled model here")
    arguments = parser.parse_args()

    original = HERE / f"{arguments.model}.onnx"
    x, y = load_data(HERE / "mnist_test_slice.npz")
    with tempfile.TemporaryDirectory() as folder:
        compiled = arguments.output or Path(folder) / f"{arguments.model}.dcc.onnx"
        try:
            compile_model(original, compiled, preset=arguments.preset, pipeline=arguments.pipeline)
        except DccError as error:
            parser.exit(1, f"{error}\n")
        sizes = [path.stat().st_size for path in (original, compiled)]
        scores = [accuracy(path, x, y) for path in (original, compiled)]

    print(f"{'':10}{'bytes':>12}{'accuracy':>12}   ({len(y)} test images)")
    for label, size, score in zip(("original", "compiled"), sizes, scores, strict=True):
        print(f"{label:10}{size:>12,}{score:>12.2%}")
    print(f"{'ratio':10}{sizes[0] / sizes[1]:>11.1f}x")


if __name__ == "__main__":
    main()
