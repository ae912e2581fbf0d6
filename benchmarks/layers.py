"""Speed of layers on one thread: what runs them here beside onnxruntime's fp32, side by side in one run.

    python benchmarks/layers.py [--nets NAME ...] [--all] [--layers NAME ...] [--kept SHARE ...] [--batch M ...]
                                [--levels K ...] [--isa NAME ...] [--peers] [--warm] [--seconds S] [--json]

Layers are those of AlexNet, VGG-16, ResNet-50, BERT-base and MobileNet: a few of each, at two shares and two batches,
which takes some minutes; with `--all` every shape, 5 to 50 % kept, 2 to 8 bits, batches of 1, 16 and 128, which takes
hours. A layer is IxO for MatMul of I inputs and O outputs, or KxK:CxM:HxW for Conv, with /S behind it for a stride of S
and gG for G groups. `--levels` is the number of different weights, 0 for any.

Figures are how many times as fast as dense fp32: "sparse" by the library's exact kernels, "sparse int8" by those of
rounded inputs, whose rounding by onnxruntime is part of the time, "int8" by onnxruntime's integer kernels as
`--execution int8` uses them; with `--peers` MatMulNBits (4 bits, of fp32 and of int8 activations) and SciPy's CSR as
well. Contenders take turns, so that each finds the caches as the others left them, and large weights come from memory;
with `--warm` each runs several times in a row, the first one left out. Medians of the pairs' ratios; "low" and "high"
are quartiles of "sparse". "of roof" is the share of what the machine's limits allow the sparse kernel: one multiply-add
a kept weight and output position at the peak of a dense Conv, or its bytes, inputs and outputs at the bandwidth of
reading memory, whichever takes longer; "int8 of roof" is the same for sparse int8, at four multiply-adds for one. Both
limits are measured in the same run.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import scipy.sparse
from onnx import TensorProto, helper, numpy_helper
from sparse_layers import Floats, SparseConv, SparseInt8MatMul, SparseMatMul

from dc_compiler.codec import binding
from dc_compiler.model.int8 import run_in_int8
from dc_compiler.ort.sessions import Sessions

# Layers of each net, those of the quick run first, and how many these are
NETS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "AlexNet": (2, (
        "4096x4096", "3x3:256x384:13x13",
        "11x11:3x96:224x224/4", "5x5:96x256:27x27g2", "3x3:384x384:13x13g2", "3x3:384x256:13x13g2", "9216x4096",
        "4096x1000",
    )),
    "VGG-16": (1, (
        "3x3:512x512:14x14",
        "3x3:3x64:224x224", "3x3:64x64:224x224", "3x3:64x128:112x112", "3x3:128x128:112x112", "3x3:128x256:56x56",
        "3x3:256x256:56x56", "3x3:256x512:28x28", "3x3:512x512:28x28", "25088x4096",
    )),
    "ResNet-50": (7, (
        "3x3:256x256:14x14", "3x3:128x128:28x28", "3x3:64x64:56x56", "3x3:512x512:7x7", "1x1:64x256:56x56",
        "1x1:1024x256:14x14", "2048x1000",
        "7x7:3x64:224x224/2", "1x1:256x64:56x56", "1x1:128x512:28x28", "1x1:512x128:28x28", "3x3:128x128:56x56/2",
        "1x1:256x1024:14x14", "1x1:512x2048:7x7", "1x1:2048x512:7x7",
    )),
    "BERT-base": (2, ("768x768", "768x3072", "3072x768")),
    "MobileNet": (1, (
        "1x1:512x512:14x14",
        "3x3:3x32:224x224/2", "1x1:32x64:112x112", "1x1:64x128:56x56", "1x1:128x128:56x56", "1x1:256x256:28x28",
        "1x1:1024x1024:7x7", "1024x1000",
    )),
}  # fmt: skip
QUICK = {"kept": [0.1, 0.3], "batch": [1, 16], "levels": [31]}
EVERYTHING = {"kept": [0.05, 0.1, 0.2, 0.3, 0.5], "batch": [1, 16, 128], "levels": [3, 15, 31, 63, 255]}
LEAST_RUNS = 7
WARM_RUNS = 3
Run = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Layer:
    """MatMul (`window` and `image` None) or a Conv with half its window as padding."""

    inputs: int
    outputs: int
    window: int | None = None
    image: tuple[int, int] | None = None
    stride: int = 1
    groups: int = 1

    @classmethod
    def parse(cls, name: str) -> Layer:
        if matrix := re.fullmatch(r"(\d+)x(\d+)", name):
            return cls(int(matrix[1]), int(matrix[2]))
        if conv := re.fullmatch(r"(\d+)x\1:(\d+)x(\d+):(\d+)x(\d+)(?:/(\d+))?(?:g(\d+))?", name):
            window, inputs, outputs, height, width, stride, groups = (int(g) if g else 1 for g in conv.groups())
            return cls(inputs, outputs, window, (height, width), stride, groups)
        raise argparse.ArgumentTypeError(f"'{name}' is neither IxO nor KxK:CxM:HxW, and /S and gG")

    def __str__(self) -> str:
        if self.window is None or self.image is None:
            return f"{self.inputs}x{self.outputs}"
        stride, groups = (f"{sign}{n}" if n > 1 else "" for sign, n in (("/", self.stride), ("g", self.groups)))
        name = f"{self.window}x{self.window}:{self.inputs}x{self.outputs}:{self.image[0]}x{self.image[1]}"
        return name + stride + groups

    @property
    def weight_shape(self) -> tuple[int, ...]:
        if self.window is None:
            return self.inputs, self.outputs
        return self.outputs, self.inputs // self.groups, self.window, self.window

    @property
    def pads(self) -> tuple[int, int, int, int]:
        pad = (self.window or 0) // 2
        return pad, pad, pad, pad

    @property
    def positions(self) -> tuple[int, ...]:
        """Extents of the output beside batch and channels."""
        window = self.window or 0
        return tuple((n + 2 * (window // 2) - window) // self.stride + 1 for n in self.image or ())

    def shapes(self, batch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of x and y."""
        return (batch, self.inputs, *(self.image or ())), (batch, self.outputs, *self.positions)


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
        given = {"pads": layer.pads, "strides": (layer.stride,) * 2, "group": layer.groups}
        node.attribute.extend(helper.make_attribute(name, value) for name, value in given.items())
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


def points_of(weights: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """The nearest whole numbers times a scale a column. As many levels as the weights have, where these are few."""
    scale = np.float32(np.abs(weights).max() / 127 + 1e-30)
    return np.rint(weights / scale).astype(np.int8), np.full(weights.shape[1], scale, np.float32)


def in_int8(layer: Layer, weights: Floats, x: Floats, y: Floats) -> Run:
    """A product in integers, as `--execution int8` writes it."""
    model = model_of(layer, weights, x, y)
    points, scales = points_of(weights)
    del model.graph.initializer[:]
    model.graph.initializer.extend([numpy_helper.from_array(points, "w"), numpy_helper.from_array(scales, "s")])
    run_in_int8(model, {"w": ("s", len(scales))}, {}, Counter({"x": 1, "w": 1, "s": 1, "y": 1}))
    return served(model, x, y)


def sparse_int8(layer: Layer, weights: Floats, x: Floats, y: Floats) -> tuple[Run, int]:
    """A product of inputs that onnxruntime rounds, in the library's kernel set; and the bytes that it holds."""
    made = SparseInt8MatMul(*points_of(weights))
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    kinds = {"q": TensorProto.UINT8, "s": TensorProto.FLOAT, "z": TensorProto.UINT8}
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    graph = helper.make_graph(
        [node], "round", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)], outputs
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = Sessions().open(model, 1)
    rounded, step, zero = np.empty(x.shape, np.uint8), np.empty((), np.float32), np.empty((), np.uint8)
    bound = session.io_binding()
    bound.bind_cpu_input("x", x)
    for name, array in (("q", rounded), ("s", step), ("z", zero)):
        bound.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run() -> None:
        session.run_with_iobinding(bound)
        made.run(rounded, int(zero), float(step), y)

    return run, made.nbytes


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
        made = SparseConv(weights, pads=layer.pads, strides=(layer.stride,) * 2, groups=layer.groups)
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


@dataclasses.dataclass(frozen=True)
class Timing:
    """What was measured of a layer: seconds of each run of each contender, in turn, and the bytes that ours hold."""

    seconds: Mapping[str, list[float]]
    nbytes: Mapping[str, int]
    kept: int

    def gains(self, name: str, over: str = "dense") -> list[float]:
        """How many times as fast as another, pair by pair."""
        return [a / b for a, b in zip(self.seconds[over], self.seconds[name], strict=True)]


def timing(
    layer: Layer, kept: float, batch: int, levels: int, isa: str, *, least: float, warm: bool = False,
    with_peers: bool = False, with_int8: bool = True,
) -> Timing:  # fmt: skip
    """Run a layer in all ways for `least` seconds at least.

    Raises:
        SystemExit: the exact kernel gives something else than onnxruntime.
    """
    weights = pruned(layer, kept, levels)
    x_shape, y_shape = layer.shapes(batch)
    x = np.random.default_rng(2).standard_normal(x_shape).astype(np.float32)
    y, expected = np.empty(y_shape, np.float32), np.empty(y_shape, np.float32)
    binding.select_isa(isa)
    runs: dict[str, Run] = {"dense": dense(layer, weights, x, expected)}
    nbytes: dict[str, int] = {}
    runs["sparse"], nbytes["sparse"] = sparse(layer, weights, x, y)
    for run in runs.values():
        run()
    error = float(np.abs(y - expected).max() / max(np.abs(expected).max(), 1e-30))
    if error > 1e-4:
        raise SystemExit(f"{layer}: the sparse layer is off by {error:.1e}")
    if layer.window is None and with_int8:
        other = np.empty(y_shape, np.float32)
        runs["sparse int8"], nbytes["sparse int8"] = sparse_int8(layer, weights, x, other)
        runs["int8"] = in_int8(layer, weights, x, np.empty(y_shape, np.float32))
        runs |= peers(layer, weights, x) if with_peers else {}
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + least
    while len(times["dense"]) < LEAST_RUNS or time.perf_counter() < end:
        for name, run in runs.items():
            if warm:
                run()
                times[name].append(statistics.median(seconds(run) for _ in range(WARM_RUNS)))
            else:
                times[name].append(seconds(run))
    return Timing(times, nbytes, int(np.count_nonzero(weights)))


def measure(
    layer: Layer, kept: float, batch: int, levels: int, isa: str, machine: Machine, options: argparse.Namespace
) -> dict[str, Any]:
    """One row of the table."""
    found = timing(
        layer, kept, batch, levels, isa, least=options.seconds, warm=options.warm, with_peers=options.peers
    )  # fmt: skip
    low, gain, high = statistics.quantiles(found.gains("sparse"), n=4)
    sums = found.kept * batch * math.prod(layer.positions)
    moved = 4 * sum(map(math.prod, layer.shapes(batch)))

    def of_roof(name: str, multiply_adds: float) -> float:
        roof = max(sums / multiply_adds, (found.nbytes[name] + moved) / machine.bandwidth)
        return round(roof / statistics.median(found.seconds[name]), 2)

    row = {
        "layer": str(layer), "kept": kept, "levels": levels or "any", "batch": batch, "isa": binding.isa(),
        "dense us": round(statistics.median(found.seconds["dense"]) * 1e6, 1),
        "sparse": round(gain, 2), "low": round(low, 2), "high": round(high, 2),
        "of roof": of_roof("sparse", machine.multiply_adds),
        "bytes a weight": round(found.nbytes["sparse"] / max(found.kept, 1), 2),
    }  # fmt: skip
    for name in found.seconds:
        if name not in ("dense", "sparse"):
            row[name] = round(statistics.median(found.gains(name)), 2)
    if layer.window is None:
        row["int8 of roof"] = of_roof("sparse int8", 4 * machine.multiply_adds)
    return row


def rows(options: argparse.Namespace, machine: Machine) -> Iterator[dict[str, Any]]:
    for layer in options.layers:
        for kept in options.kept:
            for levels in options.levels:
                for isa in options.isa:
                    for batch in options.batch:
                        yield measure(layer, kept, batch, levels, isa, machine, options)


def layers_of(nets: Iterable[str], all_of_them: bool) -> list[Layer]:
    """Layers of some nets, each once."""
    names = [name for net in nets for name in NETS[net][1][: None if all_of_them else NETS[net][0]]]
    return [Layer.parse(name) for name in dict.fromkeys(names)]


def main() -> None:
    """Run the benchmark and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), metavar="NAME", help=", ".join(NETS))
    parser.add_argument("--all", action="store_true", help="every shape, share, number of levels and batch")
    parser.add_argument("--layers", type=Layer.parse, nargs="+", metavar="NAME", help="in the place of those of nets")
    parser.add_argument("--kept", type=float, nargs="+", metavar="SHARE")
    parser.add_argument("--batch", type=int, nargs="+", metavar="M")
    parser.add_argument("--levels", type=int, nargs="+", metavar="K")
    parser.add_argument("--isa", nargs="+", default=["auto"], metavar="NAME", help=f"of {', '.join(binding.isas())}")
    parser.add_argument("--peers", action="store_true", help="MatMulNBits and SciPy's CSR as well")
    parser.add_argument("--warm", action="store_true", help="several runs of each in a row, the first left out")
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help="at least, for a row")
    parser.add_argument("--json", action="store_true", help="a line for a row")
    options = parser.parse_args()
    options.layers = options.layers or layers_of(options.nets, options.all)
    for name, values in (EVERYTHING if options.all else QUICK).items():
        setattr(options, name, getattr(options, name) or values)
    machine = measured_machine()
    found = rows(options, machine)
    if options.json:
        print(json.dumps({"multiply-adds a second": machine.multiply_adds, "bytes a second": machine.bandwidth}))
        for row in found:
            print(json.dumps(row), flush=True)
        return
    print(f"one thread: {machine.multiply_adds / 1e9:.1f} G multiply-adds/s, {machine.bandwidth / 1e9:.1f} GB/s read")
    columns: list[str] = []
    for row in found:
        if not set(row) <= set(columns):
            columns = [*columns, *(c for c in row if c not in columns)]
            print(" ".join(f"{c:>{_width(c)}}" for c in columns))
        print(" ".join(f"{row.get(c, '')!s:>{_width(c)}}" for c in columns), flush=True)


def _width(column: str) -> int:
    return 24 if column == "layer" else max(8, len(column))


if __name__ == "__main__":
    main()
