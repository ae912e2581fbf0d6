"""Writes a finished Program as an ONNX model in session or graph form (FORMAT.md section 9)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from dc_compiler import ir
from dc_compiler.codec import binding, load_time
from dc_compiler.model import int8, packed, sparse
from dc_compiler.model.importer import DOMAIN
from dc_compiler.model.names import default_opset, defined_names, unused_name
from dc_compiler.nibbles import shares_bytes
from dc_compiler.recipe import Form

SHORT_METADATA = 1024  # bytes of a graph's own metadata that a compiled model shows; names of an exporter can be many
POOL_MIN_SIZE = 16  # elements of a tensor worth an entry in the list of weights
MOST_BYTE_BUFFERS = 255  # of elements of a byte that have different fill values
NEEDED = frozenset({"version", "original_bytes"})  # provenance that every file has


@dataclass(frozen=True)
class PlacedWeight:
    """A packed weight that is a value of the main graph: its name there and its record."""

    name: str
    record: ir.WeightRecord

    def frame(self) -> bytes:
        assert self.record.frame is not None
        return self.record.frame


def session_obstacle(program: ir.Program) -> str | None:
    """Why a custom operator cannot carry the model's inputs or outputs, or None.

    Sequences, maps, optionals, strings and 4- or 8-bit floats do not pass through custom operators.
    """
    graph = program.proto.graph
    names = Counter([*{i.name for i in graph.input}, *(o.name for o in graph.output)])
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        return f"output '{twice[0]}' is also an input or another output"
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            case = value.type.WhichOneof("value")
            if case != "tensor_type":
                return f"{kind} '{value.name}' is a {case.removesuffix('_type') if case else 'value without a type'}"
            elem_type = value.type.tensor_type.elem_type
            known = ir.find_element_type(elem_type)
            if known is None or not known.carried:
                type_names = {number: name.lower() for name, number in TensorProto.DataType.items()}
                return f"{kind} '{value.name}' has element type {type_names.get(elem_type, elem_type)}"
    return None


def keep_constants(program: ir.Program) -> None:
    """Leave alone what the graph form cannot hand to operators: elements that share bytes, which custom operators do
    not carry, and what operators on quantized values want as constants beside their weights (scales, zero points)."""
    for record in program.records:
        if record.frame is None:
            continue
        is_weight = record.quantized is not None and record.quantized.is_weight
        if shares_bytes(record.values.dtype):
            record.leave_alone("the graph form carries no elements of 4 bits")
        elif not is_weight and any(u.input_index > 0 and ir.is_on_quantized(u.op_type) for u in record.uses):
            record.leave_alone("part of a quantized layer, which takes it as a constant")


def emit(program: ir.Program, form: Form, provenance: Mapping[str, str]) -> onnx.ModelProto:
    """Build the output model. The program's graph is consumed.

    Args:
        provenance: written to ``metadata_props`` under ``dcc.*`` keys; of a terse program only ``NEEDED``.

    Returns:
        A model that needs the dcc library if any weight is packed.
    """
    placed = _place_weights(program, form)
    model = _session_form(program, placed) if form == "session" else _graph_form(program, placed)
    _remove_where(model.metadata_props, lambda p: p.key.startswith(f"{DOMAIN}."))  # of an earlier time
    for key, value in provenance.items():
        if key in NEEDED or not program.is_terse:
            model.metadata_props.add(key=f"{DOMAIN}.{key}", value=value)
    return model


def _place_weights(program: ir.Program, form: Form) -> list[PlacedWeight]:
    """Take packed tensors out of their sites, hoisting them to the main graph; give the others their data back.

    In the graph form nothing can make a node's attributes.
    """
    names = Counter(defined_names(program.proto.graph))
    placed = []
    emptied: list[ir.Site] = []
    moved: dict[int, tuple[str, list[str]]] = {}  # by body: its name and those of its weights
    for record, site in zip(program.records, program.sites, strict=True):
        if isinstance(site, ir.EnsembleSite):
            if record.frame is not None and form == "session":
                name = unused_name(site.value_name, names)
                site.replace_by(name)
                placed.append(PlacedWeight(name, record))
            continue
        if record.frame is None:
            if record.is_packable:
                site.write(record.values)
            continue
        name = site.value_name
        if site.graph is not program.proto.graph and names[name] > 1:
            name = unused_name(name, names)
            _rename(site.graph, site.value_name, name)
        if site.graph is not program.proto.graph:
            moved.setdefault(id(site.graph), (site.graph.name, []))[1].append(name)
        emptied.append(site)
        placed.append(PlacedWeight(name, record))
    program.rounding += [_moved_note(body, found) for body, found in moved.values()]
    ir.remove_sites(emptied)
    packed_names = {p.name for p in placed}
    listed = [i.name for i in program.proto.graph.input if i.name in packed_names]
    program.rounding += [f"{name}: no longer an input that can be overridden" for name in listed]
    _remove_where(program.proto.graph.input, lambda i: i.name in packed_names)
    return placed


def _moved_note(body: str, names: Sequence[str]) -> str:
    """One line a body, however many weights it had."""
    if len(names) == 1:
        return f"{names[0]}: moved out of the body '{body}' it was stored in"
    return f"{names[0]} and {len(names) - 1} more: moved out of the body '{body}' they were stored in"


def _graph_form(program: ir.Program, placed: list[PlacedWeight]) -> onnx.ModelProto:
    """The model's own graph with one DecodeWeights or DecodeInt8 node a packed weight."""
    model = onnx.ModelProto()
    model.CopyFrom(program.proto)
    graph = model.graph
    if not placed:
        return model
    model.ir_version = max(model.ir_version, 4)
    model.opset_import.add(domain=DOMAIN, version=1)
    names = Counter([*defined_names(graph), *(w.name for w in placed)])
    described = {v.name for v in [*graph.value_info, *graph.output]}
    producers: list[onnx.NodeProto] = []
    opset = default_opset(model)
    scales = _scales(placed, names)
    if scales:
        int8.run_in_int8(model, scales, {}, names)
    for number, weight in enumerate(placed):
        payload = unused_name(f"{weight.name}.{DOMAIN}", names)
        graph.initializer.append(_payload(payload, weight.frame()))
        inputs = [payload]
        dtype = np.dtype(np.int8) if weight.name in scales else weight.record.values.dtype
        buffer = _buffer_nodes(weight.record, dtype, f"{payload}.buffer", number, opset, graph)
        if buffer:
            producers += buffer
            inputs.append(buffer[-1].output[0])
        weights = _entry(weight, scales.get(weight.name))
        operator = "DecodeWeights" if len(weights) == 1 else "DecodeInt8"
        outputs = [w.name for w in weights]
        producers.append(helper.make_node(operator, inputs, outputs, name=f"{payload}.decode", domain=DOMAIN))
        graph.value_info.extend(
            helper.make_tensor_value_info(w.name, w.elem_type, w.dims) for w in weights if w.name not in described
        )
    nodes = [*producers, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _buffer_nodes(
    record: ir.WeightRecord, dtype: np.dtype[Any], name: str, number: int, opset: int, graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """Nodes that onnxruntime folds into one real buffer of the weight's type and shape; empty when it cannot.

    Buffers of one type and shape get different fill values: equal nodes would be merged into one buffer. Which operator
    makes the buffer depends on the operator set and the element type.
    """
    is_byte = dtype.itemsize == 1
    if opset < 7 or ((is_byte or record.elem_type != TensorProto.FLOAT) and opset < 9):
        return []
    if is_byte and (number >= MOST_BYTE_BUFFERS or dtype.kind not in "iu"):
        return []
    if record.elem_type == TensorProto.BFLOAT16 and opset < 13:
        return []
    is_bfloat = record.elem_type == TensorProto.BFLOAT16
    dtype = np.dtype(np.float32) if is_bfloat else dtype
    fill = onnx.numpy_helper.from_array(np.array([number + 1], f"u{dtype.itemsize}").view(dtype), f"{name}.fill")
    if is_bfloat:  # a small integer, so that the values stay different after the cast
        fill = onnx.numpy_helper.from_array(np.array([number + 1], dtype), fill.name)
    shape = onnx.numpy_helper.from_array(np.array(record.shape, np.int64), f"{name}.shape")
    graph.initializer.append(shape)
    if opset >= 9:
        first = name if not is_bfloat else f"{name}.float"
        nodes = [helper.make_node("ConstantOfShape", [shape.name], [first], name=first, value=fill)]
        if is_bfloat:
            nodes.append(helper.make_node("Cast", [first], [name], name=name, to=TensorProto.BFLOAT16))
        return nodes
    if opset == 8:
        graph.initializer.append(fill)
        return [helper.make_node("Expand", [fill.name, shape.name], [name], name=name)]
    ones = np.array([number + 1], np.uint32).view(np.float32).reshape([1] * len(record.shape))
    graph.initializer.append(onnx.numpy_helper.from_array(ones, fill.name))
    return [helper.make_node("Tile", [fill.name, shape.name], [name], name=name)]


@dataclass(frozen=True)
class Pool:
    """Tensors that were left alone, packed together without loss."""

    weights: list[tuple[str, ir.WeightRecord]]
    frame: bytes


def _pool_kept(program: ir.Program) -> list[Pool]:
    """Take the tensors of the main graph that were left alone out of it, floats and those of quantized layers: one
    lossless frame an element type."""
    inputs = {i.name for i in program.proto.graph.input}
    by_type: dict[int, list[tuple[ir.WeightRecord, ir.Site]]] = {}
    for record, site in zip(program.records, program.sites, strict=True):
        is_plain = ir.is_compressible(record.elem_type) or record.quantized is not None
        poolable = is_plain and record.size >= POOL_MIN_SIZE and not shares_bytes(record.values.dtype)
        inside = site.graph is program.proto.graph and site.can_hoist and site.value_name not in inputs
        if record.frame is None and poolable and inside:
            by_type.setdefault(record.elem_type, []).append((record, site))
    pools = []
    for members in by_type.values():
        arrays = [r.values for r, _ in members]
        values = arrays[0] if len(arrays) == 1 else np.concatenate([a.reshape(-1) for a in arrays])
        frame = binding.encode_data(values)
        if len(frame) < values.nbytes:
            pools.append(Pool([(s.value_name, r) for r, s in members], frame))
            ir.remove_sites(site for _, site in members)
    return pools


def _session_form(program: ir.Program, placed: list[PlacedWeight]) -> onnx.ModelProto:
    """One CompiledModel node around the whole graph."""
    pools = _pool_kept(program)
    inner = onnx.ModelProto(ir_version=max(program.proto.ir_version, 4))
    inner.opset_import.extend(program.proto.opset_import)
    inner.functions.extend(program.proto.functions)
    inner.graph.CopyFrom(program.proto.graph)
    outer = onnx.ModelProto()
    outer.CopyFrom(program.proto)
    outer.ir_version = inner.ir_version
    del outer.functions[:]
    outer.opset_import.add(domain=DOMAIN, version=1)
    inner.graph.ClearField("doc_string")  # the outer graph has it
    graph = onnx.GraphProto(name=program.proto.graph.name, doc_string=program.proto.graph.doc_string)
    if sum(p.ByteSize() for p in program.proto.graph.metadata_props) <= SHORT_METADATA:  # more is packed
        graph.metadata_props.extend(program.proto.graph.metadata_props)
        inner.graph.ClearField("metadata_props")
    graph.input.extend(program.proto.graph.input)
    graph.output.extend(program.proto.graph.output)

    inputs = {i.name for i in graph.input}
    defaults = [t for t in inner.graph.initializer if t.name in inputs]  # overridable: they stay outside
    graph.initializer.extend(defaults)
    _remove_where(inner.graph.initializer, lambda t: t.name in inputs)

    inside = Counter([*defined_names(inner.graph), *(w.name for w in placed)])
    scales = _scales(placed, inside)
    from_kept = {w.name for w in placed if w.record.execution in (ir.SPARSE, ir.SPARSE_INT8)}
    if scales:
        int8.run_in_int8(inner, scales, program.ranges, inside, from_kept)
    names = Counter([*inputs, *(o.name for o in graph.output)])
    topology = unused_name("t" if program.is_terse else f"{DOMAIN}.topology", names)
    if from_kept:
        sparse.run_sparse(inner, from_kept)
    pooled = [[packed.PackedWeight(name, r.elem_type, r.shape) for name, r in p.weights] for p in pools]
    manifest = packed.write_manifest([*(_entry(w, scales.get(w.name)) for w in placed), *pooled])
    content = manifest + inner.SerializeToString(deterministic=True)
    frame = _topology_frame(content, program, sum(len(w.frame()) for w in placed) + sum(len(p.frame) for p in pools))
    graph.initializer.append(_payload(topology, frame))
    node_inputs = [i.name for i in graph.input] + [topology]
    payloads = [(f"{w.name}.{DOMAIN}", w.frame()) for w in placed] + [(f"{DOMAIN}.kept", p.frame) for p in pools]
    for number, (wanted, content) in enumerate(payloads):
        payload = unused_name(str(number) if program.is_terse else wanted, names)
        graph.initializer.append(_payload(payload, content))
        node_inputs.append(payload)
    graph.node.append(
        helper.make_node(
            "CompiledModel",
            node_inputs,
            [o.name for o in graph.output],
            name=DOMAIN,
            domain=DOMAIN,
            model_inputs=len(graph.input),
        )
    )
    outer.graph.CopyFrom(graph)
    return outer


def _scales(placed: Sequence[PlacedWeight], names: Counter[str]) -> dict[str, tuple[str, int]]:
    """Of weights that run in int8, by name: a new name for their scales, and how many these are."""
    return {
        w.name: (unused_name(f"{w.name}.scale", names), binding.frame_info(w.frame()).channels)
        for w in placed
        if w.record.execution in (ir.INT8, ir.SPARSE_INT8)
    }


def _entry(weight: PlacedWeight, scales: tuple[str, int] | None) -> list[packed.PackedWeight]:
    """What the payload of a weight decodes to; ``scales`` are the name and the number of those of an int8 one."""
    record = weight.record
    if scales is None:
        return [packed.PackedWeight(weight.name, record.elem_type, record.shape, record.execution)]
    scale, channels = scales
    return [
        packed.PackedWeight(weight.name, TensorProto.INT8, record.shape, record.execution),
        packed.PackedWeight(scale, TensorProto.FLOAT, (channels,), ir.INT8_SCALE),
    ]


def _topology_frame(content: bytes, program: ir.Program, other_bytes: int) -> bytes:
    """The packed graph; of a terse program with a slow coder, where that is worth its time at load."""
    data = np.frombuffer(content, np.uint8)
    frame = binding.encode_data(data)
    smaller = binding.encode_data(data, "smallest") if program.is_terse else frame
    if len(smaller) == len(frame):
        return frame
    nodes = len(program.proto.graph.node)
    nbytes, frames = sum(r.nbytes for r in program.records), [r.frame for r in program.records if r.frame is not None]
    before = load_time.compiled_seconds(nbytes, nodes, frames)
    after = before + load_time.decode_seconds(smaller)
    original = load_time.dense_seconds(program.original_bytes, nodes)
    is_worth_it = load_time.gain(len(frame) - len(smaller), len(frame) + other_bytes, before, after, original) >= 0
    return smaller if is_worth_it else frame


def _payload(name: str, frame: bytes) -> onnx.TensorProto:
    return TensorProto(name=name, data_type=TensorProto.UINT8, dims=[len(frame)], raw_data=frame)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a value inside a body and the bodies within it."""
    for g in ir.walk_graphs(graph):
        for node in g.node:
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new
        for info in g.value_info:
            if info.name == old:
                info.name = new


def _remove_where(field, condition) -> None:  # type: ignore[no-untyped-def]
    kept = [item for item in field if not condition(item)]
    if len(kept) < len(field):
        del field[:]
        field.extend(kept)
