"""Grids that are trained through: weights in steps of their grids move, what the model sees of them is rounded.

The gradient passes the rounding unchanged (the straight-through estimator of Bengio et al., arXiv 1308.3432, as in
quantization-aware training), and with a price on bits the code length of each point, a straight line from one point to
the next, is minimised as well (Oktay et al., arXiv 1906.06624, with frequencies for their density).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dc_compiler import ir
from dc_compiler.errors import ModelError
from dc_compiler.passes.cluster import rate as rd
from dc_compiler.passes.cluster.grid import on_grid
from dc_compiler.pipeline.update import Update
from dc_compiler.training.checkpoint import State
from dc_compiler.training.parameters import Parameters

Array = np.ndarray
INSIDE = 0.5  # how far towards its original value a weight starts from the point that it was rounded to
REACH = 64  # points on each side of zero that have a code length of their own
UNSEEN = 0.5  # counts of a point that no weight is at
LOOKS = 40  # how often the price is steered
START = 2.0  # times the divergence wanted: the price to start with, the slope of a fine grid's divergence over its bits
PATIENCE, LOST = 0.25, 4.0  # share of the looks after which training is given up that ends so far from the goal
GAIN = 0.35  # of the logarithm by which the price changes at a look, for the one of what is wanted over what is there
PROPORTIONAL = 2.0  # likewise at once, without being kept for the next look
STIFF = 60.0  # the same where bits are steered, and the price is that of the start times the rest


class Grids:
    """Grid points of ``records``; installs itself as the parameters' transform.

    Args:
        parameters: of the records, in units of their steps.
        started: what each record was rounded to.

    Attributes:
        price: loss that a bit for each of all weights is worth.
    """

    def __init__(
        self, parameters: Parameters, records: Sequence[ir.WeightRecord], started: Sequence[ir.Clustered]
    ) -> None:
        self.price = 0.0
        self._parameters, self._records = parameters, records
        self._spans = [parameters.span(r) for r in records]
        self._scales = [c.scales for c in started]
        self._count = sum(s.stop - s.start for s in self._spans)
        self._lengths = np.zeros((len(records), 2 * REACH + 1), np.float32)
        for record, span, clustered in zip(records, self._spans, started, strict=True):
            points = clustered.indices.astype(np.float32) + np.float32(clustered.grid_lo)
            if record.mask is not None:
                points = points[record.mask.reshape(-1)]
            theta = parameters.theta[span]
            theta[:] = points + np.float32(INSIDE) * np.clip(theta - points, -0.5, 0.5)
        parameters.transform = self._rounded
        parameters.expand()

    def fit(self) -> None:
        """Take code lengths from what the points are now."""
        for row, span in zip(self._lengths, self._spans, strict=True):
            places = np.clip(np.rint(self._parameters.theta[span]), -REACH, REACH).astype(np.int64) + REACH
            counts = np.maximum(np.bincount(places, minlength=len(row)), UNSEEN)
            row[:] = rd.log2(np.full(len(row), counts.sum())) - rd.log2(counts)

    def slopes(self, theta: Array) -> Array:
        """Gradient of the price of all code lengths, float32 [p]."""
        result = np.zeros_like(theta)
        factor = np.float32(self.price / max(self._count, 1))
        for row, span in zip(self._lengths, self._spans, strict=True):
            below = np.clip(np.floor(theta[span]), -REACH, REACH - 1).astype(np.int64) + REACH
            result[span] = factor * np.diff(row)[below]
        return result

    def bits(self) -> float:
        """Mean length of the codes, as they are now."""
        total = 0.0
        for span in self._spans:
            _, counts = np.unique(np.rint(self._parameters.theta[span]), return_counts=True)
            total += float((counts * (rd.log2(np.full(len(counts), counts.sum())) - rd.log2(counts))).sum())
        return float(total / max(self._count, 1))

    def state(self) -> State:
        return {"lengths": self._lengths, "price": np.array(self.price)}

    def restore(self, state: State) -> None:
        if state["lengths"].shape != self._lengths.shape:
            raise ValueError("these are not the grids' code lengths")
        self._lengths[:], self.price = state["lengths"], float(state["price"])

    def store(self) -> int:
        """Give every record its points; returns how many values they span."""
        total = 0
        for record, span, scales in zip(self._records, self._spans, self._scales, strict=True):
            assert scales is not None
            points = np.zeros(record.size, np.int32)
            kept = slice(None) if record.mask is None else record.mask.reshape(-1)
            points[kept] = np.rint(self._parameters.theta[span]).astype(np.int32)
            clustered = on_grid(points, scales)
            Update(clustered=clustered).apply(record)
            total += clustered.size
        return total

    def _rounded(self, theta: Array) -> Array:
        values = theta.copy()
        for span in self._spans:
            np.rint(theta[span], out=values[span])
        return values


@dataclass(frozen=True)
class Goal:
    """What training ends at: the fewest bits with a divergence of at most ``divergence``, or, where ``bits`` are given,
    the least divergence with at most so many bits a weight."""

    divergence: float
    bits: float | None = None

    def excess(self, divergence: float, bits: float) -> float:
        """How far a result is from the goal: above 1 it misses."""
        return divergence / self.divergence if self.bits is None else bits / self.bits

    def rank(self, divergence: float, bits: float) -> tuple[bool, float]:
        """Smaller is better."""
        excess = self.excess(divergence, bits)
        if excess > 1:
            return True, excess
        return False, bits if self.bits is None else divergence


class Steering:
    """Steers the price of bits so that training ends at the goal, and keeps the best that was seen.

    Args:
        divergence: of the parameters as they are, on samples that nothing is trained on.
        scale: loss of a divergence of 1.
    """

    def __init__(
        self, grids: Grids, parameters: Parameters, goal: Goal, divergence: Callable[[], float], scale: float
    ) -> None:
        self._grids, self._parameters, self._goal, self._divergence = grids, parameters, goal, divergence
        self._best: tuple[bool, float] = (True, math.inf)
        self._theta = parameters.theta.copy()
        self.seen = (math.inf, math.inf)  # divergence and bits of the best
        self._looks, self._first = 0, math.inf
        grids.price = self._base = START * goal.divergence * scale

    def look(self) -> None:
        """See what there is, and change the price.

        Raises:
            ModelError: training leads away from the goal.
        """
        divergence, bits = self._divergence(), self._grids.bits()
        self._give_up(divergence)
        rank = self._goal.rank(divergence, bits)
        if rank < self._best:
            self._best, self._theta, self.seen = rank, self._parameters.theta.copy(), (divergence, bits)
        excess = math.log(max(self._goal.excess(divergence, bits), 1e-9))
        if self._goal.bits is None:
            excess = min(max(excess, -1.5), 1.5)
            self._base *= math.exp(-GAIN * excess)
            self._grids.price = self._base * math.exp(-PROPORTIONAL * excess)
        else:  # bits follow the price at once, so that it need not be found little by little
            self._grids.price = self._base * math.exp(min(max(STIFF * excess, -4.0), 4.0))

    def _give_up(self, divergence: float) -> None:
        """Where training, though bits cost next to nothing, moves the outputs further and further away."""
        self._first = min(self._first, divergence)
        self._looks += 1
        if self._looks > PATIENCE * LOOKS and divergence > LOST * max(self._first, self._goal.divergence):
            raise ModelError(
                f"the longer it is trained, the further the outputs are from the original's ({divergence:.3g}, with "
                f"{self._first:.3g} before); what training sees of this model does not tell what it does on samples"
            )

    def take_best(self) -> None:
        """Put the best that was seen in place."""
        self._parameters.theta[:] = self._theta
        self._parameters.expand()

    def state(self) -> State:
        best = np.array([*self._best, *self.seen, self._base, self._first, self._looks])
        return {"theta": self._theta, "best": best} | self._grids.state()

    def restore(self, state: State) -> None:
        self._grids.restore(state)
        self._theta = state["theta"]
        missed, value, divergence, bits, self._base, self._first, looks = state["best"].tolist()
        self._best, self.seen, self._looks = (bool(missed), value), (divergence, bits), int(looks)
