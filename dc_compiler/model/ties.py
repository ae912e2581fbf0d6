"""Stores equal tensors once: the same values under two names, or the same values transposed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from dc_compiler import ir

Array = NDArray[Any]
# Different tensors of one shape with the same sums that are compared; more of them is somebody's trap
MOST_CANDIDATES = 8


@dataclass
class Ties:
    """What was tied: by the name of a tensor that stays, those that it stands for; notes; the names of tensors that
    were moved out of bodies; the places that are given up; and the nodes that make
    what they held."""

    aliases: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    moved: set[str] = field(default_factory=set)
    gone: list[ir.Site] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)


@dataclass
class _Stored:
    site: ir.Site
    array: Array
    elem_type: int

    @property
    def name(self) -> str:
        return self.site.value_name


def tie_equal(
    proto: onnx.ModelProto, sites: Sequence[ir.Site], arrays: Sequence[tuple[Array | None, int]], least: int
) -> Ties:
    """Keep one of equal tensors, give its users its name, and make transposed ones by a Transpose of it.

    A Transpose is only put where nothing but MatMul and Gemm takes its result: onnxruntime computes it when it loads
    the model (session form) or makes it part of them (graph form), so that it takes no time.

    Args:
        sites: of the tensors of ``proto``, whose graph is changed.
        arrays: the values and element type of each, or None.
        least: elements from which on a tensor is looked at. Vectors are not: the same zeros may be trained apart.

    Time and memory are in proportion to the tensors: candidates agree in type, extents and sums of bits.
    """
    survey = _Survey(proto, sites)
    result = Ties()
    renamed: dict[str, str] = {}
    for group in _candidates(survey, sites, arrays, least):
        firsts: list[_Stored] = []
        for stored in group:
            if not _tie(proto, survey, stored, firsts, renamed, result) and len(firsts) < MOST_CANDIDATES:
                firsts.append(stored)
    ir.remove_sites(result.gone)
    for node in reversed(result.nodes):
        proto.graph.node.insert(0, node)
    _rename(proto.graph, renamed)
    return result


class _Survey:
    """Names that are defined once and may be given up, and who uses them; looked up when first asked for."""

    def __init__(self, proto: onnx.ModelProto, sites: Sequence[ir.Site]) -> None:
        self.main = proto.graph
        self._sites = sites

    @cached_property
    def fixed(self) -> set[str]:
        """Names that others know, or that mean several things."""
        defined: Counter[str] = Counter()
        fixed = {i.name for i in self.main.input}
        for graph in ir.walk_graphs(self.main):
            defined.update(i.name for i in graph.input)
            defined.update(t.name for t in graph.initializer)
            defined.update(o for n in graph.node for o in n.output)
            fixed.update(o.name for o in graph.output)
        fixed.update(name for name, count in defined.items() if count > 1)
        return fixed

    @cached_property
    def uses(self) -> dict[str, list[ir.Use]]:
        """Consumers of the stored tensors."""
        return ir.find_uses(self.main, {s.value_name for s in self._sites})

    def is_free(self, site: ir.Site) -> bool:
        """Whether the tensor may be given up, or moved to the main graph, without anybody seeing it."""
        return site.value_name not in self.fixed

    def is_foldable(self, name: str) -> bool:
        """Whether a Transpose in front of all users takes no time."""
        return all(u.op_type in ("MatMul", "Gemm") for u in self.uses.get(name, ()))


def _candidates(
    survey: _Survey, sites: Sequence[ir.Site], arrays: Sequence[tuple[Array | None, int]], least: int
) -> Iterator[list[_Stored]]:
    """Tensors that may be equal, those of the main graph first, and of these those that cannot be a transposed copy."""
    by_shape: dict[tuple[int, tuple[int, ...]], list[_Stored]] = {}
    for site, (array, elem_type) in zip(sites, arrays, strict=True):
        is_large = array is not None and array.size >= max(least, 2) and sum(e > 1 for e in array.shape) > 1
        if array is not None and is_large and survey.is_free(site):
            shape = tuple(sorted(array.shape)) if array.ndim == 2 else array.shape
            by_shape.setdefault((elem_type, shape), []).append(_Stored(site, array, elem_type))
    for alike in by_shape.values():
        by_sum: dict[int, list[_Stored]] = {}
        for stored in alike if len(alike) > 1 else ():
            by_sum.setdefault(_sum_of_bits(stored.array), []).append(stored)
        for group in by_sum.values():
            if len(group) > 1:
                order = {id(s): (s.site.graph is not survey.main, survey.is_foldable(s.name)) for s in group}
                yield sorted(group, key=lambda s: order[id(s)])


def _sum_of_bits(array: Array) -> int:
    """The same for every order of the elements."""
    bits = np.ascontiguousarray(array).reshape(-1).view(_bits(array))
    return int(bits.sum(dtype=np.uint64)) if bits.dtype.itemsize < 8 else int(np.bitwise_xor.reduce(bits))


def _tie(
    proto: onnx.ModelProto,
    survey: _Survey,
    stored: _Stored,
    firsts: Sequence[_Stored],
    renamed: dict[str, str],
    result: Ties,
) -> bool:
    """Let one of ``firsts`` stand for the tensor if it is equal to one."""
    for first in firsts:
        is_same = first.array.shape == stored.array.shape and _equal(first.array, stored.array)
        if not is_same:
            if stored.array.ndim != 2 or not survey.is_foldable(stored.name) or stored.site.graph is not proto.graph:
                continue
            if first.array.shape != stored.array.shape[::-1] or not _equal(first.array.T, stored.array):
                continue
        _move_to_main(proto, first, result)
        result.gone.append(stored.site)
        how = "equal to" if is_same else "the transpose of"
        result.notes.append(f"{stored.name}: {how} {first.name}, stored once")
        result.aliases.setdefault(first.name, []).append(stored.name)
        if is_same:
            renamed[stored.name] = first.name
        else:
            node = helper.make_node("Transpose", [first.name], [stored.name], perm=[1, 0], name=stored.name)
            result.nodes.append(node)
        return True
    return False


def _equal(one: Array, other: Array) -> bool:
    """Whether two arrays of one shape have the same bits; compared in blocks of rows."""
    bits = _bits(one)
    rows = max(1, ir.BLOCK // max(1, one[0].size))
    return all(
        np.array_equal(np.ascontiguousarray(one[s]).view(bits), np.ascontiguousarray(other[s]).view(bits))
        for s in ir.blocks(len(one), rows)
    )


def _bits(array: Array) -> str:
    """The unsigned type to look at elements bit for bit; of the two parts of a complex number."""
    return f"u{min(8, array.dtype.itemsize)}"


def _move_to_main(proto: onnx.ModelProto, stored: _Stored, result: Ties) -> None:
    """Store a tensor as an initializer of the main graph, where everything can see it."""
    site = stored.site
    assert site.tensor is not None
    if site.node is None and site.graph is proto.graph:
        return
    name = site.value_name
    tensor = proto.graph.initializer.add()
    tensor.CopyFrom(site.tensor)
    tensor.name = name
    if site.graph is not proto.graph:
        result.moved.add(name)
    result.gone.append(site)
    stored.site = ir.InitializerSite(proto.graph, tensor, None)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    if not names:
        return
    for g in ir.walk_graphs(graph):
        for node in g.node:
            for i, name in enumerate(node.input):
                if name in names:
                    node.input[i] = names[name]
        for i in reversed(range(len(g.value_info))):
            if g.value_info[i].name in names:
                del g.value_info[i]
