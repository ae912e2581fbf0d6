"""How much errors of each weight move the outputs, from gradients: no weight is rounded to find out.

What small errors do is a sum of squares over the gradients of all outputs (Gauss-Newton). Gradients along random
directions, whose squares are that sum on average, take its place: for classes these are the gradients of labels drawn
from the model's own probabilities, whose mean squares are the Fisher information (Martens, arXiv 1412.1193).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from dc_compiler import ir
from dc_compiler.calibration.divergence import Judge
from dc_compiler.errors import ModelError
from dc_compiler.model.opened import weights_apart
from dc_compiler.ort.samples import Samples
from dc_compiler.ort.sessions import short
from dc_compiler.pipeline.threads import map_on_threads
from dc_compiler.training.graph import Objective, TrainingGraph, trainable
from dc_compiler.training.parameters import Parameters

Array = np.ndarray
ROWS = 128  # samples that are enough
TINY = 1e-300
TARGET_BYTES = 1 << 26  # of directions that are kept
JOINED = "dcc.outputs"


def moved(
    program: ir.Program, errors: Mapping[str, ir.Scales], judge: Judge, samples: Samples, seed: int, threads: int
) -> dict[str, Array]:
    """By how much independent errors in each weight move the outputs, up to one factor for all.

    Args:
        errors: standard deviation of the errors in each of a weight's channels, by the record's name.
        judge: knows what the outputs mean.

    Returns:
        For each weight that the outputs are differentiable by what errors in each channel do, float64 [channels].

    Raises:
        ModelError: an operator has no gradient, samples make no batches, or the model does not run on them.
    """
    if not samples.is_table:
        raise ModelError("gradients need samples of one shape")
    batch = samples.fixed_batch or 1
    rows = samples.for_statistics()
    chosen = rows[np.linspace(0, len(rows), min(ROWS, len(rows)), endpoint=False).astype(np.int64)]
    targets = _targets(program, judge, samples, chosen[: len(chosen) // batch * batch].reshape(-1, batch), seed)
    joined = _with_joined_outputs(program, judge)
    records = [r for r in trainable(joined) if r.name in errors]
    if not records or not len(targets):
        return {}
    graph = TrainingGraph(joined, records, samples, Objective(joined.proto.graph.output[0].name, "mse", targets), batch)
    weights = Parameters(graph.records).weights

    def squares(start: int) -> list[Array]:
        part = slice(start, start + batch)
        try:
            _, found = graph.step(weights, samples.take(chosen[part]), targets[part])
        except Exception as e:  # onnxruntime's exceptions share no base class
            raise ModelError(f"the gradients of {program.label} cannot be computed: {short(e)}") from None
        return [_square(gradient, errors[r.name]) for r, gradient in zip(graph.records, found, strict=True)]

    batches = _evened(list(map_on_threads(threads, squares, range(0, len(targets), batch))))
    totals = {r.name: np.sum(parts, axis=0) for r, parts in zip(graph.records, zip(*batches, strict=True), strict=True)}
    return {name: total for name, total in totals.items() if np.isfinite(total).all()}


def _evened(batches: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """What batches say, with a bounded say for each: a few samples that are about to change their answers, whose
    gradients are hundreds of times those of others, are ruined long before the steps that the others ask for."""
    totals = np.array([sum(float(m.sum()) for m in moves) for moves in batches])
    typical = float(np.median(totals))
    return [[m / max(t + typical, TINY) for m in moves] for moves, t in zip(batches, totals, strict=True)]


def _square(gradient: Array, errors: ir.Scales) -> Array:
    """Expected square of a gradient times independent errors, float64 [channels]."""
    by_channel = np.square(gradient.reshape(-1, errors.channels, errors.inner)).sum(axis=(0, 2), dtype=np.float64)
    return np.asarray(by_channel * np.square(errors.factors(np.dtype(np.float64))))


def _targets(program: ir.Program, judge: Judge, samples: Samples, batches: Array, seed: int) -> Array:
    """Values such that the squared error of the joined outputs has the directions for its gradients; the samples
    ``batches`` [b, m], or as many of these batches as fit."""
    names = [o.name for o in program.proto.graph.output]
    model, weights = weights_apart(program)
    session = samples.sessions.open(model, 1, apart=weights)
    generator = np.random.Generator(np.random.PCG64(seed))
    found: list[Array] = []
    for rows in batches:
        try:
            outputs = session.run(names, samples.take(rows))
        except Exception as e:  # onnxruntime's exceptions share no base class
            raise ModelError(f"{program.label} does not run on the samples: {short(e)}") from None
        parts = [outputs[i] - output.directions(outputs[i], generator) for i, output in judge.outputs.items()]
        if any(p.shape[:1] != rows.shape for p in parts):
            raise ModelError("an output has no row for each sample")
        found.append(parts[0] if len(parts) == 1 else np.concatenate([p.reshape(len(rows), -1) for p in parts], axis=1))
        if sum(f.nbytes for f in found) >= TARGET_BYTES:
            break
    if len({f.shape for f in found}) > 1:
        raise ModelError("the shape of an output depends on the samples")
    return np.concatenate(found).astype(np.float32) if found else np.empty(0, np.float32)


def _with_joined_outputs(program: ir.Program, judge: Judge) -> ir.Program:
    """The program with one output: the only one that is compared, or all of these side by side."""
    program = program.copy()
    graph = program.proto.graph
    wanted = [graph.output[i] for i in judge.outputs]
    if len(wanted) > 1:
        parts = []
        for i, output in enumerate(wanted):
            parts.append(f"{JOINED}.{i}")
            graph.node.append(helper.make_node("Flatten", [output.name], [f"{parts[-1]}.flat"], axis=1))
            graph.node.append(helper.make_node("Cast", [f"{parts[-1]}.flat"], [parts[-1]], to=onnx.TensorProto.FLOAT))
        graph.node.append(helper.make_node("Concat", parts, [JOINED], axis=1))
        wanted = [helper.make_tensor_value_info(JOINED, onnx.TensorProto.FLOAT, None)]
    kept = [onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in wanted]
    del graph.output[:]
    graph.output.extend(kept)
    return program
