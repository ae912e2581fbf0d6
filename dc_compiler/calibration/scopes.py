"""What the names in a model's graphs mean: weights or parts of them, another constant, or a value that is computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import numpy_helper

from dc_compiler import ir
from dc_compiler.calibration.bodies import Body, walk_bodies
from dc_compiler.calibration.moved import MOST, Part, can_move, move


@dataclass
class Scope:
    """One graph. A name means what this graph says, or what the one around it does.

    Attributes:
        parts: weights, and values made of nothing but elements of weights.
        constants: other stored tensors.
        values: inputs of the graph, and what its nodes compute.
    """

    body: Body
    outer: Scope | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    values: set[str] = field(default_factory=set)

    def home(self, name: str) -> Scope | None:
        """The graph that defines a name; None where none does."""
        scope: Scope | None = self
        while scope is not None and not (name in scope.parts or name in scope.constants or name in scope.values):
            scope = scope.outer
        return scope

    def part(self, name: str) -> Part | None:
        """The weights' elements that a value is made of, if it is."""
        home = self.home(name)
        return None if home is None else home.parts.get(name)

    def constant(self, name: str) -> onnx.TensorProto | None:
        """The tensor that a value is, if it is stored and no weight."""
        home = self.home(name)
        return None if home is None else home.constants.get(name)


def find_scopes(program: ir.Program) -> Iterator[Scope]:
    """Every graph of the program, in the order of ``ir.walk_graphs``."""
    weights = {
        (id(s.graph), s.value_name): r for r, s in zip(program.records, program.sites, strict=True) if not r.is_vector
    }
    stored: dict[int, list[ir.Site]] = {}
    for site in ir.weight_sites(program.proto.graph):
        stored.setdefault(id(site.graph), []).append(site)
    opsets = list(program.proto.opset_import)
    scopes: dict[int, Scope] = {}
    budget = MOST
    for body in walk_bodies(program.proto.graph):
        scope = Scope(body, None if body.outer is None else scopes[id(body.outer.graph)])
        scopes[id(body.graph)] = scope
        for site in stored.get(id(body.graph), ()):
            record = weights.get((id(body.graph), site.value_name))
            if record is not None:
                scope.parts[site.value_name] = Part((record,), record.elem_type)
            elif site.tensor is not None:
                scope.constants[site.value_name] = site.tensor
        scope.values |= {i.name for i in body.graph.input} - scope.parts.keys() - scope.constants.keys()
        for node in body.graph.node:
            scope.constants |= _numbers(node)
            made = _moved(scope, node, opsets, budget)
            budget -= sum(p.numbers.size for p in made.values() if p.numbers is not None)
            scope.parts |= made
            scope.values |= {o for o in node.output if o} - scope.parts.keys() - scope.constants.keys()
        yield scope


def _moved(scope: Scope, node: onnx.NodeProto, opsets: list[onnx.OperatorSetIdProto], budget: int) -> dict[str, Part]:
    """What a node makes of parts, if it only moves elements."""
    parts = {name: part for name in node.input if name and (part := scope.part(name)) is not None}
    if node.op_type == "DequantizeLinear":
        return _dequantized(scope, node, parts)
    if not parts or not can_move(node):
        return {}
    constants = {name: t for name in node.input if name and (t := scope.constant(name)) is not None}
    if len(parts) + len(constants) < len({name for name in node.input if name}):
        return {}
    return move(node, parts, {name: numpy_helper.to_array(t) for name, t in constants.items()}, opsets, budget)


def _dequantized(scope: Scope, node: onnx.NodeProto, parts: dict[str, Part]) -> dict[str, Part]:
    """What a node makes of a table of integers, where scales are those of outputs: a weight's errors then count alike
    for all that it is multiplied with."""
    part, scale = parts.get(node.input[0]), scope.constant(node.input[1])
    if part is None or scale is None or part.numbers is not None:
        return {}
    (record,) = part.records
    extents = tuple(e for e in scale.dims if e > 1)
    axis = int(ir.attribute(node, "axis", 1)) % max(1, len(part.shape))
    layout = (part.shape[axis], int(np.prod(part.shape[axis + 1 :])))
    is_by_output = extents == part.shape[axis : axis + 1] and layout == ir.channel_layout(record.shape, record.uses)
    if extents and not is_by_output:
        return {}
    return {node.output[0]: replace(part, elem_type=scale.data_type)}


def _numbers(node: onnx.NodeProto) -> dict[str, onnx.TensorProto]:
    """What a Constant node holds that is no tensor to be stored elsewhere: integers."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return {}
    found = ir.attribute(node, "value_ints", ir.attribute(node, "value_int", None))
    return {} if found is None else {node.output[0]: numpy_helper.from_array(np.array(found, np.int64))}
