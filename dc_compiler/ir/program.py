"""Program, the object that travels through the passes: a graph skeleton and one record per stored tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from dc_compiler.ir.ranges import Range
from dc_compiler.ir.record import WeightRecord
from dc_compiler.ir.site import Site, attribute_sites, weight_sites


def _all_sites(proto: onnx.ModelProto) -> Iterator[Site]:
    """Every place that can hold a record, in a fixed order."""
    yield from weight_sites(proto.graph)
    yield from attribute_sites(proto.graph, 1)


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
    named: frozenset[str] = frozenset()  # weights because the user gave them options of their own by name
    ranges: dict[str, Range] = field(default_factory=dict)  # of values that are rounded where layers run in int8
    pruned: dict[str, np.ndarray] = field(default_factory=dict)  # excerpts of weights before they were clustered
    is_terse: bool = False  # the file shall tell nothing that running it does not need

    def eligible(self) -> list[WeightRecord]:
        """Records that may be packed."""
        return [r for r in self.records if r.reason is None]

    def weights(self) -> list[WeightRecord]:
        """Records whose values may be changed: eligible, not vectors, and not to stay exact."""
        return [r for r in self.eligible() if not r.is_vector and r.exact is None]

    def copy(self) -> Program:
        """Another program that can change on its own; arrays are shared, which no one changes in place."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        places = {(type(s), id(s.graph), s.value_name): i for i, s in enumerate(_all_sites(self.proto))}
        sites = list(_all_sites(proto))
        return replace(
            self,
            proto=proto,
            records=[replace(r) for r in self.records],
            sites=[sites[places[type(s), id(s.graph), s.value_name]] for s in self.sites],
            notes=list(self.notes),
            rounding=list(self.rounding),
        )

    def signature(self, *, shapes: bool = True, weights: bool = True) -> bytes:
        """Inputs and outputs of the model, and with ``weights`` type and (with ``shapes``) shape of these, to tell
        changes."""
        names = {t.name for t in self.proto.graph.initializer}
        inputs = [i for i in self.proto.graph.input if i.name not in names]
        records = [r for r in self.records if r.coder is None] if weights else []
        stored = [helper.make_tensor_value_info(r.name, r.elem_type, r.shape if shapes else None) for r in records]
        types = [r.dtype_name for r in records]
        graph = onnx.GraphProto(input=inputs, output=self.proto.graph.output, value_info=stored, doc_string=str(types))
        return bytes(graph.SerializeToString(deterministic=True))
