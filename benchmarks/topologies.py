"""ImageNet topologies from the onnx package, filled with seeded Laplace weights: real shapes without real training."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

NAMES = ("bvlc_alexnet", "vgg19", "resnet50", "squeezenet", "densenet121", "inception_v1", "shufflenet", "zfnet512")

# Kept share of each layer, arXiv 1510.00149, Table 4; codebooks of 8 bits for convolutions and 5 bits otherwise
ALEXNET_KEPT = {
    "conv1_w_0": 0.84, "conv2_w_0": 0.38, "conv3_w_0": 0.35, "conv4_w_0": 0.37, "conv5_w_0": 0.37,
    "fc6_w_0": 0.09, "fc7_w_0": 0.09, "fc8_w_0": 0.25,
}  # fmt: skip


def filled(name: str, seed: int = 0) -> onnx.ModelProto:
    """The topology ``light_<name>.onnx`` with every generated weight replaced by an initializer.

    Matrices and kernels get Laplace values of He's variance, 2 / fan-in; vectors (biases, batch norm) get values near
    0.1 so that activations neither die nor explode. The IR version is raised to 4.
    """
    path = Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{name}.onnx"
    model = onnx.load(path)
    graph = model.graph
    random = np.random.default_rng(seed)
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in stored:
            values = _values(tuple(stored[node.input[0]]), random)
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    used = {i for n in graph.node for i in n.input}
    tensors = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    names = {t.name for t in tensors}
    inputs = [i for i in graph.input if i.name not in names and i.name in used]
    del graph.input[:]
    graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)
    return model


def _values(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if len(shape) < 2:
        return (0.1 + 0.01 * random.standard_normal(shape)).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return random.laplace(0.0, float(np.sqrt(1.0 / fan_in)), shape).astype(np.float32)


def main() -> None:
    """Write one model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    onnx.save(filled(arguments.name, arguments.seed), arguments.output)


if __name__ == "__main__":
    main()
