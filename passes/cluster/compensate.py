"""Rounding to a grid in which later weights make up for the errors of earlier ones, as far as the inputs allow.

Optimal Brain Surgeon (Hassibi & Stork 1993) in the order and form of GPTQ (Frantar et al., arXiv 2210.17323), with a
price on the bits of an ideal code as in entropy-constrained quantization (Chou, Lookabaugh & Gray 1989).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dc_compiler.calibration.grams import Moments

Array = np.ndarray
DAMPING = 0.01  # of the mean power of the inputs, added to each: inputs that the samples hardly use count a little
DAMPING_OF_LAG = 0.5  # likewise where weights make up for what was changed before, of which few rows tell little
BLOCK = 128  # columns whose errors are passed on together
REFITS = 2  # how often the code lengths are taken from what the rounding before gave
# At a fine grid the squared error of a bit less is 2 ln 2 / 12 squared steps
ERROR_OF_A_BIT = 0.1155


def compensated(weights: Array, steps: Array, gram: Array, rate: float, kept: Array | None = None) -> Array:
    """Grid points for weights, so that the outputs change little and the points are cheap to code.

    Args:
        weights: matrices [g, o, k], in any float type.
        steps: distance of grid points for each element, broadcast to [g, o, k].
        gram: mean outer products of the inputs [g or 1, k, k].
        rate: price of a bit in what it costs at a fine grid; 0 rounds to the nearest point, 1 is the balance of a fine
            grid's error and bits.
        kept: bool [g, o, k]; the others are 0 and stay so.

    Returns:
        Points, int32 [g, o, k].
    """
    values = weights.astype(np.float64)
    sizes = np.broadcast_to(steps, values.shape)
    order, upper = factor(gram.astype(np.float64), values.shape[0])
    values = np.take_along_axis(values, order[:, None, :], 2)
    sizes = np.take_along_axis(sizes, order[:, None, :], 2)
    if kept is not None:
        kept = np.take_along_axis(kept, order[:, None, :], 2)
    points = _rounded(values, sizes, upper, kept, None)
    for _ in range(REFITS if rate > 0 else 0):
        points = _rounded(values, sizes, upper, kept, _Prices(points, rate))
    result = np.empty(points.shape, np.int32)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], points.shape), points, 2)
    return result


def caught_up(weights: Array, moments: Moments) -> Array:
    """Weights whose products with the rows of inputs are nearest to those of ``weights`` with the original's rows.

    With ``G`` the Gram matrix of the rows and ``L`` that of their lag, the damped least squares are
    ``W + W L (G + damping)^-1`` (as in Qronos, Zhang et al., arXiv 2505.11695).

    Args:
        weights: matrices [g, o, k], in any float type.
        moments: of the rows of inputs, with their lag.

    Returns:
        float64 [g, o, k].
    """
    values = weights.astype(np.float64)
    if moments.lag is None:
        return values
    gram = moments.products.astype(np.float64)
    k = gram.shape[1]
    mean = np.trace(gram, axis1=1, axis2=2) / k
    gram[:, np.arange(k), np.arange(k)] += np.where(mean > 0, DAMPING_OF_LAG * mean, 1.0)[:, None]
    lag = np.matmul(values, moments.lag.products.astype(np.float64))
    solved = np.linalg.solve(np.broadcast_to(gram, (len(values), k, k)), lag.transpose(0, 2, 1))
    return np.asarray(values + solved.transpose(0, 2, 1))


def remaining(gram: Array) -> float:
    """What is left of independent rounding errors of all weights, in squares of outputs, after the others have made up
    for them.

    Args:
        gram: mean outer products of the inputs [g, k, k].
    """
    _, upper = factor(gram.astype(np.float64), len(gram))
    return float((1 / np.square(np.diagonal(upper, axis1=1, axis2=2))).sum())


def factor(gram: Array, groups: int) -> tuple[Array, Array]:
    """Inputs by falling power [g, k], and the upper factor U of the inverse of the damped Gram matrix in this order,
    ``U^T U``; [g, k, k]."""
    power = np.diagonal(gram, axis1=1, axis2=2)
    mean = power.mean(axis=1)
    damping = np.where(mean > 0, DAMPING * mean, 1.0)
    order = np.argsort(-power, axis=1, kind="stable")
    damped = np.take_along_axis(np.take_along_axis(gram, order[:, :, None], 1), order[:, None, :], 2)
    k = gram.shape[1]
    damped[:, np.arange(k), np.arange(k)] += damping[:, None]
    # The inverse's upper factor is the inverse of the lower factor of the matrix with rows and columns reversed
    lower = np.linalg.cholesky(damped[:, ::-1, ::-1])
    upper = np.linalg.inv(lower)[:, ::-1, ::-1]
    return np.broadcast_to(order, (groups, k)), np.broadcast_to(upper, (groups, k, k))


class _Prices:
    """What each point costs, from how often points were taken: bits of an ideal code, and their price."""

    def __init__(self, points: Array, rate: float) -> None:
        self._low = int(points.min()) - 1
        counts = np.bincount(
            (points - self._low).reshape(-1).astype(np.int64), minlength=int(points.max()) - self._low + 2
        )
        bits = np.log2(counts.sum() + len(counts)) - np.log2(counts + 1.0)
        self._costs = rate * ERROR_OF_A_BIT * bits
        self._last = len(counts) - 1

    def of(self, points: Array) -> Array:
        index = np.clip(points - self._low, 0, self._last).astype(np.int64)
        return np.asarray(self._costs[index])


def _rounded(values: Array, steps: Array, upper: Array, kept: Array | None, prices: _Prices | None) -> Array:
    """Points [g, o, k], in the order of the columns given."""
    points = np.empty(values.shape)
    # Error that a unit of rounding error leaves in the end
    weight = 1 / np.square(np.diagonal(upper, axis1=1, axis2=2))
    weight = weight / weight.mean(axis=1, keepdims=True)

    def become(j: int, wanted: Array) -> Array:
        exact = wanted / steps[:, :, j]
        found = np.rint(exact)
        if prices is not None:
            found = _cheapest(exact, found, weight[:, None, j], prices)
        if kept is not None:
            found = np.where(kept[:, :, j], found, 0.0)
        points[:, :, j] = found
        return np.asarray(found * steps[:, :, j])

    sweep(values.copy(), upper, BLOCK, become)
    return points


def sweep(rest: Array, upper: Array, block: int, become: Callable[[int, Array], Array]) -> None:
    """Change the columns of weights one after the other; those behind make up for it.

    Args:
        rest: matrices [g, o, k], in which each column becomes what is wanted of it. upper: of :func:`factor`.
        block: columns whose errors are passed on together to all behind them; until then only these know.
        become: gives what becomes of a column, [g, o], for its number and what is wanted of it.
    """
    columns = rest.shape[2]
    diagonal = np.diagonal(upper, axis1=1, axis2=2)
    for start in range(0, columns, block):
        stop = min(columns, start + block)
        errors = np.empty((*rest.shape[:2], stop - start))
        for j in range(start, stop):
            error = (rest[:, :, j] - become(j, rest[:, :, j])) / diagonal[:, None, j]
            errors[:, :, j - start] = error
            rest[:, :, j + 1 : stop] -= error[:, :, None] * upper[:, None, j, j + 1 : stop]
        if stop < columns:
            rest[:, :, stop:] -= np.matmul(errors, upper[:, start:stop, stop:])


def _cheapest(exact: Array, nearest: Array, weight: Array, prices: _Prices) -> Array:
    """The cheapest of the nearest point, the next one towards zero, and zero; errors in squared steps."""
    best, cost = nearest, weight * np.square(exact - nearest) + prices.of(nearest)
    for other in (nearest - np.sign(nearest), np.zeros_like(nearest)):
        price = weight * np.square(exact - other) + prices.of(other)
        best = np.where(price < cost, other, best)
        cost = np.minimum(cost, price)
    return best
