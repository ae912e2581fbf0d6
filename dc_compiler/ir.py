"""Program, the object that travels through the passes: a graph skeleton and one record per stored tensor."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

# ONNX element types whose tensors can be compressed -> compute type of FORMAT.md 2.1
COMPUTE_DTYPES: dict[int, np.dtype] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float32),
    TensorProto.BFLOAT16: np.dtype(np.float32),
    TensorProto.DOUBLE: np.dtype(np.float64),
}
VECTOR_LIMIT = 1 << 16
# Elements up to which a weight's original values stay in reach: with more, no codebook outweighs what its indices save
KEEP_ORIGINAL = 1 << 20
BLOCK = 1 << 20  # elements handled at a time where a whole temporary array would cost too much memory


@dataclass(frozen=True)
class Use:
    """One consumer of a weight: the node's operator, which input it is, and what decides the channel axis."""

    op_type: str
    input_index: int
    transposed: bool = False  # Gemm transB
    node_name: str = ""


@dataclass(frozen=True)
class Scales:
    """Per-channel factors: element ``i`` belongs to channel ``(i // inner) % channels`` (FORMAT.md 2.1).

    ``log_steps`` holds int32 eighths of an octave (FORMAT.md 3, scale kind 2).
    """

    log_steps: np.ndarray
    inner: int

    @property
    def channels(self) -> int:
        return len(self.log_steps)

    def factors(self, dtype: np.dtype) -> np.ndarray:
        """Scale of each channel, exactly as a decoder computes it: shape [channels]."""
        return log_step_values(self.log_steps).astype(dtype)


# 2**(j/8) rounded to f32, as printed in FORMAT.md section 3
_OCTAVE = np.array(
    [0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7], np.uint32
).view(np.float32)


def log_step_values(steps: np.ndarray) -> np.ndarray:
    """``2**(steps / 8)`` by the table of FORMAT.md section 3, float64 (exact), same shape as ``steps``."""
    return np.asarray(np.ldexp(_OCTAVE[steps & 7].astype(np.float64), steps >> 3))


def nearest_log_step(values: np.ndarray) -> np.ndarray:
    """Steps whose value is the largest not above ``values * 2**(1/16)``, int32, clipped to the format's range.

    Works on exact comparisons with the table only, so that every machine agrees.
    """
    mantissa, exponent = np.frexp(values.astype(np.float64))  # values = mantissa * 2**exponent, mantissa in [0.5, 1)
    bounds = np.append(_OCTAVE[1:].astype(np.float64) * 0.5, 1.0) * 0.957603  # between neighbouring steps
    eighth = np.searchsorted(bounds, mantissa, side="right")
    return np.asarray(np.clip((exponent.astype(np.int64) - 1) * 8 + eighth, -1008, 1015), np.int32)


@dataclass(frozen=True)
class Clustered:
    """A tensor as codebook indices (FORMAT.md 2.1).

    ``indices``: uint16, one per element, flat. ``codebook``: entries in the tensor's dtype, or in the compute type
    when there are scales; None for a grid, whose entry ``j`` is the integer ``grid_lo + j``. ``zero`` is the index
    of the entry that is +0.0, or None.
    """

    indices: np.ndarray
    size: int
    codebook: np.ndarray | None = None
    grid_lo: int = 0
    zero: int | None = None
    scales: Scales | None = None

    def values(self, dtype: np.dtype, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Elements ``start`` to ``stop`` of the flat tensor, bit for bit what a decoder gives."""
        index = self.indices[start:stop]
        if self.scales is None and self.codebook is not None:
            return np.asarray(self.codebook[index])
        compute = compute_dtype(dtype)
        entries = self.codebook if self.codebook is not None else np.arange(self.size) + self.grid_lo
        result = entries.astype(compute)[index]
        if self.scales is not None:
            factors = self.scales.factors(compute)
            if self.scales.channels == 1:
                result *= factors[0]
            else:
                position = np.arange(start, start + len(index))
                result *= factors[(position // self.scales.inner) % self.scales.channels]
        return np.asarray(result.astype(dtype, copy=False))


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """f64 for f64, f32 for the other floats."""
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)


@dataclass
class WeightRecord:
    """One stored tensor and what the passes have established about it.

    ``values`` always holds the current dense values (read-only array of the tensor's shape). ``reason`` says why a
    tensor is left alone; such a tensor is never changed, but by training where ``trainable`` (small tensors are).
    """

    name: str
    values: np.ndarray
    elem_type: int
    uses: tuple[Use, ...] = ()
    tied: int = 1  # number of consuming inputs
    reason: str | None = None
    mask: np.ndarray | None = None  # bool, shape of values; False = pruned
    clustered: Clustered | None = None
    frame: bytes | None = None
    signal: float | None = None  # sum of squares of the original values, None while unchanged
    noise: float = 0.0  # sum of squared changes
    original: np.ndarray | None = None  # values before the first change, for small weights
    trainable: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def size(self) -> int:
        return self.values.size

    @property
    def is_vector(self) -> bool:
        """Whether this is a bias, a normalization parameter or the like: at most one extent above 1. Passes keep the
        values of vectors, which are few and precious; a vector of 65,536 elements or more counts as a weight."""
        return sum(extent > 1 for extent in self.shape) < 2 and self.size < VECTOR_LIMIT

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    @property
    def dtype_name(self) -> str:
        return str(self.values.dtype)

    def leave_alone(self, reason: str) -> None:
        """Give up on a weight: its original values come back when they are still in reach."""
        self.reason = reason
        self.mask = self.clustered = self.frame = None
        if self.original is not None:
            self.values, self.signal, self.noise = self.original, None, 0.0


@dataclass
class Site:
    """Where a record's tensor is stored: an initializer of ``graph``, or a Constant ``node`` in it."""

    graph: onnx.GraphProto
    tensor: onnx.TensorProto | None
    node: onnx.NodeProto | None

    @property
    def value_name(self) -> str:
        if self.node is not None:
            return str(self.node.output[0])
        assert self.tensor is not None
        return self.tensor.name


@dataclass
class Program:
    """The graph (large tensors stripped of their data) and its records; ``sites[i]`` is where ``records[i]`` lives."""

    proto: onnx.ModelProto
    records: list[WeightRecord]
    sites: list[Site]
    label: str
    original_bytes: int
    base_dir: Path
    notes: list[str] = field(default_factory=list)
    rounding: list[str] = field(default_factory=list)  # why outputs may differ by float rounding although no weight did
    is_terse: bool = False  # the file shall tell nothing that running it does not need

    def eligible(self) -> list[WeightRecord]:
        """Records that may be packed."""
        return [r for r in self.records if r.reason is None]

    def weights(self) -> list[WeightRecord]:
        """Records whose values may be changed: eligible, and not vectors."""
        return [r for r in self.eligible() if not r.is_vector]

    def signature(self, *, shapes: bool = True) -> bytes:
        """Inputs and outputs of the model, and type and (with ``shapes``) shape of its weights, to tell changes."""
        names = {t.name for t in self.proto.graph.initializer}
        inputs = [i for i in self.proto.graph.input if i.name not in names]
        weights = [
            helper.make_tensor_value_info(r.name, r.elem_type, r.shape if shapes else None) for r in self.records
        ]
        types = [r.dtype_name for r in self.records]
        graph = onnx.GraphProto(input=inputs, output=self.proto.graph.output, value_info=weights, doc_string=str(types))
        return bytes(graph.SerializeToString(deterministic=True))


def walk_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and, depth first, every graph inside its nodes (If, Loop, Scan bodies)."""
    yield graph
    for node in graph.node:
        for sub in subgraphs(node):
            yield from walk_graphs(sub)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs held by the node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node, or None for scalars, strings, sparse values and attribute references."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.ref_attr_name:
        return None
    tensor: onnx.TensorProto | None = None
    if attribute.name == "value":
        tensor = attribute.t
    elif attribute.name == "value_floats":
        tensor = helper.make_tensor("", TensorProto.FLOAT, [len(attribute.floats)], attribute.floats)
    return tensor


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute, text as str; ``default`` when it is not given."""
    found = next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
    return found.decode() if isinstance(found, bytes) else found


def weight_sites(graph: onnx.GraphProto) -> Iterator[Site]:
    """Every place of the graph and its bodies that stores a tensor, in a fixed order."""
    for g in walk_graphs(graph):
        for tensor in g.initializer:
            yield Site(g, tensor, None)
        for node in g.node:
            tensor_or_none = constant_tensor(node)
            if tensor_or_none is not None:
                yield Site(g, tensor_or_none, node)


def find_uses(graph: onnx.GraphProto) -> dict[str, list[Use]]:
    """Consumers of every value name, in the graph and in its bodies.

    Bodies may give their own values a name that another body also uses; the uses of such names are merged, which
    only affects the choice of the channel axis.
    """
    uses: dict[str, list[Use]] = {}
    for g in walk_graphs(graph):
        for node in g.node:
            transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
            for index, name in enumerate(node.input):
                if name:
                    uses.setdefault(name, []).append(Use(node.op_type, index, transposed, node.name))
    return uses


def channel_layout(shape: tuple[int, ...], uses: Iterable[Use]) -> tuple[int, int]:
    """(channels, inner) of a weight: channels are what its first known consumer computes independently.

    Output channels for Conv, ConvTranspose, Gemm and MatMul, table rows for Gather, gates for recurrent layers;
    otherwise the first axis. Vectors and scalars are one channel.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if len(shape) < 2 or size == 0:
        return 1, max(size, 1)
    for use in uses:
        axis = _channel_axis(use, len(shape))
        if axis is not None:
            inner = int(np.prod(shape[axis + 1 :], dtype=np.int64))
            if use.op_type in _RECURRENT:  # [directions, gates, inputs]: every row of every direction
                return size // inner, inner
            return shape[axis], inner
    return shape[0], size // shape[0]


_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def _channel_axis(use: Use, rank: int) -> int | None:
    last = rank - 1
    match use.op_type, use.input_index:
        case "Conv", 1:
            return 0
        case "ConvTranspose", 1:
            return 1
        case "Gemm", 1:
            return 0 if use.transposed else 1
        case "MatMul" | "Attention" | "FusedMatMul", 1:
            return last
        case "MatMul", 0:
            return last - 1
        case "Gather", 0:
            return 0
        case (("LSTM" | "GRU" | "RNN"), (1 | 2)):
            return 1
        case _:
            return None


def float_dtype(elem_type: int) -> np.dtype:
    """NumPy dtype of a compressible element type."""
    return (
        np.dtype(ml_dtypes.bfloat16)
        if elem_type == TensorProto.BFLOAT16
        else helper.tensor_dtype_to_np_dtype(elem_type)
    )


def blocks(size: int, block: int = BLOCK) -> Iterator[slice]:
    """Slices that cover ``range(size)``."""
    for start in range(0, size, block):
        yield slice(start, min(size, start + block))


def add_change(record: WeightRecord, new: np.ndarray) -> None:
    """Replace the record's values and note the signal and the noise (blockwise; float64 sums).

    A weight small enough to end up larger when packed keeps its original values in reach.
    """
    old_flat, new_flat = record.values.reshape(-1), new.reshape(-1)
    first = record.signal is None
    signal = noise = 0.0
    for s in blocks(record.size):
        old = old_flat[s].astype(np.float64)
        signal += float(np.dot(old, old)) if first else 0.0
        old -= new_flat[s]
        noise += float(np.dot(old, old))
    if first:
        record.signal = signal
        record.original = record.values if record.size <= KEEP_ORIGINAL else None
    record.noise += noise
    record.values = new


def rebuild(clustered: Clustered, record: WeightRecord) -> np.ndarray:
    """The whole tensor that the indices stand for, in the record's dtype and shape."""
    result = np.empty(record.size, record.values.dtype)
    for s in blocks(record.size):
        result[s] = clustered.values(record.values.dtype, s.start, s.stop)
    return result.reshape(record.shape)


def without_unused(clustered: Clustered) -> Clustered:
    """Drop codebook entries that no element uses (the zero entry stays)."""
    assert clustered.codebook is not None
    used = np.zeros(clustered.size, bool)
    used[clustered.indices] = True
    if clustered.zero is not None:
        used[clustered.zero] = True
    if used.all():
        return clustered
    renumber = (np.cumsum(used) - 1).astype(np.uint16)
    zero = None if clustered.zero is None else int(renumber[clustered.zero])
    codebook = clustered.codebook[used]
    return Clustered(renumber[clustered.indices], len(codebook), codebook, zero=zero, scales=clustered.scales)


@functools.cache
def float_elem_types() -> frozenset[int]:
    """Element types that can be compressed."""
    return frozenset(COMPUTE_DTYPES)


def ordered_sum(cube: np.ndarray) -> np.ndarray:
    """Sum of float64 [a, channels, b] over both outer axes, added up in memory order: [channels].

    NumPy's own sums depend on the processor's vector width; a running sum does not.
    """
    return np.asarray(np.cumsum(np.cumsum(cube, axis=2)[:, :, -1], axis=0)[-1])


def exact_std(flat: np.ndarray) -> float:
    """Standard deviation of a flat array, the same on every machine."""
    total = squares = 0.0
    for s in blocks(flat.size):
        part = flat[s].astype(np.float64).reshape(1, 1, -1)
        total += float(ordered_sum(part)[0])
        squares += float(ordered_sum(part * part)[0])
    mean = total / flat.size
    return float(np.sqrt(max(0.0, squares / flat.size - mean * mean)))
