"""Statistics of weights in the order in which a program uses them, with those before already changed.

A weight then sees its inputs as they will be, and how they differ from the original's, so that it can make up for what
the changes before it have done (as in Qronos, Zhang et al., arXiv 2505.11695).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.grams import Gram, Total, added, assembled, name_states, share_of_a_batch, sources_of
from dc_compiler.calibration.pieces import Flow, Pieces
from dc_compiler.calibration.products import Product, find_products
from dc_compiler.errors import ModelError
from dc_compiler.ort.samples import Samples
from dc_compiler.pipeline.threads import one_blas_thread

Array = np.ndarray
MOST_WORK = 1 << 22  # nodes times stages: each stage looks at the whole graph


@dataclass(frozen=True)
class Stage:
    """Weights of which none is used behind another one, and the number of the first node of the main graph that uses
    one."""

    position: int
    names: tuple[str, ...]


class Order:
    """The weights called ``names`` of a program that is being changed, stage by stage.

    Those that bodies use are left out, and those whose products are not known.

    Args:
        program: as the original is now; its weights may be changed, those of a stage when its statistics were taken.
        rows: the samples that statistics are taken of.

    Attributes:
        stages: in the order in which statistics are to be taken.

    Raises:
        ModelError: the program does not run on the samples in pieces, or has too many.
    """

    def __init__(self, program: ir.Program, samples: Samples, rows: Array, names: Collection[str]) -> None:
        self._program, self._samples, self._rows = program, samples, rows
        self._original, self._changed = program.copy(), program.copy()
        for copy in (self._original, self._changed):
            name_states(copy)
        found = find_products(self._original)
        self._products = {
            n: p for n, p in found.items() if n in names and all(product.source.graph == 0 for product in p)
        }
        self._pieces = Pieces(self._original, self._changed, samples, rows)
        self.stages = list(_stages(self._original, self._pieces.flow, self._products))
        nodes = len(self._pieces.flow.nodes)
        if nodes * len(self.stages) > MOST_WORK:
            what = f"{len(self.stages):,} pieces of a graph of {nodes:,} nodes"
            raise ModelError(f"{program.label}: {what} would take too long; leave sequential=true out")

    def grams(self, stage: Stage) -> dict[str, list[Gram]]:
        """Gram matrices of the inputs of a stage's weights, with their lag, by the record's name."""
        for copy, record in zip(self._changed.records, self._program.records, strict=True):
            copy.values = record.values
        self._pieces.advance(stage.position)
        products = {name: self._products[name] for name in stage.names}
        sources = sources_of(products)
        share = share_of_a_batch(self._samples, self._rows)
        totals: dict[tuple[int, str], list[Total]] = {}
        for batch in self._pieces.pairs([value for _, value in sources]):

            def reduced(
                key: tuple[int, str], batch: Mapping[str, tuple[Array, Array]] = batch,
                so_far: Mapping[tuple[int, str], list[Total]] = totals,
            ) -> list[Total]:  # fmt: skip
                before, now = batch[key[1]]
                if before.shape != now.shape:
                    raise ModelError(f"{self._program.label}: the shape of '{key[1]}' depends on weights")
                return added(so_far.get(key), sources[key], share, now, before)

            with one_blas_thread():
                totals = dict(zip(sources, self._samples.pool.map(reduced, sources), strict=True))
        return assembled(products, totals, self._program)


def _stages(program: ir.Program, flow: Flow, products: Mapping[str, list[Product]]) -> Iterator[Stage]:
    """Weights that have products, in the order of the nodes that use them first."""
    graph = program.proto.graph
    made_of = {
        s.value_name: {r.name}
        for r, s in zip(program.records, program.sites, strict=True)
        if s.graph is graph and r.name in products
    }
    waiting = set(products)
    position, names = 0, list[str]()
    behind: set[str] = set()  # values that the stage's weights have a part in
    for number, node in enumerate(flow.nodes):
        used = set().union(*(made_of[name] for name in flow.reads[number] if name in made_of))
        if not any(o in flow.made for o in node.output):  # it moves weights
            made_of |= {o: used for o in node.output if used}
            continue
        new = sorted(used & waiting)
        is_behind = not behind.isdisjoint(flow.reads[number])
        if new and is_behind:
            yield Stage(position, tuple(names))
            names, behind, is_behind = [], set(), False
        if new:
            position = position if names else number
            names += new
            waiting -= used
        if new or is_behind or not used.isdisjoint(names):
            behind |= set(node.output)
    if names:
        yield Stage(position, tuple(names))
