"""The rows of inputs that a layer multiplies its weight by, taken from a value of the graph."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Unfold(ABC):
    """Makes rows of inputs of the values of one batch."""

    @abstractmethod
    def rows(self, values: Array, most: int) -> tuple[Array, int]:
        """About ``most`` rows at most, evenly spread, and how many there are to choose from: [g, m, k]; ``g`` is 1
        where all matrices take the same rows."""

    def samples(self, values: Array) -> int:
        """How many samples the batch has."""
        return len(values)


@dataclass(frozen=True)
class AlongAxis(Unfold):
    """Vectors along one axis of a value, as a MatMul or Gemm takes them in. ``batch`` are the extents of the weight's
    axes before its last two: each of its matrices takes vectors of its own. Samples are taken to lie along
    ``samples_axis``."""

    axis: int = -1
    batch: tuple[int, ...] = ()
    samples_axis: int = 0

    def rows(self, values: Array, most: int) -> tuple[Array, int]:
        moved = np.moveaxis(values, self.axis, -1)
        inner = moved.shape[-2:] if moved.ndim > 1 else (1, *moved.shape)
        outer = moved.shape[:-2]
        moved = moved.reshape((1,) * (len(self.batch) - len(outer)) + outer + inner)
        first = moved.ndim - 2 - len(self.batch)
        grouped = [first + i for i, extent in enumerate(self.batch) if extent > 1]
        if any(moved.shape[axis] > 1 for axis in grouped):
            extents = [max(moved.shape[a], self.batch[a - first] if a in grouped else 1) for a in range(moved.ndim)]
            moved = np.broadcast_to(moved, extents)
        rest = [a for a in range(moved.ndim) if a not in grouped]
        groups = math.prod(moved.shape[axis] for axis in grouped)
        return thinned(moved.transpose(*grouped, *rest).reshape(groups, -1, moved.shape[-1]), most)

    def samples(self, values: Array) -> int:
        return int(values.shape[self.samples_axis])


@dataclass(frozen=True)
class Channels(Unfold):
    """Channels at every place of [n, c, ...], in ``groups``: what a ConvTranspose multiplies."""

    groups: int = 1

    def rows(self, values: Array, most: int) -> tuple[Array, int]:
        cut = values.reshape(values.shape[0], self.groups, -1, math.prod(values.shape[2:]))
        return thinned(cut.transpose(1, 0, 3, 2).reshape(self.groups, -1, cut.shape[2]), most)


@dataclass(frozen=True)
class States(Unfold):
    """The states of a recurrent layer, [t, d, n, k]: what its recurrence multiplies a step later, each direction by a
    matrix of its own. No step follows the last one, which is the first in time where ``direction`` is reverse. The
    initial states are another value's. A GRU's hidden gate multiplies the states times the reset gate, which is taken
    for them."""

    direction: str = "forward"

    def rows(self, values: Array, most: int) -> tuple[Array, int]:
        reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[self.direction]
        used = [values[1:, d] if r else values[:-1, d] for d, r in enumerate(reverse)]
        return thinned(np.stack([u.reshape(-1, values.shape[3]) for u in used]), most)

    def samples(self, values: Array) -> int:
        return int(values.shape[2])


@dataclass(frozen=True)
class Stacked(Unfold):
    """What ``inner`` makes of the values of every iteration of a loop, [iterations, ...]."""

    inner: Unfold

    def rows(self, values: Array, most: int) -> tuple[Array, int]:
        step = _stride(len(values), most)
        found = [self.inner.rows(v, -(-most * step // len(values))) for v in values[::step]]
        whole = sum(count for _, count in found) * len(values) // len(found)
        return np.concatenate([rows for rows, _ in found], axis=1), whole

    def samples(self, values: Array) -> int:
        return self.inner.samples(values[0])


@dataclass(frozen=True)
class Patches(Unfold):
    """What a convolution multiplies: [n, c, ...] under every place of its window. ``pads`` has (before, after) for each
    axis, or is the text of ``auto_pad``."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...] | str
    groups: int = 1

    def rows(self, values: Array, most: int) -> tuple[Array, int]:
        spatial = values.shape[2:]
        padded = np.pad(values, [(0, 0), (0, 0), *self._pads(spatial)])
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        rank = len(spatial)
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
        inner = tuple(slice(None, None, d) for d in self.dilations)
        outer = tuple(slice(None, None, s) for s in self.strides)
        windows = windows[(slice(None), slice(None), *outer, *inner)]  # [n, c, *places, *kernel]
        windows = np.moveaxis(windows, 1, 1 + rank)  # [n, *places, c, *kernel]
        places = windows.shape[: 1 + rank]
        chosen = np.unravel_index(np.arange(0, math.prod(places), _stride(math.prod(places), most)), places)
        found = windows[chosen]  # the only copy
        return np.moveaxis(found.reshape(len(found), self.groups, -1), 1, 0), math.prod(places)

    def _pads(self, spatial: tuple[int, ...]) -> list[tuple[int, int]]:
        if not isinstance(self.pads, str):
            return list(self.pads)
        found = []
        for size, k, s, d in zip(spatial, self.kernel, self.strides, self.dilations, strict=True):
            total = 0 if self.pads == "VALID" else max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
            before = total - total // 2 if self.pads == "SAME_LOWER" else total // 2
            found.append((before, total - before))
        return found


def thinned(rows: Array, most: int) -> tuple[Array, int]:
    """About ``most`` of the rows [g, m, k], evenly spread, and the number of all."""
    return rows[:, :: _stride(rows.shape[1], most)], rows.shape[1]


def _stride(count: int, most: int) -> int:
    return max(1, -(-count // max(1, most)))
