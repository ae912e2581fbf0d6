"""slim: takes out of the graph what running it does not need: descriptions, internal names, default attributes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx
from onnx import defs, helper

from dc_compiler import ir
from dc_compiler.pass_manager import Context, Pass, PassReport

# What the operators' texts say an absent list of these means for every axis, though their definitions have no default
_IMPLIED = {"pads": 0, "strides": 1, "dilations": 1}
_WINDOWED = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Slim(Pass):
    """Make the topology smaller; for models so small that it counts.

    Drops node names, doc strings, metadata of the graph and its nodes, the producer, declared shapes of internal
    values, attributes that have their default value, and from the compiled file the pipeline and the seed; gives the
    graph, internal values and payloads short
    names. Inputs, outputs, weights, the model's own metadata, and everything in bodies and functions keep their names.
    """

    name: ClassVar[str] = "slim"

    def run(self, program: ir.Program, context: Context) -> PassReport:
        proto, graph = program.proto, program.proto.graph
        before = proto.ByteSize()
        for model_field in ("producer_name", "producer_version"):
            proto.ClearField(model_field)
        del graph.value_info[:]
        graph.name = "g"
        graph.ClearField("metadata_props")
        program.is_terse = True
        versions = {o.domain: o.version for o in proto.opset_import}
        for node in graph.node:
            node.ClearField("name")
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
            _drop_defaults(node, versions.get(node.domain))
        if not any(True for node in graph.node for _ in ir.subgraphs(node)):  # bodies refer to values by name
            _shorten_names(program)
        return PassReport(self.name, 0, facts={"bytes saved": before - proto.ByteSize()})


def _drop_defaults(node: onnx.NodeProto, version: int | None) -> None:
    """Remove attributes whose value is the default of the operator's definition."""
    if version is None or not defs.has(node.op_type, version, node.domain):
        return
    schema = defs.get_schema(node.op_type, max_inclusive_version=version, domain=node.domain)
    defaults = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}
    for i in reversed(range(len(node.attribute))):  # in place: what stays may hold tensors that sites refer to
        if _goes_without_saying(node, node.attribute[i], defaults.get(node.attribute[i].name)):
            del node.attribute[i]


def _goes_without_saying(
    node: onnx.NodeProto, attribute: onnx.AttributeProto, default: onnx.AttributeProto | None
) -> bool:
    value = helper.get_attribute_value(attribute)
    if node.op_type in _WINDOWED and attribute.name in _IMPLIED:
        return set(value) == {_IMPLIED[attribute.name]}
    if node.op_type == "Conv" and attribute.name == "kernel_shape":
        return True  # the weight's shape tells it
    return default is not None and bool(value == helper.get_attribute_value(default))


def _shorten_names(program: ir.Program) -> None:
    graph = program.proto.graph
    fixed = {v.name for v in (*graph.input, *graph.output)} | {t.name for t in graph.initializer}
    fixed |= {site.value_name for site in program.sites} | {""}
    fixed |= {t.values.name for t in graph.sparse_initializer}
    fresh = (name for name in _names() if name not in fixed)
    short: dict[str, str] = {}
    for node in graph.node:
        for field in (node.input, node.output):
            for i, value in enumerate(field):
                if value not in fixed:
                    if value not in short:
                        short[value] = next(fresh)
                    field[i] = short[value]


def _names() -> Iterator[str]:
    """a, b, ..., z, aa, ab, ..."""
    yield from _LETTERS
    for start in _names():
        for letter in _LETTERS:
            yield start + letter
