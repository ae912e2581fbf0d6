"""cluster: replaces weights by codebook entries (weight sharing; arXiv 1510.00149, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import ml_dtypes
import numpy as np

from dc_compiler import ir, rate
from dc_compiler.checkpoint import State
from dc_compiler.parameters import Parameters
from dc_compiler.pass_manager import Context, PassReport
from dc_compiler.training import Trainer, TrainingPass
from dc_compiler.training_graph import trainable

# Codebook bits when none are asked for: the paper's choice (section 5)
CONV_BITS, OTHER_BITS = 8, 5
MAX_MULTIPLE = 30_000  # grid points on each side of zero; with the rounding of scales this stays below 65,536 entries
ERROR_UNIT = 1 << 20  # a rounding error of one grid step, as an integer
# Far above what is ever needed (about 2,000 for 256 clusters); rounding could make assignments swing forever
MAX_ITERATIONS = 1_000_000
# Steps grow with size to this power: 1/2 by theory, a little less on the models measured
SIZE_EXPONENT = 0.375
# Share of the training that raises the price of bits and moves the codebook; in the rest only the weights move
RAISING = 0.7
FITS = 50  # how often the codebook is fitted meanwhile
# A grid step of 0.08 standard deviations keeps the metric of most real models within 0.2 point at about 5.6x
DEFAULT_STEP = 0.08


@dataclass(frozen=True)
class Cluster(TrainingPass):
    """Give every weight a codebook and indices into it. Pruned weights stay +0.0.

    Options:
        mode: ``kmeans`` minimises the squared error for a given number of entries; ``grid`` rounds to multiples of
            ``step`` times the standard deviation of the weight's output channel and leaves it to the coder to make
            frequent values short; ``rd`` minimises the squared error plus ``price`` x bits of an ideal code for the
            indices, zero included, so it prunes as it clusters.
        bits: *kmeans*, *rd*: the codebook has at most ``2**bits`` entries, the pruned zero included; 1 to 16. By
            default 8 for convolutions and 5 otherwise.
        init: *kmeans*: where centroids start (the paper's section 3.2): ``linear`` between the extremes, ``density``
            at equal steps of the distribution, ``forgy`` at random weights.
        scales: *kmeans*: ``channel`` divides each output channel by its root mean square before clustering.
        step: *grid*: step in standard deviations, for a weight of typical size; smaller weights get a finer grid and
            larger ones a coarser grid. Every layer adds relative noise ``step**2`` and costs ``size * log(1/step)``
            bits, so the least noise for a number of bits has ``step**2`` grow with ``size``.
        price: *rd*: the squared error that a bit is worth, in mean squares of the weight's non-zero elements. At low
            error the result is as good as a grid of ``step = sqrt(8.66 price)``.
        epochs and the other options of passes that train (TrainingPass): *rd* with epochs above 0 trains meanwhile, on
            the error of the clustered weights: their gradients move the weights behind them (Courbariaux et al., arXiv
            1511.00363), which change clusters. The price rises from 0 in the first 70 %; then the codebook stays.
        vectors: cluster biases and other vectors too.

    A weight that already has few distinct values (2**bits, or 256 for a grid) keeps them exactly.
    """

    name: ClassVar[str] = "cluster"
    establishes: ClassVar[frozenset[str]] = frozenset({"clustered"})
    forbids: ClassVar[frozenset[str]] = frozenset({"clustered", "encoded"})
    positional: ClassVar[str | None] = "mode"

    mode: Literal["kmeans", "grid", "rd"] = "kmeans"
    bits: int | None = None
    init: Literal["linear", "density", "forgy"] = "linear"
    scales: Literal["none", "channel"] = "none"
    step: float = DEFAULT_STEP
    price: float = 0.05
    epochs: float = 0.0
    vectors: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.bits is None or 1 <= self.bits <= 16, "bits", "give a number from 1 to 16")
        self.check(0 < self.step <= 16, "step", "give a number above 0, at most 16")
        self.check(self.mode != "rd" or (self.bits or 0) <= 10, "bits", "mode=rd has at most 10 bits")
        self.check(0 <= self.price < float("inf"), "price", "give 0 or more")
        self.check(self.epochs == 0 or self.mode == "rd", "epochs", "only mode=rd trains; put a finetune after this")

    @property
    def needs_samples(self) -> bool:
        """Where it trains."""
        return self.epochs > 0

    def run(self, program: ir.Program, context: Context) -> PassReport:
        records = program.eligible() if self.vectors else program.weights()
        typical = _typical_size(records)

        def work(record: ir.WeightRecord) -> int:
            options = self.for_record(record, context)
            if options.mode == "grid" and not _fits_a_grid(record.values):
                record.leave_alone("its values are too large or too small for a grid")
                return 0
            clustered = options._cluster(record, context.seed, typical)
            record.clustered = clustered
            ir.add_change(record, ir.rebuild(clustered, record))
            return clustered.size

        modes = [self.for_record(r, context).mode for r in records]
        rest = [r for r, mode in zip(records, modes, strict=True) if mode != "rd"]
        facts: dict[str, Any] = {"codebook entries": sum(context.each(self.name, rest, work))}
        priced = [r for r, mode in zip(records, modes, strict=True) if mode == "rd"]
        if priced:
            entries = facts["codebook entries"]
            facts = self._price(program, priced, context)
            facts["codebook entries"] += entries
        return PassReport(self.name, len(records), facts=facts)

    def _price(self, program: ir.Program, records: list[ir.WeightRecord], context: Context) -> dict[str, Any]:
        """Cluster ``records`` by rate and distortion, training meanwhile when asked to; gives facts for the report."""
        options = [self.for_record(r, context) for r in records]
        if not self.epochs:
            books = _Books(Parameters(records), records, options)
            books.fit(1.0)
            return {"codebook entries": books.store()}
        free = [r for r in trainable(program) if r.clustered is None]
        trainer = Trainer(self, program, free, context)
        books = _Books(trainer.parameters, records, options)
        last = max(1, int(trainer.steps * RAISING))
        every = max(1, last // FITS)

        def fit(step: int) -> None:
            if step <= last and (step % every == 0 or step == last):
                books.fit(step / last)

        facts = trainer.run(before_step=fit, settled=last, own=books).facts()
        trainer.parameters.store()
        return facts | {"codebook entries": books.store()}

    def _cluster(self, record: ir.WeightRecord, seed: int, typical: float) -> ir.Clustered:
        limit = 256 if self.mode == "grid" else 1 << self._bits(record)
        flat = record.values.reshape(-1)
        exact = _exact(flat, limit)
        if exact is not None:
            return exact
        if self.mode == "grid":
            return self._grid(record, self.step * (record.size / typical) ** SIZE_EXPONENT)
        return self._kmeans(record, limit, seed)

    def _bits(self, record: ir.WeightRecord) -> int:
        return self.bits or (CONV_BITS if any(u.op_type.startswith("Conv") for u in record.uses) else OTHER_BITS)

    def _grid(self, record: ir.WeightRecord, relative_step: float) -> ir.Clustered:
        channels, inner = ir.channel_layout(record.shape, record.uses)
        deviation, largest = channel_statistics(record.values.reshape(-1), channels, inner)
        step = np.maximum(deviation * relative_step, largest / MAX_MULTIPLE)
        scales = ir.Scales(_within_range(ir.nearest_log_step(step), step > 0), inner)
        return _round_to_grid(record.values.reshape(-1), scales)

    def _kmeans(self, record: ir.WeightRecord, limit: int, seed: int) -> ir.Clustered:
        flat = record.values.reshape(-1)
        dtype = record.values.dtype
        scales = None
        if self.scales == "channel":
            channels, inner = ir.channel_layout(record.shape, record.uses)
            deviation, _ = channel_statistics(flat, channels, inner, centred=False)
            scales = ir.Scales(_within_range(ir.nearest_log_step(deviation), deviation > 0), inner)
            dtype = ir.compute_dtype(dtype)
            flat = _normalised(flat, scales)
        mask = None if record.mask is None else record.mask.reshape(-1)
        kept = flat if mask is None else flat[mask]
        ordered = np.sort(kept.astype(np.float32) if kept.dtype.itemsize == 2 else kept)
        count = limit if mask is None else limit - 1
        centroids = kmeans(ordered, _initial(ordered, count, self.init, seed, record.name)).astype(dtype)
        codebook = np.unique(np.append(centroids, np.zeros(1, dtype)) if mask is not None else centroids)
        codebook += np.zeros(1, dtype)  # turns a -0.0 into +0.0
        zero = _zero_entry(codebook)
        if mask is None:
            indices = nearest(flat, codebook)
        else:
            assert zero is not None
            indices = np.full(flat.size, zero, np.uint16)
            indices[mask] = nearest(kept, codebook)
        return ir.without_unused(ir.Clustered(indices, len(codebook), codebook, zero=zero, scales=scales))


class _Books:
    """Codebooks of ``records``, fitted to the parameters behind them; installs itself as the parameters' transform."""

    def __init__(self, parameters: Parameters, records: Sequence[ir.WeightRecord], options: Sequence[Cluster]) -> None:
        self._parameters, self._records, self._options = parameters, records, options
        self._spans = [parameters.span(r) for r in records]
        self._quantizers: list[rate.Quantizer] = []

    def fit(self, progress: float) -> None:
        """Fit every codebook at this share of the price."""
        theta = self._parameters.theta
        old = self._quantizers
        self._quantizers = []
        for i, (record, options, span) in enumerate(zip(self._records, self._options, self._spans, strict=True)):
            ordered = np.sort(theta[span])
            power = float(np.cumsum(np.square(ordered, dtype=np.float64))[-1]) / max(1, int(np.count_nonzero(ordered)))
            start = old[i].entries if old else rate.spread(ordered, (1 << options._bits(record)) - 1)
            price = options.price * power * progress
            self._quantizers.append(rate.fit(ordered, record.size - len(ordered), price, start).shortened())
        self._parameters.transform = self._values
        self._parameters.expand()

    def state(self) -> State:
        both = [{f"entries{i}": q.entries, f"bounds{i}": q.bounds} for i, q in enumerate(self._quantizers)]
        return {name: array for arrays in both for name, array in arrays.items()}

    def restore(self, state: State) -> None:
        numbers = range(len(self._records))
        self._quantizers = [rate.Quantizer(state[f"entries{i}"], state[f"bounds{i}"]) for i in numbers]
        self._parameters.transform = self._values

    def _values(self, theta: np.ndarray) -> np.ndarray:
        values = theta.copy()
        for span, quantizer in zip(self._spans, self._quantizers, strict=True):
            values[span] = quantizer.values(theta[span])
        return values

    def store(self) -> int:
        """Give every record its indices, codebook and mask; returns how many entries there are."""
        theta = self._parameters.theta
        total = 0
        for record, span, quantizer in zip(self._records, self._spans, self._quantizers, strict=True):
            indices = np.full(record.size, quantizer.zero, np.uint16)
            kept = slice(None) if record.mask is None else record.mask.reshape(-1)
            indices[kept] = quantizer.indices(theta[span])
            codebook = quantizer.entries.astype(record.values.dtype)
            clustered = ir.without_unused(ir.Clustered(indices, len(codebook), codebook, zero=quantizer.zero))
            record.clustered = clustered
            record.mask = (clustered.indices != clustered.zero).reshape(record.shape)
            ir.add_change(record, ir.rebuild(clustered, record))
            total += clustered.size
        return total


def _fits_a_grid(values: np.ndarray) -> bool:
    """Whether rounding cannot overflow and logarithmic scales (2**-126 to 2**127) reach the steps needed."""
    magnitude = float(np.abs(values).max())
    most = min(float(ml_dtypes.finfo(values.dtype).max) / 4, 2.0**110)  # type: ignore[no-untyped-call]
    return magnitude == 0 or 2.0**-100 <= magnitude <= most


def _typical_size(records: Sequence[ir.WeightRecord]) -> float:
    """Geometric mean of the weights' sizes, each counted once an element; 1 without weights."""
    total = sum(r.size for r in records)
    return 2.0 ** (sum(r.size * math.log2(r.size) for r in records) / total) if total else 1.0


def kmeans(ordered: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Lloyd's algorithm in one dimension, run until assignments stop changing.

    Clusters of sorted values are ranges, so an iteration is k binary searches and k differences of prefix sums.

    Args:
        ordered: values in ascending order, [n].
        centroids: start, ascending, float64 [k].

    Returns:
        Centroids of the non-empty clusters, ascending, float64.
    """
    sums = np.empty(len(ordered) + 1, np.float64)
    sums[0] = 0
    np.cumsum(ordered, dtype=np.float64, out=sums[1:])
    edges = np.empty(0, np.int64)
    for _ in range(MAX_ITERATIONS):
        inner = np.searchsorted(ordered, ((centroids[1:] + centroids[:-1]) / 2).astype(ordered.dtype), side="right")
        new_edges = np.concatenate([[0], inner, [len(ordered)]])
        filled = np.diff(new_edges) > 0
        if not filled.all():  # an empty cluster never gets members again
            new_edges = np.append(new_edges[:-1][filled], len(ordered))
        if np.array_equal(new_edges, edges):
            return centroids
        edges = new_edges
        centroids = np.diff(sums[edges]) / np.diff(edges)
    return centroids


def _initial(ordered: np.ndarray, count: int, init: str, seed: int, name: str) -> np.ndarray:
    """Start centroids, ascending, float64 [<= count] (the paper's section 3.2)."""
    if init == "linear":
        return np.linspace(float(ordered[0]), float(ordered[-1]), count)
    if init == "density":
        positions = ((np.arange(count) + 0.5) * (len(ordered) / count)).astype(np.int64)
    else:
        generator = np.random.Generator(np.random.PCG64([seed, *name.encode()]))
        positions = generator.integers(0, len(ordered), count)
    return np.unique(ordered[positions]).astype(np.float64)


def nearest(flat: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Index of the nearest entry of an ascending codebook, uint16 [n]; the lower of equals."""
    entries = codebook.astype(np.float64)
    bounds = (entries[1:] + entries[:-1]) / 2
    if flat.dtype != np.float64:  # the largest f32 not above a bound decides alike, and searches twice as fast
        low = bounds.astype(np.float32)
        bounds = np.where(low > bounds, np.nextafter(low, np.float32(-np.inf)), low).astype(np.float32)
    indices = np.empty(flat.size, np.uint16)
    for s in ir.blocks(flat.size):
        part = flat[s].astype(bounds.dtype, copy=False)
        indices[s] = np.searchsorted(bounds, part, side="left")
    return indices


def channel_statistics(
    flat: np.ndarray, channels: int, inner: int, *, centred: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation (or root mean square) and largest magnitude of each channel, float64 [channels] each.

    Element ``i`` belongs to channel ``(i // inner) % channels``. Sums run in a fixed order, so every machine agrees.
    """
    cube = flat.reshape(-1, channels, inner)
    total = np.zeros(channels)
    squares = np.zeros(channels)
    largest = np.zeros(channels)
    rows = max(1, ir.BLOCK // max(1, channels * inner))
    columns = max(1, ir.BLOCK // inner) if rows == 1 else channels
    for r in ir.blocks(cube.shape[0], rows):
        for c in ir.blocks(channels, columns):
            part = cube[r, c].astype(np.float64)
            total[c] += ir.ordered_sum(part)
            squares[c] += ir.ordered_sum(part * part)
            largest[c] = np.maximum(largest[c], np.abs(part).max(axis=(0, 2)))
    count = cube.shape[0] * inner
    variance = squares / count
    if centred:
        # the floor keeps the grid of a channel of nearly equal values from becoming absurdly fine
        variance = np.maximum(variance - (total / count) ** 2, variance * 2.0**-12)
    return np.sqrt(variance), largest


def _within_range(steps: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Log steps at most 255 apart, as the format asks: channels 2**32 times weaker than the strongest get a coarser
    scale, and channels of zeros any."""
    if not used.any():
        return np.zeros_like(steps)
    strongest = steps[used].max()
    return np.asarray(np.where(used, np.maximum(steps, strongest - 255), strongest))


def _normalised(flat: np.ndarray, scales: ir.Scales) -> np.ndarray:
    compute = ir.compute_dtype(flat.dtype)
    cube = flat.astype(compute).reshape(-1, scales.channels, scales.inner)
    return np.asarray((cube / scales.factors(compute)[:, None]).reshape(-1))


def _round_to_grid(flat: np.ndarray, scales: ir.Scales) -> ir.Clustered:
    """Multiples of each channel's scale near the weights; occurring grid points span the codebook.

    Rounding to nearest leaves each channel with a random sum of errors, which activations of one sign (after ReLU, say)
    turn into a shift of the output. So the roundings nearest to a tie are flipped until the errors of a channel sum to
    about zero (the idea of SQuant, Guo et al., arXiv 2202.07471, for whole channels).
    """
    factors = scales.factors(np.dtype(np.float64))
    cube = flat.reshape(-1, scales.channels, scales.inner)
    points = np.empty(cube.shape, np.int32)
    step = max(1, ir.BLOCK // (cube.shape[0] * scales.inner))
    for c in ir.blocks(scales.channels, step):
        rows = np.moveaxis(cube[:, c], 1, 0).astype(np.float64).reshape(c.stop - c.start, -1) / factors[c, None]
        rounded = np.rint(rows)
        rows -= rounded
        for row, error in zip(rounded, rows, strict=True):
            _balance(row, error)
        points[:, c] = np.moveaxis(rounded.reshape(c.stop - c.start, cube.shape[0], scales.inner), 0, 1)
    low, high = int(points.min()), int(points.max())
    points -= low
    zero = -low if low <= 0 <= high else None
    return ir.Clustered(points.reshape(-1).astype(np.uint16), high - low + 1, grid_lo=low, zero=zero, scales=scales)


def _balance(row: np.ndarray, error: np.ndarray) -> None:
    """Flip the roundings nearest to a tie, in place, until the errors (weight minus point, in steps) sum to within half
    a step. Sums are of integers, so every machine agrees."""
    units = np.rint(error * ERROR_UNIT).astype(np.int64)
    total = int(units.sum())
    flips = (abs(total) + ERROR_UNIT // 2) // ERROR_UNIT
    flips = min(flips, len(row))
    if flips == 0:
        return
    sign = 1 if total > 0 else -1
    signed = units * sign
    cut = np.partition(signed, len(row) - flips)[len(row) - flips]
    above = signed > cut
    row[above] += sign
    row[np.flatnonzero(signed == cut)[: flips - int(np.count_nonzero(above))]] += sign


def _exact(flat: np.ndarray, limit: int) -> ir.Clustered | None:
    """The weight's own values as codebook when there are at most ``limit``, compared bit for bit; else None."""
    bits = flat.view(f"u{flat.dtype.itemsize}")
    sample = bits[:: max(1, bits.size // (1 << 18))]  # sorting all of a large weight takes seconds
    if len(np.unique(sample)) > limit:
        return None
    values = np.unique(bits)
    if len(values) > limit:
        return None
    zero = 0 if values[0] == 0 else None
    return ir.Clustered(
        np.searchsorted(values, bits).astype(np.uint16), len(values), values.view(flat.dtype), zero=zero
    )


def _zero_entry(codebook: np.ndarray) -> int | None:
    found = np.flatnonzero(codebook == 0)
    return int(found[0]) if len(found) else None
