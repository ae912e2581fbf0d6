"""Tensors as one packed vector of trainable numbers (arXiv 1510.00149, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dc_compiler import ir
from dc_compiler.training.checkpoint import State

Array = np.ndarray


class Parameters:
    """Tensors as one packed vector of the numbers that training may move.

    A tensor's kept elements are its parameters; of a clustered tensor it is the codebook's entries, each with the sum
    of its members' gradients (arXiv 1510.00149, section 3.3). Pruned elements and the zero entry are no parameters, so
    they stay exactly +0.0.

    Args:
        units: by record name, what one unit of each element's parameter stands for, float32, flat; 1 where none is
            given. Not for clustered tensors.

    Attributes:
        theta: float32 [p], the parameters; change it in place, then call :meth:`expand`.
        weights: the tensors themselves, views of one float32 vector (copies for float64).
        transform: what the tensors hold instead of the parameters, a function of ``theta``; None for the same.
            Gradients pass through it unchanged.
    """

    def __init__(self, records: Sequence[ir.WeightRecord], units: Mapping[str, Array] | None = None) -> None:
        self.records = list(records)
        self._ends = np.cumsum([r.size for r in records])
        self._dense = np.zeros(int(self._ends[-1]), np.float32)
        self._flat = np.split(self._dense, self._ends[:-1])
        parts, members, owners, factors, first = [], [], [], [], 0
        for record, start in zip(records, self._ends - [r.size for r in records], strict=True):
            values, kept, owner, factor = _parameters_of(record, (units or {}).get(record.name))
            parts.append(values)
            members.append(kept + start)
            owners.append(owner + first)
            factors.append(factor)
            first += len(values)
        self.theta = np.concatenate(parts)
        self._starts = np.cumsum([0, *(len(p) for p in parts)])
        self._members = np.concatenate(members)
        self._owner = np.concatenate(owners)
        self._factor = np.concatenate(factors) if any((f != 1).any() for f in factors) else None
        self._shared = any(r.clustered is not None for r in records)
        self.transform: Callable[[Array], Array] | None = None
        self.expand()

    @property
    def weights(self) -> list[Array]:
        """Every tensor in its own shape, float32 or float64."""
        return [
            f.reshape(r.shape).astype(ir.compute_dtype(r.values.dtype), copy=False)
            for f, r in zip(self._flat, self.records, strict=True)
        ]

    def expand(self) -> None:
        """Write the parameters into the tensors."""
        values = self.theta if self.transform is None else self.transform(self.theta)
        if self._shared:
            values = values[self._owner]
        target = self._members if len(self._members) < len(self._dense) else slice(None)  # indexing is slow
        self._dense[target] = values if self._factor is None else values * self._factor

    def reduce(self, gradients: Sequence[Array]) -> Array:
        """Gradient of every parameter, float32 [p], from that of every tensor."""
        flat: Array = np.concatenate([g.reshape(-1) for g in gradients]).astype(np.float32, copy=False)
        if len(self._members) < len(flat):
            flat = flat[self._members]
        if self._factor is not None:
            flat *= self._factor
        if not self._shared:
            return flat
        return np.asarray(np.bincount(self._owner, flat, len(self.theta)), np.float32)

    def prune(self, masks: Sequence[Array | None]) -> Array:
        """Drop parameters whose element is masked (None keeps all of a tensor); returns bool [p], the ones kept.

        Only for tensors that are not clustered.
        """
        kept = np.ones(len(self.theta), bool)
        for number, mask in enumerate(masks):
            if mask is not None:
                start, end, offset = self._starts[number], self._starts[number + 1], self._offset(number)
                kept[start:end] = mask.reshape(-1)[self._members[start:end] - offset]
                self.records[number].mask = None if mask.all() else mask.reshape(self.records[number].shape)
        self._dense[self._members[~kept]] = 0
        self.theta, self._members = self.theta[kept], self._members[kept]
        self._starts = np.concatenate([[0], np.cumsum(kept)])[self._starts]
        self._owner = np.arange(len(self.theta))
        return kept

    def state(self) -> State:
        """``theta``, and which elements are not pruned, one bit each."""
        kept = np.zeros(len(self._dense), bool)
        kept[self._members] = True
        return {"theta": self.theta, "kept": np.packbits(kept)}

    def restore(self, state: State) -> None:
        """Prune what was pruned and take over ``theta``; call :meth:`expand` then."""
        kept = np.unpackbits(state["kept"], count=len(self._dense)).astype(bool)
        if np.count_nonzero(kept) < len(self._members):
            self.prune(np.split(kept, self._ends[:-1]))
        if state["theta"].shape != self.theta.shape:
            raise ValueError("these are not the parameters' values")
        self.theta[:] = state["theta"]

    def span(self, record: ir.WeightRecord) -> slice:
        """Where the parameters of a record lie."""
        number = next(i for i, r in enumerate(self.records) if r is record)
        return slice(int(self._starts[number]), int(self._starts[number + 1]))

    def _offset(self, number: int) -> int:
        return int(self._ends[number]) - self.records[number].size

    def scores(self, records: Sequence[ir.WeightRecord], values: Array) -> list[Array]:
        """Spread one number a parameter over the elements of ``records``, float32 [n] each; pruned elements get 0."""
        dense = np.zeros_like(self._dense)
        dense[self._members] = values[self._owner]
        parts = {id(r): f for r, f in zip(self.records, np.split(dense, self._ends[:-1]), strict=True)}
        return [parts[id(r)] for r in records]

    def store(self) -> None:
        """Give the records their new values. What was measured against older values starts anew."""
        for record, flat, values in zip(self.records, self._flat, self._per_record(), strict=True):
            if record.clustered is not None and record.clustered.codebook is not None:
                record.clustered = _with_entries(record.clustered, values)
                new = ir.rebuild(record.clustered, record)
            else:
                new = flat.reshape(record.shape).astype(record.values.dtype)
            record.values = new
            record.signal, record.noise, record.original = None, 0.0, None

    def _per_record(self) -> list[Array]:
        return [self.theta[a:b] for a, b in zip(self._starts[:-1], self._starts[1:], strict=True)]


def _parameters_of(record: ir.WeightRecord, unit: Array | None) -> tuple[Array, Array, Array, Array]:
    """A record's parameters [p], where its kept elements are [m], which parameter each takes [m], times what [m]."""
    clustered = record.clustered
    if clustered is None:
        kept = np.arange(record.size) if record.mask is None else np.flatnonzero(record.mask)
        values = record.values.reshape(-1)[kept].astype(np.float32)
        factor = np.ones(len(kept), np.float32) if unit is None else unit[kept]
        return values / factor, kept, np.arange(len(kept)), factor
    assert clustered.codebook is not None
    kept = np.arange(record.size) if clustered.zero is None else np.flatnonzero(clustered.indices != clustered.zero)
    index = clustered.indices[kept].astype(np.int64)
    values = clustered.codebook.astype(np.float32)
    if clustered.zero is not None:
        values = np.delete(values, clustered.zero)
        index -= index > clustered.zero
    factor = np.ones(len(kept), np.float32)
    if clustered.scales is not None:
        channel = (kept // clustered.scales.inner) % clustered.scales.channels
        factor = clustered.scales.factors(np.dtype(np.float32))[channel]
    return values, kept, index, factor


def _with_entries(clustered: ir.Clustered, values: Array) -> ir.Clustered:
    """The same indices with new codebook entries; the zero entry stays."""
    assert clustered.codebook is not None
    codebook = np.array(clustered.codebook)
    codebook[np.arange(clustered.size) != clustered.zero] = values.astype(codebook.dtype)
    return ir.Clustered(clustered.indices, clustered.size, codebook, zero=clustered.zero, scales=clustered.scales)
