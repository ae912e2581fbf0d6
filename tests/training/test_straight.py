"""Grids that are trained through: units, prices, steering."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_models import context, perceptron, program

from dc_compiler import ir
from dc_compiler.calibration.calibration import Calibration
from dc_compiler.errors import InvalidArgumentError, ModelError
from dc_compiler.ir.record import WeightRecord
from dc_compiler.passes.cluster.grid import round_to_grid
from dc_compiler.passes.cluster.straight import LOOKS, Goal, Grids, Steering
from dc_compiler.pipeline.manager import run_passes
from dc_compiler.recipe import parse_pipeline
from dc_compiler.training.parameters import Parameters

Array = NDArray[Any]
FLOAT = 1  # TensorProto.DataType


def weight(shape: tuple[int, ...] = (32, 24), seed: int = 0) -> WeightRecord:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return WeightRecord("w", values, FLOAT, trainable=True)


def grids(record: WeightRecord, step: float = 0.5) -> tuple[Parameters, Grids, ir.Clustered]:
    scales = ir.Scales(ir.nearest_log_step(np.full(record.shape[1], step)), 1)
    started = round_to_grid(record.values.reshape(-1), scales)
    factors = np.broadcast_to(scales.factors(np.dtype(np.float32)), record.shape).reshape(-1)
    parameters = Parameters([record], {"w": factors})
    return parameters, Grids(parameters, [record], [started]), started


def test_units_are_what_parameters_count() -> None:
    record = weight()
    parameters = Parameters([record], {"w": np.full(record.size, 0.25, np.float32)})
    assert parameters.theta == pytest.approx(4 * record.values.reshape(-1), rel=1e-6)
    assert parameters.weights[0] == pytest.approx(record.values, rel=1e-6)
    gradient = np.ones_like(record.values)
    assert parameters.reduce([gradient]) == pytest.approx(np.full(record.size, 0.25))
    parameters.theta += 1
    parameters.expand()
    assert parameters.weights[0] == pytest.approx(record.values + 0.25, rel=1e-5, abs=1e-6)


def test_training_starts_at_what_was_rounded_to() -> None:
    record = weight()
    parameters, trained, started = grids(record)
    assert np.array_equal(parameters.weights[0], ir.rebuild(started, record))
    trained.store()
    assert record.clustered is not None
    assert np.array_equal(record.clustered.indices, started.indices)
    assert np.array_equal(record.values, ir.rebuild(record.clustered, record))


def test_pruned_weights_stay_zero() -> None:
    record = weight()
    record.mask = np.abs(record.values) > 0.7
    record.values = record.values * record.mask
    parameters, trained, _ = grids(record)
    parameters.theta += 3
    parameters.expand()
    assert not parameters.weights[0][~record.mask].any()
    trained.store()
    assert not record.values[~record.mask].any()
    assert record.values[record.mask].mean() == pytest.approx(1.5, abs=0.2)  # by three steps of a half


def test_bits_are_those_of_an_ideal_code_and_slopes_their_price() -> None:
    record = weight()
    parameters, trained, started = grids(record)
    counts = np.bincount(started.indices)
    counts = counts[counts > 0]
    assert trained.bits() == pytest.approx(float((counts * np.log2(record.size / counts)).sum()) / record.size)
    trained.price = 3.0
    trained.fit()
    slopes = trained.slopes(parameters.theta)
    places, counts = np.unique(np.rint(parameters.theta), return_counts=True)
    lengths = {p: math.log2(record.size / c) for p, c in zip(places, counts, strict=True)}
    for i in (0, 100, 500):
        below = math.floor(parameters.theta[i])
        if below in lengths and below + 1 in lengths:  # a little goes to points that no weight is at
            expected = 3.0 * (lengths[below + 1] - lengths[below]) / record.size
            assert slopes[i] == pytest.approx(expected, rel=0.05, abs=1e-5)
    assert (slopes[(parameters.theta > 1)] > 0).mean() > 0.9


def test_the_best_is_kept_and_the_price_steered() -> None:
    parameters, trained, _ = grids(weight())
    seen = iter([0.02, 0.005, 0.004, 0.03])
    steering = Steering(trained, parameters, Goal(0.01), lambda: next(seen), 1.0)
    start = trained.price
    steering.look()
    assert trained.price < start  # too far: bits become cheaper
    steering.look()
    first, better = trained.price, parameters.theta.copy()
    assert first > start
    assert steering.seen == (0.005, trained.bits())
    parameters.theta[:] = 10 * parameters.theta  # more bits
    steering.look()
    parameters.theta[:] = 0  # no bits, but too far
    steering.look()
    assert steering.seen[0] == 0.005
    steering.take_best()
    assert np.array_equal(parameters.theta, better)


def test_bits_that_are_too_many_become_dearer() -> None:
    parameters, trained, _ = grids(weight())
    bits = trained.bits()
    steering = Steering(trained, parameters, Goal(0.01, 0.9 * bits), lambda: 0.001, 1.0)
    start = trained.price
    steering.look()
    assert trained.price > start
    assert steering.seen == (0.001, bits)  # the nearest so far
    steering = Steering(trained, parameters, Goal(0.01, 1.1 * bits), lambda: 0.001, 1.0)
    steering.look()
    assert trained.price < start


def test_state_is_all_that_steering_knows() -> None:
    parameters, trained, _ = grids(weight())
    steering = Steering(trained, parameters, Goal(0.01), lambda: 0.005, 1.0)
    trained.fit()
    steering.look()
    other_parameters, other, _ = grids(weight())
    again = Steering(other, other_parameters, Goal(0.01), lambda: 0.005, 1.0)
    again.restore(steering.state())
    assert again.seen == steering.seen
    assert other.price == trained.price
    assert np.array_equal(other.slopes(parameters.theta), trained.slopes(parameters.theta))
    with pytest.raises(ValueError, match="lengths"):
        other.restore({"lengths": np.zeros((2, 3)), "price": np.array(1.0)})


def test_the_pass_ends_within_the_divergence_with_fewer_bits() -> None:
    model = perceptron(hidden=64)
    x = np.random.default_rng(3).standard_normal((600, 16)).astype(np.float32)
    run = context(model, {"x": x}, labels=None)
    net = program(model)
    assert run.samples is not None
    run.calibration = Calibration(net, run.samples)
    text = "cluster(grid,step=0.4,calibrate=true,rate=0.3{})"
    plain, trained = net.copy(), net.copy()
    run_passes(parse_pipeline(text.format("")), plain, run)
    before = run.calibration.judge.of(plain).divergence
    more = f",epochs=60,lr=0.01,loss=match,mix=0.5,within={before:.5g}"
    report = run_passes(parse_pipeline(text.format(more)), trained, run)[0]
    after = run.calibration.judge.of(trained).divergence
    assert after <= before * 1.001
    assert report.facts["divergence"] == pytest.approx(after, rel=1e-3)
    sizes = [sum(_bits(r) for r in p.weights()) for p in (plain, trained)]
    assert sizes[1] < 0.97 * sizes[0]
    assert all(r.clustered is not None for r in trained.weights())


def _bits(record: WeightRecord) -> float:
    assert record.clustered is not None
    counts = np.bincount(record.clustered.indices)
    counts = counts[counts > 0]
    return float((counts * np.log2(record.size / counts)).sum())


@pytest.mark.parametrize(
    "text",
    [
        "cluster(kmeans,epochs=3)", "cluster(grid,epochs=3)", "cluster(grid,calibrate=true,epochs=3,within=0)",
        "cluster(grid,calibrate=true,epochs=3,spent=0)",
    ],
)  # fmt: skip
def test_bad_options(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cluster"):
        parse_pipeline(text)


def test_training_that_leads_away_is_given_up() -> None:
    parameters, trained, _ = grids(weight())
    moved = iter([0.01] * (LOOKS // 4) + [0.05])
    steering = Steering(trained, parameters, Goal(0.01), lambda: next(moved), 1.0)
    for _ in range(LOOKS // 4):
        steering.look()
    with pytest.raises(ModelError, match="the further the outputs are"):
        steering.look()
    assert steering.seen[0] == pytest.approx(0.01)
