"""Trains what a search for a step has found: smaller at the same divergence, or nearer at the same size.

Weights move under their grids by distillation end to end, straight through the rounding, and the price of bits is
steered by the validation part (``cluster(grid,epochs=...)``, :mod:`dc_compiler.passes.cluster.straight`). How long, is
an estimate from the model (:mod:`dc_compiler.training.effort`), so that the result depends on no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.search import Goal, Search, Try
from dc_compiler.errors import DataError, InvalidArgumentError, ModelError
from dc_compiler.ort.samples import Samples
from dc_compiler.pipeline.context import Context
from dc_compiler.training import augment, effort
from dc_compiler.training.graph import trainable

# Times the step found without training: training makes up for what a coarser grid does to the outputs, with thousands
# of samples for much, with hundreds for little. The first is tried first, then the next coarser or finer one
COARSER = (1.5, 1.9, 2.3)
FINER = (1.2, 1.1)
SHARES = (0.25, 0.35, 0.4)  # of the time, of each try
BATCHES = (64, 32, 16)  # the first with which there are ENOUGH steps, or the last
LEAST, ENOUGH, MOST = 2, 2000, 20_000  # steps
RATE, SHORT = 0.004, 1000  # steps of a grid that a step of training moves by, in a training of SHORT steps
FASTEST, SLOWEST = 0.01, 0.002  # bounds of it in others
SAME_STEP = 0.85  # times the step where a size is kept: a price makes of a finer grid what a coarser one would be
SLACK = 1.05  # times the divergence to end at, as vectors are rounded afterwards
UNSPENT = 0.995  # of the bits found, as a file of as many bits may come out a little larger
MIX = 0.5  # share of the samples that get a part of another one's inputs, where all inputs are floats
SHIFT = 2  # pixels that images move by
SAME = 0.9  # share of the answers that mirrored images must keep, so that they are images as well
NO_GAIN = "training brought nothing; give more minutes or samples"


def train(
    search: Search, found: Try, goal: Goal, minutes: float, context: Context, within: float
) -> tuple[list[Try], list[str]]:
    """What is better than ``found`` for the goal, the best first, and sentences about it.

    Args:
        within: the divergence to end at: of what was found, or less where the goal asks for it; where a size is kept,
            about the one that there is now.
    """
    assert context.samples is not None
    try:
        plan = _plan(found.program, context.samples, minutes)
    except (DataError, ModelError) as e:
        return [], [f"not trained: {e}"]
    make = _nearer if goal.excess is None else _smaller
    try:
        better = make(search, found, goal, plan, within)
    except (InvalidArgumentError, ModelError) as e:
        return [], [f"not trained: {e}"]
    return better, [] if better else [NO_GAIN]


def _nearer(search: Search, found: Try, goal: Goal, plan: _Plan, within: float) -> list[Try]:
    """A result of about the size found that is nearer, if there is one."""
    spent = UNSPENT * bits_a_weight(found.program)
    result = search.at(SAME_STEP * found.step, **plan.options(within), spent=f"{spent:.5g}")
    return [result] if _is_better(result, found, goal, within) else []


def _smaller(search: Search, found: Try, goal: Goal, plan: _Plan, within: float) -> list[Try]:
    """Results that are about as near as what was found, the smallest first: after each a coarser one is tried, and
    finer ones before any."""
    better: list[Try] = []
    coarser, finer, succeeds = iter(COARSER), iter(FINER), True
    for share in SHARES:
        times = next(coarser if succeeds else finer)
        result = search.at(times * found.step, **plan.of(share).options(within))
        is_better = _is_better(result, better[0] if better else found, goal, within)
        if is_better:
            better.insert(0, result)
        succeeds = succeeds and is_better
        if better and not succeeds:
            break
    return better


def _is_better(result: Try, found: Try, goal: Goal, within: float) -> bool:
    if goal.excess is None:
        return goal.fits(result) and _divergence(result) < _divergence(found)
    is_near = goal.is_near(result) and _divergence(result) <= SLACK * within
    return is_near and (result.size < found.size or not goal.is_near(found))


def bits_a_weight(program: ir.Program) -> float:
    """Mean length of ideal codes for the points of the grids that training can move."""
    movable, bits, count = {id(r) for r in trainable(program)}, 0.0, 0
    for record in program.weights():
        clustered = record.clustered
        if clustered is not None and clustered.codebook is None and id(record) in movable:
            counts = np.bincount(clustered.indices)
            counts = counts[counts > 0]
            bits += float((counts * np.log2(record.size / counts)).sum())
            count += record.size
    return bits / max(count, 1)


@dataclass(frozen=True)
class _Plan:
    """How long and on what to train."""

    steps: int
    batch: int
    train: int  # samples
    shift: int
    mirror: bool
    mix: float

    def of(self, share: float) -> _Plan:
        """The plan for a share of the time."""
        return _Plan(max(LEAST, round(share * self.steps)), self.batch, self.train, self.shift, self.mirror, self.mix)

    def options(self, within: float) -> dict[str, str]:
        """Options of cluster."""
        rate = min(max(RATE * (SHORT / self.steps) ** 0.5, SLOWEST), FASTEST)
        epochs = self.steps * self.batch / self.train
        found = {
            "calibrate": "true", "epochs": f"{epochs:.4g}", "batch": str(self.batch), "lr": f"{rate:.3g}",
            "loss": "match", "within": f"{within:.4g}", "mix": f"{self.mix:g}",
        }  # fmt: skip
        images = {"shift": str(self.shift), "mirror": str(self.mirror).lower()}
        return found | (images if self.shift else {})


def _plan(program: ir.Program, samples: Samples, minutes: float) -> _Plan:
    train = len(samples.parts().train)
    weights = sum(r.size for r in trainable(program))
    macs = effort.cost(program, samples.inputs)
    for batch in [samples.fixed_batch] if samples.fixed_batch else BATCHES:
        steps = int(minutes * 60 / effort.step_seconds(macs, min(batch, train), weights))
        if steps >= ENOUGH:
            break
    arrays = list(samples.inputs.values())
    mix = MIX if all(a.dtype.kind == "f" for a in arrays) else 0.0
    shift = SHIFT if any(augment.is_image(a) for a in arrays) else 0
    mirror = shift > 0 and _are_images_mirrored(samples, program.proto.graph.output[0].name)
    return _Plan(min(max(steps, LEAST), MOST), min(batch, train), train, shift, mirror, mix)


def _are_images_mirrored(samples: Samples, output: str) -> bool:
    """Whether the original gives mirrored images of the training part the answers of the images themselves."""
    rows = samples.parts().train
    given = samples.original_output(output)[rows]
    if given.ndim < 2 or given.shape[-1] < 2:
        return False
    answers = samples.original_answers(output, augment.mirrored(samples.take(rows), np.ones(len(rows), bool)))
    return bool((answers.argmax(-1) == given.argmax(-1)).mean() >= SAME)


def _divergence(found: Try) -> float:
    return float("inf") if found.distance is None else found.distance.divergence
