"""Ranges that values are rounded to 8 bits in, from what samples make of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dc_compiler import ir
from dc_compiler.ort.activations import activations
from dc_compiler.ort.samples import Samples

Array = np.ndarray
LEVELS = 255  # steps of uint8
KEPT = 1 << 16  # numbers of a value that its range is fitted to, about
BATCH_KEPT = 1 << 12  # of them from one batch
# Shares of the extremes that are tried: a few outliers may cost all others their precision
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
# Scales are powers of 2 to this part: results of onnxruntime differ in the last bits between machines, files must not
FINENESS = 32
TINY = 2.0**-100


@dataclass
class _Seen:
    """Extremes of a value, and some of its numbers."""

    low: float
    high: float
    some: list[Array]

    @property
    def kept(self) -> int:
        return sum(s.size for s in self.some)


class Ranges:
    """Finds ranges on the training part, each once: they are those of the program that asked first.

    Args:
        samples: read, and shared out.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._known: dict[str, ir.Range] = {}

    def of(self, program: ir.Program, names: Sequence[str]) -> dict[str, ir.Range]:
        """Ranges of values that the program computes, float32, finite or not.

        Raises:
            ModelError: the program does not run on the samples.
        """
        missing = [name for name in names if name not in self._known]
        if missing:
            seen = activations(program, missing, _look, self._samples)
            self._known |= {name: _fitted(s) for name, s in seen.items()}
        return {name: self._known[name] for name in names}


def _look(seen: _Seen | None, batch: Array) -> _Seen:
    numbers = batch.reshape(-1)
    numbers = numbers[np.isfinite(numbers)]
    if seen is None:
        seen = _Seen(0.0, 0.0, [])
    if numbers.size:
        seen.low, seen.high = min(seen.low, float(numbers.min())), max(seen.high, float(numbers.max()))
    if numbers.size and seen.kept < KEPT:
        seen.some.append(numbers[:: max(1, numbers.size // BATCH_KEPT)].astype(np.float64))
    return seen


def _fitted(seen: _Seen) -> ir.Range:
    """The range with the least squared error, zero among its points."""
    numbers = np.concatenate(seen.some) if seen.some else np.zeros(1)
    found = [_range(seen.low * share, seen.high * share) for share in SHARES]
    errors = [_error(numbers, bounds) for bounds in found]
    return found[int(np.argmin(errors))]


def _range(low: float, high: float) -> ir.Range:
    """uint8 from low <= 0 to high >= 0, and a little more: a scale that is a power of 2 ** (1 / FINENESS)."""
    steps = math.ceil(FINENESS * math.log2(max(high - low, TINY) / LEVELS))
    scale = float(np.float32(2.0 ** (steps / FINENESS)))
    return ir.Range(scale, min(LEVELS, round(-low / scale)))


def _error(numbers: Array, bounds: ir.Range) -> float:
    rounded = np.clip(np.rint(numbers / bounds.scale) + bounds.zero, 0, LEVELS) - bounds.zero
    return float(np.mean(np.square(rounded * bounds.scale - numbers)))
