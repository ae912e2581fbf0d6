"""Error-compensated rounding: against plain rounding, an obvious implementation, and its promises."""

from __future__ import annotations

import numpy as np
import pytest
from single_layers import normal

from dc_compiler.passes.cluster import compensate as module
from dc_compiler.passes.cluster.compensate import DAMPING, compensated

Array = np.ndarray


def inputs(count: int, k: int, seed: int = 0) -> Array:
    """Rows of correlated inputs."""
    return np.asarray(normal(count, k, seed=seed) @ normal(k, k, seed=seed + 1) + 0.5)


def gram_of(rows: Array) -> Array:
    return np.asarray(rows.T @ rows / len(rows))[None]


def squared_error(weights: Array, points: Array, step: float, gram: Array) -> float:
    error = (weights - points * step).astype(np.float64)
    return float(np.einsum("goi,gij,goj->", error, gram.astype(np.float64), error))


def obvious(weights: Array, step: float, gram: Array) -> Array:
    """One weight after another; after each the others are set to what is best for the outputs, with it fixed."""
    k = len(gram)
    damped = gram.astype(np.float64) + DAMPING * np.diag(gram).mean() * np.eye(k)
    order = np.argsort(-np.diag(gram), kind="stable")
    result = np.zeros(weights.shape)
    for row, points in zip(weights.astype(np.float64), result, strict=True):
        rest = row.copy()
        for number, j in enumerate(order):
            points[j] = np.rint(rest[j] / step)
            later = order[number + 1 :]
            error = points[j] * step - rest[j]
            if len(later):
                rest[later] -= np.linalg.solve(damped[np.ix_(later, later)], damped[later, j]) * error
    return result


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_the_obvious_way_gives(seed: int) -> None:
    gram = gram_of(inputs(200, 12, seed))
    weights = normal(1, 7, 12, seed=seed)
    found = compensated(weights, np.array(0.4), gram, 0.0)
    np.testing.assert_array_equal(found[0], obvious(weights[0], 0.4, gram[0]))


@pytest.mark.parametrize("columns", [20, 128, 300])
def test_outputs_change_much_less_than_by_rounding_alone(columns: int) -> None:
    gram = gram_of(inputs(2000, columns))
    weights = normal(1, 16, columns)
    alone = np.rint(weights / 0.5)
    assert squared_error(weights, compensated(weights, np.array(0.5), gram, 0.0), 0.5, gram) < 0.6 * squared_error(
        weights, alone, 0.5, gram
    )


def test_blocks_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gram, weights = gram_of(inputs(500, 40)), normal(2, 6, 40)
    whole = compensated(weights, np.array(0.3), gram, 0.2)
    monkeypatch.setattr(module, "BLOCK", 7)
    np.testing.assert_array_equal(compensated(weights, np.array(0.3), gram, 0.2), whole)


def test_every_group_has_its_own_inputs() -> None:
    gram = np.concatenate([gram_of(inputs(300, 9, seed)) for seed in (1, 2)])
    weights = normal(2, 5, 9)
    found = compensated(weights, np.array(0.4), gram, 0.0)
    for g in range(2):
        np.testing.assert_array_equal(
            found[g : g + 1], compensated(weights[g : g + 1], np.array(0.4), gram[g : g + 1], 0.0)
        )


def entropy(points: Array) -> float:
    counts = np.unique(points, return_counts=True)[1] / points.size
    return float(-(counts * np.log2(counts)).sum())


def test_a_price_makes_bits_fewer() -> None:
    gram, weights = gram_of(inputs(2000, 64)), normal(1, 128, 64)
    bits = [entropy(compensated(weights, np.array(0.8), gram, rate)) for rate in (0.0, 0.5, 2.0)]
    assert bits[0] > bits[1] + 0.01 > bits[2] + 0.1


def test_inputs_that_are_never_used_leave_the_others_alone() -> None:
    rows = inputs(200, 8)
    rows[:, 3] = 0
    weights = normal(1, 4, 8)
    found = compensated(weights, np.array(0.4), gram_of(rows), 0.0)
    np.testing.assert_array_equal(found[:, :, 3], np.rint(weights[:, :, 3] / 0.4))
    nothing = compensated(weights, np.array(0.4), np.zeros((1, 8, 8)), 0.0)
    np.testing.assert_array_equal(nothing, np.rint(weights / 0.4))
