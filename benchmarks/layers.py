"""Speed of layers on one thread: native sparse kernels against onnxruntime's dense fp32, side by side in one run.

    python benchmarks/layers.py [--layers NAME ...] [--kept SHARE ...] [--batch M ...] [--levels K ...] [--isa NAME ...]
                                [--peers] [--seconds S] [--json]

A layer is IxO for MatMul of I inputs and O outputs, or KxK:CxM:HxW for Conv. `--levels` is the number of different
weights, 0 for any. Contenders take turns, so that each finds the caches as the other left them; "gain" is the median of
the pairs' ratios, with their quartiles. "of roof" is the share of what the machine's limits allow the sparse kernel:
one multiply-add a kept weight and output position at the peak of a dense Conv, or its bytes, inputs and
outputs at the bandwidth of reading memory, whichever takes longer; both limits are measured in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import json
import logging
import math
import operator
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import scipy.sparse
from onnx import TensorProto, helper, numpy_helper
from sparse_layers import Floats, SparseConv, SparseMatMul

from dc_compiler.codec import binding
from dc_compiler.model.int8 import run_in_int8
from dc_compiler.ort.sessions import Sessions

MATRICES = ("4096x4096", "768x3072", "2048x1000", "784x300")
CONVOLUTIONS = (
    "3x3:256x256:14x14", "3x3:128x128:28x28", "3x3:64x64:56x56", "3x3:512x512:7x7",
    "1x1:512x512:14x14", "1x1:64x256:56x56", "1x1:1024x256:14x14",
)  # fmt: skip
LEAST_RUNS = 7
Run = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Layer:
    """MatMul (`window` and `image` None) or a Conv with as much padding as leaves the size."""

    inputs: int
    outputs: int
    window: int | None = None
    image: tuple[int, int] | None = None

    @classmethod
    def parse(cls, name: str) -> Layer:
        if matrix := re.fullmatch(r"(\d+)x(\d+)", name):
            return cls(int(matrix[1]), int(matrix[2]))
        if conv := re.fullmatch(r"(\d+)x\1:(\d+)x(\d+):(\d+)x(\d+)", name):
            window, inputs, outputs, height, width = map(int, conv.groups())
            return cls(inputs, outputs, window, (height, width))
        raise argparse.ArgumentTypeError(f"'{name}' is neither IxO nor KxK:CxM:HxW")

    def __str__(self) -> str:
        if self.window is None or self.image is None:
            return f"{self.inputs}x{self.outputs}"
        return f"{self.window}x{self.window}:{self.inputs}x{self.outputs}:{self.image[0]}x{self.image[1]}"

    @property
    def weight_shape(self) -> tuple[int, ...]:
        if self.window is None:
            return self.inputs, self.outputs
        return self.outputs, self.inputs, self.window, self.window

    def shapes(self, batch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of x and y."""
        return (batch, self.inputs, *(self.image or ())), (batch, self.outputs, *(self.image or ()))


def pruned(layer: Layer, kept: float, levels: int) -> Floats:
    """Normal weights, or `levels` different ones, of which the share `kept` is not zero."""
    rng = np.random.default_rng(1)
    shape = layer.weight_shape
    values = rng.standard_normal(levels or math.prod(shape)).astype(np.float32)
    chosen = values[rng.integers(0, levels, shape)] if levels else values.reshape(shape)
    return np.where(rng.random(shape) < kept, chosen, np.float32(0))


def model_of(layer: Layer, weights: Floats, x: Floats, y: Floats) -> onnx.ModelProto:
    """The layer in ONNX."""
    node = helper.make_node("MatMul" if layer.window is None else "Conv", ["x", "w"], ["y"])
    if layer.window is not None:
        node.attribute.append(helper.make_attribute("pads", [layer.window // 2] * 4))
    value = functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
    graph = helper.make_graph(
        [node],
        "layer",
        [value("x", shape=x.shape)],
        [value("y", shape=y.shape)],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def served(model: onnx.ModelProto, x: Floats, y: Floats) -> Run:
    """A model in onnxruntime."""
    session = Sessions().open(model, 1)
    bound = session.io_binding()
    bound.bind_cpu_input("x", x)
    bound.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)

    def run() -> Floats:
        session.run_with_iobinding(bound)
        return y  # which has to live as long as it is bound

    return run


def dense(layer: Layer, weights: Floats, x: Floats, y: Floats) -> Run:
    """The layer in onnxruntime."""
    return served(model_of(layer, weights, x, y), x, y)


def in_int8(layer: Layer, weights: Floats, x: Floats, y: Floats) -> Run:
    """A product in integers, as `--execution int8` writes it."""
    model = model_of(layer, weights, x, y)
    scales = (np.abs(weights).max(axis=0) / 127 + 1e-30).astype(np.float32)
    points = np.rint(weights / scales).astype(np.int8)
    del model.graph.initializer[:]
    model.graph.initializer.extend([numpy_helper.from_array(points, "w"), numpy_helper.from_array(scales, "s")])
    run_in_int8(model, {"w": ("s", len(scales))}, {}, Counter({"x": 1, "w": 1, "s": 1, "y": 1}))
    return served(model, x, y)


def in_four_bits(accuracy: int, layer: Layer, weights: Floats, x: Floats, y: Floats) -> Run:
    """onnxruntime's own 4-bit product: of floats (accuracy 1) or of activations rounded to 8 bits (4)."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.getLogger().setLevel(logging.ERROR)  # advice of the quantizer
    model = model_of(layer, weights, x, y)
    quantizer = MatMulNBitsQuantizer(model, bits=4, block_size=32, is_symmetric=False, accuracy_level=accuracy)
    quantizer.process()
    return served(quantizer.model.model, x, y)


def in_rows(layer: Layer, weights: Floats, x: Floats, y: Floats) -> Run:
    """SciPy's compressed sparse rows."""
    matrix = scipy.sparse.csr_array(weights.T)
    columns = np.ascontiguousarray(x.T)
    return functools.partial(operator.matmul, matrix, columns)


# Peers of products, and the packages that they need beside onnxruntime
PEERS: Mapping[str, tuple[Callable[[Layer, Floats, Floats, Floats], Run], str]] = {
    "int8": (in_int8, "onnx"),
    "4 bits": (functools.partial(in_four_bits, 1), "onnx_ir"),
    "4 bits int8": (functools.partial(in_four_bits, 4), "onnx_ir"),
    "CSR": (in_rows, "scipy"),
}


def peers(layer: Layer, weights: Floats, x: Floats) -> dict[str, Run]:
    """Other ways to run a product, as far as they are installed."""
    made = {}
    for name, (make, package) in PEERS.items() if layer.window is None else ():
        if importlib.util.find_spec(package) is not None:
            made[name] = make(layer, weights, x, np.empty(layer.shapes(len(x))[1], np.float32))
    return made


def sparse(layer: Layer, weights: Floats, x: Floats, y: Floats) -> tuple[Run, int]:
    """The layer in the library's kernel set, and the bytes that it holds."""
    made: SparseMatMul | SparseConv
    if layer.window is None:
        made = SparseMatMul(weights, usual_rows=len(x))
    else:
        pad = layer.window // 2
        made = SparseConv(weights, pads=(pad, pad, pad, pad))
    return functools.partial(made.run, x, y), made.nbytes


def seconds(work: Run) -> float:
    """Processor time of this thread: what else the machine does is not in it."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


@dataclasses.dataclass(frozen=True)
class Machine:
    """What one thread of this machine reaches: multiply-adds and bytes read from memory, a second."""

    multiply_adds: float
    bandwidth: float


def measured_machine() -> Machine:
    """By a dense convolution, which runs at the peak, and a dot product of 256 MB with itself."""
    layer = Layer(128, 128, 3, (28, 28))
    x, y = (np.ones(shape, np.float32) for shape in layer.shapes(1))
    product = dense(layer, pruned(layer, 1, 0), x, y)
    memory = np.ones(1 << 26, np.float32)
    peak = min(seconds(product) for _ in range(50))
    read = min(seconds(lambda: np.dot(memory, memory)) for _ in range(5))
    return Machine(math.prod(layer.weight_shape) * math.prod(layer.image or ()) / peak, memory.nbytes / read)


def measure(
    layer: Layer, kept: float, batch: int, levels: int, isa: str, machine: Machine, options: argparse.Namespace
) -> dict[str, Any]:
    """One row of the table."""
    weights = pruned(layer, kept, levels)
    x_shape, y_shape = layer.shapes(batch)
    x = np.random.default_rng(2).standard_normal(x_shape).astype(np.float32)
    y, expected = np.empty(y_shape, np.float32), np.empty(y_shape, np.float32)
    binding.select_isa(isa)
    other = dense(layer, weights, x, expected)
    ours, nbytes = sparse(layer, weights, x, y)
    other()
    ours()
    error = float(np.abs(y - expected).max() / max(np.abs(expected).max(), 1e-30))
    if error > 1e-4:
        raise SystemExit(f"{layer}: the sparse layer is off by {error:.1e}")
    others = peers(layer, weights, x) if options.peers else {}
    pairs: list[tuple[float, float]] = []
    gains: dict[str, list[float]] = {name: [] for name in others}
    end = time.perf_counter() + options.seconds
    while len(pairs) < LEAST_RUNS or time.perf_counter() < end:
        pairs.append((seconds(other), seconds(ours)))
        for name, run in others.items():
            gains[name].append(pairs[-1][0] / seconds(run))
    low, gain, high = statistics.quantiles((a / b for a, b in pairs), n=4)
    count = int(np.count_nonzero(weights))
    positions = batch * math.prod(layer.image or ())
    roof = max(count * positions / machine.multiply_adds, (nbytes + x.nbytes + y.nbytes) / machine.bandwidth)
    taken = statistics.median(b for _, b in pairs)
    return {
        "layer": str(layer), "kept": kept, "levels": levels or "any", "batch": batch, "isa": binding.isa(),
        "dense us": round(statistics.median(a for a, _ in pairs) * 1e6, 1), "sparse us": round(taken * 1e6, 1),
        "gain": round(gain, 2), "low": round(low, 2), "high": round(high, 2),
        "of roof": round(roof / taken, 2), "bytes a weight": round(nbytes / max(count, 1), 2),
    } | {name: round(statistics.median(g), 2) for name, g in gains.items()}  # fmt: skip


def rows(options: argparse.Namespace, machine: Machine) -> Iterator[dict[str, Any]]:
    for layer in options.layers:
        for kept in options.kept:
            for levels in options.levels:
                for isa in options.isa:
                    for batch in options.batch if layer.window is None else [1]:
                        yield measure(layer, kept, batch, levels, isa, machine, options)


def main() -> None:
    """Run the benchmark and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [Layer.parse(name) for name in (*MATRICES, *CONVOLUTIONS)]
    parser.add_argument("--layers", type=Layer.parse, nargs="+", default=default, metavar="NAME")
    parser.add_argument("--kept", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3], metavar="SHARE")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16, 64, 128], metavar="M", help="of MatMul")
    parser.add_argument("--levels", type=int, nargs="+", default=[31, 0], metavar="K")
    parser.add_argument("--isa", nargs="+", default=["auto"], metavar="NAME", help=f"of {', '.join(binding.isas())}")
    parser.add_argument("--peers", action="store_true", help="gains of int8, MatMulNBits and SciPy's CSR as well")
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help="at least, for a row")
    parser.add_argument("--json", action="store_true", help="a line for a row")
    options = parser.parse_args()
    machine = measured_machine()
    found = rows(options, machine)
    if options.json:
        print(json.dumps({"multiply-adds a second": machine.multiply_adds, "bytes a second": machine.bandwidth}))
        for row in found:
            print(json.dumps(row), flush=True)
        return
    print(f"one thread: {machine.multiply_adds / 1e9:.1f} G multiply-adds/s, {machine.bandwidth / 1e9:.1f} GB/s read")
    for index, row in enumerate(found):
        widths = {name: 20 if name == "layer" else max(9, len(name)) for name in row}
        if index == 0:
            print(" ".join(f"{name:>{width}}" for name, width in widths.items()))
        print(" ".join(f"{row[name]!s:>{width}}" for name, width in widths.items()), flush=True)


if __name__ == "__main__":
    main()
