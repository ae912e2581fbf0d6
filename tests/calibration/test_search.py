"""What decides of a try: the divergence that results as far off as it typically have."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dc_compiler.calibration.divergence import Distance, Output
from dc_compiler.calibration.search import expected

Array = np.ndarray


def test_chance_in_one_try_is_evened_out() -> None:
    """Divergences of five times what is typical, but for chance."""
    typical = [0.001, 0.002, 0.004, 0.003]
    chance = [1.1, 0.9, 1.05, 1.6]
    tries = [Distance(5 * t * c, 0.1, typical=t) for t, c in zip(typical, chance, strict=True)]
    found = expected(tries)
    assert found is not None
    assert (found.typical, found.disagreement) == (0.003, 0.1)
    assert abs(math.log(found.divergence / 0.015)) < 0.4 * abs(math.log(tries[-1].divergence / 0.015))


def test_a_line_is_followed() -> None:
    tries = [Distance(3 * t**0.5, typical=t) for t in (1e-4, 1e-2, 1e-3, 3e-3)]
    found = expected(tries)
    assert found is not None
    assert found.divergence == pytest.approx(3 * 3e-3**0.5)


@pytest.mark.parametrize("last", [Distance(math.inf, 1.0, typical=math.inf), Distance(0.0), Distance(0.2, typical=0.1)])
def test_what_lies_on_no_line_counts_as_it_is(last: Distance) -> None:
    few = [Distance(0.1, typical=0.05), last]
    many = [Distance(0.1 * i, typical=0.05 * i) for i in range(1, 4)] + [last]
    assert expected(few) == last
    assert (expected(many) == last) == (last.divergence != 0.2)
    assert expected([]) is None


def test_typical_is_a_geometric_mean_over_vectors() -> None:
    """Of values over samples, in variances."""
    generator = np.random.default_rng(0)
    wanted = generator.standard_normal((6, 8)) / 4
    error = np.array([1e-3, 1e-3, 1e-2, 1e-2, 1e-1, 1e-1])[:, None] * np.ones(8)
    found = Output([wanted[:3], wanted[3:]]).distance([(wanted + error)[:3], (wanted + error)[3:]])
    assert found.typical == pytest.approx(1e-4 / wanted.var(), rel=0.01)
    scores = np.exp(wanted) / np.exp(wanted).sum(axis=1, keepdims=True)
    other = np.roll(scores, 1, axis=0)
    each = 2 * np.square(np.sqrt(scores) - np.sqrt(other)).sum(axis=1)
    found = Output([scores]).distance([other])
    assert found.typical == pytest.approx(float(np.exp(np.log(each).mean())), rel=1e-3)
    assert found.divergence == pytest.approx(float(each.mean()))
