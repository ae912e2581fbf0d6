"""What a search for settings shall reach, from what the user asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from dc_compiler.calibration.divergence import Distance
from dc_compiler.errors import InvalidArgumentError

# How far the outputs may move for a point that the metric may fall (a point is 0.01); set by what a classifier of
# images, one of files and a text recogniser lost on their tests, which is no promise for others
DIVERGENCE_OF_A_POINT = 0.025
DEFAULT_DROP = 0.5  # points
MARGIN = 0.5  # standard errors that what samples say about a metric must leave
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
# A model that magnifies any change, one that feeds on its own output, say, may move by what the near-lossless step of
# the pipeline without data does to it, but by no more than this, in the divergence of scores and in variances of other
# values: beyond it, outputs have nothing to do with the original's any more, so that a larger step would not show
MOST_OF_SCORES, MOST_OF_VALUES = 0.8, 0.1


@dataclass(frozen=True)
class Targets:
    """What the user asked for: the file's most bytes, or its least ratio to the original, and the most points that the
    metric may fall (with labels), or the most hundredths of the samples that may get another class (without).

    Raises:
        InvalidArgumentError: a number that cannot be.
    """

    ratio: float | None = None
    size: int | None = None
    drop: float | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None and not 1 < self.ratio < math.inf:
            raise InvalidArgumentError(f"--target-ratio {self.ratio:g} is not valid; give a number above 1")
        if self.size is not None and self.size < 1:
            raise InvalidArgumentError(f"--target-size {self.size} is not valid; give a number of bytes, as in 5MB")
        if self.drop is not None and not 0 < self.drop <= 100:
            raise InvalidArgumentError(f"--max-drop {self.drop:g} is not valid; give points above 0, at most 100")
        if self.ratio is not None and self.size is not None:
            raise InvalidArgumentError("give --target-ratio or --target-size, not both")

    @property
    def any(self) -> bool:
        """Whether anything was asked for."""
        return any(v is not None for v in (self.ratio, self.size, self.drop))

    def bytes_of(self, original: int) -> int | None:
        """Most bytes of the file, given the original's."""
        return int(original / self.ratio) if self.ratio is not None else self.size


def parse_size(text: str) -> int:
    """Bytes of a text such as ``5MB``, ``800 kB``, ``1.5MiB`` or ``123456``.

    Raises:
        InvalidArgumentError
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in UNITS:
        raise InvalidArgumentError(f"--target-size '{text}' is not valid; give bytes, or a number with kB, MB, GB, MiB")
    return int(float(match[1]) * UNITS[match[2]])


def most_amplified(of_scores: bool) -> float:
    """The divergence beyond which it tells nothing any more."""
    return MOST_OF_SCORES if of_scores else MOST_OF_VALUES


def bound_of(drop: float, near_lossless: Distance, *, of_scores: bool) -> float:
    """How far outputs may move for a drop of so many points; as :func:`excess_of`."""
    return max(drop * DIVERGENCE_OF_A_POINT, min(near_lossless.divergence, most_amplified(of_scores)))


def excess_of(
    drop: float, near_lossless: Distance, before: float | None, *, counts_flips: bool, of_scores: bool
) -> Callable[[Distance], float]:
    """How far outputs are, in what is allowed for a drop of so many points; above 1 is too far.

    The divergence is always held to its bound, as few samples show small drops by chance alone. Where there is a
    metric, what it fell by counts as well, with half the uncertainty of so many changed answers added; where there is
    none but ``counts_flips``, the share of changed answers.

    Args:
        near_lossless: what the near-lossless step does to the outputs with plain rounding.
        before: the original's score, or None. of_scores: whether the outputs are scores of classes.
    """
    bound = bound_of(drop, near_lossless, of_scores=of_scores)

    def excess(found: Distance) -> float:
        parts = [found.divergence / bound]
        if before is not None and found.score is not None:
            parts.append(100 * (before - found.score + MARGIN * found.uncertainty) / drop)
        elif counts_flips:
            parts.append(100 * found.disagreement / drop)
        return max(parts)

    return excess
