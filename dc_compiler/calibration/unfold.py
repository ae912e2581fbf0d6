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
    def rows(self, values: Array, most: int) -> Array:
        """About ``most`` rows at most, evenly spread: [g, m, k]; ``g`` is 1 where all matrices take the same rows."""


@dataclass(frozen=True)
class AlongAxis(Unfold):
    """Vectors along one axis of a value, as a MatMul or Gemm takes them in. Every element of the ``batched`` axes
    before the last two has a matrix of its own."""

    axis: int = -1
    batched: int = 0

    def rows(self, values: Array, most: int) -> Array:
        moved = np.moveaxis(values, self.axis, -1)
        first = max(0, moved.ndim - 2 - self.batched)
        groups = moved.shape[first:-2] if self.batched else ()
        moved = moved.reshape(-1, math.prod(groups), *moved.shape[-2:]) if self.batched else moved[None]
        rows = np.swapaxes(moved, 0, 1) if self.batched else moved
        return thinned(rows.reshape(len(rows), -1, moved.shape[-1]), most)


@dataclass(frozen=True)
class Channels(Unfold):
    """Channels at every place of [n, c, ...], in ``groups``: what a ConvTranspose multiplies."""

    groups: int = 1

    def rows(self, values: Array, most: int) -> Array:
        cut = values.reshape(values.shape[0], self.groups, -1, math.prod(values.shape[2:]))
        return thinned(cut.transpose(1, 0, 3, 2).reshape(self.groups, -1, cut.shape[2]), most)


@dataclass(frozen=True)
class States(Unfold):
    """The states of a recurrent layer, [t, d, n, k]: what its recurrence multiplies a step later, each direction by a
    matrix of its own. The last step's is one too many, the initial one is missing."""

    def rows(self, values: Array, most: int) -> Array:
        moved = values.transpose(1, 0, 2, 3)
        return thinned(moved.reshape(len(moved), -1, values.shape[3]), most)


@dataclass(frozen=True)
class Patches(Unfold):
    """What a convolution multiplies: [n, c, ...] under every place of its window. ``pads`` has (before, after) for each
    axis, or is the text of ``auto_pad``."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...] | str
    groups: int = 1

    def rows(self, values: Array, most: int) -> Array:
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
        return np.moveaxis(found.reshape(len(found), self.groups, -1), 1, 0)

    def _pads(self, spatial: tuple[int, ...]) -> list[tuple[int, int]]:
        if not isinstance(self.pads, str):
            return list(self.pads)
        found = []
        for size, k, s, d in zip(spatial, self.kernel, self.strides, self.dilations, strict=True):
            total = 0 if self.pads == "VALID" else max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
            before = total - total // 2 if self.pads == "SAME_LOWER" else total // 2
            found.append((before, total - before))
        return found


def thinned(rows: Array, most: int) -> Array:
    """About ``most`` of the rows [g, m, k], evenly spread."""
    return rows[:, :: _stride(rows.shape[1], most)]


def _stride(count: int, most: int) -> int:
    return max(1, -(-count // max(1, most)))
