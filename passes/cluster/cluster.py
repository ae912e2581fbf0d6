"""cluster: replaces weights by codebook entries (weight sharing; arXiv 1510.00149, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.allocation import relative_steps
from dc_compiler.calibration.curvature import moved
from dc_compiler.calibration.grams import Gram
from dc_compiler.calibration.order import Order
from dc_compiler.errors import ModelError
from dc_compiler.pass_manager import Context, PassReport, Task, Update
from dc_compiler.passes.cluster import rate as rd
from dc_compiler.passes.cluster.compensate import caught_up, compensated, remaining
from dc_compiler.passes.cluster.grid import (
    channel_statistics,
    errors_like,
    expanded,
    fits_a_grid,
    normalised,
    on_grid,
    points_of,
    round_to_grid,
    within_range,
)
from dc_compiler.passes.cluster.integers import as_floats, can_coarsen, in_quanta, whole_steps
from dc_compiler.passes.cluster.kmeans import initial, kmeans, nearest
from dc_compiler.passes.cluster.straight import LOOKS, Goal, Grids, Steering
from dc_compiler.passes.cluster.vectors import Vectors, change_vector, vectors_of
from dc_compiler.passes.trees.steps import cluster_trees
from dc_compiler.pipeline.threads import map_on_threads, one_blas_thread
from dc_compiler.training.checkpoint import State
from dc_compiler.training.graph import trainable
from dc_compiler.training.loop import Trainer, TrainingPass
from dc_compiler.training.parameters import Parameters

# Codebook bits when none are asked for: the paper's choice (section 5)
CONV_BITS, OTHER_BITS = 8, 5
FEW = 256  # distinct values that a codebook takes as they are
MOST_POINTS = 30_000  # of a grid on each side of zero; with the rounding of scales this stays below 65,536 entries
# Steps grow with size to this power: 1/2 by theory, a little less on the models measured
SIZE_EXPONENT = 0.375
# Share of the training that raises the price of bits and moves the codebook; in the rest only the weights move
RAISING = 0.7
FITS = 50  # how often the codebook is fitted meanwhile, or code lengths are
FREE = 0.1  # root mean squares of what is not clustered that count as a step of a grid
# A grid step of 0.08 standard deviations keeps the metric of most real models within 0.2 point at about 5.6x
DEFAULT_STEP = 0.08


@dataclass(frozen=True)
class Cluster(TrainingPass):
    """Give every weight a codebook and indices into it. Pruned weights stay +0.0.

    Options:
        mode: ``kmeans`` minimises the squared error for a given number of entries; ``grid`` rounds to multiples of
            ``step`` times the standard deviation of the weight's output channel and leaves it to the coder to make
            frequent values short; ``rd`` minimises the squared error plus ``price`` x bits of an ideal code for the
            indices, zero included, so it prunes as it clusters. ``trees`` is for tree ensembles (``cluster(trees)``),
            and takes ``--data``: thresholds move within the gaps that the samples leave, to few and short numbers,
            which sends every one of these where it went; leaf weights get a grid of ``step`` standard deviations.
        bits: *kmeans*, *rd*: the codebook has at most ``2**bits`` entries, the pruned zero included; 1 to 16. By
            default 8 for convolutions and 5 otherwise.
        init: *kmeans*: where centroids start (the paper's section 3.2): ``linear`` between the extremes, ``density``
            at equal steps of the distribution, ``forgy`` at random weights.
        scales: *kmeans*: ``channel`` divides each output channel by its root mean square before clustering.
        step: *grid*: step in standard deviations, for a weight of typical size; smaller weights get a finer grid and
            larger ones a coarser grid. Every layer adds relative noise ``step**2`` and costs ``size * log(1/step)``
            bits, so the least noise for a number of bits has ``step**2`` grow with ``size``.
        points: *grid*: about the most points on each side of zero; a channel with weights further out gets a coarser
            grid. With 120 and less, onnxruntime's int8 kernels can multiply by the weight.
        calibrate: *grid*: round so that errors make up for each other on the inputs that the weight is multiplied with,
            which takes samples: see :mod:`dc_compiler.passes.cluster.compensate`. Weights whose inputs are not known,
            such as embeddings, are rounded as without. A bias that is added to what a weight makes takes up what
            rounding does to the mean, which the rounding of the others need not mind then.
        rate: with ``calibrate``: price of a bit, 1 for the balance that a fine grid has; frequent points, zero above
            all, are then taken more often.
        allocate: with ``calibrate``: gradients tell how far errors in a weight move the outputs, and steps are chosen
            so that a bit more would help every weight alike, within bounds
            (:mod:`dc_compiler.calibration.allocation`). Where there are no gradients, steps follow the size alone. A
            search for the step also finds out whether this helps, and leaves it where it does not.
        sequential: with ``calibrate``: weights are rounded in the order of their use, on their inputs as the weights
            before make them by now, and make up for what these have done to the inputs
            (:mod:`dc_compiler.calibration.order`). A search for the step finds out whether this helps.
        price: *rd*: the squared error that a bit is worth, in mean squares of the weight's non-zero elements. At low
            error the result is as good as a grid of ``step = sqrt(8.66 price)``.
        epochs and the other options of passes that train (TrainingPass): with epochs above 0 *rd* and *grid* train
            meanwhile, on the error of the clustered weights: their gradients move the weights behind them (Courbariaux
            et al., arXiv 1511.00363), which change clusters. In *rd* the price rises from 0 in the first 70 %; then the
            codebook stays. In *grid* weights start near the points that they are rounded to without training, are
            counted in steps of their grids (``lr`` is the most steps of a grid that a step of training moves by,
            about), and code lengths have a price that is steered for ``within``.
        within: *grid* with epochs, *calibrate*: how far the outputs may move on samples that nothing is trained on (see
            :class:`dc_compiler.calibration.divergence.Distance`), with the fewest bits.
        spent: likewise: most bits a weight, with the outputs moved least; ``within`` is about what is expected then.
        integers: *grid*: also lay grids over weights that are quantized already (int8 and the like), of multiples of
            their own quantum; they stay integers of their type, which the same operators multiply by.
        shorten: round biases and other vectors that training could move to bfloat16.
        vectors: cluster biases and other vectors too, but no constants of formulas, nor what training cannot move.

    Where training cannot move a weight (it stands in a body, or before integer arithmetic), it gets a grid instead.

    A weight that already has few distinct values (2**bits, or 256 for a grid unless ``points`` are given) keeps them
    exactly. So does what is to stay exact: it gets a codebook where 256 entries are enough, and none otherwise.
    """

    name: ClassVar[str] = "cluster"
    establishes: ClassVar[frozenset[str]] = frozenset({"clustered"})
    forbids: ClassVar[frozenset[str]] = frozenset({"clustered", "encoded"})
    positional: ClassVar[str | None] = "mode"
    per_weight: ClassVar[frozenset[str]] = frozenset(
        {"mode", "bits", "init", "scales", "step", "points", "rate", "price"}
    )

    mode: Literal["kmeans", "grid", "rd", "trees"] = "kmeans"
    bits: int | None = None
    init: Literal["linear", "density", "forgy"] = "linear"
    scales: Literal["none", "channel"] = "none"
    step: float = DEFAULT_STEP
    points: int = MOST_POINTS
    calibrate: bool = False
    rate: float = 0.0
    allocate: bool = False
    sequential: bool = False
    price: float = 0.05
    epochs: float = 0.0
    within: float = 0.0125
    spent: float | None = None
    integers: bool = False
    shorten: bool = False
    vectors: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.bits is None or 1 <= self.bits <= 16, "bits", "give a number from 1 to 16")
        self.check(0 < self.step <= 16, "step", "give a number above 0, at most 16")
        self.check(1 <= self.points <= MOST_POINTS, "points", f"give a number from 1 to {MOST_POINTS}")
        self.check(self.mode != "rd" or (self.bits or 0) <= 10, "bits", "mode=rd has at most 10 bits")
        self.check(0 <= self.price < float("inf"), "price", "give 0 or more")
        self.check(0 <= self.rate <= 100, "rate", "give a number from 0 to 100")
        self.check(self.calibrate or not self.rate, "rate", "it needs calibrate=true")
        self.check(self.calibrate or not self.allocate, "allocate", "it needs calibrate=true")
        self.check(self.calibrate or not self.sequential, "sequential", "it needs calibrate=true")
        self.check(not self.calibrate or self.mode == "grid", "calibrate", "only mode=grid calibrates")
        self.check(self.epochs == 0 or self.mode != "kmeans", "epochs", "put a finetune after mode=kmeans")
        self.check(
            self.epochs == 0 or self.mode == "rd" or self.calibrate, "epochs", "a grid is trained with calibrate=true"
        )
        self.check(not self.integers or self.mode == "grid", "integers", "only mode=grid keeps integers")
        self.check(0 < self.within < float("inf"), "within", "give a number above 0")
        self.check(self.spent is None or self.spent > 0, "spent", "give a number above 0")

    @property
    def needs_samples(self) -> bool:
        """Where it trains."""
        return self.epochs > 0

    @property
    def calibrates(self) -> bool:
        """Where it looks at inputs."""
        return self.calibrate or self.mode == "trees"

    @property
    def changes_integers(self) -> bool:
        """Where it lays grids over them."""
        return self.integers

    def run(self, program: ir.Program, context: Context) -> PassReport:
        if self.mode == "trees":
            return cluster_trees(program, context, self.step)
        movable = {id(r) for r in trainable(program)} if self.vectors or self.epochs > 0 else set()
        eligible = [r for r in program.eligible() if not r.is_vector or (self.vectors and id(r) in movable)]
        records = [r for r in eligible if r.exact is None or (self.integers and can_coarsen(r))]
        typical = _typical_size(records)

        def options(record: ir.WeightRecord) -> Cluster:
            own = self.for_record(record, context)
            if own.epochs == 0 or (id(record) in movable and own.mode == self.mode):
                return own
            return replace(own, mode=own.mode if id(record) in movable else "grid", epochs=0.0)

        jobs = {r.name: Job(options(r), typical) for r in eligible}
        grams = context.calibrated().grams(program, integers=self.integers) if self.calibrate else {}
        floats = {r.name for r in program.weights()}  # errors of the others are counted in their own quanta
        of_floats = {n: g for n, g in grams.items() if n in floats}
        vectors = vectors_of(program, of_floats) if self.calibrate or self.shorten else Vectors()
        if self.calibrate:
            jobs = calibrated(jobs, records, grams, vectors, program, context, allocate=self.allocate)
        tasks = [Task(r, jobs[r.name]) for r in eligible]

        def is_trained(task: Task[Job]) -> bool:
            return task.options.cluster.epochs > 0 and task.record.exact is None

        trained = [t for t in tasks if is_trained(t)]
        plain = [t for t in tasks if not is_trained(t)]
        if trained:
            updates = context.apply(self.name, cluster_record, plain)
            facts = self._train(program, trained, vectors, context)
            left = vectors.without({t.record.name for t in trained})
            context.apply(self.name, change_vector, left.tasks(program, shorten=self.shorten))
        else:
            updates = self._round(program, plain, vectors, context, shorten=self.shorten)
            facts = {"codebook entries": 0}
        facts["codebook entries"] += sum(u.clustered.size for u in updates if u.clustered is not None)
        return PassReport(self.name, len(records), facts=facts)

    def _round(
        self, program: ir.Program, tasks: Sequence[Task[Job]], vectors: Vectors, context: Context, *, shorten: bool
    ) -> list[Update]:
        """Round weights without training, and change vectors for what this does."""
        if not self.sequential:
            updates = context.apply(self.name, cluster_record, tasks)
            context.apply(self.name, change_vector, vectors.tasks(program, shorten=shorten))
            return updates
        samples = context.calibrated().samples
        waiting = {t.record.name: t for t in tasks if t.options.grams and t.record.quantized is None}
        order = Order(program, samples, samples.parts().train, waiting.keys())
        staged = {name for stage in order.stages for name in stage.names}
        # Those whose inputs are not looked at do not mind what is done to these
        first = [t for t in tasks if t.record.name not in staged]
        found = _by_name(first, context.apply(self.name, cluster_record, first))
        for stage in order.stages:
            grams = order.grams(stage)
            own = vectors.of(grams)
            now = [
                Task(waiting[n].record, replace(waiting[n].options, grams=own.centred(n, grams.get(n, ()))))
                for n in stage.names
            ]
            found |= _by_name(now, context.apply(self.name, cluster_record, now))
            context.apply(self.name, change_vector, own.tasks(program, shorten=shorten))
            vectors = replace(vectors.without(set(stage.names)), movable=vectors.movable - own.movable)
        context.apply(self.name, change_vector, vectors.tasks(program, shorten=shorten))
        return [found[t.record.name] for t in tasks]

    def tried(self, program: ir.Program, context: Context, offset: float = 0.0) -> ir.Program:
        """A copy of the program with errors like those that *grid* would leave, made in a fraction of the time.

        Args:
            offset: of the grids, in steps: other errors of the same size.
        """
        result = program.copy()
        weights = result.weights()
        typical = _typical_size(weights)

        def values(record: ir.WeightRecord) -> np.ndarray:
            own = self.for_record(record, context)
            if own.mode != "grid" or record.size == 0 or not fits_a_grid(record.values):
                return record.values
            scales = Job(own, typical).scales(record, own.step)
            return errors_like(record.values.reshape(-1), scales, offset).reshape(record.shape)

        for record, new in zip(weights, map_on_threads(context.threads, values, weights), strict=True):
            record.values = new
        return result

    def with_vectors_changed(self, program: ir.Program, context: Context) -> ir.Program:
        """A copy of the program whose vectors are what this pass makes of them, with all weights as they are."""
        result = program.copy()
        context.apply(self.name, change_vector, vectors_of(result, {}).tasks(result, shorten=self.shorten))
        return result

    def _train(
        self, program: ir.Program, tasks: Sequence[Task[Job]], vectors: Vectors, context: Context
    ) -> dict[str, Any]:
        """Cluster and train meanwhile; gives facts for the report."""
        if self.mode == "grid":
            return self._train_grids(program, tasks, vectors, context)
        return self._train_books(program, tasks, context)

    def _train_grids(
        self, program: ir.Program, tasks: Sequence[Task[Job]], vectors: Vectors, context: Context
    ) -> dict[str, Any]:
        """On grids, from the points that weights are rounded to without training, and the biases shifted for them."""
        draft = program.copy()
        drafts, own = ({r.name: r for r in p.records} for p in (draft, program))
        rounded = [Task(drafts[t.record.name], t.options) for t in tasks]
        updates = self._round(draft, rounded, vectors, context, shorten=False)
        for bias in vectors.biases.values():
            if drafts[bias].values is not own[bias].values:
                Update(values=drafts[bias].values).apply(own[bias])
        started: dict[str, ir.Clustered] = {}
        for task, update in zip(tasks, updates, strict=True):
            if update.clustered is None or update.clustered.codebook is not None:  # too few values, or no grid for them
                update.apply(task.record)
            else:
                started[task.record.name] = update.clustered
        free = [r for r in trainable(program) if r.clustered is None]
        trainer = Trainer(self, program, free, context, {r.name: _unit(r, started.get(r.name)) for r in free})
        trained = [r for r in trainer.parameters.records if r.name in started]
        parameters = trainer.parameters
        grids = Grids(parameters, trained, [started[r.name] for r in trained])
        assert context.calibration is not None
        changes = context.calibration.judge.changes(program, parameters.records)

        def divergence() -> float:
            weights = zip(parameters.records, parameters.weights, strict=True)
            return changes.of({r.name: w for r, w in weights}).divergence

        objective = trainer.graph.objective
        scale = float(np.var(objective.targets.astype(np.float64))) if objective.kind == "mse" else 1.0
        steering = Steering(grids, parameters, Goal(self.within, self.spent), divergence, scale)
        every = max(1, trainer.steps // LOOKS)

        def look(step: int) -> None:
            if step % every == 0:
                grids.fit()
                steering.look()

        last = max(0, trainer.steps - 1)
        facts = trainer.run(before_step=look, settled=last, own=steering, penalty=grids.slopes).facts()
        steering.look()
        steering.take_best()
        parameters.store()
        moved, bits = steering.seen
        return facts | {"divergence": moved, "bits a weight": bits, "codebook entries": grids.store()}

    def _train_books(self, program: ir.Program, tasks: Sequence[Task[Job]], context: Context) -> dict[str, Any]:
        """By rate and distortion."""
        records = [t.record for t in tasks]
        free = [r for r in trainable(program) if r.clustered is None]
        trainer = Trainer(self, program, free, context)
        books = _Books(trainer.parameters, records, [t.options.cluster for t in tasks])
        last = max(1, int(trainer.steps * RAISING))
        every = max(1, last // FITS)

        def fit(step: int) -> None:
            if step <= last and (step % every == 0 or step == last):
                books.fit(step / last)

        facts = trainer.run(before_step=fit, settled=last, own=books).facts()
        trainer.parameters.store()
        return facts | {"codebook entries": books.store()}

    def _cluster(self, record: ir.WeightRecord, seed: int, job: Job) -> ir.Clustered:
        limit = (FEW if self.points == MOST_POINTS else 1) if self.mode == "grid" else 1 << self._bits(record)
        flat = record.values.reshape(-1)
        exact = _exact(flat, limit)
        if exact is not None:
            return exact
        if self.mode == "grid":
            return self._grid(record, job.scales(record, self.step), job.grams)
        return self._kmeans(record, limit, seed)

    def _quantizer(
        self, record: ir.WeightRecord, values: np.ndarray, progress: float, old: rd.Quantizer | None = None
    ) -> rd.Quantizer:
        """Fitted to a weight's kept elements ``values`` [m], at this share of the price, from the ``old`` one on."""
        if not len(values):
            return rd.Quantizer(np.zeros(1, np.float32), np.empty(0, np.float32))
        ordered = np.sort(values)
        power = float(np.cumsum(np.square(ordered, dtype=np.float64))[-1]) / max(1, int(np.count_nonzero(ordered)))
        start = rd.spread(ordered, (1 << self._bits(record)) - 1) if old is None else old.entries
        return rd.fit(ordered, record.size - len(ordered), self.price * power * progress, start).shortened()

    def _bits(self, record: ir.WeightRecord) -> int:
        return self.bits or (CONV_BITS if any(u.op_type.startswith("Conv") for u in record.uses) else OTHER_BITS)

    def _grid(self, record: ir.WeightRecord, scales: ir.Scales, grams: Sequence[Gram]) -> ir.Clustered:
        flat = record.values.reshape(-1)
        if not grams:
            return round_to_grid(flat, scales)
        covered = sum(g.place.size for g in grams) == record.size
        points = np.zeros(record.size, np.int32) if covered else points_of(flat, scales)
        steps = expanded(scales, record.shape)
        with one_blas_thread():
            for gram in grams:
                place = gram.place
                kept = None if record.mask is None else place.apply(record.mask)
                wanted = caught_up(place.apply(record.values), gram.moments)
                found = compensated(wanted, place.apply(steps), gram.matrices, self.rate, kept)
                place.put(points, found)
        return on_grid(points, scales)

    def _coarser(self, record: ir.WeightRecord, job: Job) -> ir.Clustered | None:
        """Of integers: None where their own steps are as coarse as the grid's."""
        weight = as_floats(record)
        if not weight.values.any():
            return None
        scales = whole_steps(job.scales(weight, self.step))
        return in_quanta(self._grid(weight, scales, job.grams), record) if scales.log_steps.any() else None

    def _kmeans(self, record: ir.WeightRecord, limit: int, seed: int) -> ir.Clustered:
        flat = record.values.reshape(-1)
        dtype = record.values.dtype
        scales = None
        if self.scales == "channel":
            channels, inner = ir.channel_layout(record.shape, record.uses)
            deviation, _ = channel_statistics(flat, channels, inner, centred=False)
            scales = ir.Scales(within_range(ir.nearest_log_step(deviation), deviation > 0), inner)
            dtype = ir.compute_dtype(dtype)
            flat = normalised(flat, scales)
        mask = None if record.mask is None else record.mask.reshape(-1)
        kept = flat if mask is None else flat[mask]
        ordered = np.sort(kept.astype(np.float32) if kept.dtype.itemsize == 2 else kept)
        count = limit if mask is None else limit - 1
        start = initial(ordered, count, self.init, seed, record.name)
        centroids = kmeans(ordered, start, count).astype(dtype)
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


def _unit(record: ir.WeightRecord, clustered: ir.Clustered | None) -> np.ndarray:
    """What one unit of a parameter stands for, float32 [n]: a step of its grid, or a part of what is usual in it."""
    if clustered is not None and clustered.scales is not None:
        return expanded(clustered.scales, record.shape).reshape(-1).astype(np.float32)
    power = float(np.square(record.values.astype(np.float64)).mean())
    return np.full(record.size, FREE * math.sqrt(power) if power > 0 else FREE, np.float32)


@dataclass(frozen=True)
class Job:
    """How to cluster a weight: its options, the size of a typical weight of the model, how much coarser than others of
    its size it may be, and what is known of its inputs."""

    cluster: Cluster
    typical: float
    coarser: float = 1.0
    grams: tuple[Gram, ...] = ()

    def scales(self, record: ir.WeightRecord, step: float) -> ir.Scales:
        """The grid's step for every channel of a weight, with this step for a typical weight."""
        step *= self.coarser * (record.size / self.typical) ** SIZE_EXPONENT
        channels, inner = ir.channel_layout(record.shape, record.uses)
        deviation, largest = channel_statistics(record.values.reshape(-1), channels, inner)
        steps = np.maximum(deviation * step, largest / self.cluster.points)
        return ir.Scales(within_range(ir.nearest_log_step(steps), steps > 0), inner)


def calibrated(
    jobs: Mapping[str, Job],
    records: Sequence[ir.WeightRecord],
    grams: Mapping[str, Sequence[Gram]],
    vectors: Vectors,
    program: ir.Program,
    context: Context,
    *,
    allocate: bool,
) -> dict[str, Job]:
    """The jobs with what the samples say about the weights, of whose inputs ``grams`` are known."""
    calibration = context.calibrated()
    found = {name: replace(job, grams=vectors.centred(name, grams.get(name, ()))) for name, job in jobs.items()}
    if not allocate:
        return found
    usable = [r for r in records if r.quantized is None and r.size > 0 and fits_a_grid(r.values)]

    def allocated() -> dict[str, float]:
        errors = {r.name: found[r.name].scales(r, 1.0) for r in usable}
        try:
            moves = moved(program, errors, calibration.judge, calibration.samples, context.seed, context.threads)
        except ModelError:
            return {}  # without gradients, steps follow the size alone
        left = {name: remaining_share(grams.get(name, ()), found[name].grams) for name in moves}
        return relative_steps({r.name: r.size for r in usable}, {n: left[n] * m for n, m in moves.items()})

    factors = calibration.once("steps", program, allocated)
    return {name: replace(job, coarser=factors.get(name, 1.0)) for name, job in found.items()}


def remaining_share(raw: Sequence[Gram], used: Sequence[Gram]) -> float:
    """What compensation on the ``used`` matrices leaves of the outputs' errors, about; 1 where inputs are unknown."""
    power = sum(float(np.trace(g.matrices, axis1=1, axis2=2).sum(dtype=np.float64)) for g in raw)
    if power <= 0:
        return 1.0
    with one_blas_thread():
        return sum(remaining(g.matrices) for g in used) / power


def _by_name(tasks: Sequence[Task[Job]], updates: Sequence[Update]) -> dict[str, Update]:
    return {task.record.name: update for task, update in zip(tasks, updates, strict=True)}


def cluster_record(record: ir.WeightRecord, job: Job, seed: int) -> Update:
    """Indices and codebook of a weight, or the reason why it gets none."""
    options = job.cluster
    if options.integers and can_coarsen(record):
        return Update(clustered=options._coarser(record, job))
    if record.exact is not None:
        is_float = ir.is_compressible(record.elem_type)  # codebooks hold floats only
        return Update(clustered=_exact(record.values.reshape(-1), FEW) if is_float else None)
    if options.mode == "rd":
        values = _kept(record)
        return _priced(record, values, options._quantizer(record, values, 1.0))
    if options.mode == "grid" and not fits_a_grid(record.values):
        return Update(reason="its values are too large or too small for a grid")
    return Update(clustered=options._cluster(record, seed, job))


def _kept(record: ir.WeightRecord) -> np.ndarray:
    """The elements that are not pruned, float32 [m]."""
    flat = record.values.reshape(-1)
    return (flat if record.mask is None else flat[record.mask.reshape(-1)]).astype(np.float32)


def _priced(record: ir.WeightRecord, values: np.ndarray, quantizer: rd.Quantizer) -> Update:
    """What the quantizer makes of a weight whose kept elements are ``values`` [m]."""
    indices = np.full(record.size, quantizer.zero, np.uint16)
    kept = slice(None) if record.mask is None else record.mask.reshape(-1)
    indices[kept] = quantizer.indices(values)
    codebook = quantizer.entries.astype(record.values.dtype)
    clustered = ir.without_unused(ir.Clustered(indices, len(codebook), codebook, zero=quantizer.zero))
    return Update(mask=(clustered.indices != clustered.zero).reshape(record.shape), clustered=clustered)


def _typical_size(records: Sequence[ir.WeightRecord]) -> float:
    """Geometric mean of the weights' sizes, each counted once an element; 1 without weights."""
    total = sum(r.size for r in records)
    return 2.0 ** (sum(r.size * math.log2(r.size) for r in records) / total) if total else 1.0


def _exact(flat: np.ndarray, limit: int) -> ir.Clustered | None:
    """The weight's own values as codebook when there are at most ``limit``, compared bit for bit; else None."""
    bits = flat.view(f"u{flat.dtype.itemsize}")
    sample = bits[:: max(1, bits.size // (16 * limit))]  # to look at all of a large weight takes seconds
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


class _Books:
    """Codebooks of ``records``, fitted to the parameters behind them; installs itself as the parameters' transform."""

    def __init__(self, parameters: Parameters, records: Sequence[ir.WeightRecord], options: Sequence[Cluster]) -> None:
        self._parameters, self._records, self._options = parameters, records, options
        self._spans = [parameters.span(r) for r in records]
        self._quantizers: list[rd.Quantizer] = []

    def fit(self, progress: float) -> None:
        """Fit every codebook at this share of the price."""
        theta = self._parameters.theta
        old: list[rd.Quantizer | None] = [*self._quantizers] or [None] * len(self._records)
        self._quantizers = [
            options._quantizer(record, theta[span], progress, before)
            for record, options, span, before in zip(self._records, self._options, self._spans, old, strict=True)
        ]
        self._parameters.transform = self._values
        self._parameters.expand()

    def state(self) -> State:
        both = [{f"entries{i}": q.entries, f"bounds{i}": q.bounds} for i, q in enumerate(self._quantizers)]
        return {name: array for arrays in both for name, array in arrays.items()}

    def restore(self, state: State) -> None:
        numbers = range(len(self._records))
        self._quantizers = [rd.Quantizer(state[f"entries{i}"], state[f"bounds{i}"]) for i in numbers]
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
            update = _priced(record, theta[span], quantizer)
            update.apply(record)
            assert update.clustered is not None
            total += update.clustered.size
        return total
