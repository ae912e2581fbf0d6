"""Recognises tensors that follow a formula (bases, filter banks, windows, selections), which are no weights.

Every test asks for what trained and random values do not have: hundreds of elements that agree with a formula of one or
two free numbers a line. Large tensors are ruled out by a sample of their lines.
"""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from dc_compiler.ir.numeric import blocks

Array = NDArray[np.float64]

FEW = 16  # distinct values that count as few, where each occurs 16 times on average
UNIT = 16  # numbers that are multiples of 1/16 are written down by somebody, not trained
LEAST_LINE = 8  # elements of a line that can be told from a random one
LEAST_SIZE = 64  # elements of a tensor, and
LEAST_VECTOR = 16  # of a vector, that can
SAMPLE = 8  # lines looked at first
ARGUMENT = 2e-7  # error of a sinusoid whose argument was computed in float32, for each radian of it
MOST = 1 << 22  # elements looked at after that: more would agree, too, and cost memory
LARGEST_WINDOWED = 1 << 24  # elements up to which a window is looked for: that needs all of them


def find_pattern(values: NDArray[np.generic]) -> str | None:
    """What a tensor of finite floats is, if it follows a formula: "a Fourier basis", "3 distinct values"; else None.

    Found are few distinct values; multiples of 1/16, integers among them; selections, permutations and diagonals; equal
    rows; lines along any axis that are sinusoids, ramps or exponentials, or sinusoids under one window (Fourier and
    cosine bases, positional encodings); banks of filters with one peak each (mel); Toeplitz and Hankel matrices. Of
    vectors only windows, ramps, sinusoids and exponentials: constant ones are usually the start of a training.
    """
    if sum(extent > 1 for extent in values.shape) < 2:
        return _vector(values.reshape(-1)) if values.size >= LEAST_VECTOR else None
    if values.size < LEAST_SIZE:
        return None
    return _few_values(values.reshape(-1)) or _multiples(values.reshape(-1)) or _structure(values)


def _structure(values: NDArray[np.generic]) -> str | None:
    floor = _noise(values.dtype)
    for lines in _matrices(values):
        found = _selection(lines) or _equal_rows(lines, floor) or _bank(lines, floor) or _toeplitz(lines, floor)
        if found:
            return found
    for axis in range(values.ndim):
        if values.shape[axis] >= LEAST_LINE:
            lines = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
            found = _sinusoids(lines, floor) or _windowed(lines, floor)
            if found:
                return found
    return None


def _noise(dtype: np.dtype[np.generic]) -> float:
    """Rounding that a formula's values may have suffered, relative to a line: four units in the last place of the
    stored type, and no less than float32 arithmetic makes of sines of large arguments."""
    return max(1e-5, 4 * float(ml_dtypes.finfo(dtype).eps))  # type: ignore[no-untyped-call]


def _matrices(values: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
    """The tensor as rows of its first axis, and as rows of its last."""
    yield values.reshape(values.shape[0], -1)
    if values.shape[-1] > 1:
        yield values.reshape(-1, values.shape[-1]).T
        if values.ndim > 2:
            yield values.reshape(-1, values.shape[-1])


def _sampled(lines: NDArray[np.generic], count: int = SAMPLE) -> Array:
    """Some rows at equal distances, float64."""
    return lines[:: max(1, len(lines) // count)].astype(np.float64)


def _nearly_all(lines: NDArray[np.generic]) -> Array:
    """The rows, float64; of large matrices as many as ``MOST`` elements are, at equal distances."""
    step = -(-lines.size // MOST)
    return lines[::step].astype(np.float64)


# Values -------------------------------------------------------------------------------------------------------------


def _few_values(flat: NDArray[np.generic]) -> str | None:
    bits = flat.view(f"u{flat.dtype.itemsize}")
    if len(np.unique(bits[:: max(1, bits.size // 4096)])) > FEW:
        return None
    found = np.empty(0, bits.dtype)
    for s in blocks(bits.size):
        found = np.union1d(found, bits[s])
        if len(found) > FEW:
            return None
    if len(found) * 16 > flat.size:
        return None
    return f"{len(found)} distinct values" if len(found) > 1 else "one value"


def _multiples(flat: NDArray[np.generic]) -> str | None:
    step = max(1, flat.size // 4096)
    exact = 2.0 ** -np.log2(float(ml_dtypes.finfo(flat.dtype).eps))  # type: ignore[no-untyped-call]
    for part in (flat[::step], *(flat[s] for s in blocks(flat.size))):
        numbers = part.astype(np.float64)
        scaled = numbers * UNIT
        if not (np.array_equal(scaled, np.rint(scaled)) and np.abs(numbers).max() <= exact):
            return None
    return "multiples of 1/16"


# Matrices ------------------------------------------------------------------------------------------------------------


def _selection(lines: NDArray[np.generic]) -> str | None:
    """At most one element of every row is not zero."""
    if min(lines.shape) < LEAST_LINE:
        return None
    for part in (_sampled(lines), lines):
        if (np.count_nonzero(part, axis=1) > 1).any():
            return None
    return "a selection, permutation or diagonal"


def _equal_rows(lines: NDArray[np.generic], floor: float) -> str | None:
    if len(lines) < LEAST_LINE or lines.shape[1] < 4:
        return None
    first = lines[0].astype(np.float64)
    bound = floor * float(np.abs(first).max())
    for part in (_sampled(lines), _nearly_all(lines)):
        if (np.abs(part - first) > bound).any():
            return None
    return "one row repeated"


def _bank(lines: NDArray[np.generic], floor: float) -> str | None:
    """Rows of one sign that rise to one peak and fall, the peaks in order: a mel filter bank and its like."""
    if min(lines.shape) < LEAST_LINE:
        return None
    sample = _sampled(lines)
    if _has_peaks(sample if sample.sum() >= 0 else -sample, floor) is None:
        return None
    numbers = _nearly_all(lines)
    peaks = _has_peaks(numbers if numbers.sum() >= 0 else -numbers, floor)
    if peaks is None or len(peaks) < LEAST_LINE:
        return None
    wide = np.count_nonzero(np.count_nonzero(numbers, axis=1) >= 3)
    moves = np.diff(peaks)
    in_order = bool((moves >= 0).all() or (moves <= 0).all()) and len(np.unique(peaks)) >= LEAST_LINE
    return "a filter bank (mel or the like)" if in_order and wide >= 4 else None


def _has_peaks(rows: Array, floor: float) -> NDArray[np.int64] | None:
    """Where the peak of every row that is not all zeros is; None unless each has just one and nothing negative."""
    top = rows.max(axis=1)
    bound = floor * np.abs(rows).max(axis=1, keepdims=True)
    if (rows < -bound).any():
        return None
    peaks = rows.argmax(axis=1)
    steps = np.diff(rows, axis=1)
    before = np.arange(steps.shape[1]) < peaks[:, None]
    if (np.where(before, -steps, steps) > bound).any():
        return None
    return np.asarray(peaks[top > 0])


def _toeplitz(lines: NDArray[np.generic], floor: float) -> str | None:
    if min(lines.shape) < 2 * LEAST_LINE:
        return None
    for matrix, name in ((lines, "Toeplitz"), (lines[:, ::-1], "Hankel")):
        bound = floor * float(np.abs(matrix[0].astype(np.float64)).max())
        step, most = max(1, len(matrix) // SAMPLE), -(-matrix.size // MOST)
        is_so = True
        for upper, lower in ((matrix[:-1:step], matrix[1::step]), (matrix[:-1:most], matrix[1::most])):
            differences = upper[: len(lower), :-1].astype(np.float64) - lower[:, 1:].astype(np.float64)
            is_so = is_so and not (np.abs(differences) > bound).any()
            if not is_so:
                break
        if is_so:
            return f"a {name} matrix"
    return None


# Lines ---------------------------------------------------------------------------------------------------------------


def _sinusoids(lines: NDArray[np.generic], floor: float) -> str | None:
    """Every line is ``a cos(w i + p)``, ``a + b i`` or ``a exp(b i)``: what ``x[i+1] + x[i-1] = c x[i]`` has for
    solutions."""
    if len(lines) < 2 or _factors(_sampled(lines), floor) is None:
        return None
    factors = _factors(_nearly_all(lines), floor)
    return None if factors is None else _name(factors, "")


def _name(factors: Array, extra: str) -> str:
    if not len(factors) or np.abs(factors - 2).max() < 1e-6:
        return "linear ramps"
    if (factors > 2 + 1e-3).any():
        return "exponentials"
    return f"sinusoids{extra} (a Fourier or cosine basis, a positional encoding)"


def _factors(lines: Array, floor: float, window: Array | None = None) -> Array | None:
    """The c of ``x[i+1] + x[i-1] = c x[i]`` for every line [n, length] that is not about zero; None if one has none.

    Lines are divided by ``window`` [length] first, and errors weighted by it. The error may be a fiftieth of the second
    difference, so that smooth lines do not pass for low frequencies, or what the rounding of values and of the
    sinusoids' arguments explains.
    """
    strength = np.sqrt(np.square(lines).mean(axis=1))
    lines = lines[strength > 1e-4 * strength.max(initial=0.0)]
    weight = np.ones(lines.shape[1] - 2) if window is None else window[1:-1]
    if window is not None:
        lines = lines / window
    middle = lines[:, 1:-1] * weight
    sides = (lines[:, 2:] + lines[:, :-2]) * weight
    power = np.square(middle).sum(axis=1)
    factors = (sides * middle).sum(axis=1) / np.maximum(power, np.finfo(np.float64).tiny)
    error = np.sqrt(np.square(sides - factors[:, None] * middle).sum(axis=1))
    bend = np.sqrt(np.square(sides - 2 * middle).sum(axis=1))
    size = np.sqrt(np.square(lines[:, 1:-1] * weight).sum(axis=1))
    angles = np.arccos(np.clip(factors / 2, -1, 1)) * lines.shape[1]  # of the last element, as float32 rounds it
    return factors if bool((error <= np.maximum(bend / 50, (floor + ARGUMENT * angles) * size)).all()) else None


def _windowed(lines: NDArray[np.generic], floor: float) -> str | None:
    """Every line is a sinusoid times the same window, whose square is the sum of the squares of all lines: there is a
    sine and a cosine of each frequency. (Of cosines alone the lines along the frequencies are sinusoids already.)"""
    count, length = lines.shape
    if count < LEAST_LINE or length < 4 * LEAST_LINE or lines.size > LARGEST_WINDOWED:
        return None
    total = np.zeros(length)
    for s in blocks(count, max(1, (1 << 20) // length)):
        total += np.square(lines[s].astype(np.float64)).sum(axis=0)
    window = np.sqrt(total)
    if _follow_window(_sampled(lines), window, floor) and _follow_window(_nearly_all(lines), window, floor):
        return _name(np.zeros(1), " under a window")
    return None


def _follow_window(lines: Array, window: Array, floor: float) -> bool:
    """Whether lines divided by the window are sinusoids in both halves; where the window is small nothing is asked."""
    half = len(window) // 2
    followed = 0
    for start, stop in ((1, half), (half + 1, len(window))):
        places = start + np.flatnonzero(window[start:stop] > 0.05 * window.max())
        if len(places) < LEAST_LINE or len(places) != places[-1] - places[0] + 1:
            continue
        part = slice(int(places[0]), int(places[-1]) + 1)
        if _factors(lines[:, part], max(floor, 1e-4), window[part] / window.max()) is None:
            return False
        followed += 1
    return followed > 0


def _vector(flat: NDArray[np.generic]) -> str | None:
    numbers = flat.astype(np.float64)
    largest = float(np.abs(numbers).max())
    if largest == 0 or np.ptp(numbers) <= 1e-3 * largest:  # constant: may well be trained
        return None
    floor = min(_noise(flat.dtype), 1e-3)
    factors = _factors(numbers[None], floor)
    if factors is not None:
        return _name(factors, "")
    return _window(numbers, floor)


def _window(numbers: Array, floor: float) -> str | None:
    """A sum of up to five cosines of one period (Hann, Hamming, Blackman, flat top), or a Gaussian."""
    length = len(numbers)
    if length < 2 * LEAST_VECTOR:
        return None
    for period in (length - 1, length, length + 1):
        offset = 1 if period == length + 1 else 0
        angles = 2 * np.pi * (np.arange(length) + offset) / period
        terms = np.cos(angles[:, None] * np.arange(5))
        solution = np.linalg.lstsq(terms, numbers, rcond=None)[0]
        if np.linalg.norm(terms @ solution - numbers) <= floor * np.linalg.norm(numbers):
            return "a window"
    if (numbers > 1e-30).all():
        steps = np.diff(np.log(numbers), 2)
        if np.abs(steps - steps.mean()).max() <= 0.02 * abs(steps.mean()):
            return "a window"
    return None
