"""What samples say about one program's weights, gathered once and kept while settings are tried."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.divergence import AsRun, Judge
from dc_compiler.calibration.grams import Gram, collect
from dc_compiler.ort.metrics import Scorer
from dc_compiler.ort.samples import Samples

Array = np.ndarray
T = TypeVar("T")


class Calibration:
    """Statistics and judgements from the samples of ``--data``.

    Gram matrices come from the train part. How far a change moves the outputs is judged on the validation part. The
    check part is left for what is chosen in the end.

    Args:
        original: the program that results are compared with.
        metric: as for :class:`Judge`.
    """

    def __init__(self, original: ir.Program, samples: Samples, metric: Scorer | None = None) -> None:
        self._original, self.samples, self._metric = original.copy(), samples, metric
        self._kept: dict[str, tuple[list[Array], object]] = {}

    @functools.cached_property
    def judge(self) -> Judge:
        """Compares programs with the original on the validation part.

        Raises:
            ModelError: the original does not run on the samples, or has no output of floats.
        """
        return Judge(self._original, self.samples, self.samples.parts().validation, self._metric)

    @functools.cached_property
    def final_judge(self) -> Judge:
        """Compares programs with the original on the check part, which nothing was chosen by."""
        return Judge(self._original, self.samples, self.samples.parts().check, self._metric)

    def run_as(self, as_run: AsRun | None) -> None:
        """Judge programs as they run in another way than in floats; None for floats again."""
        for judge in (self.judge, self.final_judge):
            judge.as_run = as_run

    def grams(self, program: ir.Program, *, integers: bool = False) -> dict[str, list[Gram]]:
        """Gram matrices of the inputs of the program's weights, by the record's name; with ``integers`` of those that
        are quantized already, too.

        Raises:
            ModelError: the program does not run on the samples.
        """

        def found() -> dict[str, list[Gram]]:
            names = {r.name for r in program.weights()}
            if integers:
                names |= {r.name for r in program.eligible() if r.quantized is not None and r.quantized.is_weight}
            return collect(program, self.samples, self.samples.parts().train, names)

        return self.once(f"grams {integers}", program, found)

    def once(self, name: str, program: ir.Program, find: Callable[[], T]) -> T:
        """What ``find`` gives, found again only where the program's values are no longer the same arrays."""
        values = [r.values for r in program.records]
        known = self._kept.get(name)
        if (
            known is not None
            and len(known[0]) == len(values)
            and all(a is b for a, b in zip(known[0], values, strict=True))
        ):
            return known[1]  # type: ignore[return-value]  # kept under this name by the same caller
        result = find()
        self._kept[name] = values, result
        return result
