"""Time of one training step against PyTorch: same network, batch, optimizer and thread count, side by side.

    python benchmarks/training_step.py model.onnx [model.onnx ...] --data mnist.npz [--batch 64] [--threads 1 2]

A step is what retraining runs: gather the batch, forward, gradients of all weights and biases, Adam. Short blocks of
steps alternate, so that whatever else the machine does slows both; the ratio is taken pair by pair. Before anything is
timed, both must give the same loss on the first batches, each trained on by both. The data is described in
digits.py. PyTorch is needed here alone. More threads than idle cores say nothing: PyTorch's threads then wait for each
other.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import digits
import numpy as np
import onnx
from onnx import helper, numpy_helper

from dc_compiler.model import files, importer
from dc_compiler.ort.samples import Samples
from dc_compiler.pass_manager import Context
from dc_compiler.recipe import parse_pipeline
from dc_compiler.training.graph import trainable
from dc_compiler.training.loop import Trainer, TrainingPass, batches

try:
    import torch
    from torch.nn import functional
except ImportError:
    raise SystemExit("this benchmark compares with PyTorch; install torch beside dc-compiler") from None

RATE = 1e-3
CHECKED = 5  # batches whose losses are compared
TOLERANCE = 1e-3


class Ours:
    """dcc's own loop body on all float tensors of the model."""

    def __init__(self, path: Path, part: digits.Part, batch: int, threads: int) -> None:
        source = files.read_model(path)
        program = importer.build_program(source, min_size=0)
        arrays = {source.proto.graph.input[0].name: part.images, "labels": part.labels}
        samples = Samples(arrays, "labels", source, threads=threads)
        (step,) = parse_pipeline(f"finetune(batch={batch})")
        assert isinstance(step, TrainingPass)
        self.trainer = Trainer(step, program, trainable(program), Context(jobs=threads, samples=samples))

    def loss(self, rows: digits.Array) -> float:
        """Mean loss over these samples; moves nothing."""
        graph = self.trainer.graph
        return graph.step(self.trainer.parameters.weights, graph.samples.take(rows), graph.objective.targets[rows])[0]

    def step(self, rows: digits.Array) -> None:
        """Train on these samples."""
        self.trainer._step(rows, 0, RATE)  # the number counts only for shifts


class Theirs:
    """The same in PyTorch: every float initializer is a parameter."""

    def __init__(self, path: Path, part: digits.Part) -> None:
        graph = onnx.load(path).graph
        self._images, self._labels = torch.from_numpy(part.images), torch.from_numpy(part.labels)
        self._input, self._output = graph.input[0].name, graph.output[0].name
        stored = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
        self._values = {k: v.requires_grad_() if v.is_floating_point() else v for k, v in stored.items()}
        self._nodes = [(list(n.input), n.output[0], torch_function(n)) for n in graph.node]
        self._adam = torch.optim.Adam([v for v in stored.values() if v.is_floating_point()], lr=RATE)

    def forward(self, rows: digits.Array) -> Any:
        """Mean loss over these samples, a tensor of PyTorch."""
        chosen = torch.from_numpy(rows)
        values = {**self._values, self._input: self._images[chosen]}
        for inputs, output, function in self._nodes:
            values[output] = function(*(values[i] for i in inputs))
        return functional.cross_entropy(values[self._output], self._labels[chosen])

    def loss(self, rows: digits.Array) -> float:
        """Mean loss over these samples; moves nothing."""
        with torch.no_grad():
            return float(self.forward(rows))

    def step(self, rows: digits.Array) -> None:
        """Train on these samples."""
        self._adam.zero_grad()
        self.forward(rows).backward()
        self._adam.step()


def torch_function(node: onnx.NodeProto) -> Callable[..., Any]:
    """What PyTorch computes for a node, for the operators of small classifiers; others end the benchmark."""
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    plain = {"alpha": 1, "beta": 1, "transA": 0, "auto_pad": b"NOTSET", "ceil_mode": 0, "storage_order": 0}
    if any(options.get(k, v) != v for k, v in plain.items()):
        raise SystemExit(f"node '{node.name}' ({node.op_type}) has options that this benchmark does not know")
    pads = options.get("pads", [0])
    sides = pads[: len(pads) // 2] or pads
    if pads not in (sides, sides * 2):
        raise SystemExit(f"node '{node.name}' pads unevenly, which this benchmark does not know")
    window = {"stride": options.get("strides", 1), "padding": sides, "dilation": options.get("dilations", 1)}
    functions: dict[str, Callable[..., Any]] = {
        "Add": torch.add,
        "Conv": lambda x, w, b=None: functional.conv2d(x, w, b, groups=options.get("group", 1), **window),
        "Flatten": lambda x: x.flatten(options.get("axis", 1)),
        "Gemm": lambda x, w, b=None: functional.linear(x, w if options.get("transB") else w.T, b),
        "MatMul": torch.matmul,
        "MaxPool": lambda x: functional.max_pool2d(x, options["kernel_shape"], **window),
        "Relu": torch.relu,
        "Reshape": lambda x, shape: x.reshape(shape.tolist()),
    }
    if node.op_type not in functions:
        raise SystemExit(f"node '{node.name}' is a {node.op_type}; this benchmark knows: {', '.join(functions)}")
    return functions[node.op_type]


def check_same(ours: Ours, theirs: Theirs, draw: Callable[[], digits.Array]) -> None:
    """End the benchmark unless both compute the same loss, and go on doing so while they train."""
    for number in range(CHECKED):
        rows = draw()
        mine, other = ours.loss(rows), theirs.loss(rows)
        if abs(mine - other) > TOLERANCE * max(1.0, abs(other)):
            raise SystemExit(f"losses differ after {number} steps: dcc {mine:.6f}, PyTorch {other:.6f}")
        ours.step(rows)
        theirs.step(rows)


def block(step: Callable[[digits.Array], None], draw: Callable[[], digits.Array], steps: int) -> float:
    """Milliseconds a step, after one that is not counted: the other's threads may still be winding down."""
    step(draw())
    start = time.perf_counter()
    for _ in range(steps):
        step(draw())
    return 1e3 * (time.perf_counter() - start) / steps


def measure(path: Path, part: digits.Part, arguments: argparse.Namespace, threads: int) -> str:
    """A line of the table."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # as dcc does
    ours, theirs = Ours(path, part, arguments.batch, threads), Theirs(path, part)
    endless = batches(np.arange(len(part.images)), arguments.batch, [0])

    def draw() -> digits.Array:
        return next(endless)

    check_same(ours, theirs, draw)
    pairs = [tuple(block(x.step, draw, arguments.steps) for x in (ours, theirs)) for _ in range(arguments.rounds)]
    mine, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    low, middle, high = np.quantile([a / b for a, b in pairs], [0.25, 0.5, 0.75])
    spread = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    return f"{path.stem:12} {threads:7} {mine:9.3f} {other:9.3f}  {spread}"


def main() -> None:
    """Measure every model with every number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=20, help="steps a block")
    parser.add_argument("--rounds", type=int, default=25, help="pairs of blocks")
    arguments = parser.parse_args()
    part, _ = digits.load(arguments.data)
    print(f"batch {arguments.batch}, milliseconds a step, PyTorch {torch.__version__}")
    print(f"{'model':12} {'threads':>7} {'dcc':>9} {'PyTorch':>9}  dcc / PyTorch (quartiles)")
    for path in arguments.models:
        for threads in arguments.threads:
            print(measure(path, part, arguments, threads), flush=True)


if __name__ == "__main__":
    main()
