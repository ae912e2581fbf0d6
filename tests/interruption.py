"""Progress callbacks that interrupt a compilation as Ctrl-C would."""

from __future__ import annotations

import itertools

from dc_compiler.pass_manager import Progress


def stopping_at(step: int | None) -> Progress:
    """Interrupts at this step of training, counted over all passes from 1; None never does."""
    steps = itertools.count(1)

    def progress(name: str, done: int, total: int, loss: float | None) -> None:
        if loss is not None and next(steps) == step:
            raise KeyboardInterrupt

    return progress
