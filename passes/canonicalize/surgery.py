"""A program's graph on onnx-graphsurgeon's table: links between nodes while it changes, and the way back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper
from onnx_graphsurgeon.logger import G_LOGGER

from dc_compiler import ir

DOMAINS = (None, "", "ai.onnx")  # of ONNX's own operators


class Surgery:
    """A scratch copy of the main graph and its bodies, in which nodes know each other, with the program's records.

    ``graph`` is changed with onnx-graphsurgeon's means: inputs and outputs of nodes. :meth:`finish` writes what has
    changed back into the program's message, which keeps all that onnx-graphsurgeon does not carry: functions, metadata,
    documentation, annotations. Nodes of bodies get other inputs at most.

    Raises:
        Exception: onnx-graphsurgeon does not take the graph in; nothing has changed.
    """

    def __init__(self, program: ir.Program) -> None:
        self.program = program
        main = program.proto.graph
        severity, G_LOGGER.severity = G_LOGGER.severity, G_LOGGER.CRITICAL
        try:
            self.graph = gs.import_onnx(onnx.ModelProto(graph=main, opset_import=program.proto.opset_import))
        finally:
            G_LOGGER.severity = severity
        self._messages = {id(node): message for node, message in _pairs(self.graph, main)}
        self._nodes = list(self.graph.nodes)  # in the order of the message; keeps them alive
        self._records = {
            s.value_name: r for r, s in zip(program.records, program.sites, strict=True) if s.graph is main
        }
        self._stored = {s.value_name: s for s in ir.weight_sites(main) if s.graph is main}
        bodies = [g for g in ir.walk_graphs(main) if g is not main]
        self.hidden = {name for g in bodies for name in ir.defined(g)}  # names that mean something else in a body
        # onnx-graphsurgeon takes these for values of the body
        self._captured = {o.name for g in bodies for o in g.output} - self.hidden
        self.inputs = {v.name for v in main.input}
        self.outputs = {v.name for v in main.output}
        annotated = {a.tensor_name for a in main.quantization_annotation}
        annotated |= {p.value for a in main.quantization_annotation for p in a.quant_parameter_tensor_names}
        self.fixed = self.hidden | self._captured | self.inputs | self.outputs | annotated  # someone else knows these

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return next((o.version for o in self.program.proto.opset_import if o.domain in DOMAINS), 1)

    def nodes(self, op: str | None = None) -> Iterator[gs.Node]:
        """Nodes of the main graph that are still in it, in order; those of one operator only."""
        return (n for n in self._nodes if n.outputs and op in (None, n.op))

    def message(self, node: gs.Node) -> onnx.NodeProto:
        """The node as it was imported."""
        return self._messages[id(node)]

    def record(self, tensor: gs.Tensor) -> ir.WeightRecord | None:
        """The record of a stored tensor that a pass may change, or None."""
        record, site = self._records.get(tensor.name), self._stored.get(tensor.name)
        if record is None or site is None or tensor.name in self.fixed:
            return None
        is_tensor = site.node is None or site.node.attribute[0].name == "value"  # not a list of numbers
        return record if is_tensor and (record.reason is None or record.trainable) else None

    def constant(self, tensor: gs.Tensor) -> np.ndarray | None:
        """The value of a tensor that is stored in the main graph for good, or None."""
        site = self._stored.get(tensor.name)
        if site is None or site.tensor is None or tensor.name in self.fixed:
            return None
        record = self._records.get(tensor.name)
        if record is not None:
            is_free = not ir.is_compressible(record.elem_type) or self.record(tensor) is not None
            return record.values if is_free else None
        return None if site.tensor.data_type == onnx.TensorProto.STRING else numpy_helper.to_array(site.tensor)

    def is_used_once(self, tensor: gs.Tensor) -> bool:
        """Whether one input of one node takes the tensor, and nothing else."""
        return len(tensor.outputs) == 1 and tensor.name not in self.fixed

    def bypass(self, node: gs.Node, value: gs.Tensor) -> None:
        """Let everything that takes the node's output take ``value`` instead."""
        self.move_consumers(node.outputs[0], value)
        self.detach(node)

    def move_consumers(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """Let everything that takes ``old`` take ``new``."""
        for consumer in {id(c): c for c in old.outputs}.values():
            for i, taken in enumerate(consumer.inputs):
                if taken is old:
                    consumer.inputs[i] = new

    def take_place(self, node: gs.Node, other: gs.Node, inputs: list[gs.Tensor]) -> None:
        """Let ``node`` become ``other``, which feeds it alone, with these inputs; all of them exist at its place."""
        outputs = list(node.outputs)
        self.detach(node)
        node.op, node.name, node.domain, node.attrs = other.op, other.name, other.domain, other.attrs
        self.message(node).CopyFrom(self.message(other))
        self.detach(other)
        node.inputs.extend(inputs)
        node.outputs.extend(outputs)

    def detach(self, node: gs.Node) -> None:
        """Take a node out, whose outputs nothing needs any more."""
        node.inputs.clear()
        node.outputs.clear()

    def replace(self, record: ir.WeightRecord, values: np.ndarray) -> None:
        """Give a record other values that mean the same to the model: no noise, and no way back."""
        record.values = values
        record.signal, record.noise, record.original = None, 0.0, None

    def store(self, tensor: gs.Tensor, values: np.ndarray) -> None:
        """Store a tensor that a node computed so far."""
        main = self.program.proto.graph
        main.initializer.append(numpy_helper.from_array(values, tensor.name))
        site = self._stored[tensor.name] = ir.InitializerSite(main, main.initializer[-1], None)
        for producer in list(tensor.inputs):
            self.detach(producer)
        elem_type = main.initializer[-1].data_type
        if ir.is_compressible(elem_type):
            record = ir.WeightRecord(tensor.name, values, elem_type, reason="made of constants that are left alone")
            record.trainable = bool(np.isfinite(values).all())
            self._records[tensor.name] = record
            self.program.records.append(record)
            self.program.sites.append(site)

    def finish(self) -> int:
        """Remove what nothing uses and write everything back; returns how many nodes were dead."""
        program, main = self.program, self.program.proto.graph
        alive = [n for n in self._nodes if n.outputs]
        tensors = self.graph.tensors() if self._captured else {}
        outputs = list(self.graph.outputs)
        self.graph.nodes = alive
        self.graph.outputs = outputs + [tensors[name] for name in sorted(self._captured) if name in tensors]
        self.graph.cleanup(recurse_subgraphs=False, recurse_functions=False)
        self.graph.outputs = outputs
        kept = {id(n) for n in self.graph.nodes}
        for number in reversed(range(len(self._nodes))):
            node = self._nodes[number]
            if id(node) not in kept:
                del main.node[number]  # in place: sites refer to what stays
        for node, message in _pairs(self.graph, main):
            _write(node, message)
        used = {name for g in ir.walk_graphs(main) for n in g.node for name in n.input} | self.fixed
        for i in reversed(range(len(main.initializer))):
            if main.initializer[i].name not in used:
                del main.initializer[i]
        self._rebind(program)
        drop_declarations(main)
        return len(alive) - len(kept)

    def _rebind(self, program: ir.Program) -> None:
        """Put the records that are left in the order of their places, and tell them their shapes and uses."""
        main = program.proto.graph
        sites = [*ir.weight_sites(main), *ir.attribute_sites(main, 1)]
        order = {(id(s.graph), s.value_name): i for i, s in enumerate(sites)}
        placed = [
            (order[key], record, site)
            for record, site in zip(program.records, program.sites, strict=True)
            if (key := (id(site.graph), site.value_name)) in order
        ]
        placed.sort(key=lambda p: p[0])
        program.records = [record for _, record, _ in placed]
        program.sites = [site for _, _, site in placed]
        uses = ir.find_uses(main, {site.value_name for _, _, site in placed})
        tables = {site.value_name for _, record, site in placed if record.quantized is not None}
        as_floats = ir.uses_as_floats(program.proto, tables)
        for _, record, site in placed:
            found = uses.get(site.value_name, [])
            record.uses, record.tied = (*found, *as_floats.get(site.value_name, ())), max(1, len(found))
            if site.tensor is not None and tuple(site.tensor.dims) != record.shape:
                site.tensor.dims[:] = record.shape
                if any(len(getattr(site.tensor, f)) for f in ("raw_data", "float_data", "int32_data", "double_data")):
                    site.write(record.values)


def drop_declarations(graph: onnx.GraphProto) -> None:
    """Remove declared types of values that are gone, and of stored tensors, which tell themselves what they are."""
    made = {name for n in graph.node for name in n.output}
    extents = {t.name: list(t.dims) for t in graph.initializer}
    for i in reversed(range(len(graph.value_info))):
        value = graph.value_info[i]
        says_more = bool(value.doc_string or value.metadata_props)
        declared = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.name not in made and not (says_more and extents.get(value.name) == declared):
            del graph.value_info[i]


def _pairs(graph: gs.Graph, message: onnx.GraphProto) -> Iterator[tuple[gs.Node, onnx.NodeProto]]:
    """Every node of the graph and its bodies with its message."""
    for node, node_message in zip(graph.nodes, message.node, strict=True):
        yield node, node_message
        for body, body_message in zip(node.subgraphs(), ir.subgraphs(node_message), strict=True):
            yield from _pairs(body, body_message)


def _write(node: gs.Node, message: onnx.NodeProto) -> None:
    """Make the message say what the node has become."""
    for mine, field in ((node.inputs, message.input), (node.outputs, message.output)):
        names = [t.name for t in mine]
        if names != list(field):
            field[:] = names
    if node.op != message.op_type:
        message.op_type = node.op
        del message.attribute[:]
