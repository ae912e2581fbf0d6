"""How coarse each weight may be: steps at which a bit more would help every weight alike.

A weight of ``n`` elements rounded with a step ``s`` moves the outputs by ``c s**2`` and takes ``-n log2(s)`` bits more
or less. With the sum of the moves given, the bits are fewest where every weight's slope is the same, ``s**2 ~ n / c``
(Shoham & Gersho 1988). ``c`` comes from gradients (:mod:`dc_compiler.calibration.curvature`). To round one weight after
the other and see what the outputs do is slower and less sure: one rounding's errors are one draw of many.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Array = np.ndarray
FINER, COARSER = 1 / 3, 3.0  # bounds of the factors: samples show what they need, not what others will
TINY = 1e-300
LEAST = 1e-12  # of the largest move: less is taken for so much


def relative_steps(sizes: Mapping[str, int], moves: Mapping[str, Array]) -> dict[str, float]:
    """Factors for the steps that were tried, by the weight's name, with which a bit more would help every weight alike,
    between ``FINER`` and ``COARSER``; before they are held there, their geometric mean over the elements is 1.

    Channels that these samples hardly use, those of a classifier for classes that none of them is of, say, are taken to
    matter as much as those that they use: the mean over channels is one in which each counts by what it does.

    Args:
        sizes: elements of each weight.
        moves: by how much the outputs move with the steps that were tried, through each channel, [channels].
    """
    used = {name: float(np.square(m).sum()) * len(m) / max(float(m.sum()), TINY) for name, m in moves.items()}
    if not used or max(used.values()) <= 0:
        return {}
    counts = np.array([sizes[name] for name in used], np.float64)
    found = np.array(list(used.values()))
    logs = 0.5 * np.log(counts / np.maximum(found, LEAST * found.max()))
    logs -= np.average(logs, weights=counts)
    factors = np.clip(np.exp(logs), FINER, COARSER)
    return {name: float(f) for name, f in zip(used, factors, strict=True)}
