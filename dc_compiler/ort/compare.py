"""Compares what two models give for one output: arrays, and element by element what is inside sequences and maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray
CONSTANT = "constant"
NOT_FINITE = "no finite values"
SILENT = 1e-4  # a feed with less than this share of the mean energy says nothing by its own angle


@dataclass
class OutputComparison:
    """One output over all feeds.

    Attributes:
        name: of the output.
        identical: the same bits, and they say something (``not_compared`` is None).
        same_bits: the same bits, whatever they say.
        max_abs_error: largest absolute difference.
        sqnr_db: signal-to-noise ratio of floats in dB; None where nothing differs.
        cosine: cosine similarity of floats, all feeds taken together. worst_cosine: the smallest of a single feed.
        top1_agreement: share of float vectors (last axis) whose largest element is at the same place.
        equal_share: share of equal elements, of integers, truth values and texts.
        not_compared: why the values say nothing about the weights: there are none, they are not finite, or all are the
            same constant in both models.
        shapes: the first two shapes (or numbers of elements) that differ, before and after; what both have in common
            is compared then.
    """

    name: str
    identical: bool = False
    same_bits: bool = True
    max_abs_error: float = 0.0
    sqnr_db: float | None = None
    cosine: float | None = None
    worst_cosine: float | None = None
    top1_agreement: float | None = None
    equal_share: float | None = None
    not_compared: str | None = None
    shapes: list[str] | None = None


@dataclass
class _Products:
    """Sums over pairs of float vectors."""

    signal: float = 0.0
    other: float = 0.0
    dot: float = 0.0
    noise: float = 0.0

    def add(self, x: Array, y: Array) -> None:
        difference = x - y
        self.signal += float(x @ x)
        self.other += float(y @ y)
        self.dot += float(x @ y)
        self.noise += float(difference @ difference)

    def cosine(self, unknown: float) -> float | None:
        """None for zeros on both sides, 1 for equal ones; ``unknown`` where squares overflow."""
        if self.signal == 0 and self.other == 0:
            return None
        if self.signal == 0 or self.other == 0:
            return 0.0
        if self.noise == 0:
            return 1.0
        found = self.dot / (math.sqrt(self.signal) * math.sqrt(self.other))
        return min(1.0, max(-1.0, found)) if math.isfinite(found) else unknown


@dataclass
class _Share:
    """A share of many."""

    hits: int = 0
    total: int = 0

    def add(self, hits: Array) -> None:
        self.hits += int(hits.sum())
        self.total += hits.size

    @property
    def value(self) -> float | None:
        return self.hits / self.total if self.total else None


@dataclass
class _Tally:
    """What is known of one output so far."""

    result: OutputComparison
    feeds: list[_Products] = field(default_factory=list)
    top1: _Share = field(default_factory=_Share)
    equal: _Share = field(default_factory=_Share)
    elements: int = 0
    usable: int = 0  # elements that are finite on both sides
    first: Any = None  # the first of them
    varies: bool = False

    def add(self, x: Array, y: Array) -> bool:
        """Take two arrays of one shape and kind; False when values became, or ceased to be, infinite or NaN."""
        self.elements += x.size
        if x.dtype.kind not in "fViub":
            self._seen(x.ravel())
            self.equal.add(np.asarray(x == y))
            return True
        wide, other = x.astype(np.float64), y.astype(np.float64)
        finite = np.isfinite(wide) & np.isfinite(other)
        if not np.array_equal(wide[~finite], other[~finite], equal_nan=True):
            return False
        if x.dtype.kind in "fV" and x.ndim >= 2 and x.shape[-1] > 1:
            self._add_top1(wide, other)
        wide, other = wide[finite], other[finite]
        self._seen(wide)
        self.result.max_abs_error = max(self.result.max_abs_error, float(np.abs(wide - other).max(initial=0.0)))
        if x.dtype.kind in "fV":
            self.feeds[-1].add(wide, other)
        else:
            self.equal.add(np.asarray(x == y))  # class numbers and the like: angles mean nothing
        return True

    def _add_top1(self, x: Array, y: Array) -> None:
        """Rows that are all alike, or not finite, have no largest element."""
        if x.size:
            rows = np.isfinite(x).all(-1) & np.isfinite(y).all(-1) & (x.max(-1) > x.min(-1))
            self.top1.add(x[rows].argmax(-1) == y[rows].argmax(-1))

    def _seen(self, values: Array) -> None:
        if not values.size:
            return
        if not self.usable:
            self.first = values[0]
        self.usable += values.size
        self.varies = self.varies or bool((values != self.first).any())


class _OtherKindError(Exception):
    """Values of which one is an array and the other is not, or arrays of other types or ranks."""


class Comparison:
    """Compares one output, a feed at a time; what is kept of a feed does not grow with its output."""

    def __init__(self, name: str) -> None:
        self._result = OutputComparison(name)
        self._tally = _Tally(self._result)
        self._is_ruined = False

    @np.errstate(over="ignore", invalid="ignore")
    def add(self, old: Any, new: Any) -> None:
        """Take what onnxruntime gave for a feed: an array, list (sequence), dict (map) or None (optional)."""
        if self._is_ruined:
            return
        result, tally = self._result, self._tally
        tally.feeds.append(_Products())
        shapes: list[list[str]] = []
        try:
            for x, y in _pairs(old, new, shapes):
                result.same_bits &= np.array_equal(x, y) if x.dtype.kind in "OUS" else x.tobytes() == y.tobytes()
                if not tally.add(x, y) and not shapes:
                    self._is_ruined = True
                    return
        except _OtherKindError:
            self._is_ruined = True
            return
        if shapes:
            result.same_bits = False
            result.shapes = result.shapes or shapes[0]

    @np.errstate(over="ignore", invalid="ignore")
    def result(self) -> OutputComparison:
        """What all feeds say together; at least one was taken, and none is afterwards."""
        result, tally = self._result, self._tally
        if self._is_ruined:
            return _ruined(result.name)
        _add_angles(result, tally.feeds)
        result.top1_agreement, result.equal_share = tally.top1.value, tally.equal.value
        result.not_compared = _why_vacuous(tally)
        result.identical = result.same_bits and result.not_compared is None
        return result


def compare(name: str, before: Sequence[Any], after: Sequence[Any]) -> OutputComparison:
    """Compare one output over all feeds.

    Args:
        before, after: for each feed what :meth:`Comparison.add` takes.
    """
    comparison = Comparison(name)
    for old, new in zip(before, after, strict=True):
        comparison.add(old, new)
    return comparison.result()


def _ruined(name: str) -> OutputComparison:
    infinite = float("inf")
    return OutputComparison(name, False, False, infinite, -infinite, 0.0, 0.0, 0.0)


def _add_angles(result: OutputComparison, feeds: Sequence[_Products]) -> None:
    sums = _Products(*(sum(getattr(f, key) for f in feeds) for key in ("signal", "other", "dot", "noise")))
    unknown = 1.0 if result.same_bits else 0.0
    result.cosine = sums.cosine(unknown)
    if sums.noise > 0:
        result.sqnr_db = float(10 * np.log10(sums.signal / sums.noise)) if sums.signal > 0 else float("-inf")
    loud = [f for f in feeds if not f.signal < SILENT * sums.signal / len(feeds)]
    result.worst_cosine = min((c for c in (f.cosine(unknown) for f in loud) if c is not None), default=None)


def _why_vacuous(tally: _Tally) -> str | None:
    if tally.elements == 0:
        return "nothing in common" if tally.result.shapes else "empty"
    if tally.usable == 0:
        return NOT_FINITE
    if tally.usable > 1 and not tally.varies and tally.result.max_abs_error == 0 and tally.equal.value in (None, 1.0):
        return CONSTANT
    return None


def _pairs(old: Any, new: Any, shapes: list[list[str]]) -> Iterator[tuple[Array, Array]]:
    """Arrays of one shape that stand at the same place; where sizes differ they go to ``shapes``, and the part that
    both have is given.

    Raises:
        _OtherKindError
    """
    if isinstance(old, dict) and isinstance(new, dict):
        if old.keys() != new.keys():
            shapes.append([f"{len(old)} keys", f"{len(new)} keys"])
        keys = [k for k in old if k in new]
        if all(np.ndim(v) == 0 and v is not None for k in keys for v in (old[k], new[k])):
            yield np.asarray([[old[k] for k in keys]]), np.asarray([[new[k] for k in keys]])  # scores of classes, say
        else:
            for k in keys:
                yield from _pairs(old[k], new[k], shapes)
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
        if len(old) != len(new):
            shapes.append([f"{len(old)} elements", f"{len(new)} elements"])
        for x, y in zip(old, new, strict=False):
            yield from _pairs(x, y, shapes)
    elif old is not None or new is not None:
        if any(v is None or isinstance(v, dict | list | tuple) for v in (old, new)):
            raise _OtherKindError
        yield _common_part(np.asarray(old), np.asarray(new), shapes)


def _common_part(x: Array, y: Array, shapes: list[list[str]]) -> tuple[Array, Array]:
    same_type = x.dtype == y.dtype or (x.dtype.kind == y.dtype.kind and x.dtype.kind in "US")
    if not same_type or x.ndim != y.ndim:
        raise _OtherKindError
    if x.shape == y.shape:
        return x, y
    shapes.append(["x".join(map(str, a.shape)) for a in (x, y)])
    common = tuple(slice(min(extents)) for extents in zip(x.shape, y.shape, strict=True))
    return x[common], y[common]
