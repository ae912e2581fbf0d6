"""Finds runs on made-up inputs that a little noise in the weights throws over, and compares the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from dc_compiler import ir
from dc_compiler.errors import ModelError
from dc_compiler.model import files
from dc_compiler.ort import reach
from dc_compiler.ort.compare import OutputComparison, compare
from dc_compiler.ort.data import Feed
from dc_compiler.ort.sessions import Sessions, short

# Random noise of this share of a tensor's standard deviation, 34 dB below it, is what 6 to 7 bits leave: no ruin
NOISE = 0.02
TRIALS = 4  # other noise each time
THROWN = 0.5  # cosine of a run below which it has become another one


@dataclass(frozen=True)
class Steady:
    """An output on the runs that noise does not throw over, and how many others there are."""

    comparison: OutputComparison
    thrown: int


def steady(
    original: files.SourceModel,
    compiled: onnx.ModelProto,
    names: Sequence[str],
    feeds: Sequence[Feed],
    sessions: Sessions,
    threads: int,
    seed: int,
) -> dict[str, Steady]:
    """Compare outputs without the runs that tell noise from ruin no more than a coin does.

    A recurrent model may come to rest in one of several states, and an input that no training has seen may lie between
    them. Where random noise of ``NOISE`` in the weights that compiling changed makes another output of a run, its
    distance to the original's says nothing about these weights. If that is so of more than half of the runs, it is the
    model that is sensitive, and nothing is left out.

    Args:
        names: of the outputs. feeds: made-up inputs, which both models run on. seed: of the noise.

    Returns:
        For the outputs where runs are left out: what the others say.

    Raises:
        ModelError, CorruptFrameError
    """
    model = reach.inlined(reach.loaded(original))
    changed = reach.changed_weights(original, compiled)

    def runs(taken: onnx.ModelProto) -> list[list[Any]]:
        session = sessions.open(taken, threads)
        try:
            return [session.run(list(names), feed) for feed in feeds]
        except Exception as e:  # onnxruntime's exceptions share no base class
            raise ModelError(short(e)) from None

    before = runs(model)
    thrown: dict[str, set[int]] = {name: set() for name in names}
    for noisy in _noisy(model, changed, seed):
        for number, (old, new) in enumerate(zip(before, runs(noisy), strict=True)):
            for name, x, y in zip(names, old, new, strict=True):
                cosine = compare(name, [x], [y]).cosine
                if cosine is not None and cosine < THROWN:
                    thrown[name].add(number)
    left_out = {name: runs for name, runs in thrown.items() if 0 < 2 * len(runs) <= len(feeds)}
    after = runs(compiled) if left_out else []
    result = {}
    for i, name in enumerate(names):
        if name in left_out:
            kept = [n for n in range(len(feeds)) if n not in left_out[name]]
            comparison = compare(name, [before[n][i] for n in kept], [after[n][i] for n in kept])
            result[name] = Steady(comparison, len(left_out[name]))
    return result


def _noisy(model: onnx.ModelProto, changed: set[str], seed: int) -> Iterator[onnx.ModelProto]:
    """The model with other noise each time in these of its tensors."""
    stored = [s for s in ir.weight_sites(model.graph) if s.value_name in changed and ir.is_compressible(s.elem_type)]
    clean = [s.read(numpy_helper.to_array) for s in stored]
    for trial in range(TRIALS):
        random = np.random.default_rng([seed, trial])
        for site, values in zip(stored, clean, strict=True):
            wide = values.astype(ir.compute_dtype(values.dtype))
            deviation = NOISE * float(wide.std(dtype=np.float64))
            noise = random.standard_normal(values.shape, np.float32) * np.float32(deviation)
            site.write((wide + noise).astype(values.dtype))
        yield model
