"""What becomes of biases and other vectors when weights are changed: moved so that means stay, and shortened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import ml_dtypes
import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.biases import find_biases, shift
from dc_compiler.calibration.grams import Gram
from dc_compiler.calibration.views import View
from dc_compiler.pass_manager import Task, Update
from dc_compiler.pipeline.threads import one_blas_thread
from dc_compiler.training.graph import trainable


@dataclass(frozen=True)
class Vectors:
    """The vectors of a program whose weights are about to be changed.

    Attributes:
        biases: by the name of a weight, that of the bias which can take up what this does to mean outputs.
        grams, before: what such a weight is multiplied with, and its values.
        movable: names of the vectors that may change.
    """

    biases: Mapping[str, str] = field(default_factory=dict)
    grams: Mapping[str, Gram] = field(default_factory=dict)
    before: Mapping[str, np.ndarray] = field(default_factory=dict)
    movable: frozenset[str] = frozenset()

    def centred(self, name: str, grams: Sequence[Gram]) -> tuple[Gram, ...]:
        """The inputs of a weight as rounding is to see them: less their means, where a bias takes care of these."""
        if name not in self.biases:
            return tuple(grams)
        return tuple(replace(g, moments=g.moments.centred()) for g in grams)

    def of(self, grams: Mapping[str, Sequence[Gram]]) -> Vectors:
        """Those that belong to some weights, with what these are multiplied with by now."""
        biases = {w: b for w, b in self.biases.items() if w in grams}
        known = {w: grams[w][0] for w in biases}
        return replace(self, biases=biases, grams=known, movable=self.movable & set(biases.values()))

    def without(self, weights: Set[str]) -> Vectors:
        """The same where biases take up nothing of these weights any more."""
        return replace(self, biases={w: b for w, b in self.biases.items() if w not in weights})

    def tasks(self, program: ir.Program, *, shorten: bool) -> list[Task[Change]]:
        """What is to become of the vectors, now that the weights are changed."""
        records = {r.name: r for r in program.records}
        shifts: dict[str, np.ndarray] = {}
        with one_blas_thread():
            for name, bias in self.biases.items():
                if records[name].values is not self.before[name]:
                    size = records[bias].size
                    shifts[bias] = shift(self.before[name], records[name].values, self.grams[name], size)
        shortened = {r.name for r in program.eligible() if shorten and r.name in self.movable}
        names = [r.name for r in program.records if r.name in shortened or r.name in shifts]
        return [Task(records[n], Change(shifts.get(n), n in shortened)) for n in names]


def vectors_of(program: ir.Program, grams: Mapping[str, Sequence[Gram]]) -> Vectors:
    """The program's vectors, given what its weights are multiplied with, as far as that is known."""
    movable = frozenset(r.name for r in trainable(program) if r.is_vector and r.exact is None)
    whole = {n: g[0] for n, g in grams.items() if len(g) == 1 and isinstance(g[0].place, View)}
    biases = {w: b for w, b in find_biases(program, movable).items() if w in whole}
    before = {r.name: r.values for r in program.records if r.name in biases}
    return Vectors(biases, {w: whole[w] for w in biases}, before, movable)


@dataclass(frozen=True)
class Change:
    """What is added to a vector, float64 [n] or None, and whether it is rounded to bfloat16 then: its errors are far
    below those of the weights beside it, and it packs into less than half."""

    shift: np.ndarray | None
    is_shortened: bool


def change_vector(record: ir.WeightRecord, change: Change, seed: int) -> Update:
    """The vector's new values; none where they would not be finite."""
    values = record.values
    if change.shift is not None:
        values = (values.astype(np.float64) + change.shift.reshape(values.shape)).astype(values.dtype)
    if change.is_shortened and values.dtype == np.float32:
        values = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    return Update(values=values) if values is not record.values and np.isfinite(values).all() else Update()
