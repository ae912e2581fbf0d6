"""Gram matrices of the inputs that weights are multiplied with, over samples."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.bodies import expose, walk_bodies
from dc_compiler.calibration.products import Product, Source, find_products
from dc_compiler.calibration.views import Elements, Place, View
from dc_compiler.errors import ModelError
from dc_compiler.ort.activations import Reduce, activations
from dc_compiler.ort.samples import Samples

Array = np.ndarray
ROWS_PER_INPUT = 16  # rows of a Gram matrix for each of its inputs; more are thinned out
LEAST_ROWS = 8192
LEAST_OF_A_BATCH = 256  # where the first axis of a value is not that of the samples, say time, shares are wrong
# Rows that are further from the original's, in squares of these: a model that feeds on its answers has gone another way
# there, which no weight is to make up for
FAR = 0.25
LEFT = 1e-3  # of the means' products in covariances: more than the rounding errors of sums
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


@dataclass(frozen=True)
class Moments:
    """Means over rows ``x`` of inputs, float32, with 1 for ``g`` where all matrices of a weight take the same rows.

    Attributes:
        products: of ``x x^T``, [g, k, k]. means: of ``x``, [g, k].
        lag: of what the original's rows have beyond these, ``y - x``: means of ``(y - x) x^T`` and of ``y - x``. None
            where these are the original's.
    """

    products: Array
    means: Array
    lag: Moments | None = None

    def map(self, change: Callable[[Array], Array]) -> Moments:
        """These with all arrays changed."""
        return Moments(change(self.products), change(self.means), None if self.lag is None else self.lag.map(change))

    def __add__(self, other: Moments) -> Moments:
        lag = None if self.lag is None or other.lag is None else self.lag + other.lag
        return Moments(self.products + other.products, self.means + other.means, lag)

    def centred(self) -> Moments:
        """Those with the products of the rows less their means, nearly: covariances."""
        lag = self.lag
        if lag is not None:
            lag = Moments(lag.products - lag.means[:, :, None] * self.means[:, None, :], lag.means)
        outer = self.means[:, :, None] * self.means[:, None, :]
        return Moments(self.products - np.float32(1 - LEFT) * outer, self.means, lag)


@dataclass(frozen=True)
class Gram:
    """What is known of the rows of inputs that a weight's elements at ``place``, matrices [g, o, k], are multiplied
    with."""

    moments: Moments
    place: Place

    @property
    def matrices(self) -> Array:
        """Mean outer products, float32 [g or 1, k, k]."""
        return self.moments.products


@dataclass(frozen=True)
class Total:
    """Sums of moments over rows.

    Attributes:
        rows: how many there were. sums: moments, but sums instead of means.
    """

    rows: int
    sums: Moments

    def of(self, group: int | None) -> Total:
        """Those of one group; None: all. Groups that take the same rows have the same sums."""
        return self if group is None else Total(self.rows, self.sums.map(lambda a: a[group % len(a)][None]))

    def __add__(self, other: Total) -> Total:
        return Total(self.rows + other.rows, self.sums + other.sums)


def collect(
    program: ir.Program, samples: Samples, rows: Array | None = None, names: Collection[str] | None = None
) -> dict[str, list[Gram]]:
    """Gram matrices for the weights called ``names`` (None: all that have a product), with the program's current
    weights: one for a weight, or one for each part of a weight that is used in parts. Where a part is used several
    times, all its rows count.

    Inputs of weights inside bodies become outputs of their nodes. Where onnxruntime does not run that, as with a Loop
    that makes another shape every time, bodies are left out.

    Memory: k * k floats for every value that weights are multiplied with, a batch of these values, and four bytes an
    element of weights that are moved before use, up to ``moved.MOST`` of these. A value with more than
    ``ROWS_PER_INPUT`` rows for each of its inputs is thinned out evenly.

    Raises:
        ModelError: the program does not run on the samples. DataError: as for the samples.
    """
    program = program.copy()
    name_states(program)
    products = find_products(program)
    chosen = {n: p for n, p in products.items() if names is None or n in names}
    try:
        return _collect(program, chosen, samples, rows)
    except ModelError:
        outside = {n: p for n, p in chosen.items() if all(product.source.graph == 0 for product in p)}
        if len(outside) == len(chosen):
            raise
        return _collect(program, outside, samples, rows)


def _collect(
    program: ir.Program, products: Mapping[str, list[Product]], samples: Samples, rows: Array | None
) -> dict[str, list[Gram]]:
    sources = sources_of(products)
    if not sources:
        return {}
    program, seen = _exposed(program, {key: found[0].elem_type for key, found in sources.items()})
    share = share_of_a_batch(samples, rows)
    reduces = {seen[key]: _reduce(found, share) for key, found in sources.items()}
    totals = activations(program, list(reduces), reduces, samples, rows)
    return assembled(products, {key: totals[seen[key]] for key in sources}, program)


def sources_of(products: Mapping[str, list[Product]]) -> dict[tuple[int, str], list[Source]]:
    """What rows are made of each value that weights are multiplied with, by its graph and name."""
    sources: dict[tuple[int, str], list[Source]] = {}
    for product in (p for found in products.values() for p in found):
        known = sources.setdefault((product.source.graph, product.source.value), [])
        if product.source not in known:
            known.append(product.source)
    return sources


def assembled(
    products: Mapping[str, list[Product]], totals: Mapping[tuple[int, str], list[Total]], program: ir.Program
) -> dict[str, list[Gram]]:
    """Gram matrices for weights, from the totals of their sources in the order of :func:`sources_of`."""
    by_source = {
        source: total
        for key, found in sources_of(products).items()
        for source, total in zip(found, totals[key], strict=False)
    }
    sizes = {r.name: r.size for r in program.records}
    grams = {name: _grams(found, by_source, sizes[name]) for name, found in products.items()}
    return {name: found for name, found in grams.items() if found}


def name_states(program: ir.Program) -> None:
    """Give names to the states of recurrent layers that the program leaves unnamed, so that they can be seen."""
    nodes = [n for g in ir.walk_graphs(program.proto.graph) for n in g.node if n.op_type in RECURRENT]
    for i, node in enumerate(nodes):
        if not node.output[0]:
            node.output[0] = f"dcc.states.{i}"


def _exposed(
    program: ir.Program, values: Mapping[tuple[int, str], int]
) -> tuple[ir.Program, dict[tuple[int, str], str]]:
    """The program with values of its graphs, given with their types, as values of the main graph: and their names."""
    program = program.copy()
    bodies = list(walk_bodies(program.proto.graph))
    seen = {}
    for i, ((graph, value), elem_type) in enumerate(values.items()):
        seen[graph, value] = expose(bodies[graph], value, elem_type, f"dcc.seen.{i}")
    return program, seen


def share_of_a_batch(samples: Samples, rows: Array | None) -> float:
    """What share of the samples one sample is."""
    return 1 / max(1, len(samples.for_statistics() if rows is None else rows))


def _reduce(sources: list[Source], share: float) -> Reduce[list[Total]]:
    return lambda totals, batch: added(totals, sources, share, batch)


def added(
    totals: list[Total] | None, sources: Sequence[Source], share: float, batch: Array, original: Array | None = None
) -> list[Total]:
    """Totals of sources with those of one more batch of their value, in which a sample is this share of all.

    Args:
        original: what the value is in the original; the moments tell then what this has beyond it.
    """
    if not batch.size:  # of a branch that did not run
        return totals or []
    found = [_total(source, share, batch, original) for source in sources]
    return [a + b for a, b in zip(totals, found, strict=True)] if totals else found


def _total(source: Source, share: float, batch: Array, original: Array | None) -> Total:
    """Sums of a batch in which a sample is this share of all. The rows taken stand for those that were left out."""
    share *= source.unfold.samples(batch)
    one = source.unfold.rows(batch[:1], 1)[0].shape[2]
    most = max(LEAST_OF_A_BATCH, int(share * max(LEAST_ROWS, ROWS_PER_INPUT * one)))
    rows, whole = source.unfold.rows(batch, most)
    rows = _cut(rows, source.parts)
    count = rows.shape[1]
    weight = np.float32(whole / count if count else 1)
    sums = Moments(np.matmul(rows.transpose(0, 2, 1), rows), rows.sum(axis=1))
    if original is not None:
        before = _cut(source.unfold.rows(original, most)[0], source.parts)
        beyond = before - rows
        beyond[np.square(beyond).sum(axis=2) > FAR * np.square(before).sum(axis=2)] = 0
        sums = replace(sums, lag=Moments(np.matmul(beyond.transpose(0, 2, 1), rows), beyond.sum(axis=1)))
    return Total(whole, sums.map(lambda a: a * weight))


def _cut(rows: Array, parts: int) -> Array:
    """Rows [g, m, k] in parts: [g * parts, m, k / parts]."""
    groups, count, inputs = rows.shape
    each = inputs // parts
    rows = rows.astype(np.float32, copy=False).reshape(groups, count, parts, each)
    return rows.transpose(0, 2, 1, 3).reshape(groups * parts, count, each)  # of no rows, too: one step has no states


def _grams(products: list[Product], totals: Mapping[Source, Total], size: int) -> list[Gram]:
    """One Gram matrix a place; none where an element stands at several, or where the inputs are not finite."""
    by_place: dict[Place, list[Total]] = {}
    for product in products:
        if product.source in totals:
            by_place.setdefault(product.place, []).append(totals[product.source].of(product.group))
    is_plain = len(by_place) == 1 and all(isinstance(place, View) for place in by_place)
    if not is_plain and _elements(by_place, size) < sum(place.size for place in by_place):
        return []
    found = [_gram(place, parts) for place, parts in by_place.items()]
    return [gram for gram in found if gram is not None]


def _elements(places: Iterable[Place], size: int) -> int:
    """How many elements of a weight of this size stand at places."""
    seen = np.zeros(size, bool)
    for place in places:
        seen[place.numbers if isinstance(place, Elements) else slice(None)] = True
    return int(np.count_nonzero(seen))


def _gram(place: Place, parts: list[Total]) -> Gram | None:
    if len({p.sums.products.shape for p in parts}) > 1:
        return None
    total = functools.reduce(operator.add, parts)
    if not total.rows or not np.isfinite(total.sums.products).all():
        return None
    groups = len(total.sums.products)
    times = place.extents[0] // groups if groups > 1 else 1
    means = total.sums.map(lambda a: a / np.float32(total.rows))
    return Gram(means.map(lambda a: np.concatenate([a] * times)) if times > 1 else means, place)
