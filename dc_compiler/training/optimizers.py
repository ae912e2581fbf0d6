"""Optimizers on a packed vector of parameters, and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from dc_compiler.training.checkpoint import Resumable, State

Array = np.ndarray


class Stepper(Resumable, Protocol):
    """Moves parameters, float32 [p], along a gradient."""

    def step(self, theta: Array, gradient: Array, rate: float) -> None:
        """Change ``theta`` in place."""

    def keep(self, kept: Array) -> None:
        """Forget the state of parameters that are gone; ``kept`` is bool [p]."""


class Adam:
    """Kingma & Ba, arXiv 1412.6980, algorithm 1."""

    def __init__(self, size: int, first: float = 0.9, second: float = 0.999, epsilon: float = 1e-8) -> None:
        self.mean, self.square, self.steps = np.zeros(size, np.float32), np.zeros(size, np.float32), 0
        self._first, self._second, self._epsilon = first, second, epsilon

    def step(self, theta: Array, gradient: Array, rate: float) -> None:
        self.steps += 1
        change = np.subtract(gradient, self.mean)  # one array for everything: making new ones takes most of the time
        change *= np.float32(1 - self._first)
        self.mean += change
        np.multiply(gradient, gradient, out=change)
        change -= self.square
        change *= np.float32(1 - self._second)
        self.square += change
        np.sqrt(self.square, out=change)
        change *= np.float32(1 / math.sqrt(1 - self._second**self.steps))
        change += np.float32(self._epsilon)
        np.divide(self.mean, change, out=change)
        change *= np.float32(rate / (1 - self._first**self.steps))
        theta -= change

    def keep(self, kept: Array) -> None:
        self.mean, self.square = self.mean[kept], self.square[kept]

    def state(self) -> State:
        return {"mean": self.mean, "square": self.square, "steps": np.array(self.steps)}

    def restore(self, state: State) -> None:
        self.mean, self.square, self.steps = state["mean"], state["square"], int(state["steps"])


class Sgd:
    """Gradient descent with momentum: v = momentum v + g, theta = theta - rate v."""

    def __init__(self, size: int, momentum: float = 0.9) -> None:
        self.velocity, self._momentum = np.zeros(size, np.float32), np.float32(momentum)

    def step(self, theta: Array, gradient: Array, rate: float) -> None:
        self.velocity *= self._momentum
        self.velocity += gradient
        theta -= np.float32(rate) * self.velocity

    def keep(self, kept: Array) -> None:
        self.velocity = self.velocity[kept]

    def state(self) -> State:
        return {"velocity": self.velocity}

    def restore(self, state: State) -> None:
        self.velocity = state["velocity"]


def cosine_rate(rate: float, step: int, steps: int, rounds: int = 1) -> float:
    """Half a cosine from ``rate`` at the first step of each round to zero at its end."""
    number = min(((step + 1) * rounds - 1) // steps, rounds - 1)  # the last that starts at this step or before it
    start, end = round_start(number, steps, rounds), round_start(number + 1, steps, rounds)
    return rate * 0.5 * (1 + math.cos(math.pi * (step - start) / (end - start)))


def round_start(number: int, steps: int, rounds: int) -> int:
    """First step of a round, where ``steps`` are cut into rounds of about the same length."""
    return number * steps // rounds
