"""Runs two models on the same feeds and compares what they give feed by feed, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dc_compiler.errors import ModelError
from dc_compiler.ort.compare import Comparison, OutputComparison
from dc_compiler.ort.data import Feed
from dc_compiler.ort.reach import taken
from dc_compiler.ort.sessions import short

HELD = 1 << 28  # bytes of outputs that are kept, so that one model is freed before the other is loaded
ENTRY = 64  # bytes at least that an element of a list or a map takes


@dataclass(frozen=True)
class Runner:
    """A session, and what its model is called in errors. ``part`` is for a model that may not need all inputs."""

    session: Any
    label: str
    part: bool = False

    def __call__(self, feed: Feed) -> list[Any]:
        """All outputs.

        Raises:
            ModelError: the model does not run on the feed.
        """
        try:
            return list(self.session.run(None, taken(self.session, feed) if self.part else feed))
        except Exception as e:  # onnxruntime's exceptions share no base class
            raise ModelError(f"{self.label} does not run on the inputs: {short(e)}") from None


class Answers:
    """What a model gives for each feed: computed at once up to ``HELD`` bytes, and the rest when it is asked for.

    The session is kept only where there is a rest, so that most comparisons have one model in memory at a time.

    Args:
        feeds: one or more. held: outputs for the first of them that are known already.

    Raises:
        ModelError: the model does not run on a feed.
    """

    def __init__(self, runner: Runner, feeds: Sequence[Feed], held: Sequence[list[Any]] = ()) -> None:
        self._feeds, self._held = feeds, list(held)
        size = sum(map(_size, self._held))
        while len(self._held) < len(feeds) and size <= HELD:
            self._held.append(runner(feeds[len(self._held)]))
            size += _size(self._held[-1])
        self._runner = runner if len(self._held) < len(feeds) else None

    @property
    def complete(self) -> bool:
        """Whether the session is needed no more."""
        return self._runner is None

    @property
    def first(self) -> list[Any]:
        """The outputs for the first feed."""
        return self._held[0]

    def pairs(self) -> Iterator[tuple[Feed, list[Any]]]:
        """Every feed with its outputs."""
        for number in range(len(self._feeds)):
            feed = self._feeds[number]
            if number < len(self._held):
                yield feed, self._held[number]
            else:
                assert self._runner is not None  # it is kept until all are held
                yield feed, self._runner(feed)


@dataclass
class FirstOutputs:
    """The first output of both models for every feed, which measures of labels take together."""

    before: list[Any] = field(default_factory=list)
    after: list[Any] = field(default_factory=list)


def compare_runs(
    names: Sequence[str], before: Answers, after: Runner, kept: FirstOutputs | None = None
) -> list[OutputComparison]:
    """Compare the outputs of two models over all feeds, holding those of one feed beside what ``before`` holds.

    Args:
        names: of the outputs of both. kept: takes the first output of each feed.

    Raises:
        ModelError: a model does not run on a feed.
    """
    comparisons = [Comparison(name) for name in names]
    for feed, old in before.pairs():
        new = after(feed)
        if kept is not None:
            kept.before.append(old[0])
            kept.after.append(new[0])
        _add(comparisons, old, new)
        del old, new  # before the next are made
    return [comparison.result() for comparison in comparisons]


def _add(comparisons: Sequence[Comparison], old: Sequence[Any], new: Sequence[Any]) -> None:
    for comparison, x, y in zip(comparisons, old, new, strict=True):
        comparison.add(x, y)


def _size(value: Any) -> int:
    """About the bytes that an output takes."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(ENTRY + _size(v) for v in value.values())
    return sum(ENTRY + _size(v) for v in value) if isinstance(value, list | tuple) else 0
