"""Optimizers against their closed forms, the learning-rate schedule, and denormals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dc_compiler.codec import binding
from dc_compiler.training.optimizers import Adam, Sgd, cosine_rate, round_start


def test_momentum_of_a_constant_gradient_is_a_geometric_sum() -> None:
    theta, rate, momentum = np.array([1.0, -2.0], np.float32), 0.01, 0.9
    gradient = np.array([0.5, -1.0], np.float32)
    optimizer = Sgd(2, momentum)
    for _ in range(20):
        optimizer.step(theta, gradient, rate)
    travelled = sum((1 - momentum**k) / (1 - momentum) for k in range(1, 21))
    assert theta == pytest.approx(np.array([1.0, -2.0]) - rate * travelled * gradient, rel=1e-5)


def test_adam_steps_by_the_rate_whatever_the_size_of_a_constant_gradient() -> None:
    theta = np.zeros(3, np.float32)
    optimizer = Adam(3)
    for _ in range(10):
        optimizer.step(theta, np.array([1e-3, -10.0, 0.0], np.float32), 0.01)
    assert theta == pytest.approx([-0.1, 0.1, 0.0], rel=1e-4)


def test_adam_follows_its_recurrence() -> None:
    random = np.random.default_rng(0)
    theta, expected = np.zeros(5, np.float32), np.zeros(5)
    mean, square = np.zeros(5), np.zeros(5)
    optimizer = Adam(5)
    for t in range(1, 8):
        g = random.standard_normal(5)
        optimizer.step(theta, g.astype(np.float32), 0.1)
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
        expected -= 0.1 * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
    assert theta == pytest.approx(expected, abs=1e-5)
    assert optimizer.square == pytest.approx(square, rel=1e-4)


@pytest.mark.parametrize("kind", [Adam, Sgd])
def test_dropped_parameters_take_their_state_with_them(kind: type[Adam] | type[Sgd]) -> None:
    gradient, kept = np.array([1.0, -2.0, 3.0, 0.5], np.float32), np.array([True, False, True, False])
    whole, part = np.zeros(4, np.float32), np.zeros(4, np.float32)
    one, two = kind(4), kind(4)
    one.step(whole, gradient, 0.1)
    two.step(part, gradient, 0.1)
    part = part[kept]
    two.keep(kept)
    one.step(whole, 2 * gradient, 0.1)
    two.step(part, 2 * gradient[kept], 0.1)
    assert np.array_equal(part, whole[kept])


def test_rate_falls_from_start_to_zero() -> None:
    assert cosine_rate(0.2, 0, 100) == 0.2
    assert cosine_rate(0.2, 50, 100) == pytest.approx(0.1)
    assert cosine_rate(0.2, 100, 100) == pytest.approx(0.0, abs=1e-12)


@given(st.integers(1, 40), st.integers(1, 60))
def test_rate_starts_anew_in_each_round(rounds: int, steps: int) -> None:
    """And is never zero where a step is taken."""
    starts = [round_start(i, steps, rounds) for i in range(rounds + 1)]
    assert (starts[0], starts[-1]) == (0, steps)
    rates = [cosine_rate(0.2, step, steps, rounds) for step in range(steps)]
    assert all(rates[start] == 0.2 for start in starts[:-1] if start < starts[-1])
    for step in set(range(1, steps)) - set(starts):
        assert 0 < rates[step] < rates[step - 1]


def test_denormals_are_flushed_for_a_while_and_in_this_thread_alone() -> None:
    tiny, half = np.full(8, 1e-39, np.float32), np.float32(0.5)

    def keeps() -> bool:
        return bool((tiny * half).any())

    with ThreadPoolExecutor(1) as other:
        assert other.submit(keeps).result()
        with binding.flushed_denormals():
            assert not keeps()
            assert other.submit(keeps).result()
            with binding.flushed_denormals():
                pass
            assert not keeps()
        assert keeps()
