"""Where tensors are stored in a graph and its bodies: initializers, Constants, attributes; and who consumes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dc_compiler.ir.record import Use
from dc_compiler.nibbles import pack_nibbles, shares_bytes

DATA_FIELDS = (
    "raw_data",
    "float_data",
    "double_data",
    "int32_data",
    "int64_data",
    "uint64_data",
    "external_data",
    "data_location",
)

ENSEMBLES = frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})
PACKED_ATTRIBUTES = "dcc.attributes"  # the attribute that names the payload with all others (FORMAT.md 9.2)

Load = Callable[[onnx.TensorProto], np.ndarray]  # the values of a tensor, wherever its data are


@dataclass
class Site(ABC):
    """Where a record's tensor is stored in ``graph``: a ``tensor`` and the ``node`` that holds it, as far as there are
    such."""

    graph: onnx.GraphProto
    tensor: onnx.TensorProto | None
    node: onnx.NodeProto | None
    can_hoist: ClassVar[bool] = True  # the value may be made by something else, such as a packed weight

    @property
    @abstractmethod
    def value_name(self) -> str:
        """Name of the value that consumers take; of an attribute, a name for reports."""

    @property
    def elem_type(self) -> int:
        """TensorProto.DataType of what is stored."""
        assert self.tensor is not None
        return self.tensor.data_type

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of what is stored."""
        assert self.tensor is not None
        return tuple(self.tensor.dims)

    def read(self, load: Load) -> np.ndarray:
        """The values, read-only or fresh; ``load`` reads tensors, whose data may be in other files."""
        assert self.tensor is not None
        return load(self.tensor)

    def clear(self) -> None:
        """Free the memory of the data; until :meth:`write` the place keeps only type and extents."""
        assert self.tensor is not None
        for name in DATA_FIELDS:
            self.tensor.ClearField(name)

    def write(self, values: np.ndarray) -> None:
        """Store these values, of the place's type, instead of what is there."""
        self.clear()
        assert self.tensor is not None
        self.tensor.dims[:] = values.shape
        content = pack_nibbles(values) if shares_bytes(values.dtype) else np.ascontiguousarray(values)
        self.tensor.raw_data = content.tobytes()


class InitializerSite(Site):
    """An initializer of a graph or of a body."""

    @property
    def value_name(self) -> str:
        assert self.tensor is not None
        return self.tensor.name


class ConstantSite(Site):
    """A Constant node that holds a tensor, or a list of floats, of which ``tensor`` is a copy."""

    @property
    def value_name(self) -> str:
        assert self.node is not None
        return str(self.node.output[0])

    @property
    def _floats(self) -> onnx.AttributeProto | None:
        assert self.node is not None
        attribute = self.node.attribute[0]
        return attribute if attribute.name == "value_floats" else None

    def clear(self) -> None:
        if self._floats is None:
            super().clear()

    def write(self, values: np.ndarray) -> None:
        floats = self._floats
        if floats is None:
            super().write(values)
        else:
            floats.floats[:] = values.tolist()


@dataclass
class AttributeSite(Site):
    """A list of floats among a node's attributes, such as the leaves of a TreeEnsemble. It stays where it is."""

    attribute: onnx.AttributeProto
    can_hoist: ClassVar[bool] = False

    @property
    def value_name(self) -> str:
        assert self.node is not None
        return f"{self.node.name or self.node.output[0]}.{self.attribute.name}"

    @property
    def elem_type(self) -> int:
        return int(TensorProto.FLOAT)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.attribute.floats),)

    def read(self, load: Load) -> np.ndarray:
        return np.array(self.attribute.floats, np.float32)

    def clear(self) -> None:
        """Nothing: the list tells the extent."""

    def write(self, values: np.ndarray) -> None:
        if not np.array_equal(self.read(numpy_helper.to_array).view(np.uint32), values.view(np.uint32)):
            self.attribute.floats[:] = values.tolist()


@dataclass
class EnsembleSite(Site):
    """The node of a tree ensemble, in the main graph: all its attributes, as bytes of a NodeProto that has nothing
    else. They stay in the node until they are packed."""

    node: onnx.NodeProto

    @property
    def value_name(self) -> str:
        return f"{next(filter(None, self.node.output))}.trees"

    @property
    def elem_type(self) -> int:
        return int(TensorProto.UINT8)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.read(numpy_helper.to_array).shape

    def read(self, load: Load) -> np.ndarray:
        return np.frombuffer(onnx.NodeProto(attribute=self.node.attribute).SerializeToString(), np.uint8)

    def clear(self) -> None:
        """Nothing: runs need them."""

    def write(self, values: np.ndarray) -> None:
        del self.node.attribute[:]
        self.node.attribute.extend(onnx.NodeProto.FromString(values.tobytes()).attribute)

    def replace_by(self, payload: str) -> None:
        """Leave nothing but the name of the payload that holds the attributes."""
        del self.node.attribute[:]
        self.node.attribute.append(helper.make_attribute(PACKED_ATTRIBUTES, payload))


def is_ensemble(node: onnx.NodeProto) -> bool:
    """Whether the node's weights are trees."""
    return node.domain == "ai.onnx.ml" and node.op_type in ENSEMBLES


def walk_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and, depth first, every graph inside its nodes (If, Loop, Scan bodies)."""
    yield graph
    for node in graph.node:
        if node.attribute:  # many have none, and graphs of 100,000 nodes are walked often
            for sub in subgraphs(node):
                yield from walk_graphs(sub)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs held by the node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def defined(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of the values that a graph defines itself: its inputs, stored tensors, and what its nodes make."""
    yield from (i.name for i in graph.input)
    yield from (t.name for t in graph.initializer)
    yield from (t.values.name for t in graph.sparse_initializer)
    for node in graph.node:
        yield from node.output


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node, or None for scalars, strings, sparse values and attribute references."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.ref_attr_name:
        return None
    tensor: onnx.TensorProto | None = None
    if attribute.name == "value":
        tensor = attribute.t
    elif attribute.name == "value_floats":
        tensor = helper.make_tensor("", TensorProto.FLOAT, [len(attribute.floats)], attribute.floats)
    return tensor


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute, text as str; ``default`` when it is not given."""
    found = next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
    return found.decode() if isinstance(found, bytes) else found


def weight_sites(graph: onnx.GraphProto) -> Iterator[Site]:
    """Every place of the graph and its bodies that stores a tensor, in a fixed order."""
    for g in walk_graphs(graph):
        for tensor in g.initializer:
            yield InitializerSite(g, tensor, None)
        for node in g.node:
            tensor_or_none = constant_tensor(node)
            if tensor_or_none is not None:
                yield ConstantSite(g, tensor_or_none, node)


def attribute_sites(graph: onnx.GraphProto, least: int) -> Iterator[EnsembleSite | AttributeSite]:
    """Every tree ensemble of the graph with at least ``least`` bytes of attributes, and every list of at least
    ``least`` floats among the attributes of other nodes and those of bodies; not of Constant nodes, which
    :func:`weight_sites` has."""
    for g in walk_graphs(graph):
        for node in g.node:
            if g is graph and is_ensemble(node):
                if sum(a.ByteSize() for a in node.attribute) >= max(least, 1):
                    yield EnsembleSite(g, None, node)
                continue
            for attribute in node.attribute if node.op_type != "Constant" else ():
                if attribute.type == onnx.AttributeProto.FLOATS and len(attribute.floats) >= max(least, 1):
                    yield AttributeSite(g, None, node, attribute)


def readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto | None]]:
    """Nodes that read each value, of the graph itself; None stands for a node of a body."""
    found: dict[str, list[onnx.NodeProto | None]] = {}
    for g in walk_graphs(graph):
        for node in g.node:
            for name in set(node.input):
                found.setdefault(name, []).append(node if g is graph else None)
    return found


def multiplies(node: onnx.NodeProto, name: str) -> bool:
    """Whether a node is x times the value, or a convolution of x with it, plus something at most."""
    if node.domain not in ("", "ai.onnx") or list(node.input).count(name) != 1 or node.input[1:2] != [name]:
        return False
    if node.op_type == "Gemm":
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        return all(attribute(node, key, value) == value for key, value in plain.items())
    return node.op_type in ("MatMul", "Conv")


def find_uses(graph: onnx.GraphProto, names: Container[str]) -> dict[str, list[Use]]:
    """Consumers of values of these names, in the graph and in its bodies.

    Bodies may give their own values a name that another body also uses; the uses of such names are merged, which
    only affects the choice of the channel axis.
    """
    uses: dict[str, list[Use]] = {}
    for g in walk_graphs(graph):
        for node in g.node:
            for index, name in enumerate(node.input):
                if name in names:
                    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
                    uses.setdefault(name, []).append(Use(node.op_type, index, transposed, node.name))
    return uses


def remove_sites(sites: Iterable[Site]) -> None:
    """Take tensors that ``can_hoist`` out of their graphs, in one pass over each; what stays is not copied."""
    graphs: dict[int, tuple[onnx.GraphProto, set[str], set[str]]] = {}
    for site in sites:
        _, initializers, constants = graphs.setdefault(id(site.graph), (site.graph, set(), set()))
        (initializers if site.node is None else constants).add(site.value_name)
    for graph, initializers, constants in graphs.values():
        _remove_at(graph.initializer, [i for i, t in enumerate(graph.initializer) if t.name in initializers])
        _remove_at(graph.node, [i for i, n in enumerate(graph.node) if constants.intersection(n.output)])


def _remove_at(field: Any, indices: Sequence[int]) -> None:
    for index in reversed(indices):
        del field[index]
