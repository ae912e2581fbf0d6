"""Tells labelled samples that a model knows by heart, as it was trained on them, as far as they show it."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def knows_by_heart(probabilities: Array, labels: Array) -> bool:
    """Whether the errors on samples are, by two standard errors, fewer than the probabilities of the answers say.

    Args:
        probabilities: [..., classes]. labels: class numbers [...].
    """
    error = float((probabilities.argmax(-1) != labels).mean())
    return bool(error + 2 * math.sqrt(error * (1 - error) / labels.size) < float((1 - probabilities.max(-1)).mean()))
