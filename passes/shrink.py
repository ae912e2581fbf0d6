"""shrink: takes channels out of the model that carry nothing; pruning leaves many."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx

from dc_compiler import ir
from dc_compiler.ir.links import Link, constants, find_links
from dc_compiler.pass_manager import Context, Pass, PassReport


@dataclass(frozen=True)
class Shrink(Pass):
    """Remove channels between two layers that no weight takes in, or that no weight feeds.

    A channel without inputs is constant (an activation of its bias), so its share goes into the next layer's bias where
    that is exact but for rounding. Weights, biases and normalization parameters lose the channels' rows and columns:
    the model computes the same, takes less time, and positions of what is left cost fewer bits.

    Options:
        sort: put the channels between two layers in order of how many weights feed them, those with most first. Their
            order means nothing, but the coder ``context`` predicts where weights are from the rows before.
    """

    name: ClassVar[str] = "shrink"
    forbids: ClassVar[frozenset[str]] = frozenset({"encoded"})
    reshapes: ClassVar[bool] = True

    sort: bool = False

    def run(self, program: ir.Program, context: Context) -> PassReport:
        links = find_links(program)
        removed, changed = 0, True
        while changed:  # what is removed here may have been all that another channel was for
            counts = [_shrink(link) for link in links]
            changed = any(counts)
            removed += sum(counts)
        if removed:
            del program.proto.graph.value_info[:]  # shapes of other days
            for record, site in zip(program.records, program.sites, strict=True):
                if site.tensor is not None and tuple(site.tensor.dims) != record.shape:
                    site.tensor.dims[:] = record.shape
            program.rounding.append(f"shrink: {removed} channels that carry nothing were removed")
        facts = {"channels removed": removed}
        if self.sort:
            facts["layers sorted"] = ordered = sum(_sort(link) for link in links)
            if ordered:
                program.rounding.append(f"shrink: {ordered} layers have their channels in another order")
        return PassReport(self.name, len(links), facts=facts)


def _shrink(link: Link) -> int:
    """Remove what can be removed between two layers; returns how many channels that is."""
    weights = _by_channel(link.maker.weight, link.maker.axis, link.channels)
    taken = _by_channel(link.taker.weight, link.taker.axis, link.channels)
    is_used, is_fed = taken.any(axis=1), weights.any(axis=1)
    value = constants(link)
    known = np.zeros(link.channels) if value is None else value
    is_constant = ~is_fed & (value is not None)
    folds = is_used & is_constant & (known != 0) & _takes_constants(link.taker.bias)
    goes = ~is_used | (is_constant & (known == 0)) | folds
    if goes.all():
        goes[0] = False  # no layer may be empty
    folded = np.flatnonzero(goes & folds)
    if len(folded):
        _fold(link, folded, known[folded])
    kept = np.flatnonzero(~goes)
    if len(kept) < link.channels:
        _keep(link, kept)
    return int(goes.sum())


def _sort(link: Link) -> bool:
    """Put the channels in order of the weights that feed them; returns whether any moves."""
    counts = np.count_nonzero(_by_channel(link.maker.weight, link.maker.axis, link.channels), axis=1)
    order = np.argsort(-counts, kind="stable")
    moves = bool((np.diff(order) < 0).any())
    if moves:
        _keep(link, order)
    return moves


def _by_channel(record: ir.WeightRecord, axis: int, channels: int) -> np.ndarray:
    """The weight as [channels, ...]: what belongs to each."""
    return np.moveaxis(record.values, axis, 0).reshape(channels, -1)


def _takes_constants(bias: ir.WeightRecord | None) -> bool:
    return bias is not None and bias.clustered is None and bias.mask is None


def _fold(link: Link, channels: np.ndarray, values: np.ndarray) -> None:
    """Add to the taker's bias what constant ``channels`` of these values [len(channels)] contribute."""
    taker, bias = link.taker, link.taker.bias
    assert bias is not None
    weight = np.moveaxis(taker.weight.values, taker.axis, 0)  # [inputs, ...] or, of a Conv, [inputs, outputs, kernel]
    per_channel = weight.shape[0] // link.channels
    rows = weight.reshape(link.channels, per_channel, bias.size, -1)[channels].astype(np.float64)
    terms = (rows * values[:, None, None, None]).transpose(2, 0, 1, 3).reshape(bias.size, -1)
    total = np.cumsum(terms, axis=1)[:, -1]  # in order: every machine agrees
    ir.add_change(bias, (bias.values.astype(np.float64) + total).astype(bias.values.dtype))
    bias.original = None


def _keep(link: Link, kept: np.ndarray) -> None:
    """Leave the channels ``kept``, in this order, of every tensor that has a part for each."""
    inputs = link.taker.weight.shape[link.taker.axis]
    positions = np.arange(inputs).reshape(link.channels, -1)[kept].reshape(-1)
    _take(link.maker.weight, link.maker.axis, kept)
    _take(link.taker.weight, link.taker.axis, positions)
    for vector in link.vectors:
        _take(vector, 0, kept)
    if link.reshape is not None:
        _set_inputs(link.reshape, len(positions))
    link.channels = len(kept)


def _take(record: ir.WeightRecord, axis: int, kept: np.ndarray) -> None:
    def part(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.take(array, kept, axis))

    shape = record.shape
    record.values = part(record.values)
    record.original = None  # has other channels
    if record.mask is not None:
        record.mask = part(record.mask)
    if record.clustered is not None:
        indices = part(record.clustered.indices.reshape(shape)).reshape(-1)
        record.clustered = ir.without_unused(dataclasses.replace(record.clustered, indices=indices))


def _set_inputs(tensor: onnx.TensorProto, inputs: int) -> None:
    """Make the constant shape [batch, inputs] one for so many inputs; -1 stands for whatever number there is."""
    batch, before = onnx.numpy_helper.to_array(tensor)
    if before > 0:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([batch, inputs if batch == -1 else -1]), tensor.name))
