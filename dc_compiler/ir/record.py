"""WeightRecord: one stored tensor and what the passes have established about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dc_compiler.ir.dtypes import find_element_type
from dc_compiler.ir.numeric import blocks
from dc_compiler.ir.quantized import Clustered

DECODE = "decode"  # the execution that every library knows
INT8 = "int8"  # onnxruntime's int8 kernels, on the points of a grid (model/int8/)
SPARSE = "sparse"  # from the frame, by what is not zero (model/sparse.py)
SPARSE_INT8 = "sparse.int8"  # the same in int8 (model/int8/)
ATTRIBUTES = "attributes"  # the bytes are a node's attributes, put back before the model runs
INT8_SCALE = "int8.scale"  # the scales that belong to such a weight
VECTOR_LIMIT = 1 << 16
# Elements up to which a weight's original values stay in reach: with more, no codebook outweighs what its indices save
KEEP_ORIGINAL = 1 << 20


@dataclass(frozen=True)
class Use:
    """One consumer of a weight: the node's operator, which input it is, and what decides the channel axis."""

    op_type: str
    input_index: int
    transposed: bool = False  # Gemm transB
    node_name: str = ""


@dataclass(frozen=True)
class Quantized:
    """What is known of a table of a quantized layer: whether it holds weights (else zero points, scales of integers,
    biases), and the number that stands for zero, None where there is none or channels have different ones."""

    is_weight: bool
    zero: int | None = None


@dataclass
class WeightRecord:
    """One stored tensor and what the passes have established about it.

    ``values`` always holds the current dense values (read-only array of the tensor's shape). ``reason`` says why a
    tensor is left alone; such a tensor is never changed, but by training where ``trainable`` (small tensors are).
    ``execution`` is how the compiled model uses a packed weight: ``DECODE``, so that every operator gets the dense
    tensor, or the name of a kernel that runs from the packed form.
    ``coder`` is the one that packs it, where its values are no numbers but structured bytes.
    ``exact`` says why it is no weight though it may be packed: passes that lose nothing work on it, others do not.
    ``quantized`` is what is known of a table of a layer that is quantized already.
    """

    name: str
    values: np.ndarray
    elem_type: int
    uses: tuple[Use, ...] = ()
    tied: int = 1  # number of consuming inputs
    aliases: tuple[str, ...] = ()  # names of equal tensors that it stands for
    reason: str | None = None
    exact: str | None = None
    mask: np.ndarray | None = None  # bool, shape of values; False = pruned
    clustered: Clustered | None = None
    frame: bytes | None = None
    signal: float | None = None  # sum of squares of the original values, None while unchanged
    noise: float = 0.0  # sum of squared changes
    original: np.ndarray | None = None  # values before the first change, for small weights
    trainable: bool = False
    execution: str = DECODE
    quantized: Quantized | None = None
    coder: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and those of the tensors that it stands for."""
        return (self.name, *self.aliases)

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
        """Bytes of its values in a file."""
        kind = find_element_type(self.elem_type)
        return self.values.nbytes if kind is None else kind.nbytes(self.size)

    @property
    def is_packable(self) -> bool:
        """Whether the record, not the graph, has the values: such tensors are packed."""
        kind = find_element_type(self.elem_type)
        return self.quantized is not None or (kind is not None and kind.is_packable)

    @property
    def dtype_name(self) -> str:
        return str(self.values.dtype)

    def leave_alone(self, reason: str) -> None:
        """Give up on packing a weight: the values before it was pruned or clustered come back when they are still in
        reach. New values alone, as of a bias that was moved, stay."""
        is_lossy = self.mask is not None or self.clustered is not None
        self.reason = reason
        self.mask = self.clustered = self.frame = None
        if is_lossy and self.original is not None:
            self.values, self.signal, self.noise = self.original, None, 0.0


def add_change(record: WeightRecord, new: np.ndarray) -> None:
    """Replace the record's values and note the signal and the noise (blockwise; float64 sums).

    A weight small enough to end up larger when packed keeps its original values in reach. Of integers, the number that
    stands for zero has no energy.
    """
    zero = 0 if record.quantized is None else record.quantized.zero or 0
    old_flat, new_flat = record.values.reshape(-1), new.reshape(-1)
    first = record.signal is None
    signal = noise = 0.0
    for s in blocks(record.size):
        old = old_flat[s].astype(np.float64)
        signal += float(np.dot(old - zero, old - zero)) if first else 0.0
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
