"""How a value that a model computes is rounded to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """A value ``x`` becomes the uint8 nearest to ``x / scale + zero``."""

    scale: float
    zero: int
