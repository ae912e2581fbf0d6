"""Chooses the extents of axes that a model leaves open, from what its operators ask for and what runs would cost."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, zip_longest

import onnx

from dc_compiler import ir
from dc_compiler.ort import shapes
from dc_compiler.ort.shapes import Dim, Value

EXTENTS = (16, 32, 64, 1, 8, 128, 224, 48, 256, 512)  # tried in turn for axes whose extent nothing in the graph tells
LONE = (256, 64, 512)  # tried between those for the open axes of one input alone, where all others then have extent 1
MOST_LONE = 4  # inputs with open axes up to which each is tried alone
SIGNAL_EXTENT = 4096  # samples of a one-dimensional signal
MAX_BYTES = 1 << 30  # of all values of a run
MAX_INPUTS = 1 << 24  # elements of all inputs, the only bound where an operator's shapes are not known
MAX_MULTIPLICATIONS = 20_000_000_000
LARGE = (64, 48, 32, 16)  # tried in turn where inputs shall have much in them
SEARCHED_NODES = 100_000  # most nodes that are looked at in search of an extent that none of EXTENTS is
ANONYMOUS = frozenset({"", "?", "*", "-1", "None"})  # what exporters write for an axis that has no name

BROADCASTING = frozenset({
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mul", "Or",
    "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
})  # fmt: skip


@dataclass(frozen=True)
class Extents:
    """The extents of every input in one attempt."""

    inputs: dict[str, tuple[int, ...]]
    main: int  # what axes of no known extent have


class OpenAxes:
    """The axes that a model's inputs leave open, and what is known about them.

    Axes of one symbol have one extent. An axis that is only ever the first is a batch, of extent 1. ``"a + b"`` is
    the sum of two symbols, as exporters write it.

    Args:
        model: the model; its weights are not read.
        signals: names of inputs that are one-dimensional signals, whose last axis is long.
    """

    def __init__(self, model: onnx.ModelProto, names: Sequence[str], signals: Sequence[str] = ()) -> None:
        self._source = model
        infos = {i.name: i for i in model.graph.input}
        self.inputs = {n: tuple(_symbols(infos[n])) for n in names}
        self._symbols = {d for dims in self.inputs.values() for d in dims if isinstance(d, str)}
        self._batches = self._symbols - {d for dims in self.inputs.values() for d in dims[1:] if isinstance(d, str)}
        last = {self.inputs[n][-1] for n in signals if self.inputs[n]}
        self._signals = {d for d in last if isinstance(d, str)}
        self.too_large = False  # whether an attempt was left out for what it would cost

    @cached_property
    def _model(self) -> onnx.ModelProto:
        return shapes.skeleton(self._source)

    def attempts(self) -> Iterator[Extents]:
        """Extents to try, in order; only one where all are known. What the graph rules out, or what would take too much
        memory or time, is left out."""
        if not self._symbols - self._batches:
            yield self._fill({}, 1)
            return
        found = shapes.infer(self._model, self.inputs)
        equal = [*_equal_dims(self._model, found)]
        firm = self._solved(equal)
        known = self._solved([*equal, *_broadcast_dims(self._model, found)])
        yield from self._with(known)
        if known != firm:  # broadcasting may also want 1
            yield from self._with(firm)

    def larger(self, batch: int, extents: Sequence[int], multiplications: int) -> Iterator[Extents]:
        """Extents to try where inputs shall have much in them: batches, and long axes first; none of a run that takes
        more than so many multiplications."""
        open_dims = self._symbols - self._batches
        found = shapes.infer(self._model, self.inputs)
        equal = [*_equal_dims(self._model, found)] if open_dims else []
        known = self._solved([*equal, *_broadcast_dims(self._model, found)]) if open_dims else {}
        chosen = dict.fromkeys(self._batches, batch) | dict.fromkeys(self._signals, SIGNAL_EXTENT)
        for extent in extents if open_dims - set(known) else extents[:1]:
            attempt = self._fill(chosen | known, extent)
            if self._fits(attempt, multiplications):
                yield attempt

    def _with(self, known: dict[str, int]) -> Iterator[Extents]:
        if self._symbols <= set(known) | self._batches:
            yield self._fill(known, 1)
            return
        fits = False
        for extent, lone in zip_longest(EXTENTS, LONE):
            for attempt in (self._fill(known, extent), *(self._alone(known, lone) if lone else ())):
                if self._fits(attempt):
                    fits = True
                    yield attempt
        if not fits:
            yield from filter(self._fits, self._others(known))

    def _alone(self, known: dict[str, int], extent: int) -> Iterator[Extents]:
        """One input of this extent, the others of extent 1: batches and states beside a length."""
        open_dims = self._symbols - set(known) - self._batches
        leading = {d for dims in self.inputs.values() for d in dims[:1] if isinstance(d, str)}
        groups = [(open_dims - leading) & {d for d in dims if isinstance(d, str)} for dims in self.inputs.values()]
        groups = [g for g in groups if g]
        if len(groups) <= MOST_LONE:
            for group in groups:
                if group != open_dims:
                    yield self._fill(known | dict.fromkeys(open_dims - group, 1), extent)

    def _others(self, known: dict[str, int]) -> Iterator[Extents]:
        nodes = sum(len(g.node) for g in ir.walk_graphs(self._model.graph))
        for extent in [*range(2, 513)][: SEARCHED_NODES // max(1, nodes)]:
            if extent not in EXTENTS:
                yield self._fill(known, extent)

    def _fill(self, known: dict[str, int], main: int) -> Extents:
        chosen = dict.fromkeys(self._signals, SIGNAL_EXTENT) if main == EXTENTS[0] else {}
        chosen = chosen | dict.fromkeys(self._batches, 1) | known

        def extent(dim: Dim) -> int:
            if isinstance(dim, int):
                return dim
            if dim in chosen:
                return chosen[dim]
            terms = [t.strip() for t in (dim or "").split("+")]
            if len(terms) > 1 and all(re.fullmatch(r"\w+", t) for t in terms):
                return sum(int(t) if t.isdecimal() else extent(t) for t in terms)
            return main

        return Extents({name: tuple(map(extent, dims)) for name, dims in self.inputs.items()}, main)

    def _fits(self, attempt: Extents, multiplications: int = MAX_MULTIPLICATIONS) -> bool:
        if sum(math.prod(dims) for dims in attempt.inputs.values()) > MAX_INPUTS:
            self.too_large = True
            return False
        found = shapes.infer(self._model, attempt.inputs)
        for one, other in _equal_dims(self._model, found):
            if isinstance(one, int) and isinstance(other, int) and one != other:
                return False
        price = shapes.cost(self._model, found)
        if price.values > MAX_BYTES or price.multiplications > multiplications:
            self.too_large = True
            return False
        return True

    def _solved(self, pairs: Sequence[tuple[Dim, Dim]]) -> dict[str, int]:
        """Extents of symbols that operators fix: channels of a convolution, the inner extent of a product."""
        known: dict[str, int] = {}
        for _ in range(len(self._symbols)):
            before = len(known)
            for one, other in pairs:
                for symbol, dim in ((one, other), (other, one)):
                    value = known.get(dim) if isinstance(dim, str) else dim
                    if symbol in self._symbols and isinstance(symbol, str) and value is not None:
                        known.setdefault(symbol, value)
            if len(known) == before:
                break
        return known


def _symbols(info: onnx.ValueInfoProto) -> Iterator[Dim]:
    """Extents of an input; axes without a symbol get one of their own."""
    for axis, dim in enumerate(info.type.tensor_type.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            yield int(dim.dim_value)
        else:
            yield f"{info.name}[{axis}]" if dim.dim_param in ANONYMOUS else dim.dim_param


def _equal_dims(model: onnx.ModelProto, found: dict[str, Value]) -> Iterator[tuple[Dim, Dim]]:
    """Pairs of extents that operators want equal."""
    for graph in ir.walk_graphs(model.graph):
        for node in graph.node:
            dims = [found[n].dims if n in found else None for n in node.input]
            yield from _of_node(node, [d or () for d in dims])


def _of_node(node: onnx.NodeProto, dims: list[tuple[Dim, ...]]) -> Iterator[tuple[Dim, Dim]]:
    def at(index: int, axis: int) -> Dim:
        given = dims[index] if index < len(dims) else ()
        return given[axis] if -len(given) <= axis < len(given) else None

    kind = node.op_type
    if kind == "Conv":
        channels, groups = at(1, 1), int(ir.attribute(node, "group", 1))
        yield at(0, 1), channels * groups if isinstance(channels, int) else None
    elif kind == "ConvTranspose":
        yield at(0, 1), at(1, 0)
    elif kind in ("MatMul", "MatMulInteger"):
        yield at(0, -1), at(1, -2 if len(dims) > 1 and len(dims[1]) > 1 else 0)
    elif kind == "Gemm":
        yield at(0, 0 if ir.attribute(node, "transA", 0) else 1), at(1, 1 if ir.attribute(node, "transB", 0) else 0)
    elif kind in ("BatchNormalization", "InstanceNormalization"):
        yield at(0, 1), at(1, 0)
    elif kind in ("LayerNormalization", "SimplifiedLayerNormalization"):
        yield at(0, -1), at(1, -1)
    elif kind == "Attention" and node.domain == "com.microsoft":
        yield at(0, -1), at(1, 0)
    elif kind in ("LSTM", "GRU", "RNN") and not ir.attribute(node, "layout", 0):
        yield at(0, 2), at(1, 2)
        for state in (5, 6):
            yield from ((at(state, 0), at(1, 0)), (at(state, 1), at(0, 1)), (at(state, 2), at(2, 2)))
    elif kind == "Concat" and dims and dims[0] and all(len(d) == len(dims[0]) for d in dims):
        joined = int(ir.attribute(node, "axis", 0)) % len(dims[0])
        for axis in range(len(dims[0])):
            yield from ((at(0, axis), at(i, axis)) for i in range(1, len(dims)) if axis != joined)


def _broadcast_dims(model: onnx.ModelProto, found: dict[str, Value]) -> Iterator[tuple[Dim, Dim]]:
    """Pairs of extents that broadcasting wants equal unless one is 1."""
    for graph in ir.walk_graphs(model.graph):
        for node in graph.node:
            if node.op_type in BROADCASTING:
                dims = [found[n].dims or () for n in node.input if n in found]
                for one, other in pairwise(dims):
                    yield from ((x, y) for x, y in zip(one[::-1], other[::-1], strict=False) if x != 1 and y != 1)
