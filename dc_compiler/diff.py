"""What changed between two models: an original and a compiled one, or two compiled ones.

Weights are compared by what they decode to and by how they are stored, whatever the form; the rest of the graph by what
``dcc unpack`` gives back.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from dc_compiler import ir, schemas
from dc_compiler.codec import binding
from dc_compiler.model import files, importer, packed
from dc_compiler.report import TensorRow, frame_row, plain, record_row

Array = np.ndarray
SAME, CHANGED, STORED, ADDED, REMOVED = "same", "changed", "stored", "added", "removed"
BLOCK = 1 << 20  # elements that are compared at once
MIN_SIZE = 1024  # elements from which on integers count as weights, as for ``dcc inspect``
DATA_FIELDS = ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data", "string_data")


@dataclass(frozen=True)
class WeightDiff:
    """One weight in both models.

    Attributes:
        name: of the weight.
        change: ``same``; ``changed``: other values, element type or shape; ``stored``: the same values, stored in
            another way; ``added`` or ``removed``: only in the second or the first model.
        before, after: how the models store it (None where they do not). Of weights that share a frame each has the
            frame's coder and an equal part of its bytes by elements.
        changed_share: share of elements whose bits differ, None where shapes or element types do.
        max_abs: largest absolute difference of finite values. sqnr_db: 10 log10 of the energy before over the energy of
            the difference, None where nothing differs or there is no energy.
    """

    name: str
    change: str
    before: TensorRow | None
    after: TensorRow | None
    changed_share: float | None = None
    max_abs: float | None = None
    sqnr_db: float | None = None


@dataclass(frozen=True)
class FactDiff:
    """Something else that differs: ``what`` it is, and its texts, None where a model has none."""

    what: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class ModelDiff:
    """All that differs between two models; ``weights`` lists every weight, those that are the same, too."""

    before: str
    after: str
    before_bytes: int
    after_bytes: int
    weights: list[WeightDiff] = field(default_factory=list)
    facts: list[FactDiff] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether weights, how they are stored, inputs, outputs, metadata and nodes are all the same."""
        return not self.facts and all(w.change == SAME for w in self.weights)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON (schemas/diff.json)."""
        content = dataclasses.asdict(self) | {"same": self.same}
        for row, weight in zip(content["weights"], self.weights, strict=True):
            for side, stored in (("before", weight.before), ("after", weight.after)):
                if stored is not None:
                    row[side]["ratio"] = stored.ratio
        return schemas.stamped("diff", plain(content))

    def to_json(self) -> str:
        """``to_dict`` as text."""
        return json.dumps(self.to_dict(), indent=1)


@dataclass(frozen=True)
class _Stored:
    """A weight of one model: its values and how they are stored."""

    values: Array
    row: TensorRow


@dataclass(frozen=True)
class _Side:
    """One model, taken apart."""

    label: str
    size: int
    form: str
    weights: Mapping[str, _Stored]
    proto: onnx.ModelProto  # as read: its inputs, outputs and metadata are what users see
    dense: onnx.ModelProto


def diff_models(
    before: str | os.PathLike[str] | onnx.ModelProto,
    after: str | os.PathLike[str] | onnx.ModelProto,
    *,
    max_decoded_bytes: int | None = None,
) -> ModelDiff:
    """Compare two models, compiled or not.

    Args:
        max_decoded_bytes: what each compiled file may decode to, as for :func:`dc_compiler.unpack_model`.

    Raises:
        ModelError, CorruptFrameError
    """
    one, other = (_taken_apart(model, max_decoded_bytes) for model in (before, after))
    names = [*one.weights, *(n for n in other.weights if n not in one.weights)]
    weights = [_weight(name, one.weights.get(name), other.weights.get(name)) for name in names]
    return ModelDiff(one.label, other.label, one.size, other.size, weights, list(_facts(one, other)))


def _taken_apart(model: str | os.PathLike[str] | onnx.ModelProto, max_decoded_bytes: int | None) -> _Side:
    source = files.read_model(model)
    files.embed_external_data(source)
    proto = _without_weights(source.proto)
    stored: dict[str, _Stored] = {}
    dense, form, aside = source.proto, "not compiled", set[str]()
    if packed.is_written(source.proto):
        opened = packed.open_packed(source.proto, source.label, max_decoded_bytes)
        form = f"{opened.form} form"
        for payload in opened.payloads:
            stored |= _payload(payload)
            aside |= {w.name for w in payload.weights}
        dense = packed.unpack(source.proto, source.label, max_decoded_bytes)
    skeleton = _without_weights(dense)
    rest = importer.build_program(
        files.SourceModel(dense, source.path, source.base_dir, source.size), min_size=MIN_SIZE
    )
    for record in rest.records:
        if record.name not in aside:
            stored[record.name] = _Stored(record.values, record_row(record))
    return _Side(source.label, source.size, form, stored, proto, skeleton)


def _payload(payload: packed.Payload) -> dict[str, _Stored]:
    """The weights of a frame; of an int8 weight and its scales, the floats that they stand for."""
    values = binding.decode(payload.frame)
    first = payload.weights[0]
    row = frame_row(first.name, payload.frame, execution=first.execution)
    if payload.is_int8 or len(payload.weights) == 1:
        return {first.name: _Stored(values, row)}
    found, at, flat = {}, 0, values.reshape(-1)
    for weight in payload.weights:
        count = math.prod(weight.dims)
        share = count / max(1, flat.size)
        own = dataclasses.replace(
            row, name=weight.name, shape=weight.dims, raw_bytes=count * values.itemsize, bytes=round(share * row.bytes)
        )
        found[weight.name] = _Stored(flat[at : at + count].reshape(weight.dims), own)
        at += count
    return found


def _weight(name: str, before: _Stored | None, after: _Stored | None) -> WeightDiff:
    if before is None or after is None:
        change = ADDED if before is None else REMOVED
        return WeightDiff(name, change, before.row if before else None, after.row if after else None)
    one, other = before.values, after.values
    if one.shape != other.shape or one.dtype != other.dtype:
        return WeightDiff(name, CHANGED, before.row, after.row)
    share, most, sqnr = _differences(np.ascontiguousarray(one).reshape(-1), np.ascontiguousarray(other).reshape(-1))
    is_stored_alike = _storage(before.row) == _storage(after.row)
    change = CHANGED if share else SAME if is_stored_alike else STORED
    return WeightDiff(name, change, before.row, after.row, share, most, sqnr)


def _storage(row: TensorRow) -> tuple[object, ...]:
    return row.bytes, row.coder, row.codebook, row.bits, row.position_bits, row.execution


def _differences(one: Array, other: Array) -> tuple[float, float | None, float | None]:
    """Share of elements with other bits, largest absolute difference, and the SQNR in dB."""
    changed, most, signal, noise = 0, 0.0, 0.0, 0.0
    bits = np.dtype(f"u{one.itemsize}")
    for at in range(0, one.size, BLOCK):
        a, b = one[at : at + BLOCK], other[at : at + BLOCK]
        different = a.view(bits) != b.view(bits)
        changed += int(np.count_nonzero(different))
        x, y = (v.astype(np.float64) for v in (a, b))
        finite = np.isfinite(x) & np.isfinite(y)
        x, y = x[finite], y[finite]
        gap = x - y
        most = max(most, float(np.abs(gap).max(initial=0.0)))
        signal += float(x @ x)
        noise += float(gap @ gap)
    sqnr = 10 * math.log10(signal / noise) if signal and noise else None
    return changed / max(1, one.size), most, sqnr


def _facts(one: _Side, other: _Side) -> Iterator[FactDiff]:
    yield from _different({"form": one.form}, {"form": other.form})
    for kind in ("input", "output"):
        yield from _different(_ports(one.proto, kind), _ports(other.proto, kind))
    yield from _different(_metadata(one.proto), _metadata(other.proto))
    yield from _different(_versions(one.dense), _versions(other.dense))
    counts = [Counter(f"nodes {n.op_type}" for n in _nodes(side.dense)) for side in (one, other)]
    operators = list(_different(*({k: str(v) for k, v in c.items()} for c in counts)))
    yield from operators
    if not operators and _rest(one.dense) != _rest(other.dense):
        yield FactDiff("names, attributes, order or small constants of the graph", None, None)


def _different(one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[FactDiff]:
    for what in [*one, *(k for k in other if k not in one)]:
        if one.get(what) != other.get(what):
            yield FactDiff(what, one.get(what), other.get(what))


def _ports(proto: onnx.ModelProto, kind: str) -> dict[str, str]:
    """Inputs that are no initializers, or outputs, with their types."""
    stored = {t.name for t in proto.graph.initializer}
    ports = proto.graph.input if kind == "input" else proto.graph.output
    return {f"{kind} {p.name}": _type(p) for p in ports if p.name not in stored}


def _type(port: onnx.ValueInfoProto) -> str:
    if not port.type.HasField("tensor_type"):
        return port.type.WhichOneof("value") or "unknown"
    tensor = port.type.tensor_type
    extents = [d.dim_param or (str(d.dim_value) if d.HasField("dim_value") else "?") for d in tensor.shape.dim]
    return f"{TensorProto.DataType.Name(tensor.elem_type).lower()} [{', '.join(extents)}]"


def _metadata(proto: onnx.ModelProto) -> dict[str, str]:
    fields = {"producer": proto.producer_name, "domain": proto.domain, "description": proto.doc_string}
    return {k: v for k, v in fields.items() if v} | {f"metadata {p.key}": p.value for p in proto.metadata_props}


def _versions(proto: onnx.ModelProto) -> dict[str, str]:
    return {"IR version": str(proto.ir_version)} | {
        f"opset {o.domain or 'ai.onnx'}": str(o.version) for o in proto.opset_import
    }


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Nodes of the graph and of its bodies."""

    def walk(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                for body in _bodies(attribute):
                    yield from walk(body)

    yield from walk(proto.graph)


def _bodies(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    return [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs


def _rest(proto: onnx.ModelProto) -> list[bytes]:
    """What runs, beside the weights: nodes in their order, functions, and small constants."""
    constants = sorted(proto.graph.initializer, key=lambda t: t.name)
    return [m.SerializeToString(deterministic=True) for m in (*proto.graph.node, *proto.functions, *constants)]


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the message without the data of tensors that are compared as weights."""
    kept = onnx.ModelProto()
    kept.CopyFrom(proto)
    for tensor in files.all_tensors(kept):
        kind = ir.find_element_type(tensor.data_type)
        if math.prod(tensor.dims) >= MIN_SIZE or (kind is not None and kind.is_packable):
            for name in DATA_FIELDS:
                tensor.ClearField(name)
    return kept
