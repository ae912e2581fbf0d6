"""Builds a Program from a model: takes the weights out of the graph and says which are left alone."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, inliner

from dc_compiler import ir
from dc_compiler.errors import InvalidArgumentError, ModelError
from dc_compiler.model import external, files, functions
from dc_compiler.model.ties import tie_equal
from dc_compiler.nearest import nearest

LEAST_ATTRIBUTE = 1024  # floats from which on an attribute is shown
LEAST_TIED = 1024  # elements from which on equal tensors are stored once
DOMAIN = "dcc"  # operator domain and prefix of our metadata keys


def build_program(
    source: files.SourceModel, *, min_size: int, skip: Sequence[str] = (), named: Iterable[str] = ()
) -> ir.Program:
    """Turn a model into a Program whose large float tensors live in records instead of the graph.

    Args:
        source: the model; its message is consumed.
        min_size: smallest number of elements worth compressing.
        skip: globs of weight names to leave alone.
        named: names of weights that are such even where they look like constants.

    Raises:
        ModelError: the model is already compiled, or a tensor cannot be read.
        InvalidArgumentError: a ``skip`` glob matches no weight.
    """
    if any(o.domain == DOMAIN for o in source.proto.opset_import):
        raise ModelError(f"{source.label} is already compiled by dcc; run 'dcc unpack' on it first")
    functions.check_calls(source.proto, source.label)
    label, base_dir, size = source.label, source.base_dir, source.size
    proto = _inline_functions_with_weights(source.proto, min_size)
    _drop_redundant_inputs(proto)
    notes = _drop_unused(proto)
    quantized = ir.find_quantized(proto, list(ir.weight_sites(proto.graph)))
    arrays = _extract(proto, source, min_size, quantized)
    proto = _without_data(proto)
    sites: list[ir.Site] = list(ir.weight_sites(proto.graph))
    ties = tie_equal(proto, sites, arrays, max(min_size, LEAST_TIED))
    if ties.aliases:
        sites, arrays = _still_there(proto, sites, arrays)
        notes += ties.notes
    attributes = list(ir.attribute_sites(proto.graph, max(min_size, LEAST_ATTRIBUTE)))
    sites += attributes
    arrays += [(s.read(onnx.numpy_helper.to_array), s.elem_type) for s in attributes]
    uses = ir.find_uses(proto.graph, {s.value_name for s in sites})
    as_floats = ir.uses_as_floats(proto, quantized)
    records: list[ir.WeightRecord] = []
    kept_sites: list[ir.Site] = []
    for site, (array, elem_type) in zip(sites, arrays, strict=True):
        if array is None:
            continue
        site_uses = uses.get(site.value_name, [])
        record = ir.WeightRecord(site.value_name, array, elem_type, tuple(site_uses), max(1, len(site_uses)))
        is_finite = _is_finite_float(record)
        record.quantized = quantized.get(site.value_name) if site.can_hoist else None
        record.uses += tuple(as_floats.get(site.value_name, ()))
        record.reason = _reason(record, site, proto, min_size, is_finite)
        if isinstance(site, ir.EnsembleSite):
            record.coder, record.execution, record.exact = "trees", ir.ATTRIBUTES, f"trees of {site.node.op_type}"
        record.trainable = site.graph is proto.graph and is_finite and site.can_hoist and record.name not in ties.moved
        record.aliases = tuple(ties.aliases.get(record.name, ()))
        records.append(record)
        kept_sites.append(site)
    _make_names_unique(records)
    notes += _apply_skip(records, skip)
    program = ir.Program(proto, records, kept_sites, label, size, base_dir, notes, named=frozenset(named))
    ir.mark_exact(program)
    note = ir.quantized_note(program)
    if note is not None:
        program.notes.append(note)
    return program


def matching(records: Iterable[ir.WeightRecord], pattern: str) -> list[ir.WeightRecord]:
    """Records one of whose names matches a shell-style glob (case counts); the name itself always matches."""
    return [r for r in records if any(_matches(name, pattern) for name in r.names)]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def _still_there(
    proto: onnx.ModelProto, sites: Sequence[ir.Site], arrays: Sequence[tuple[np.ndarray | None, int]]
) -> tuple[list[ir.Site], list[tuple[np.ndarray | None, int]]]:
    """The sites after some were given up or moved to the main graph, and what is stored there."""
    before = {(id(s.graph), s.value_name): a for s, a in zip(sites, arrays, strict=True)}
    anywhere = {s.value_name: a for s, a in zip(sites, arrays, strict=True)}
    after = list(ir.weight_sites(proto.graph))
    return after, [before.get((id(s.graph), s.value_name), anywhere[s.value_name]) for s in after]


def _reason(
    record: ir.WeightRecord, site: ir.Site, proto: onnx.ModelProto, min_size: int, is_finite: bool
) -> str | None:
    """Why a tensor is left alone, or None."""
    if isinstance(site, ir.EnsembleSite):
        return None
    if not record.is_packable:
        return f"{TensorProto.DataType.Name(record.elem_type).lower()}, not a float tensor"
    if record.size < max(min_size, 1):
        return f"{record.size} elements, fewer than the minimum of {min_size}"
    if site.graph is not proto.graph and any(o.name == site.value_name for o in site.graph.output):
        return "it is itself an output of its If, Loop or Scan body"
    if not is_finite and ir.is_compressible(record.elem_type):
        return "it contains NaN or Inf"
    if not site.can_hoist:
        return "an attribute, part of the graph"
    return None


def _is_finite_float(record: ir.WeightRecord) -> bool:
    flat = record.values.reshape(-1)
    is_float = ir.is_compressible(record.elem_type)
    return is_float and all(np.isfinite(flat[s]).all() for s in ir.blocks(record.size))


def names_of(records: Iterable[ir.WeightRecord]) -> Iterator[str]:
    """Names that globs may match."""
    return (name for record in records for name in record.names)


def _apply_skip(records: list[ir.WeightRecord], skip: Sequence[str]) -> list[str]:
    """Leave alone what the globs match; a note for each tensor that is left alone because it is stored with another."""
    skipped: dict[int, ir.WeightRecord] = {}
    for pattern in skip:
        found = matching(records, pattern)
        if not found:
            like = nearest(pattern, names_of(records))
            raise InvalidArgumentError(f"--skip '{pattern}' matches no weight; 'dcc inspect' lists their names{like}")
        for record in found:
            record.reason = record.reason or f"skipped by '{pattern}'"
            record.trainable = False
            skipped[id(record)] = record
    notes = []
    for record in skipped.values():
        named = [n for n in record.names if any(_matches(n, pattern) for pattern in skip)]
        others = [n for n in record.names if n not in named]
        if others:
            notes.append(f"{', '.join(others)}: skipped with {', '.join(named)}, as they are stored once")
    return notes


def _make_names_unique(records: list[ir.WeightRecord]) -> None:
    """Tensors of different bodies may share a name; the later ones get a number."""
    seen: set[str] = set()
    for record in records:
        name, count = record.name, 2
        while record.name in seen:
            record.name = f"{name}#{count}"
            count += 1
        seen.add(record.name)


def _extract(
    proto: onnx.ModelProto, source: files.SourceModel, min_size: int, quantized: Container[str]
) -> list[tuple[np.ndarray | None, int]]:
    """Take the data of every tensor worth a record out of the message, in the order of ``ir.weight_sites``.

    Tensors that will certainly be left alone keep their data (external data is embedded); the report still lists
    them when they are float or large.
    """
    result: list[tuple[np.ndarray | None, int]] = []
    for site in ir.weight_sites(proto.graph):
        tensor = site.tensor
        assert tensor is not None
        kind = ir.find_element_type(site.elem_type)
        is_packable = kind is not None and (kind.is_packable or site.value_name in quantized)
        size = math.prod(site.shape)
        is_external = external.is_external(tensor)
        if (not is_packable and size < min_size and not is_external) or site.elem_type == TensorProto.STRING:
            result.append((None, 0))
            continue
        array = site.read(partial(files.tensor_array, source=source))
        result.append((array, site.elem_type))
        if is_packable and size >= max(min_size, 1):
            site.clear()
        elif is_external:
            files.embed(tensor, array)
    files.embed_external_data(files.SourceModel(proto, source.path, source.base_dir, source.size))
    return result


def _without_data(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A fresh copy of a message whose data was cleared: protobuf frees memory only with the whole message."""
    skeleton = onnx.ModelProto()
    skeleton.ParseFromString(proto.SerializeToString())
    return skeleton


def _drop_redundant_inputs(proto: onnx.ModelProto) -> None:
    """Below IR version 4 every initializer had to be listed as an input; from 4 on that means 'overridable'."""
    if proto.ir_version >= 4:
        return
    initializers = {t.name for t in proto.graph.initializer}
    kept = [i for i in proto.graph.input if i.name not in initializers]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    proto.ir_version = 4


def _drop_unused(proto: onnx.ModelProto) -> list[str]:
    """Remove initializers of the main graph that nothing uses, as onnxruntime does on loading; one note each."""
    used = {name for g in ir.walk_graphs(proto.graph) for n in g.node for name in n.input}
    used |= {o.name for g in ir.walk_graphs(proto.graph) for o in g.output} | {i.name for i in proto.graph.input}
    unused = [i for i, t in enumerate(proto.graph.initializer) if t.name not in used]
    notes = [f"{proto.graph.initializer[i].name}: dropped, nothing uses it" for i in unused]
    for i in reversed(unused):
        del proto.graph.initializer[i]
    return notes


def _inline_functions_with_weights(proto: onnx.ModelProto, min_size: int) -> onnx.ModelProto:
    """Inline the model-local functions that hold weights, directly or through calls: a function body cannot refer to
    values of the main graph, where packed weights are decoded."""
    holders = {
        (f.domain, f.name)
        for f in proto.functions
        if any(_holds_weight(site, min_size) for site in ir.weight_sites(onnx.GraphProto(node=f.node)))
    }
    if not holders:
        return proto
    growing = True
    while growing:
        callers = {(f.domain, f.name) for f in proto.functions if _calls(f.node) & holders}
        growing = not callers <= holders
        holders |= callers
    return inliner.inline_selected_functions(proto, sorted(holders))


def _holds_weight(site: ir.Site, min_size: int) -> bool:
    tensor = site.tensor
    assert tensor is not None
    kind = ir.find_element_type(tensor.data_type)
    return kind is not None and (kind.is_packable or kind.quantizes) and int(np.prod(tensor.dims)) >= max(min_size, 1)


def _calls(nodes: Iterable[onnx.NodeProto]) -> set[tuple[str, str]]:
    graph = onnx.GraphProto(node=nodes)
    return {(n.domain, n.op_type) for g in ir.walk_graphs(graph) for n in g.node}
