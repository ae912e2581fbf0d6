"""Runs a program and the original side by side over samples, in pieces, while the weights of what lies ahead change.

What the nodes ahead need of what was computed is kept for every batch, so that every node runs about once however many
pieces there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import helper

from dc_compiler import ir
from dc_compiler.errors import ModelError
from dc_compiler.model.opened import weights_apart
from dc_compiler.ort.activations import in_order
from dc_compiler.ort.samples import Samples
from dc_compiler.ort.sessions import short

Array = np.ndarray
T = TypeVar("T")
Values = dict[str, Array]
SHARE = 32  # samples a run, several of which are done at a time
MOST_BYTES = 1 << 30  # of values that are kept of both programs


@dataclass(frozen=True)
class Flow:
    """Which values of a program's main graph depend on its inputs, where they are made, and where they are read last.

    Attributes:
        nodes: those of the main graph. reads: the names that each reads, those read inside its bodies included.
        made: numbers of the nodes that make the values, -1 for inputs. last: of the last nodes that read them.
    """

    nodes: Sequence[onnx.NodeProto]
    reads: Sequence[frozenset[str]]
    made: Mapping[str, int]
    last: Mapping[str, int]

    @staticmethod
    def of(graph: onnx.GraphProto) -> Flow:
        """That of a main graph."""
        stored = {t.name for t in graph.initializer}
        made = {i.name: -1 for i in graph.input if i.name not in stored}
        last: dict[str, int] = {}
        reads = [_read(node) for node in graph.node]
        for number, (node, names) in enumerate(zip(graph.node, reads, strict=True)):
            if made.keys() & names or (not names and node.op_type != "Constant"):  # the latter: random numbers
                made |= {o: number for o in node.output if o}
            last |= {name: number for name in names}
        return Flow(graph.node, reads, made, last)

    def live(self, position: int) -> list[str]:
        """Values that were made before the node of this number, and that this one or a later one reads."""
        return [name for name, at in self.made.items() if at < position <= self.last.get(name, -1)]

    def needed(self, wanted: Collection[str], known: Collection[str]) -> tuple[list[int], set[str]]:
        """The nodes that make what is wanted of what is known and of stored tensors, and all names that take part."""
        names, found = set(wanted), []
        for number in range(len(self.nodes) - 1, -1, -1):
            made = [o for o in self.nodes[number].output if o in names and o not in known]
            if made:
                found.append(number)
                names |= self.reads[number]
        return found[::-1], names


class Pieces:
    """The original and a program that is made of it, run up to a node of the main graph over some samples.

    Args:
        program: its weights may change, but not those of nodes that were run.
        rows: the samples. Where what is kept of them would take more than ``MOST_BYTES``, the last batches are left
            out from there on.

    Raises:
        ModelError: a program does not run on the samples.
    """

    def __init__(self, original: ir.Program, program: ir.Program, samples: Samples, rows: Array) -> None:
        self._programs, self._samples = (original, program), samples
        self.flow = Flow.of(program.proto.graph)
        self._position = 0
        size = samples.fixed_batch or SHARE
        inputs = set(self.flow.live(0))
        self._kept: list[tuple[Values, ...]] = [
            tuple({n: a for n, a in feed.items() if n in inputs} for _ in self._programs)
            for feed in samples.batches(rows, size)
        ]

    def advance(self, position: int) -> None:
        """Run all nodes before the one of this number that later ones need, with the weights that they have now."""
        if position == self._position:
            return
        before, self._kept = deque(self._kept), []
        kept: list[tuple[Values, ...]] = []
        total = 0
        for batch in self._runs(self.flow.live(position), before[0][0], _drained(before)):
            total += sum(array.nbytes for values in batch for array in values.values())
            if kept and total > MOST_BYTES:
                break
            kept.append(batch)
        self._kept, self._position = kept, position

    def pairs(self, wanted: Sequence[str]) -> Iterator[dict[str, tuple[Array, Array]]]:
        """What the original and the program have for values, batch by batch; such as were not run yet are computed with
        the weights as they are now."""
        for one, other in self._runs(wanted, self._kept[0][0], self._kept):
            yield {name: (one[name], other[name]) for name in wanted}

    def _runs(
        self, wanted: Sequence[str], known: Values, batches: Iterable[tuple[Values, ...]]
    ) -> Iterator[tuple[Values, ...]]:
        """What the programs have for values, in batches of which both know the same: such as ``known``."""
        missing = [name for name in wanted if name not in known]
        sessions = [self._session(program, missing, known) for program in self._programs] if missing else []

        def run(batch: tuple[Values, ...]) -> tuple[Values, ...]:
            found = [{name: values[name] for name in wanted if name in known} for values in batch]
            for values, own, (session, needed) in zip(batch, found, sessions, strict=False):
                try:
                    made = session.run(missing, {name: values[name] for name in needed})
                except Exception as e:  # onnxruntime's exceptions share no base class
                    raise ModelError(f"{self._programs[1].label} does not run on the samples: {short(e)}") from None
                own |= zip(missing, made, strict=True)
                if not all(isinstance(a, np.ndarray) for a in made):
                    what = "cannot be run in pieces, as not all values are tensors; leave sequential=true out"
                    raise ModelError(f"{self._programs[1].label} {what}")
            return tuple(found)

        return in_order(self._samples, run, batches)

    def _session(self, program: ir.Program, wanted: Sequence[str], known: Values) -> tuple[Any, list[str]]:
        """A session of the nodes that make what is wanted of known values, and which of these they read."""
        model, apart = weights_apart(program)
        numbers, names = self.flow.needed(wanted, known)
        inputs = {name: array for name, array in known.items() if name in names}
        _cut(model.graph, numbers, names, inputs, wanted)
        stored = {t.name for t in model.graph.initializer}
        return self._samples.sessions.open(model, 1, apart={n: a for n, a in apart.items() if n in stored}), [*inputs]


def _drained(batches: deque[T]) -> Iterator[T]:
    """All of them, each let go as it is taken."""
    while batches:
        yield batches.popleft()


def _cut(
    graph: onnx.GraphProto, numbers: Sequence[int], names: Collection[str], inputs: Values, wanted: Sequence[str]
) -> None:
    """Leave these nodes, and stored tensors with these names."""
    nodes = [onnx.NodeProto.FromString(graph.node[n].SerializeToString()) for n in numbers]
    stored = [t for t in graph.initializer if t.name in names]
    sparse = [t for t in graph.sparse_initializer if t.values.name in names]
    given = [helper.make_tensor_value_info(name, _type(a), [None] * a.ndim) for name, a in inputs.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in wanted]  # onnxruntime infers the type
    for field, items in (
        (graph.node, nodes), (graph.initializer, stored), (graph.sparse_initializer, sparse), (graph.input, given),
        (graph.output, outputs), (graph.value_info, []),
    ):  # fmt: skip
        del field[:]
        field.extend(items)


def _type(array: Array) -> int:
    return onnx.TensorProto.STRING if array.dtype.kind in "OSU" else helper.np_dtype_to_tensor_dtype(array.dtype)


def _read(node: onnx.NodeProto) -> frozenset[str]:
    """Names that a node reads, or that its bodies may read of the graphs around them."""
    inner = (name for sub in ir.subgraphs(node) for g in ir.walk_graphs(sub) for n in g.node for name in n.input)
    outputs = (o.name for sub in ir.subgraphs(node) for g in ir.walk_graphs(sub) for o in g.output)
    return frozenset(name for name in (*node.input, *inner, *outputs) if name)
