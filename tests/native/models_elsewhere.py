"""Compiled models of every form on another processor: outputs there against those here (.ci/run arm).

python tests/native/models_elsewhere.py make FOLDER              here, where dcc is installed
python tests/native/models_elsewhere.py check FOLDER LIBRARY     there, with onnxruntime alone
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

SAMPLES = Path(__file__).parents[2] / "samples"
KINDS = {
    "session": {},
    "graph": {"emit": "graph"},
    "sparse": {"pipeline": "prune(density=0.1),cluster(bits=5),encode(huffman)", "execution": "sparse"},
    "int8": {"pipeline": "cluster(grid,points=255),encode(rans)", "execution": "int8"},
    "smallest": {"pipeline": "cluster(grid),slim,encode(smallest)"},
}
TOLERANCE = 1e-3  # logits are some units; sums are taken in another order


def make(folder: Path) -> None:
    """Write a model of each kind, an input, and the outputs here."""
    import dc_compiler

    folder.mkdir(exist_ok=True)
    x = np.random.default_rng(0).standard_normal((4, 1, 28, 28)).astype(np.float32)
    outputs = {}
    for kind, options in KINDS.items():
        dc_compiler.compile_model(SAMPLES / "lenet5.onnx", folder / f"{kind}.onnx", **options)  # type: ignore[arg-type]
        outputs[kind] = dc_compiler.InferenceSession(folder / f"{kind}.onnx").run(None, {"x": x})[0]
    np.savez(folder / "outputs.npz", x=x, **outputs)


def check(folder: Path, library: str) -> None:
    """Compare with what comes out here.

    Raises:
        SystemExit: some output differs.
    """
    known = np.load(folder / "outputs.npz")
    for kind in KINDS:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.register_custom_ops_library(library)
        output = ort.InferenceSession(str(folder / f"{kind}.onnx"), options).run(None, {"x": known["x"]})[0]
        error = float(np.abs(output - known[kind]).max())
        print(f"{kind}: largest difference {error:.2g}")
        if not error < TOLERANCE:
            raise SystemExit(f"{kind}: other outputs than where the model was compiled")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        check(Path(sys.argv[2]), sys.argv[3])
