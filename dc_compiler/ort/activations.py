"""Statistics of the values that a Program computes with the weights it has now, gathered without keeping the values."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx

from dc_compiler import ir
from dc_compiler.errors import InvalidArgumentError, ModelError
from dc_compiler.model.opened import weights_apart
from dc_compiler.ort import data
from dc_compiler.ort.samples import BATCH, Samples
from dc_compiler.ort.sessions import short
from dc_compiler.pipeline.threads import one_blas_thread

Array = np.ndarray
R = TypeVar("R")
T = TypeVar("T")
# (what the batches so far gave, or None before the first; the values of one batch [m, ...]) -> what they give with it
Reduce = Callable[[R | None, Array], R]
BATCH_BYTES = 1 << 25  # about so much of the wanted values is computed at a time


def activations(
    program: ir.Program,
    values: Sequence[str],
    reduce: Reduce[R] | Mapping[str, Reduce[R]],
    samples: Samples,
    rows: Array | None = None,
) -> dict[str, R]:
    """Run a Program on samples and reduce values of its main graph, batch by batch.

    Several batches run at a time, each on one thread, and are reduced in order, several values at a time: the result
    does not depend on the number of threads, and memory not on the number of samples.

    Args:
        values: names of inputs of the model, or of outputs of its nodes; not of those inside bodies.
        reduce: gives what the batches so far and one more say about a value; :func:`gram` is one. One for all values,
            or one for each.
        rows: the samples to run on. None takes the training part, or all where nothing is trained.

    Returns:
        What the last call of ``reduce`` gave for each value.

    Raises:
        InvalidArgumentError: a name is none of the graph's. ModelError: onnxruntime cannot run the program.
        DataError: the data cannot be read, or is too small to be split.
    """
    model, weights = weights_apart(program)
    computed = _exposed(model, values)
    session = samples.sessions.open(model, 1, apart=weights)

    def run(feed: data.Feed) -> Mapping[str, Array]:
        try:
            found = session.run(computed, feed) if computed else []
        except Exception as e:  # onnxruntime's exceptions share no base class
            raise ModelError(f"{program.label} does not run on the samples: {short(e)}") from None
        return {name: feed[name] for name in values if name in feed} | dict(zip(computed, found, strict=True))

    result: dict[str, R] = {}
    for batch in in_order(samples, run, _feeds(samples, rows, run)):

        def reduced(name: str, batch: Mapping[str, Array] = batch, so_far: Mapping[str, R] = result) -> R:
            own = reduce[name] if isinstance(reduce, Mapping) else reduce
            return own(so_far.get(name), batch[name])

        with one_blas_thread():
            result = dict(zip(values, samples.pool.map(reduced, values), strict=True))
    return result


def gram(total: Array | None, batch: Array) -> Array:
    """Sum of the outer products of the vectors along the last axis: [..., k] -> f64 [k, k], for :func:`activations`."""
    rows = batch.reshape(-1, batch.shape[-1]).astype(np.float64)
    product: Array = rows.T @ rows
    return product if total is None else total + product


def _exposed(model: onnx.ModelProto, values: Iterable[str]) -> list[str]:
    """Make the values outputs of the model; those that are not its inputs."""
    graph = model.graph
    inputs, outputs = {i.name for i in graph.input}, {o.name for o in graph.output}
    computed = {name for node in graph.node for name in node.output if name}
    wanted = []
    for name in values:
        if name in inputs:
            continue
        if name not in computed:
            raise InvalidArgumentError(f"the model's main graph computes no '{name}'")
        if name not in outputs:
            graph.output.append(onnx.ValueInfoProto(name=name))  # onnxruntime infers the type
        wanted.append(name)
    return wanted


def _feeds(
    samples: Samples, rows: Array | None, run: Callable[[data.Feed], Mapping[str, Array]]
) -> Sequence[data.Feed]:
    """The samples in batches of about ``BATCH_BYTES`` of the wanted values."""
    if rows is None:
        rows = samples.for_statistics()
    size = samples.fixed_batch
    if size is None and samples.is_table and len(rows):
        one = sum(array.nbytes for array in run(samples.take(rows[:1])).values())
        size = max(1, min(BATCH, BATCH_BYTES // max(1, one)))
    return samples.batches(rows, size or 1)


def in_order(samples: Samples, run: Callable[[T], R], batches: Iterable[T]) -> Iterator[R]:
    """What the batches give, in order; a few are computed ahead."""
    pending: deque[Any] = deque()
    for batch in batches:
        pending.append(samples.pool.submit(run, batch))
        if len(pending) > samples.threads:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
