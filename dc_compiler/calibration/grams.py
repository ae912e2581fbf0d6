"""Gram matrices of the inputs that weights are multiplied with, over samples."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.products import Product, Source, find_products
from dc_compiler.calibration.views import Place
from dc_compiler.ort.activations import Reduce, activations
from dc_compiler.ort.samples import Samples

Array = np.ndarray
ROWS_PER_INPUT = 16  # rows of a Gram matrix for each of its inputs; more are thinned out
LEAST_ROWS = 8192
LEAST_OF_A_BATCH = 256  # where the first axis of a value is not that of the samples, say time, shares are wrong
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


@dataclass(frozen=True)
class Gram:
    """Mean outer product of the rows of inputs that a weight's elements at ``place``, matrices [g, o, k], are
    multiplied with.

    ``matrices`` is float32 [g, k, k], or [1, k, k] where all matrices of the weight take the same rows.
    """

    matrices: Array
    place: Place


@dataclass(frozen=True)
class _Total:
    rows: int
    sums: Array  # float32 [g, k, k]


def collect(
    program: ir.Program, samples: Samples, rows: Array | None = None, names: Collection[str] | None = None
) -> dict[str, list[Gram]]:
    """Gram matrices for the weights called ``names`` (None: all that have a product), with the program's current
    weights: one for a weight, or one for each part of a weight that is used in parts.

    Memory: k * k floats for every value that weights are multiplied with, and a batch of these values. A value with
    more than ``ROWS_PER_INPUT`` rows for each of its inputs is thinned out evenly.

    Raises:
        ModelError: the program does not run on the samples. DataError: as for the samples.
    """
    program = _with_states(program)
    products = find_products(program)
    chosen = {n: p for n, p in products.items() if names is None or n in names}
    sources: dict[str, list[Source]] = {}
    for product in (p for found in chosen.values() for p in found):
        known = sources.setdefault(product.source.value, [])
        if product.source not in known:
            known.append(product.source)
    if not sources:
        return {}
    share = _share_of_a_batch(samples, rows)
    reduces = {value: _reduce(found, share) for value, found in sources.items()}
    totals = activations(program, list(sources), reduces, samples, rows)
    by_source = {s: totals[value][i] for value, found in sources.items() for i, s in enumerate(found)}
    sizes = {r.name: r.size for r in program.records}
    grams = {name: _grams(found, by_source, sizes[name]) for name, found in chosen.items()}
    return {name: found for name, found in grams.items() if found}


def _with_states(program: ir.Program) -> ir.Program:
    """The program with names for the states of recurrent layers that it leaves unnamed, so that they can be seen."""
    found = [i for i, n in enumerate(program.proto.graph.node) if n.op_type in RECURRENT and not n.output[0]]
    if not found:
        return program
    named = program.copy()
    for i in found:
        named.proto.graph.node[i].output[0] = f"dcc.states.{i}"
    return named


def _share_of_a_batch(samples: Samples, rows: Array | None) -> float:
    """What share of the samples one sample is."""
    if rows is None:
        parts = samples.parts()
        rows = parts.train if len(parts.train) else parts.check
    return 1 / max(1, len(rows))


def _reduce(sources: list[Source], share: float) -> Reduce[list[_Total]]:
    def reduce(totals: list[_Total] | None, batch: Array) -> list[_Total]:
        found = [_total(source, batch, share * len(batch)) for source in sources]
        if totals is None:
            return found
        return [_Total(a.rows + b.rows, a.sums + b.sums) for a, b in zip(totals, found, strict=True)]

    return reduce


def _total(source: Source, batch: Array, share: float) -> _Total:
    """Sums of a batch that has this share of all samples."""
    one = source.unfold.rows(batch[:1], 1).shape[2]
    most = max(LEAST_OF_A_BATCH, int(share * max(LEAST_ROWS, ROWS_PER_INPUT * one)))
    rows = source.unfold.rows(batch, most).astype(np.float32, copy=False)
    groups, count, inputs = rows.shape
    rows = rows.reshape(groups, count, source.parts, inputs // source.parts)
    rows = rows.transpose(0, 2, 1, 3).reshape(groups * source.parts, count, -1)
    return _Total(count, np.matmul(rows.transpose(0, 2, 1), rows))


def _grams(products: list[Product], totals: Mapping[Source, _Total], size: int) -> list[Gram]:
    """One Gram matrix a place; none where places share elements, or where the inputs are not finite."""
    by_place: dict[Place, list[_Total]] = {}
    for product in products:
        by_place.setdefault(product.place, []).append(totals[product.source])
    seen = np.zeros(size, np.uint8)
    for place in by_place if len(by_place) > 1 else ():
        now = np.zeros(size, np.uint8)
        place.put(now, np.ones(place.extents, np.uint8))
        seen += now
    if seen.max(initial=0) > 1:
        return []
    found = [_gram(place, parts) for place, parts in by_place.items()]
    return [gram for gram in found if gram is not None]


def _gram(place: Place, parts: list[_Total]) -> Gram | None:
    if len({p.sums.shape for p in parts}) > 1:
        return None
    sums, count = np.sum([p.sums for p in parts], axis=0), sum(p.rows for p in parts)
    return Gram(sums / np.float32(count), place) if count and np.isfinite(sums).all() else None
