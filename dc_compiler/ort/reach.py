"""Finds the weights that a comparison of outputs says nothing about: in branches not taken and loops not entered."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper

from dc_compiler import ir
from dc_compiler.errors import ModelError
from dc_compiler.model import files, packed
from dc_compiler.ort.data import Feed
from dc_compiler.ort.sessions import Sessions, short

PREFIX = "dcc.reach."
MAIN = -1  # number of the main graph among the bodies
FIRST_SCAN = 9  # operator set from which Scan has no batch axis of its own


@dataclass
class Reach:
    """Names of weights that no run reached, and of those in bodies of which it is not known (of unusual operators)."""

    missed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def has_bodies(model: onnx.ModelProto) -> bool:
    """Whether some nodes may not run: whether there are bodies at all."""
    graphs = [model.graph, *(onnx.GraphProto(node=f.node) for f in model.functions)]
    return any(True for g in graphs for node in g.node for _ in ir.subgraphs(node))


def reach(original: files.SourceModel, feeds: Iterable[Feed], sessions: Sessions, threads: int) -> Reach:
    """Run the model with a marker in every body and see which were entered.

    Raises:
        ModelError: its data cannot be read, or onnxruntime does not take the model with markers.
    """
    model = inlined(loaded(original))
    uses = _uses(model.graph)
    if all(MAIN in bodies for bodies in uses.values()):
        return Reach()
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    markers = _Markers(opset).mark(model.graph)
    entered = {MAIN}
    if markers:
        del model.graph.output[:]
        model.graph.output.extend(_float_info(m.value, len(m.bodies)) for m in markers)
        session = sessions.open(model, threads)
        for feed in feeds:
            if all(bodies & entered for bodies in uses.values()):
                break
            for marker, flags in zip(markers, _run(session, feed), strict=True):
                entered.update(body for body, flag in zip(marker.bodies, flags, strict=True) if flag)
    marked = {MAIN, *(body for m in markers for body in m.bodies)}
    result = Reach()
    for (name, _), bodies in uses.items():
        if not bodies & entered:
            (result.missed if bodies <= marked else result.unknown).append(name)
    return result


def changed_weights(original: files.SourceModel, compiled: onnx.ModelProto) -> set[str]:
    """Names of the original's float tensors whose bits the compiled model does not hold under any name.

    Equal tensors may be stored once, and those of functions get other names.

    Raises:
        ModelError, CorruptFrameError
    """
    kept = {_content(tensor) for _, tensor in _floats(inlined(dense(compiled)))}
    return {name for name, tensor in _floats(inlined(loaded(original))) if _content(tensor) not in kept}


def _floats(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every float tensor that a model stores, with the name of its value."""
    for site in ir.weight_sites(model.graph):
        if site.tensor is not None and ir.is_compressible(site.tensor.data_type):
            yield site.value_name, site.tensor


def _content(tensor: onnx.TensorProto) -> tuple[int, tuple[int, ...], bytes]:
    """Type, shape and a digest of the bits."""
    bits = np.ascontiguousarray(numpy_helper.to_array(tensor))
    return tensor.data_type, tuple(tensor.dims), hashlib.blake2b(bits.tobytes()).digest()


def loaded(source: files.SourceModel) -> onnx.ModelProto:
    """A copy of the model with all its data.

    Raises:
        ModelError: the data cannot be read.
    """
    fresh = files.read_model(source.path if source.path is not None else source.proto)
    files.embed_external_data(fresh)
    return fresh.proto


def dense(compiled: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a compiled model as a plain one.

    Raises:
        ModelError, CorruptFrameError
    """
    if packed.is_compiled(compiled):
        return packed.unpack(compiled, "the compiled model")
    copy = onnx.ModelProto()
    copy.CopyFrom(compiled)
    return copy


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without local functions, whose bodies nothing of the main graph can be handed out of."""
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model)
    except Exception as e:  # onnx raises several kinds
        raise ModelError(f"its functions cannot be inlined: {short(e)}") from None


def taken(session: Any, feed: Feed) -> Feed:
    """What of a feed a session takes: a part of a model may not need all inputs."""
    names = {i.name for i in session.get_inputs()}
    return {name: array for name, array in feed.items() if name in names}


def _run(session: Any, feed: Feed) -> list[np.ndarray]:
    try:
        return list(session.run(None, taken(session, feed)))
    except Exception as e:  # onnxruntime's exceptions share no base class
        raise ModelError(short(e)) from None


Weight = tuple[str, int]  # a name and the body that stores it


def _uses(graph: onnx.GraphProto) -> dict[Weight, set[int]]:
    """For each float tensor of more than one element, the bodies that read it.

    Bodies are numbered depth first, in the order of nodes and of their attributes.
    """
    found: dict[Weight, set[int]] = {}
    numbers = itertools.count()

    def visit(graph: onnx.GraphProto, outer: dict[str, Weight], body: int) -> None:
        made = {*(i.name for i in graph.input), *(o for n in graph.node for o in n.output)}
        scope = {name: weight for name, weight in outer.items() if name not in made}
        for name in _stored(graph):
            scope[name] = name, body
            found[name, body] = set()
        read = [name for n in graph.node for name in n.input] + [o.name for o in graph.output]
        for name in read:
            if name in scope:
                found[scope[name]].add(body)
        for node in graph.node:
            for inner in ir.subgraphs(node):
                visit(inner, scope, next(numbers))

    visit(graph, {}, MAIN)
    return {weight: bodies for weight, bodies in found.items() if bodies}


def _stored(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of the float tensors of more than one element that a graph itself stores."""
    constants = ((n.output[0], ir.constant_tensor(n)) for n in graph.node if n.op_type == "Constant")
    for name, tensor in (*((t.name, t) for t in graph.initializer), *constants):
        if tensor is not None and ir.is_compressible(tensor.data_type) and math.prod(tensor.dims) > 1:
            yield name


@dataclass
class _Marker:
    """A float vector whose elements are not zero where the bodies of these numbers were entered."""

    value: str
    bodies: list[int]


class _Markers:
    """Puts a marker into the bodies of a graph: every node with bodies gets one more output, a vector with an element
    for each body in it. A branch gives ones and zeros, a loop carries the vector from step to step."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self._numbers = itertools.count()
        self._names = (f"{PREFIX}{i}" for i in itertools.count())

    def mark(self, graph: onnx.GraphProto) -> list[_Marker]:
        """Markers of the nodes of a graph, as values in it."""
        found = []
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            inner = [(next(self._numbers), body, self.mark(body)) for body in ir.subgraphs(node)]
            marker = None
            if node.op_type == "If" and len(inner) == 2:
                marker = self._branches(node, inner)
            elif node.op_type == "Loop" and len(inner) == 1:
                marker = self._steps(node, inner[0], max(0, len(node.input) - 2), 2, 1, nodes)
            elif node.op_type == "Scan" and len(inner) == 1 and self._opset >= FIRST_SCAN:
                states = len(node.input) - int(ir.attribute(node, "num_scan_inputs", 0))
                marker = self._steps(node, inner[0], states, 0, 0, nodes)
            if marker is not None:
                found.append(marker)
            nodes.append(node)
        fresh = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(fresh)
        return found

    def _branches(self, node: onnx.NodeProto, inner: Sequence[_Inner]) -> _Marker:
        bodies = [[number, *(b for m in markers for b in m.bodies)] for number, _, markers in inner]
        for index, (_, body, markers) in enumerate(inner):
            before = sum(map(len, bodies[:index]))
            after = sum(map(len, bodies[index + 1 :]))
            value = self._entered(body.node, markers, before, after)
            body.output.append(_float_info(value, before + len(bodies[index]) + after))
        for _ in range(len(inner[0][1].output) - 1 - len(node.output)):  # outputs that nobody wanted so far
            node.output.append(next(self._names))
        node.output.append(next(self._names))
        return _Marker(node.output[-1], [b for numbers in bodies for b in numbers])

    def _steps(
        self, node: onnx.NodeProto, inner: _Inner, states: int, first_input: int, first_output: int, nodes: Any
    ) -> _Marker:
        """Add a state to Loop or Scan. States stand after ``first_input`` inputs of the node and of the body, and after
        ``first_output`` outputs of the body."""
        number, body, markers = inner
        bodies = [number, *(b for m in markers for b in m.bodies)]
        start, state, after, end = (next(self._names) for _ in range(4))
        nodes.append(_constant(start, np.zeros(len(bodies), np.float32)))
        entered = self._entered(body.node, markers, 0, 0)
        body.node.append(helper.make_node("Max", [state, entered], [after]))
        node.input.extend([""] * (first_input - len(node.input)))
        _insert(node.input, first_input + states, start)
        _insert(node.output, states, end)
        _insert(body.input, first_input + states, _float_info(state, len(bodies)))
        _insert(body.output, first_output + states, _float_info(after, len(bodies)))
        return _Marker(end, bodies)

    def _entered(self, nodes: Any, markers: Sequence[_Marker], before: int, after: int) -> str:
        """A vector in a body: zeros, one for the body itself, what the markers in it say, zeros."""
        first, last, value = (next(self._names) for _ in range(3))
        nodes.append(_constant(first, np.array([0] * before + [1], np.float32)))
        nodes.append(_constant(last, np.zeros(after, np.float32)))
        nodes.append(helper.make_node("Concat", [first, *(m.value for m in markers), last], [value], axis=0))
        return value


_Inner = tuple[int, onnx.GraphProto, list[_Marker]]


def _insert(items: Any, index: int, item: Any) -> None:
    """Insert into a repeated field, which has no insertion for messages."""
    kept = list(items)
    kept = [i if isinstance(i, str) else type(i).FromString(i.SerializeToString()) for i in kept]
    del items[:]
    items.extend([*kept[:index], item, *kept[index:]])


def _constant(name: str, values: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values))


def _float_info(name: str, size: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [size])
