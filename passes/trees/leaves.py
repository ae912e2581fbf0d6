"""Leaf weights on a grid, whose points that occur are the codebook."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dc_compiler.passes.trees.ensemble import Ensemble


def on_grid(trees: Ensemble, step: float) -> Ensemble:
    """The trees with weights rounded to multiples of about ``step`` standard deviations, of which the weight of the
    largest magnitude is one, so that sure votes stay sure."""
    weights = trees.weight.astype(np.float64)
    most, deviation = np.abs(weights).max(initial=0), weights.std() if weights.size else 0
    if step <= 0 or most == 0 or deviation == 0:
        return trees
    unit = most / max(1, round(most / (step * deviation)))
    return replace(trees, weight=(np.rint(weights / unit) * unit).astype(trees.weight.dtype))
