"""What a comparison must show: the bounds that presets promise, and the thresholds that a user sets."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from dc_compiler.errors import InvalidArgumentError
from dc_compiler.ort import stability
from dc_compiler.ort.compare import CONSTANT, OutputComparison
from dc_compiler.ort.verify import Verification

# Results of the presets that promise quality are refused when an output is further from the original than this: the
# bounds catch catastrophes. Made-up inputs are unlike anything a model has seen, and feedback (decoders that consume
# their own output) magnifies differences even on good data. On made-up inputs every feed counts for itself, since each
# may take another way through the model; on data all feeds together, since one sample alone may be odd.
MIN_COSINE = {"data": 0.8, "made-up inputs": stability.THROWN}
MIN_EQUAL = {"data": 0.5, "made-up inputs": 0.1}  # share of equal integers, where no float tells how near they are


@dataclass(frozen=True)
class Thresholds:
    """What a verification must reach; None asks for nothing.

    Args:
        cosine: smallest cosine of any output on any feed, in [-1, 1].
        error: largest absolute difference in any output.
        agreement: smallest share, of vectors with the largest element at the same place and of equal elements, in
            [0, 1].

    Raises:
        InvalidArgumentError: a number outside these bounds.
    """

    cosine: float | None = None
    error: float | None = None
    agreement: float | None = None

    def __post_init__(self) -> None:
        for flag, value, low, high in (
            ("--min-cosine", self.cosine, -1.0, 1.0),
            ("--max-error", self.error, 0.0, float("inf")),
            ("--min-agreement", self.agreement, 0.0, 1.0),
        ):
            if value is not None and not low <= value <= high:
                limits = f"between {low:g} and {high:g}" if high < float("inf") else f"{low:g} or more"
                raise InvalidArgumentError(f"{flag} {value:g} is not valid; give a number {limits}")


def missed(result: Verification, wanted: Thresholds) -> list[str]:
    """One sentence for each threshold that is missed, or for which there is no figure."""
    if wanted == Thresholds():
        return []
    outputs = [o for o in result.outputs if _has_figures(o)]
    judges = [c for o in result.outputs for c in _judges(o, result) if _has_figures(c)]
    cosines = [(c.name, c.worst_cosine) for c in judges]
    errors = [(c.name, c.max_abs_error) for c in judges]
    shares = [(o.name, share) for o in outputs for share in (o.top1_agreement, o.equal_share)]
    found = [
        *_beyond("--min-cosine", wanted.cosine, "cosine", cosines, operator.lt),
        *_beyond("--max-error", wanted.error, "error", errors, operator.gt),
        *_beyond("--min-agreement", wanted.agreement, "agreement", shares, operator.lt),
    ]
    blind = [o for o in result.outputs if not _has_figures(o) and o.name not in result.deciding]
    return found + [f"{o.name} was not compared: {o.not_compared}" for o in blind]


def _has_figures(value: OutputComparison) -> bool:
    return value.not_compared in (None, CONSTANT)


def _beyond(
    flag: str,
    threshold: float | None,
    what: str,
    figures: Iterable[tuple[str, float | None]],
    is_beyond: Callable[[float, float], bool],
) -> Iterator[str]:
    if threshold is None:
        return
    known = [(name, figure) for name, figure in figures if figure is not None]
    if not known:
        yield f"{flag} {threshold:.12g}: nothing has a figure for it"
    for name, figure in known:
        if is_beyond(figure, threshold):
            yield f"{flag} {threshold:.12g}: {what} of {name} is {figure:.12g}"


def catastrophe(result: Verification) -> str | None:
    """The first sign that a result is ruined, as a sentence, or None.

    What differs much or in shape because of choices is judged by the values that decide: another number of boxes is no
    ruin. Runs that a little noise in the weights throws over as well are not counted.
    """
    for output in result.outputs:
        problem = _problem(output, result, f"output '{output.name}'")
        if problem is not None:
            return problem
    return None


def _problem(value: OutputComparison, result: Verification, what: str) -> str | None:
    judges = result.deciding.get(value.name)
    if judges and value.max_abs_error < float("inf"):
        problems = (_problem(j, result, f"'{j.name}', which decides about {what},") for j in judges)
        return next((p for p in problems if p is not None), None)
    if value.shapes is not None:
        return None
    if value.name in result.steady:
        value = result.steady[value.name].comparison
    cosine = value.cosine if result.source == "data" else value.worst_cosine
    bound = MIN_COSINE[result.source]
    if cosine is not None and cosine < bound:
        return f"{what} has cosine {cosine:.4f} to the original's, below {bound}"
    if value.equal_share is not None and value.equal_share < MIN_EQUAL[result.source]:
        share, least = 100 * value.equal_share, 100 * MIN_EQUAL[result.source]
        return f"{what} has {share:.1f} % of its elements equal to the original's, below {least:.0f} %"
    return None


def _judges(value: OutputComparison, result: Verification) -> Iterator[OutputComparison]:
    """A value, or what decides about it in the end."""
    judges = result.deciding.get(value.name, [])
    yield from (j for judge in judges for j in _judges(judge, result))
    if not judges:
        yield value
